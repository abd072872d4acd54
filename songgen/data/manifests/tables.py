"""Manifests as files: JSON lines, a JSON array, an object with the rows in it, CSV with a header, Parquet.

The format is found by content: many programs write an array or an object into a file named .jsonl or .json.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from songgen.data.manifests.raw_rows import RawRow
from songgen.data.manifests.text_files import numbered_lines, read_table_text
from songgen.runtime.json_files import parse_json

TABLE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Extensions of manifests."""

FOLDER_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
"""Names of a manifest in a folder, as in data sets of the hub; the first that exists is read."""

AUDIO_NAMES = ("file_name", "filename", "file", "audio_path", "audio_filepath", "audio_file", "filepath", "path", "wav")
"""Names that other programs give to the column of the audio; `file_name` in data sets of the hub."""

HEADER_NAMES = (*AUDIO_NAMES, "audio", "audio_file_name", "audio_abspath", "id", "fname")
"""Columns, in lower case, one of which a header has."""

ROW_KEYS = ("samples", "data", "rows", "songs", "tracks", "items", "train", "entries", "records")
"""Keys of a JSON object that may hold the rows: `samples` in ACE-Step 1.5, `data` in many exports."""

PARQUET_BATCH_ROWS = 32
"""Rows in memory at once, each of which may contain whole audio files."""

_DELIMITERS = ",;\t"
_NUMBER_COLUMNS = re.compile(r"duration|tempo|bpm|start|.*_energy")
_TRUTH_COLUMNS = re.compile(r"(?:is_)?instrumental")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_MAX_FIELD = 1 << 24


def has_header(path: Path) -> bool:
    """Return whether a text file is CSV whose first line names columns, rather than a list of `path|text`."""
    first = next((line for _, line, _ in numbered_lines(path) if line and line.strip()), "")
    fields = [field.strip().strip('"').casefold() for field in re.split(r"[,;\t|]", first)]
    return "|" not in first and len(fields) > 1 and any(field in HEADER_NAMES for field in fields)


def read_table(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a manifest.

    Raises:
        ValueError: if the file as a whole cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        return _read_parquet(path)
    if path.suffix.lower() == ".parquet":
        raise ValueError(f"{path} is not a Parquet file, whatever its name says")
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _read_csv(path)
    return _read_json(path)


def _read_json(path: Path) -> Iterator[RawRow]:
    lines = ((number, line) for number, line, _ in numbered_lines(path) if line is None or line.strip())
    _, first = next(lines, (0, None))
    more = next(lines, None)
    if first is not None and not _is_object(first, alone=more is None):
        values = _values_of_file(path)
        if values is not None:
            return values
    return _read_lines(path)


def _is_object(line: str, *, alone: bool) -> bool:
    """Return whether a line is a row: a JSON object, and if there is no other line, not one that holds the rows."""
    try:
        value = parse_json(line)
    except ValueError:
        return False
    return isinstance(value, dict) and not (alone and _rows_in(value) is not None)


def _values_of_file(path: Path) -> Iterator[RawRow] | None:
    """Return the rows of a file that is JSON as a whole; None if it is not, and is to be read line by line."""
    text = read_table_text(path)
    decoder, values, at = json.JSONDecoder(), [], 0
    try:
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            end = decoder.raw_decode(text, at)[1]
            values.append(parse_json(text[at:end]))
            at = end
    except (ValueError, RecursionError):
        return None
    if len(values) == 1:
        value = values[0]
        rows = value if isinstance(value, list) else _rows_in(value) if isinstance(value, dict) else None
        values = values if rows is None else rows
    return (_row(path, number, value) for number, value in enumerate(values, 1))


def _rows_in(value: dict[str, Any]) -> list[Any] | None:
    """Return the rows that an object holds in a list, or as values by id or file; None if it is a row itself."""
    for key in ROW_KEYS:
        if isinstance(value.get(key), list) and all(isinstance(row, dict) for row in value[key]):
            return list(value[key])
    if value and all(isinstance(row, dict) for row in value.values()):
        return [{"id": name, **({"audio": name} if Path(name).suffix else {}), **row} for name, row in value.items()]
    return None


def _read_lines(path: Path) -> Iterator[RawRow]:
    for number, line, problem in numbered_lines(path):
        if line is None:
            yield RawRow(str(path), number, None, f"not a line of JSON: {problem}")
        elif line.strip():
            try:
                values = parse_json(line)
            except ValueError as error:  # also for integers of thousands of digits
                yield RawRow(str(path), number, None, f"not a line of JSON: {error}")
                continue
            yield _row(path, number, values)


def _row(path: Path, number: int, values: Any) -> RawRow:
    if isinstance(values, dict):
        return RawRow(str(path), number, values)
    return RawRow(str(path), number, None, f"a row must be an object, this is a {type(values).__name__}")


def _read_csv(path: Path) -> Iterator[RawRow]:
    text = read_table_text(path)
    header = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header.count)
    csv.field_size_limit(_MAX_FIELD)
    # Line ends are kept, since quoted fields may contain line breaks.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    names: list[str] = []
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RawRow(str(path), reader.line_num, None, f"not a line of CSV: {error}")
            continue
        if not any(field.strip() for field in fields):
            continue
        if not names:
            names = [name.strip() for name in fields]
        elif len(fields) > len(names):
            problem = f"{len(fields)} fields, but the header has {len(names)}; texts with a comma need quotes"
            yield RawRow(str(path), reader.line_num, None, problem)
        else:
            values = {name: _value(name, field) for name, field in zip(names, fields, strict=False) if name}
            yield RawRow(str(path), reader.line_num, values)


def _value(name: str, field: str) -> Any:
    """Return the value of a field of CSV, which has no types: numbers and truths by the name of their column."""
    text = field.strip()
    if not text:
        return None
    if _TRUTH_COLUMNS.fullmatch(name.casefold()):
        return _TRUTHS.get(text.casefold(), text)
    if _NUMBER_COLUMNS.fullmatch(name.casefold()):
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _read_parquet(path: Path) -> Iterator[RawRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield RawRow(str(path), number, values)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
