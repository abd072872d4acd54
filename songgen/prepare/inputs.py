"""Reading the inputs (folders, manifests, lists, saved data sets) as records, with the readers of tokenizing."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songgen.data.manifests.clip import ClipRow, is_storable_text
from songgen.data.manifests.findings import ManifestFindings
from songgen.data.manifests.manifest import read_clip_rows
from songgen.data.manifests.music_facts import stated_key
from songgen.data.manifests.raw_rows import ColumnNames, join_tags
from songgen.data.manifests.row_reader import ManifestOptions
from songgen.data.manifests.sources import ManifestSpec
from songgen.lyrics import LANGUAGES, is_known_language
from songgen.prepare.config import InputOptions, PrepareConfig
from songgen.prepare.engine.record import JsonObject, LyricLine, Refusal, SongRecord, known_language
from songgen.prepare.engine.record_files import write_records
from songgen.prepare.review.corrections import REVIEW
from songgen.prepare.steps.take_in import TakeInStep
from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import read_json_object
from songgen.tasks import MIX

KEPT_COLUMNS = (
    "tags",
    "variants",
    "analysis",
    "tempo",
    "key",
    "song",
    "start",
    "split",
    "instrumental",
    "singer",
    "provenance",
)
"""Columns that a row may have in addition to those of tokenizing."""

MAX_ID_LENGTH = 100
"""Longest id in bytes, so that file names of clips stay below the limit of file systems."""

MAX_NESTING = 32
"""Most nested tables and lists in a value that is kept; such values are written and copied by recursive functions."""

SPOOL_FOLDER = "spool"
"""In the work folder: audio that data sets contain in their rows."""


@dataclass
class TakenIn:
    """Content of the inputs."""

    records: list[SongRecord] = field(default_factory=list)
    """Songs, in the order of the inputs."""

    notices: list[str] = field(default_factory=list)
    """Misnamed files and similar problems, each with file and suggested fix."""

    num_notices: int = 0
    """Number of all notices, including those not listed."""


def read_songs(config: PrepareConfig) -> TakenIn:
    """Read all inputs; no audio is opened.

    Raises:
        songgen.data.manifests.findings.ManifestError: If manifests have problems; lists all of them.
    """
    findings = ManifestFindings()
    taken = TakenIn()
    ids: dict[str, str] = {}
    problem: ValueError | None = None
    for source in config.inputs:
        spec = ManifestSpec(
            source.name, source.config_name, source.split, source.max_rows, source.annotations, source.method
        )
        options = ManifestOptions(
            columns=_column_names(source),
            roots=tuple(Path(root) for root in config.settings.audio_roots),
            default_language=config.settings.language,
            is_raw=True,
            kept_columns=KEPT_COLUMNS,
            spool_folder=config.work_folder / SPOOL_FOLDER,
        )
        whole_songs = 0
        try:
            for row in read_clip_rows([spec], options, findings):
                taken.records.append(_record(row, source, ids, findings))
                whole_songs += "song" in row.extra and "start" not in row.extra
        except ValueError as error:
            problem = error
        if whole_songs:
            findings.oddities.add(
                f"{whole_songs} row(s) have the column song but not start, where in the song the clip begins; they are "
                "read as whole songs",
                source.name,
            )
    if problem is not None:
        raise problem  # findings are shared, so the last error lists the problems of all inputs
    taken.notices, taken.num_notices = findings.notices, findings.num_notices
    return taken


def write_songs(path: Path, taken: TakenIn) -> None:
    """Write the records, and the notices into a file next to them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, taken.records)
    notices = {"num_notices": taken.num_notices, "notices": taken.notices}
    write_text_atomic(path.with_suffix(".notices.json"), json.dumps(notices, indent=2))


def read_notices(path: Path) -> TakenIn:
    """Read the notices next to a file of records."""
    return TakenIn(**read_json_object(path.with_suffix(".notices.json")))


def _column_names(source: InputOptions) -> ColumnNames:
    names = source.columns
    return ColumnNames(
        id=names.get("id"),
        caption=names.get("caption", "caption"),
        lyrics=names.get("lyrics", "lyrics"),
        language=names.get("language", "language"),
        target=names.get("audio", "audio"),
        references=(names.get("vocal", "vocal"), names.get("acc", "acc")),
    )


def _record(row: ClipRow, source: InputOptions, ids: dict[str, str], findings: ManifestFindings) -> SongRecord:
    """Return the record of a row; values of a wrong type are dropped with a notice."""
    record_id = unique_id(row.id, source.name, ids)
    extra = _Extra(row, findings)
    tags = extra.tags()
    lyrics, is_instrumental = _text(row.lyrics), row.is_instrumental
    if lyrics and row.language and not is_known_language(row.language):
        findings.oddities.add(
            f"language {row.language!r} is not one of the lyrics tokenizer ({', '.join(LANGUAGES)}), so songgen "
            "tokenize leaves the song out; correct it, or leave it out here (`filter.languages`)",
            f"{row.file}:{row.line}",
        )
    provenance = {"input": {"name": source.name, "id": row.id}}
    is_clip = extra.number("start") is not None
    return SongRecord(
        id=record_id,
        song=safe_name(song) if is_clip and (song := extra.text("song")) else record_id,
        file=row.file,
        line=row.line,
        audio={track: path.resolved for track, path in row.tracks.items() if path.resolved},
        start=extra.number("start") or 0.0,
        language=known_language(row.language),
        lyrics=lyrics,
        lyrics_source="instrumental" if is_instrumental else "given" if lyrics else "",
        lines=tuple(LyricLine(line.text, line.start, line.end, line.section) for line in row.lines),
        voiced=() if is_instrumental else None,  # a wrong detection must not lead to hallucinated lyrics
        caption=_text(row.caption) or join_tags(tags),
        tags=tags,
        variants=extra.texts("variants"),
        analysis=extra.table("analysis"),
        tempo=extra.number("tempo"),
        key=extra.key(),
        singer=extra.text("singer"),
        split=source.use_for or extra.split(),
        provenance={**extra.provenance(), **provenance},
        refusal=_refusal(row),
    )


