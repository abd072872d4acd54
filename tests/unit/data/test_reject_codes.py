"""Every code that a row can be left out with stands in one table, and the table stands in the guide."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from songgen.data.manifests.clip import ClipRow
from songgen.data.reject_codes import REJECT_CODES, reject_code_table

ROOT = Path(__file__).resolve().parents[3]

CODE_PLACES = {"reject": 0, "AudioRejected": 0, "_Failed": 0, "_TrackRejected": 1, "NotReadable": 1}
"""What takes a code -> which of its arguments that is."""


def used_codes(source_text: str) -> Iterator[str]:
    """Every code that a module gives to a row, as a pattern (parts that are computed match anything)."""
    for node in ast.walk(ast.parse(source_text)):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in CODE_PLACES and len(node.args) > CODE_PLACES[name]:
                values.append(node.args[CODE_PLACES[name]])
            values += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        elif isinstance(node, ast.Assign):
            targets, assigned = getattr(node.targets[0], "elts", [node.targets[0]]), getattr(node.value, "elts", [])
            names = [getattr(name, "id", "") for name in targets]
            pairs = zip(names, assigned or [node.value], strict=False)
            values += [value for name, value in pairs if name == "code"]
        for value in values:
            if isinstance(value, ast.Constant) and value.value:
                yield re.escape(str(value.value))
            elif isinstance(value, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in value.values]
                yield "".join(parts)


def test_every_code_of_the_source_is_in_the_table_and_no_other() -> None:
    sources = [path for part in ("data", "tokenize") for path in (ROOT / "songgen" / part).rglob("*.py")]
    used = {pattern for path in sources for pattern in used_codes(path.read_text(encoding="utf-8"))}
    assert len(used) > 15
    matched = {pattern: [code for code in REJECT_CODES if re.fullmatch(pattern, code)] for pattern in used}
    assert not [pattern for pattern, codes in matched.items() if not codes]
    assert set(REJECT_CODES) == {code for codes in matched.values() for code in codes}


def test_the_guide_has_the_table() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    assert reject_code_table() in guide, "python -m songgen.data.reject_codes prints the table for docs/guide.md"


def test_the_guide_in_chinese_has_the_same_codes() -> None:
    """The meanings are translated by hand; whether a code means damage or a limit is that of the program."""
    guide = (ROOT / "docs" / "zh" / "guide.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (损坏|限制) \|$", guide, re.MULTILINE)
    kinds = {True: "限制", False: "损坏"}
    assert rows == [(code, kinds[content.is_limit]) for code, content in REJECT_CODES.items()]


def test_a_code_of_no_table_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="not a known code"):
        ClipRow("r", "c", "l", "en", {}, "m", 1).reject("bad_day", "rain")
