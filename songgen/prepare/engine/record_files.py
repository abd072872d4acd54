"""Files of records in the work folder: one record in each line, with a checksum."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from songgen.prepare.engine.record import SongRecord
from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_lines import read_lines, seal_text, unseal

SONGS_FILE = "songs.jsonl"
"""In the work folder: the songs as the inputs have them."""

RECORDS_FILE = "records.jsonl"
"""In the work folder: songs and clips after the last step, including refused ones."""

_FIELDS = frozenset(entry.name for entry in dataclasses.fields(SongRecord))


def read_records(path: Path) -> list[SongRecord]:
    """Read the records of a file, in order.

    Raises:
        ValueError: If lines are damaged; names the file and the lines.
    """
    return read_lines(path, _read).require_intact("run the `songgen prepare` command again: it writes the file again")


def write_records(path: Path, records: Iterable[SongRecord]) -> None:
    """Replace the file in one step, so that a reader sees all records of one run."""
    write_text_atomic(path, "".join(seal_text(record.to_json()) + "\n" for record in records))


def _read(line: bytes) -> SongRecord:
    return SongRecord.from_values(unseal(line, lambda values: values.keys() <= _FIELDS))
