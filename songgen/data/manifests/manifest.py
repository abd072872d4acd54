"""Conversion of manifests to clip rows: find columns, check types, resolve paths, merge annotations, check ids.

Problems of a manifest itself (a bad line, a missing column, a wrong type, a repeated id) are collected and raised
together, before any audio is read. Problems of one song (a path outside the allowed folders, a missing file) are
recorded in its row.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songgen.data.manifests.clip import ClipRow, TrackPath, escaped, is_storable_text
from songgen.data.manifests.paths import resolve_track_path
from songgen.data.manifests.raw_rows import ColumnNames, RawRow, join_tags, track_of_column
from songgen.data.manifests.row_index import RowIndex, open_row_index
from songgen.data.manifests.sources import ManifestSpec, RowSource, open_source
from songgen.runtime.json_files import parse_json
from songgen.tasks import MIX

LISTED_PROBLEMS = 200
"""Maximum number of problems listed in an error message; further ones are counted."""

LISTED_NOTICES = 1000
"""Maximum number of notices kept; further ones are counted."""

ID_COLUMNS = ("id", "fname")

LARGEST_NUMBER = 1e12
"""Upper bound of durations and energies."""


class ManifestError(ValueError):
    """Raised if manifests cannot be used; the message lists the problems."""


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


@dataclass
class ManifestFindings:
    """Findings of reading, in addition to the rows."""

    problems: list[str] = field(default_factory=list)
    """Problems that make the manifests unusable."""

    notices: list[str] = field(default_factory=list)
    """Oddities that are not errors."""

    num_problems: int = 0
    """Number of all problems, listed or not."""

    num_notices: int = 0
    """Number of all notices, listed or not."""

    repeated_rows: int = 0
    """Number of identical rows of a saved data set that were used only once."""

    def add_problem(self, file: str, line: int | None, message: str) -> None:
        """Add a problem; `line` is None for a problem of the whole file."""
        self.num_problems += 1
        if len(self.problems) < LISTED_PROBLEMS:
            place = f"{file}:{line}" if line is not None else file
            # Line breaks come from our messages only: texts of a manifest are escaped within a line.
            self.problems.append("\n".join(map(escaped, f"{place}: {message}".split("\n"))))

    def add_notice(self, message: str) -> None:
        """Add a notice."""
        self.num_notices += 1
        if len(self.notices) < LISTED_NOTICES:
            self.notices.append(escaped(message))

    def raise_problems(self) -> None:
        """Raise one error for all problems, if there are any.

        Raises:
            ManifestError: if there are problems; the message lists file, line and column of each.
        """
        if self.problems:
            listed = "\n  ".join(self.problems)
            rest = self.num_problems - len(self.problems)
            more = f"\n  ... and {rest} more" if rest else ""
            raise ManifestError(f"the manifests have {self.num_problems} problem(s):\n  {listed}{more}")


def read_clip_rows(
    specs: Sequence[ManifestSpec], options: ManifestOptions, findings: ManifestFindings
) -> Iterator[ClipRow]:
    """Read manifests one after another, row by row.

    Args:
        specs: Manifests to join, in this order.
        options: Column names, allowed folders, limits.
        findings: An empty object, which is filled while reading.

    Raises:
        ManifestError: after the last row, with the problems of all manifests. The rows must not be used then.
    """
    num_rows = 0
    with open_row_index() as seen:
        for spec in specs:
            limit = None if options.max_rows is None else options.max_rows - num_rows
            for row in _read_spec(spec, options, findings, seen, limit):
                num_rows += 1
                yield row
    if not num_rows and not findings.problems:
        findings.add_problem(
            ", ".join(spec.name for spec in specs),
            None,
            "there is no row in it; a folder needs WAV, FLAC, OGG or MP3 files",
        )
    findings.raise_problems()


def _read_spec(
    spec: ManifestSpec, options: ManifestOptions, findings: ManifestFindings, seen: RowIndex, limit: int | None
) -> Iterator[ClipRow]:
    num_taken = 0
    with open_row_index() as annotations:
        try:
            if spec.annotations is not None:
                _load_annotations(spec.annotations, options, findings, annotations)
            source = open_source(spec, options.columns, options.spool_folder)
            reader = _RowReader(spec, options, findings, source)
            for index, raw in enumerate(source.rows):
                if (spec.max_rows is not None and index >= spec.max_rows) or num_taken == limit:
                    break
                row = reader.read(raw, annotations)
                if row is not None and _is_new(row, seen, source, findings):
                    num_taken += 1
                    yield row
        except ValueError as error:  # opening and listing raise it too; all problems are reported together
            findings.add_problem(spec.name, None, str(error))
            return
        reader.finish()
        for notice in source.notices:
            findings.add_notice(notice)
        if spec.annotations is not None and annotations.num_unused():
            findings.add_notice(f"{spec.annotations}: {annotations.num_unused()} annotation(s) belong to no row")


def _is_new(row: ClipRow, seen: RowIndex, source: RowSource, findings: ManifestFindings) -> bool:
    content = json.dumps([row.caption, row.lyrics, sorted(track.given for track in row.tracks.values())])
    earlier = seen.add(row.id, f"{row.file}:{row.line}", content)
    if earlier is None:
        return True
    place, earlier_content = earlier
    if source.may_repeat_rows and place.startswith(f"{row.file}:") and earlier_content == content:
        findings.repeated_rows += 1
    else:
        findings.add_problem(row.file, row.line, f"id {row.id!r} was already used at {place}")
    return False


def _load_annotations(name: str, options: ManifestOptions, findings: ManifestFindings, index: RowIndex) -> None:
    source = open_source(ManifestSpec(name), options.columns, options.spool_folder)
    for raw in source.rows:
        if raw.values is None:
            findings.add_problem(raw.file, raw.line, raw.error)
            continue
        row_id = _find_id(raw, options.columns)
        if isinstance(row_id, str):
            values = {column: value for column, value in raw.values.items() if value is not None}
            if index.add(row_id, f"{raw.file}:{raw.line}", json.dumps(values)) is not None:
                findings.add_problem(raw.file, raw.line, f"id {row_id!r} has two annotations")
        else:
            findings.add_problem(raw.file, raw.line, "the annotation has no id to merge it by")


def _find_id(raw: RawRow, columns: ColumnNames) -> str | None:
    """Return the row's id, or None if it has no valid one."""
    assert raw.values is not None
    candidates = (columns.id,) if columns.id is not None else ID_COLUMNS
    value = next((raw.values[column] for column in candidates if column in raw.values), None)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and value and is_storable_text(value) else None