def _refusal(row: ClipRow) -> Refusal | None:
    """Return why a row is refused, as far as this is known without opening its audio."""
    if row.code:
        return Refusal(TakeInStep.name, row.code, row.reason)
    for track in row.tracks.values():
        if not track.resolved:
            return Refusal(TakeInStep.name, track.code, track.reason, track.given)
    if MIX not in row.tracks:
        return Refusal(TakeInStep.name, "missing_track", f"the row has no track {MIX!r}")
    if not all(is_storable_text(text) for text in (row.caption, row.lyrics, row.language)):
        return Refusal(TakeInStep.name, "bad_text", "caption or lyrics contain NUL or half a surrogate pair")
    return None


def _text(text: str) -> str:
    """Normalize a text: composed characters, Unix line breaks, no surrounding blanks."""
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").strip()


def _can_be_kept(value: Any, depth: int = MAX_NESTING) -> bool:
    """Return whether a value is JSON that can be stored: plain types, no text with NUL, limited nesting."""
    if isinstance(value, str):
        return is_storable_text(value)
    if isinstance(value, dict):
        names_and_values = [*value, *value.values()]
        return depth > 0 and all(isinstance(name, str) for name in value) and _all_kept(names_and_values, depth)
    if isinstance(value, list):
        return depth > 0 and _all_kept(value, depth)
    return value is None or isinstance(value, bool | int | float)


def _all_kept(values: Sequence[Any], depth: int) -> bool:
    return all(_can_be_kept(value, depth - 1) for value in values)


class _Extra:
    """Further columns of a row, with checks."""

    def __init__(self, row: ClipRow, findings: ManifestFindings) -> None:
        self.row = row
        self.findings = findings

    def _odd(self, column: str, expected: str) -> None:
        given = self.row.extra[column]
        # The text of a table or a list may be very long.
        value = f"a {type(given).__name__}" if isinstance(given, dict | list) else repr(str(given)[:40])
        self.findings.oddities.add(
            f"{column} {value} is not valid, expected {expected}; it is ignored", f"{self.row.file}:{self.row.line}"
        )

    def text(self, column: str) -> str:
        value = self.row.extra.get(column, "")
        if isinstance(value, str) and is_storable_text(value):
            return _text(value)
        self._odd(column, "text")
        return ""

    def number(self, column: str) -> float | None:
        value = self.row.extra.get(column)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
            return float(value)
        self._odd(column, "number")
        return None

    def table(self, column: str) -> JsonObject:
        value = self.row.extra.get(column, {})
        if isinstance(value, dict) and _can_be_kept(value):
            return value
        self._odd(column, f"table of texts and numbers, nested {MAX_NESTING} times at most")
        return {}

    def provenance(self) -> JsonObject:
        """Return the provenance of earlier steps, without reviews, which count in their own work folder only."""
        entries = {step: entry for step, entry in self.table("provenance").items() if step != REVIEW}
        if all(isinstance(entry, dict) for entry in entries.values()):
            return entries
        self._odd("provenance", "table of tables, one a step")
        return {}

    def key(self) -> str:
        """Return the key of the music in its usual form; a column of this name may contain something else."""
        value = self.text("key")
        found = stated_key(value)
        if value and not found:
            self._odd("key", "key such as `A minor`")
        return found

    def texts(self, column: str) -> dict[str, str]:
        return {name: _text(text) for name, text in self.table(column).items() if isinstance(text, str) and text}

    def tags(self) -> tuple[str, ...]:
        value: Any = self.row.extra.get("tags", [])
        value = value.split(",") if isinstance(value, str) else value
        if isinstance(value, Sequence) and all(isinstance(tag, str) and is_storable_text(tag) for tag in value):
            return tuple(_text(tag) for tag in value if tag.strip())
        self._odd("tags", "list of texts")
        return ()

    def split(self) -> str:
        value = self.row.extra.get("split")
        if value in (None, "train", "eval"):
            return value or ""
        self._odd("split", "split (train or eval)")
        return ""


def unique_id(given: str, source: str, ids: dict[str, str]) -> str:
    """Return a unique id that is a valid file name.

    Args:
        given: id in the row.
        source: input of the row, so that equal ids of two inputs become different.
        ids: ids in use, case folded; the new one is added.
    """
    name = safe_name(given)
    for candidate in _candidates(name, given, source):
        if candidate.casefold() not in ids:
            ids[candidate.casefold()] = given
            return candidate
    raise AssertionError("the sequence of candidates is infinite")


def _candidates(name: str, given: str, source: str) -> Iterator[str]:
    yield name
    number = 0
    while True:
        digest = hashlib.sha256(f"{source}\0{given}\0{number}".encode("utf-8", "replace")).hexdigest()
        yield f"{name}-{digest[:8]}"
        number += 1


def safe_name(text: str) -> str:
    """Convert a text to a file name: letters, digits, `.`, `-` and `_`, without folders, limited length."""
    name = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text.replace("/", "__"))).strip("._")
    encoded = name.encode("utf-8", "ignore")
    if len(encoded) > MAX_ID_LENGTH:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        name = f"{encoded[:MAX_ID_LENGTH].decode('utf-8', 'ignore')}-{digest}"
    return name or "song"
