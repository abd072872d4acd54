"""Lines with checksums: every flipped bit is found."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from songgen.runtime.json_lines import damaged_file, has_keys, read_lines, seal, set_damaged_aside, unseal

VALUES: dict[str, Any] = {"id": "a", "key": "k" * 8, "outcome": {"changes": {"tempo": 120.0, "text": "ä\n"}}, "n": 1}
KEYS = has_keys(*VALUES)


def lines_of(*values: dict[str, Any]) -> bytes:
    return "".join(seal(entry) + "\n" for entry in values).encode()


def test_a_sealed_line_is_json_and_comes_back() -> None:
    line = lines_of(VALUES)
    assert json.loads(line) == VALUES | {"checksum": json.loads(line)["checksum"]}
    assert unseal(line) == unseal(line.strip()) == VALUES
    assert unseal(seal({"x": float("inf")}).encode()) == {"x": float("inf")}


def test_every_bit_of_a_line_counts() -> None:
    line = lines_of(VALUES).rstrip()
    for place in range(len(line) * 8):
        damaged = bytearray(line)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match=r"."):
            unseal(bytes(damaged), KEYS)


def test_lines_of_earlier_versions_are_read_if_they_have_exactly_their_form() -> None:
    plain = json.dumps(VALUES).encode()
    assert unseal(plain, KEYS) == VALUES
    for line in (b"{}", b"[]", b"1", json.dumps(VALUES | {"checksun": "x"}).encode()):
        with pytest.raises(ValueError, match="neither a checksum nor the form"):
            unseal(line, KEYS)
    with pytest.raises(ValueError, match="its checksum"):
        unseal(plain)


@pytest.mark.parametrize("damage", [b"\xff", b"[" * 100_000, b"\x00", b'{"id": "a"}'])
def test_damaged_lines_are_moved_aside_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    path = tmp_path / "results.jsonl"
    good = lines_of(VALUES)
    path.write_bytes(good + damage + b"\n" + good + damage + b"\n" + good[:-5])
    with caplog.at_level(logging.WARNING):
        set_damaged_aside(path, lambda line: unseal(line, KEYS), "they are computed again")
    assert path.read_bytes() == good + good + good[:-5]  # the last line was cut off by a kill
    assert damaged_file(path).read_bytes() == (damage + b"\n") * 2
    assert f"{path}: damaged lines 2, 4 moved to results.damaged.jsonl; they are computed again" in caplog.text
    caplog.clear()
    set_damaged_aside(path, lambda line: unseal(line, KEYS), "")
    assert not caplog.text


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("line", [0, 1])
def test_a_damaged_line_break_is_found(tmp_path: Path, bit: int, line: int) -> None:
    path = tmp_path / "results.jsonl"
    content = bytearray(lines_of(VALUES, VALUES))
    content[len(content) // 2 * (line + 1) - 1] ^= 1 << bit
    path.write_bytes(bytes(content))
    found = read_lines(path, lambda entry: unseal(entry, KEYS))
    assert found.damaged and len(found.values) == line
    with pytest.raises(ValueError, match=r"results.jsonl: damaged line.*; write it again"):
        found.require_intact("write it again")


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    found = read_lines(tmp_path / "missing.jsonl", unseal)
    assert (found.values, found.damaged) == ([], [])
    set_damaged_aside(tmp_path / "missing.jsonl", unseal, "")
    assert not list(tmp_path.iterdir())
