"""Checks of single rows against the configured columns: from a raw row to a `ClipRow`, or to a problem."""

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from songgen.data.embedded_tags import embedded_lyrics
from songgen.data.manifests.clip import ClipRow, TrackPath, is_storable_text
from songgen.data.manifests.findings import ManifestFindings
from songgen.data.manifests.paths import resolve_track_path
from songgen.data.manifests.raw_rows import FACT_NAMES, ColumnNames, RawRow, facts_of, plain_name, track_of_column
from songgen.data.manifests.row_index import RowIndex
from songgen.data.manifests.sources import ManifestSpec, RowSource
from songgen.data.manifests.tables import AUDIO_NAMES
from songgen.lyrics import is_known_language, states_language
from songgen.lyrics.written import WrittenLyrics, clean_text, read_written_lyrics
from songgen.runtime.json_files import parse_json
from songgen.tasks import MIX

ID_COLUMNS = ("id", "fname")

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

LARGEST_NUMBER = 1e12
"""Upper bound of durations and energies."""


@dataclass(frozen=True)
class ManifestOptions:
    """Options for reading manifests."""

    columns: ColumnNames = field(default_factory=ColumnNames)
    """Names of the columns."""

    roots: tuple[Path, ...] = ()
    """Folders that may contain audio, in addition to each manifest's own."""

    default_language: str = "en"
    """Language of rows without a language."""

    is_raw: bool = False
    """Whether the songs are not prepared yet, so that caption, lyrics and separated tracks may be missing."""

    kept_columns: tuple[str, ...] = ()
    """Further columns whose values are copied to `ClipRow.extra`."""

    max_rows: int | None = None
    """Number of first rows to read from all manifests together; None for all."""

    spool_folder: Path = Path(".")
    """Folder for audio that a data set stores inside its rows."""


def has_id(raw: RawRow, columns: ColumnNames) -> bool:
    """Return whether a row states an id."""
    assert raw.values is not None
    return any(column in raw.values for column in ((columns.id,) if columns.id is not None else ID_COLUMNS))


def find_id(raw: RawRow, columns: ColumnNames) -> str | None:
    """Return the row's id, or None if it has no valid one."""
    assert raw.values is not None
    candidates = (columns.id,) if columns.id is not None else ID_COLUMNS
    value = next((raw.values[column] for column in candidates if column in raw.values), None)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return plain_name(value) if isinstance(value, str) and value and is_storable_text(value) else None


def column_names(column: str) -> tuple[str, ...]:
    """Return the possible names of an audio column: `vocal_abspath` may also be `vocal_file_name` or `vocal`."""
    stem = track_of_column(column)
    return tuple(dict.fromkeys((column, f"{stem}_abspath", f"{stem}_file_name", stem)))


