"""The fault cases of docs/trust.md: every test here names its case, and a table at the end says which of them hold."""

from collections import defaultdict
from typing import Any

import pytest

CASES = {
    1: "killed at every write point of a save, and at random times",
    2: "newest weights cut short, empty or zeroed",
    3: "one bit flipped in a checkpoint",
    4: "random state or position missing from a checkpoint",
    5: "every checkpoint invalid",
    6: "the disk fills during a save",
    7: "retention beside incomplete checkpoints",
    8: "exact resume",
    9: "SIGTERM to one process inside of a step",
    10: "SIGTERM to the process group, with loader workers",
    11: "a second SIGTERM during the save",
    12: "a process is killed, raises, exits or sleeps",
    13: "resumed with another number of processes",
    14: "processes that would train alone",
    15: "configuration changed on resume",
    16: "order of the parameters changed",
    17: "NaN loss on one process",
    18: "infinite gradient; spike in the loss",
    19: "a batch without targets",
    20: "fewer songs than a step takes",
    21: "data shard cut, flipped, swapped or missing",
    22: "preprocessing killed and started again",
    23: "program changed between two preprocessing runs",
    24: "unreadable audio among good files",
    25: "audio that lost its end",
    26: "malformed manifest",
    27: "odd sample rates, channels, lengths and levels",
    28: "odd texts",
    29: "paths that lead elsewhere",
    30: "an audio bomb",
    31: "a pickle where tensors belong",
    32: "trackers that are missing or fail, no network",
    33: "output folder that cannot be used",
    34: "a loader worker dies or hangs",
    35: "foreign requests to a local page",
}
"""Number of a case -> what happens in it."""

EVERY_TIME = frozenset({1, 8, 9, 12, 17, 24})
"""Cases that `make test` runs too; the others carry the mark `faults` and run in `make test-faults`."""


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
