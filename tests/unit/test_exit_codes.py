"""Exit codes: each means one thing, and the guide lists all of them."""

import re
from pathlib import Path

import pytest

from songgen import exit_codes

CODES = {name: value for name, value in vars(exit_codes).items() if name.startswith("EXIT_")}


def test_exit_codes_are_the_documented_ones() -> None:
    assert CODES == {
        "EXIT_DONE": 0,
        "EXIT_ERROR": 1,
        "EXIT_USAGE": 2,
        "EXIT_BAD_DATA": 3,
        "EXIT_NON_FINITE": 4,
        "EXIT_NO_CHECKPOINT": 5,
        "EXIT_LOST_PROCESS": 6,
        "EXIT_SIGNAL_BASE": 128,
    }


@pytest.mark.parametrize(("page", "signal"), [("guide.md", "signal"), ("zh/guide.md", "信号")])
def test_the_guide_lists_every_exit_code(repository_root: Path, page: str, signal: str) -> None:
    guide = (repository_root / "docs" / page).read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(rf"^\| (\d+)(?: \+ {signal})? \|", guide, flags=re.MULTILINE)}
    assert listed == set(CODES.values())
