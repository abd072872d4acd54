"""Reading of texts and audio paths from manifests, for training tokenizers and fitting a codec.

Only manifests in files are read here, with the same reader as in tokenizing, so both see the same rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.data.manifests.raw_rows import ColumnNames, RawRow
from songgen.data.manifests.sources import ManifestSpec, open_source
from songgen.lyrics import is_known_language, language_code, states_language
from songgen.lyrics.written import clean_text, read_written_lyrics

DEFAULT_LANGUAGE = "english"
"""Language of lyrics in rows without a language."""

MAX_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class SongTexts:
    """Texts of one row of a manifest."""

    caption: str
    """Caption; may be empty."""

    lyrics: str
    """Lyrics; empty for an instrumental."""

    language: str
    """Code of the language of the lyrics."""


def read_texts(manifests: list[Path]) -> list[SongTexts]:
    """Read captions, lyrics and languages of all rows.

    Raises:
        ValueError: if files or lines cannot be read; the message lists all of them.
    """
    texts: list[SongTexts] = []
    problems: list[str] = []
    for manifest in manifests:
        try:
            for raw in _rows(manifest):
                try:
                    texts.append(_texts_of(_values(raw)))
                except ValueError as error:
                    problems.append(f"{manifest}, line {raw.line}: {error}")
        except (OSError, ValueError) as error:
            problems.append(f"{manifest}: {error}")
    _raise_problems(problems)
    return texts


def find_audio_files(manifests: list[Path]) -> list[Path]:
    """Return every audio file named in the manifests, each once, in their order.

    Keys that end in `file_name` have paths relative to the manifest, keys that end in `_abspath` absolute ones.

    Raises:
        ValueError: if files or lines cannot be read, a manifest names no audio, or audio files are missing; the message
            lists all problems.
    """
    files: dict[Path, None] = {}
    problems: list[str] = []
    for manifest in manifests:
        named: dict[Path, None] = {}
        try:
            for raw in _rows(manifest):
                try:
                    named.update(dict.fromkeys(_audio_of(_values(raw), manifest.parent)))
                except ValueError as error:
                    problems.append(f"{manifest}, line {raw.line}: {error}")
        except (OSError, ValueError) as error:
            problems.append(f"{manifest}: {error}")
            continue
        if not named:
            problems.append(f"{manifest} names no audio: its rows need keys that end in file_name or _abspath")
        files.update(named)
    problems += [f"there is no audio file {file}" for file in files if not file.is_file()]
    _raise_problems(problems)
    return list(files)


def _rows(manifest: Path) -> Iterator[RawRow]:
    """Open a manifest without checking its audio paths."""
    return open_source(ManifestSpec(str(manifest), method="json"), ColumnNames(), spool_folder=manifest.parent).rows


def _values(raw: RawRow) -> dict[str, Any]:
    if raw.values is None:
        raise ValueError(raw.error)
    return raw.values


def _texts_of(row: dict[str, Any]) -> SongTexts:
    lyrics = read_written_lyrics(_text(row, "lyrics", joint="\n")).text
    language = _text(row, "language")
    # As in tokenizing: the language of no words does not matter.
    is_stated = states_language(language) and (bool(lyrics) or is_known_language(language))
    code = language_code(language if is_stated else DEFAULT_LANGUAGE)
    return SongTexts(clean_text(_text(row, "caption")), lyrics, code)


def _text(row: dict[str, Any], key: str, *, joint: str = ", ") -> str:
    """Return a text, a list of tags as one text, or an empty text if the row has none."""
    value = row.get(key)
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return joint.join(entry.strip() for entry in value if entry.strip())
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be a text or a list of tags, not {str(value)[:40]!r}")
    return value or ""


def _audio_of(row: dict[str, Any], folder: Path) -> list[Path]:
    return [
        (folder / value).absolute()
        for key, value in row.items()
        if isinstance(value, str) and value and key.endswith(("file_name", "_abspath"))
    ]


def _raise_problems(problems: list[str]) -> None:
    if problems:
        more = len(problems) - MAX_PROBLEMS_SHOWN
        shown = problems[:MAX_PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError("the manifests cannot be read:\n  " + "\n  ".join(shown))
