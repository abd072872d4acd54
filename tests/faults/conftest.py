"""The fault cases of docs/trust.md: every test here names its case, and a table at the end says which of them hold."""

from collections import defaultdict
from typing import Any

import pytest
from fault_cases import CASES, EVERY_TIME


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "case(number): the fault case that a test belongs to")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Attach each test's case to its reports and set the rare ones apart."""
    for item in items:
        mark = item.get_closest_marker("case")
        if mark is None:
            continue
        number = mark.args[0]
        assert number in CASES, f"{item.nodeid}: there is no case {number}"
        item.user_properties.append(("case", number))
        if number not in EVERY_TIME:
            item.add_marker(pytest.mark.faults)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of the cases that ran."""
    outcomes: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, number in getattr(report, "user_properties", []):
                if name == "case":
                    outcomes[number]["failed" if outcome == "error" else outcome].append(report)
    if not outcomes:
        return
    terminalreporter.section("fault cases")
    for number, title in CASES.items():
        results = outcomes[number]
        verdict = "FAILED" if results["failed"] else "holds" if results["passed"] else "not run"
        counts = ", ".join(f"{len(reports)} {name}" for name, reports in results.items() if reports)
        terminalreporter.write_line(f"{number:3d}  {verdict:8s} {title} ({counts or 'no test ran'})")
        for report in results["skipped"]:
            terminalreporter.write_line(f"              skipped: {report.longrepr[2]}")
    held = sum(bool(results["passed"] and not results["failed"]) for results in outcomes.values())
    terminalreporter.write_line(f"{held} of {len(CASES)} cases hold")
