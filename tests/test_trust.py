"""docs/trust.md names every fault case with its tests, and the exit codes that the program has."""

import ast
import re
from pathlib import Path

from fault_cases import CASES, EVERY_TIME, WITH_ADAPTER

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


def test_cases_with_an_adapter_are_those_that_the_page_names() -> None:
    sentence = PAGE.split("A run that trains an adapter was tested too in cases ")[1].split(". ")[0]
    assert {int(number) for number in re.findall(r"\d+", sentence)} == WITH_ADAPTER
    found: set[int] = set()
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        of_all = [int(number) for number in re.findall(r"^pytestmark = .*case\((\d+)\)", text, re.MULTILINE)]
        for test in ast.parse(text).body:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                head = " ".join(map(ast.unparse, test.decorator_list))
                is_adapter = re.search(r"in_both_forms|'adapter'|FORMS|EVERY_FILE|KEYS\['adapter'\]", ast.unparse(test))
                if is_adapter or path.name == "test_adapter_runs.py":
                    found.update(map(int, MARK.findall(head)))
                    found.update(of_all)
    assert found == WITH_ADAPTER


def test_exit_codes_are_those_of_the_program() -> None:
    codes = {name: value for name, value in vars(exit_codes).items() if name.startswith("EXIT_")}
    assert len(set(codes.values())) == len(codes) >= 8
    documented = {row[1].strip("`"): int(row[0].removesuffix(" + signal")) for row in rows("Exit codes")}
    assert documented == codes