def column_names(column: str) -> tuple[str, ...]:
    """Return the possible names of an audio column: `vocal_abspath` may also be `vocal_file_name` or `vocal`."""
    stem = track_of_column(column)
    return tuple(dict.fromkeys((column, f"{stem}_abspath", f"{stem}_file_name", stem)))


class _RowReader:
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
        self.file = spec.name

    def read(self, raw: RawRow, annotations: RowIndex) -> ClipRow | None:
        """Return the row, or None if it has a problem, which is added to the findings."""
        self.file = raw.file
        if raw.values is None:
            self.findings.add_problem(raw.file, raw.line, raw.error)
            return None
        problems_before = self.findings.num_problems
        self.num_rows += 1
        row_id = self._id(raw)
        values = dict(raw.values)
        if row_id is not None and self.spec.annotations is not None:
            annotation = annotations.take(row_id)
            if annotation is None:
                self.findings.add_notice(f"{raw.file}:{raw.line}: {row_id!r} is not in {self.spec.annotations}")
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
        for column in self.columns.references if self.num_rows and not self.options.is_raw else ():
            if not any(name in self.seen_columns for name in column_names(column)):
                self.findings.add_notice(
                    f"{self.file}: no row has the column {column!r} of ref_audio_column_name, so there is no track "
                    f"{track_of_column(column)!r}; the columns that exist: {existing}"
                )

    def _id(self, raw: RawRow) -> str | None:
        assert raw.values is not None
        row_id = _find_id(raw, self.columns)
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
        caption = self._text(raw, values, columns.caption, required=needs_texts)
        lyrics = self._text(raw, values, columns.lyrics, required=needs_texts)
        if needs_texts and not caption:
            code, reason = "missing_caption", "the caption is empty"
        language = self._text(raw, values, columns.language, required=False) or self.options.default_language
        tracks = self._tracks(raw, values)
        names = ("mix", "audio", *(track_of_column(column) for column in columns.references))
        energies = {
            MIX if name == "audio" else name: energy
            for name in names
            if (energy := self._number(raw, values, f"{name}_energy")) is not None
        }
        return ClipRow(
            id=row_id,
            caption=caption,
            lyrics=lyrics,
            language=language,
            tracks=tracks,
            file=raw.file,
            line=raw.line,
            energies=energies,
            duration=self._number(raw, values, "duration"),
            code=code,
            reason=reason,
            extra={name: values[name] for name in self.options.kept_columns if values.get(name) is not None},
        )

    def _text(self, raw: RawRow, values: dict[str, Any], column: str, *, required: bool) -> str:
        if column not in values:
            if required:
                self.missing[column].append(raw.line)
            return ""
        value = values[column]
        if value is None:
            return ""
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            return join_tags(value)
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

    def _tracks(self, raw: RawRow, values: dict[str, Any]) -> dict[str, TrackPath]:
        tracks = {}
        for column in (self.columns.target, *self.columns.references):
            name = next((name for name in column_names(column) if values.get(name) not in (None, "")), None)
            if name is None:
                if column == self.columns.target and not any(name in values for name in column_names(column)):
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
