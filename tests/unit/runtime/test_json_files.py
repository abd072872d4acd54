"""JSON that comes from outside: limits, and one reader."""

import ast
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import songgen
from songgen.runtime import json_files
from songgen.runtime.files import read_regular
from songgen.runtime.json_files import MAX_NESTING, limited_lines, parse_json, read_json, read_json_object
from songgen.runtime.network_sizes import require_sane_sizes

DEEP = "[" * 100_000 + "]" * 100_000

OWN_MESSAGES = {
    "data/reading.py": 3,  # between this program's own processes
    "runtime/processes/agreement.py": 2,  # likewise
    "ui/configuring/worker.py": 2,  # likewise
    "lyrics/train.py": 1,  # of the library `tokenizers`, in memory
    "conditioning/frozen.py": 1,  # of the library `transformers`, in memory
    "train/reporting/trackers.py": 1,  # a copy in memory
    "runtime/json_lines.py": 1,  # lines whose checksum was verified
    "runtime/json_files.py": 3,  # the reader itself
}
"""File -> calls of `json.loads` in it, for text that this program has just made."""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (DEEP, "nested more than 64 times"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than 64 times"),
        ("[" * (MAX_NESTING + 2) + "]" * (MAX_NESTING + 2), "nested more than 64 times"),
        ('{"a": 1, "b": 2, "a": 3}', "given twice: a"),
        ('[{"x": {"a": 1, "a": 1}}]', "given twice: a"),
        ("NaN", "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ("1e999", "too large"),
        ("1" * 5000, "does not fit 64 bits"),
        (str(1 << 64), "does not fit 64 bits"),
        (str(-(1 << 63) - 1), "does not fit 64 bits"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
    ],
)
def test_what_is_not_json_or_beyond_the_limits_is_refused(text: str, problem: str) -> None:
    for content in (text, text.encode()):
        with pytest.raises(ValueError, match=problem):
            parse_json(content)


@pytest.mark.parametrize("value", [None, 1.5, -(1 << 63), (1 << 64) - 1, "ä", [1, [2, {"a": []}]], {"a": {"b": None}}])
def test_ordinary_values_are_read(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode()) == value


def test_many_brackets_side_by_side_are_no_nesting() -> None:
    assert len(parse_json("[" + ",".join(["[[1]]"] * 1000) + "]")) == 1000
    assert parse_json('"' + "[" * 1000 + '"') == "[" * 1000


def test_a_size_limit_applies_to_files_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.json").write_text('"' + "x" * 100 + '"')
    with pytest.raises(ValueError, match=r"large.json cannot be read: it is larger than 50 bytes"):
        read_json(tmp_path / "large.json", max_bytes=50)
    monkeypatch.setattr(json_files, "MAX_JSON_BYTES", 20)
    (tmp_path / "lines.jsonl").write_bytes(b'{"a": 1}\n' + b"x" * 1000 + b'\n{"b": 2}\n' + b"y" * 50)
    with (tmp_path / "lines.jsonl").open("rb") as file:
        assert [line[:20] for line in limited_lines(file)] == [b'{"a": 1}\n', b"x" * 20, b'{"b": 2}\n', b"y" * 20]


def test_a_pipe_or_device_as_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", Path("/dev/zero"), tmp_path):
        with pytest.raises((ValueError, OSError), match="regular file"):
            read_regular(path, 100)
        with pytest.raises(ValueError, match="cannot be read"):
            read_json(path)


def test_an_object_is_expected(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="does not hold a JSON object"):
        read_json_object(tmp_path / "list.json")


def test_no_other_code_parses_json() -> None:
    """A second reader would have other limits, or none."""
    root = Path(songgen.__file__).parent
    found: Counter[str] = Counter()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "json":
                found[path.relative_to(root).as_posix()] += node.attr in ("load", "loads", "JSONDecoder")
            assert not (isinstance(node, ast.ImportFrom) and node.module == "json"), path
    assert {name: count for name, count in found.items() if count} == OWN_MESSAGES


@pytest.mark.parametrize(
    "config",
    [
        {"decoder": {"hidden_size": 1_000_000_000}},
        {"num_hidden_layers": 1_000_000_000},
        {"vocab_size": 1_000_000_000},
        {"encoder": {"conv_dim": [512, 10**9]}},
        {"num_attention_heads": 10**6},
        {"num_codebooks": 10**6},
    ],
)
def test_sizes_that_no_network_has_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sizes that no network has"):
        require_sane_sizes(config, "config.json")


def test_sizes_of_large_published_networks_are_accepted() -> None:
    """Llama 3 405B, T5 11B, Whisper large, and values that are no sizes of weights."""
    llama = {"hidden_size": 16384, "num_hidden_layers": 126, "intermediate_size": 53248, "num_attention_heads": 128}
    require_sane_sizes(llama | {"vocab_size": 256_000, "max_position_embeddings": 131_072}, "")
    require_sane_sizes({"d_model": 1024, "d_ff": 65536, "num_heads": 128, "num_layers": 24}, "")
    require_sane_sizes({"max_length": 1 << 40, "sampling_rate": 192_000, "seed": 1 << 60, "use_cache": True}, "")
