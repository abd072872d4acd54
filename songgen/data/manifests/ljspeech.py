"""Lists in the LJSpeech form: one `path|text` per line, in metadata.csv, train.txt or a file of any name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from songgen.data.manifests.folders.song_folder import AUDIO_SUFFIXES
from songgen.data.manifests.raw_rows import ColumnNames, RawRow
from songgen.data.manifests.text_files import numbered_lines

LIST_NAMES = ("metadata.csv", "train.txt")
"""Names of a list in a folder."""

NOT_A_LINE = "not a line of path|text; a table needs a header such as file_name,lyrics"

HEADER = "audio_file"
"""First field of the header line that some programs write."""

AUDIO_FOLDERS = (".", "wavs", "audio")
"""Folders to search for a file that is named without folder and extension, as in LJSpeech itself."""


def find_list(folder: Path) -> Path | None:
    """Return the list in a folder, or None."""
    return next((folder / name for name in LIST_NAMES if (folder / name).is_file()), None)


def read_list(path: Path, columns: ColumnNames) -> Iterator[RawRow]:
    """Yield the rows of a list; the text is the second field, also if there is a third (the normalized text)."""
    for number, line, problem in numbered_lines(path):
        if line is None:
            yield RawRow(str(path), number, None, problem)
            continue
        text = line.strip()
        fields = text.split("|")
        if not text or (number == 1 and fields[0] == HEADER):
            continue
        if len(fields) < 2 or not fields[0].strip():
            yield RawRow(str(path), number, None, NOT_A_LINE)
            continue
        audio = _find_audio(path.parent, fields[0].strip())
        values: dict[str, Any] = {
            columns.id or "id": Path(audio).with_suffix("").as_posix(),
            columns.target: audio,
            columns.lyrics: fields[1].strip(),
            columns.caption: None,
        }
        yield RawRow(str(path), number, values, has_made_id=True)


def _find_audio(folder: Path, given: str) -> str:
    if Path(given).suffix.lower() in AUDIO_SUFFIXES:
        return given
    places = (Path(place) / f"{given}{suffix}" for place in AUDIO_FOLDERS for suffix in AUDIO_SUFFIXES)
    return next((place.as_posix() for place in places if (folder / place).is_file()), given)