def _with_known_columns(values: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which columns of the audio are in lower case, as in `File,Title,BPM` of a table program."""
    known = {*AUDIO_NAMES, "bpm", "key", "caption", "lyrics", "language", "id"}
    return {
        folded if (folded := name.casefold()) in known and folded not in values else name: value
        for name, value in values.items()
    }


def _is_resource_fork(values: dict[str, Any]) -> bool:
    """Return whether a row names `._song.wav` or a file in `__MACOSX`, which a list of all files contains."""
    return any(
        isinstance(value, str)
        and any(part.startswith("._") or part == "__MACOSX" for part in re.split(r"[/\\]", value))
        for name, value in values.items()
        if name in AUDIO_NAMES or name.startswith(("audio", "mix"))
    )


class RowReader:
    """Reader of the rows of one manifest, which checks them against the configured columns."""

    def __init__(
        self, spec: ManifestSpec, options: ManifestOptions, findings: ManifestFindings, source: RowSource
    ) -> None:
        self.spec = spec
        self.options = options
        self.columns = options.columns
        self.findings = findings
        self.base_folders = source.base_folders
        self.roots = tuple(root.resolve() for root in (*source.base_folders, *options.roots))
        self.seen_columns: set[str] = set()
        self.missing: dict[str, list[int]] = defaultdict(list)
        self.num_rows = 0
        self.is_folder = False
        self.file = spec.name

    def read(self, raw: RawRow, annotations: RowIndex) -> ClipRow | None:
        """Return the row, or None if it has a problem, which is added to the findings."""
        self.file = raw.file
        if raw.values is None:
            self.findings.add_problem(raw.file, raw.line, raw.error)
            return None
        problems_before = self.findings.num_problems
        self.num_rows += 1
        self.is_folder = raw.is_song_file
        values = _with_known_columns(raw.values)
        if _is_resource_fork(values):
            message = "is what macOS writes next to a file on other disks, and is skipped"
            self.findings.oddities.add(message, f"{raw.file}:{raw.line}")
            return None
        row_id = self._id(raw)
        if row_id is not None and self.spec.annotations is not None:
            annotation = annotations.take(row_id)
            if annotation is None:
                source = self.spec.annotations
                self.findings.oddities.add(
                    f"{row_id!r} is not in {source}", f"{raw.file}:{raw.line}", kind=f"has no annotation in {source}"
                )
            else:
                values.update(parse_json(annotation, max_bytes=None))
        self.seen_columns.update(values)
        row = self._build(raw, values, row_id or "")
        return row if self.findings.num_problems == problems_before else None

    def finish(self) -> None:
        """Report missing columns: one message if no row has the column, otherwise one for each row."""
        existing = ", ".join(sorted(self.seen_columns)) or "none"
        for column, lines in self.missing.items():
            if len(lines) == self.num_rows:
                self.findings.add_problem(
                    self.file, None, f"no row has the column {column!r}; the columns that exist: {existing}"
                )
            else:
                for line in lines:
                    self.findings.add_problem(self.file, line, f"column {column!r} is missing")
        if self.options.is_raw and self.num_rows and not self.is_folder:
            self._name_unread_columns()
        for column in self.columns.references if self.num_rows and not self.options.is_raw else ():
            if not any(name in self.seen_columns for name in column_names(column)):
                self.findings.oddities.add(
                    f"no row has the column {column!r} of ref_audio_column_name, so there is no track "
                    f"{track_of_column(column)!r}; the columns that exist: {existing}",
                    self.file,
                )

    def _name_unread_columns(self) -> None:
        """Add a notice if the column of captions or lyrics is missing, and another one may contain them."""
        columns = self.columns
        used = {columns.id, columns.caption, columns.lyrics, columns.language, *ID_COLUMNS, *AUDIO_NAMES, "duration"}
        for column in (columns.target, *columns.references):
            used.update(column_names(column))
        used.update(self.options.kept_columns, *FACT_NAMES.values(), ("timesignature", "measures"))
        unread = sorted(name for name in self.seen_columns - used if not name.endswith(("_energy", "_sha256")))
        missing = [column for column in (columns.caption, columns.lyrics) if column not in self.seen_columns]
        if unread and missing:
            message = f"no row has the column {' or '.join(missing)}; columns that are not read: {', '.join(unread)}"
            self.findings.oddities.add(f"{message} (`columns` of an input says what is in them)", self.file)

    def _id(self, raw: RawRow) -> str | None:
        assert raw.values is not None
        row_id = find_id(raw, self.columns)
        if row_id is not None:
            return row_id
        candidates = (self.columns.id,) if self.columns.id is not None else ID_COLUMNS
        found = next((column for column in candidates if column in raw.values), None)
        if found is not None:
            self.findings.add_problem(raw.file, raw.line, f"column {found!r} must be a text without NUL, and not empty")
        elif self.columns.id is not None:
            self.missing[self.columns.id].append(raw.line)
        else:
            return f"{Path(raw.file).stem}_{raw.line:08d}"
        return None

    def _build(self, raw: RawRow, values: dict[str, Any], row_id: str) -> ClipRow:
        columns = self.columns
        code, reason = raw.code, raw.reason
        needs_texts = not (self.options.is_raw or code)
        caption = clean_text(self._text(raw, values, columns.caption, required=needs_texts))
        if needs_texts and not caption:
            code, reason = "missing_caption", "the caption is empty"
        tracks = self._tracks(raw, values)
        lyrics = self._lyrics(raw, values, tracks, required=needs_texts)
        names = ("mix", "audio", *(track_of_column(column) for column in columns.references))
        energies = {
            MIX if name == "audio" else name: energy
            for name in names
            if (energy := self._number(raw, values, f"{name}_energy")) is not None
        }
        hashes = {MIX if name == "audio" else name: self._sha256(raw, values, f"{name}_sha256") for name in names}
        extra = facts_of(values)
        return ClipRow(
            id=row_id,
            caption=caption,
            lyrics=lyrics.text,
            language=self._language(raw, values, lyrics),
            tracks=tracks,
            file=raw.file,
            line=raw.line,
            energies=energies,
            hashes={name: sha256 for name, sha256 in hashes.items() if sha256 and name in tracks},
            duration=self._number(raw, values, "duration"),
            code=code,
            reason=reason,
            lines=lyrics.lines,
            is_instrumental=lyrics.is_instrumental,
            extra={name: extra[name] for name in self.options.kept_columns if extra.get(name) is not None},
        )

    def _lyrics(
        self, raw: RawRow, values: dict[str, Any], tracks: dict[str, TrackPath], *, required: bool
    ) -> WrittenLyrics:
        """Return the lyrics of a row.

        Songs that are not prepared yet may have them in the tags of the audio file. Only such songs keep the times of
        lyrics, since only they are cut by them.
        """
        text = self._text(raw, values, self.columns.lyrics, required=required, joint="\n")
        place = f"{raw.file}:{raw.line}"
        states_instrumental = facts_of(values).get("instrumental") is True
        mix = tracks.get(MIX)
        is_unread = self.options.is_raw and not raw.is_song_file and not states_instrumental and not raw.code
        if is_unread and values.get(self.columns.lyrics) is None and mix is not None and mix.resolved:
            embedded = embedded_lyrics(Path(mix.resolved))
            if embedded is not None:
                self.findings.oddities.add("the lyrics in the tags of the audio file are read", place)
                text = embedded
        lyrics = read_written_lyrics(text)
        place = f"{raw.file}/{values[self.columns.target]}" if raw.is_song_file else place
        for note in lyrics.notes:
            self.findings.oddities.add(note, place)
        if states_instrumental:
            if lyrics.text:
                self.findings.oddities.add("it is called instrumental, so its lyrics are not read", place)
            return WrittenLyrics("", is_instrumental=True)
        if not lyrics.lines:
            return lyrics
        if self.options.is_raw:
            self.findings.oddities.add("the times in the lyrics are read as those of its lines", place)
            return lyrics
        self.findings.oddities.add(
            "the times in the lyrics are left out: only songgen prepare cuts songs by them", place
        )
        return replace(lyrics, lines=())

    def _language(self, raw: RawRow, values: dict[str, Any], lyrics: WrittenLyrics) -> str:
        """Return the language of a row; the default for one that states none, or in which nothing is sung."""
        language = self._text(raw, values, self.columns.language, required=False)
        default = self.options.default_language
        if not states_language(language):
            if language.strip() and lyrics.text:
                message = f"language {language!r} states none, so it is {default or 'found from the song'}"
                self.findings.oddities.add(message, f"{raw.file}:{raw.line}")
            return default
        may_be_sung = bool(lyrics.text) or (self.options.is_raw and not lyrics.is_instrumental)
        return language if may_be_sung or is_known_language(language) else default

    def _text(self, raw: RawRow, values: dict[str, Any], column: str, *, required: bool, joint: str = ", ") -> str:
        if column not in values:
            if required:
                self.missing[column].append(raw.line)
            return ""
        value = values[column]
        if value is None:
            return ""
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            return joint.join(entry.strip() for entry in value if entry.strip())
        if not isinstance(value, str):
            self._wrong_type(raw, column, "a text or null", value)
            return ""
        return value

    def _number(self, raw: RawRow, values: dict[str, Any], column: str) -> float | None:
        value = values.get(column)
        if value is None:
            return None
        # Compare with the bound before converting: an integer of many digits does not fit into a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_NUMBER:
            self._wrong_type(raw, column, "a number that is not negative", value)
            return None
        return float(value)

    def _sha256(self, raw: RawRow, values: dict[str, Any], column: str) -> str:
        value = values.get(column)
        if value in (None, ""):
            return ""
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            self._wrong_type(raw, column, "a SHA-256 in 64 hexadecimal digits", value)
            return ""
        return value.lower()

    def _tracks(self, raw: RawRow, values: dict[str, Any]) -> dict[str, TrackPath]:
        tracks = {}
        for column in (self.columns.target, *self.columns.references):
            names = column_names(column) + (AUDIO_NAMES if column == self.columns.target else ())
            name = next((name for name in names if values.get(name) not in (None, "")), None)
            if name is None:
                if column == self.columns.target and not any(name in values for name in names):
                    self.missing[column].append(raw.line)
                continue
            if isinstance(values[name], str):
                track = MIX if column == self.columns.target else track_of_column(column)
                tracks[track] = resolve_track_path(values[name], self.base_folders, self.roots)
            else:
                self._wrong_type(raw, name, "a path", values[name])
        return tracks

    def _wrong_type(self, raw: RawRow, column: str, expected: str, value: Any) -> None:
        self.findings.add_problem(
            raw.file, raw.line, f"column {column!r} must be {expected}, not {type(value).__name__} {str(value)[:40]!r}"
        )
