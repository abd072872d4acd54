"""Files of records in the work folder: one record in each line."""

from collections.abc import Iterable
from pathlib import Path

from songgen.prepare.engine.record import SongRecord
from songgen.runtime.files import write_text_atomic

SONGS_FILE = "songs.jsonl"
"""In the work folder: the songs as the inputs have them."""

RECORDS_FILE = "records.jsonl"
"""In the work folder: songs and clips after the last step, including refused ones."""


def read_records(path: Path) -> list[SongRecord]:
    """Read the records of a file, in order."""
    with path.open(encoding="ascii") as lines:
        return [SongRecord.from_json(line) for line in lines]


def write_records(path: Path, records: Iterable[SongRecord]) -> None:
    """Replace the file in one step, so that a reader sees all records of one run."""
    write_text_atomic(path, "".join(record.to_json() + "\n" for record in records))
