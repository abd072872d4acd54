"""docs/trust.md names every fault case with its tests, and the exit codes that the program has."""

import re
from pathlib import Path

from fault_cases import CASES, EVERY_TIME

from songgen import exit_codes

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(\.\./(tests/faults/\w+\.py)\)")
MARK = re.compile(r"mark\.case\((\d+)\)")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_has_every_case_once_and_says_which_run_every_time() -> None:
    numbers = [row[0] for row in rows("The cases")]
    assert [int(number.strip("*")) for number in numbers] == list(CASES)
    assert {int(number.strip("*")) for number in numbers if number.startswith("**")} == EVERY_TIME


def test_each_case_links_the_files_that_hold_its_tests_and_no_other() -> None:
    marked: dict[int, set[str]] = {number: set() for number in CASES}
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        for number in MARK.findall(path.read_text(encoding="utf-8")):
            marked[int(number)].add(path.relative_to(ROOT).as_posix())
    linked = {int(row[0].strip("*")): set(LINK.findall(row[-1])) for row in rows("The cases")}
    assert all(marked.values()), "a case without a test"
    assert linked == marked


def test_exit_codes_are_those_of_the_program() -> None:
    codes = {name: value for name, value in vars(exit_codes).items() if name.startswith("EXIT_")}
    assert len(set(codes.values())) == len(codes) >= 8
    documented = {row[1].strip("`"): int(row[0].removesuffix(" + signal")) for row in rows("Exit codes")}
    assert documented == codes
