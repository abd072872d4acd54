"""Conversion of manifests to clip rows: find columns, check types, resolve paths, merge annotations, check ids.

Problems of a manifest itself (a bad line, a missing column, a wrong type, a repeated id) are collected and raised
together, before any audio is read. Problems of one song (a path outside the allowed folders, a missing file) are
recorded in its row.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from songgen.data.manifests.clip import ClipRow
from songgen.data.manifests.findings import ManifestFindings
from songgen.data.manifests.folders.song_folder import TENSOR_SUFFIXES
from songgen.data.manifests.row_index import RowIndex, open_row_index
from songgen.data.manifests.row_reader import ManifestOptions, RowReader, find_id, has_id
from songgen.data.manifests.sources import ManifestSpec, RowSource, open_source
from songgen.runtime.file_hashes import changed_files, read_hashes


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
        message = "there is no row in it; a folder needs WAV, FLAC, OGG or MP3 files"
        if any(_has_tensors(Path(spec.name)) for spec in specs):
            message += ". Its .pt files are tensors that another program made of songs, and are never opened: "
            message += "name the folder of the songs themselves"
        findings.add_problem(", ".join(spec.name for spec in specs), None, message)
    findings.raise_problems()


def _has_tensors(folder: Path) -> bool:
    return any(path.suffix.lower() in TENSOR_SUFFIXES for path in folder.rglob("*"))


def _read_spec(
    spec: ManifestSpec, options: ManifestOptions, findings: ManifestFindings, seen: RowIndex, limit: int | None
) -> Iterator[ClipRow]:
    num_taken, num_repeated = 0, findings.repeated_rows
    with open_row_index() as annotations:
        try:
            if spec.annotations is not None:
                _load_annotations(spec.annotations, options, findings, annotations)
            source = open_source(spec, options.columns, options.spool_folder)
            _name_change(Path(spec.name), findings)
            reader = RowReader(spec, options, findings, source)
            for index, raw in enumerate(source.rows):
                if (spec.max_rows is not None and index >= spec.max_rows) or num_taken == limit:
                    break
                row = reader.read(raw, annotations)
                if row is not None:
                    has_made_id = raw.has_made_id or not has_id(raw, options.columns)
                    row = _new_row(row, has_made_id=has_made_id, seen=seen, source=source, findings=findings)
                if row is not None:
                    num_taken += 1
                    yield row
        except ValueError as error:  # opening and listing raise it too; all problems are reported together
            findings.add_problem(spec.name, None, str(error))
            return
        reader.finish()
        num_repeated = findings.repeated_rows - num_repeated
        if num_repeated:
            message = f"{num_repeated} rows repeat others and are used once, {num_taken} rows remain; "
            message += "num_train_epochs or max_steps says how often each is trained"
            findings.oddities.add(message, spec.name)
        findings.oddities.update(source.notices)
        if spec.annotations is not None and annotations.num_unused():
            findings.oddities.add(f"{annotations.num_unused()} annotation(s) belong to no row", spec.annotations)


def _name_change(path: Path, findings: ManifestFindings) -> None:
    """Add a notice if a manifest is not as its folder's hashes say. It is used: people edit manifests by hand."""
    if not path.is_file():
        return
    try:
        entry = (read_hashes(path.parent) or {}).get(path.name)
        changed = entry is not None and changed_files(path.parent, {path.name: entry})
    except ValueError as error:
        findings.oddities.add(f"it cannot be compared with its hash: {error}", str(path))
        return
    if changed:
        fix = f"if you edited it, accept it with `songgen doctor {path.parent} --accept`; otherwise write it again"
        findings.oddities.add(f"it is not as it was written: {fix}", str(path))


def _new_row(
    row: ClipRow, *, has_made_id: bool, seen: RowIndex, source: RowSource, findings: ManifestFindings
) -> ClipRow | None:
    """Return the row, with another id if another source has its made id; None if it is a repetition or a problem."""
    content = json.dumps([row.caption, row.lyrics, sorted(track.given for track in row.tracks.values())])
    earlier = seen.add(row.id, f"{row.file}:{row.line}", content)
    if earlier is None:
        return row
    place, earlier_content = earlier
    is_same_source = place.startswith(f"{row.file}:")
    if source.may_repeat_rows and is_same_source and earlier_content == content:
        findings.repeated_rows += 1
        return None
    if has_made_id and not is_same_source:
        # The name of the source as given, so that the id is the same on another machine.
        digest = hashlib.sha256(f"{row.file}\0{row.id}".encode("utf-8", "replace")).hexdigest()
        renamed = replace(row, id=f"{row.id}-{digest[:8]}")
        if seen.add(renamed.id, f"{row.file}:{row.line}", content) is None:
            findings.oddities.add(
                f"another input has a song {row.id!r} too; this one is called {renamed.id!r}",
                f"{row.file}:{row.line}",
                kind="another input has a song of this name too; an ending is added to the id of this one",
            )
            return renamed
    findings.add_problem(row.file, row.line, f"id {row.id!r} was already used at {place}")
    return None


def _load_annotations(name: str, options: ManifestOptions, findings: ManifestFindings, index: RowIndex) -> None:
    source = open_source(ManifestSpec(name), options.columns, options.spool_folder)
    for raw in source.rows:
        if raw.values is None:
            findings.add_problem(raw.file, raw.line, raw.error)
            continue
        row_id = find_id(raw, options.columns)
        if isinstance(row_id, str):
            values = {column: value for column, value in raw.values.items() if value is not None}
            if index.add(row_id, f"{raw.file}:{raw.line}", json.dumps(values)) is not None:
                findings.add_problem(raw.file, raw.line, f"id {row_id!r} has two annotations")
        else:
            findings.add_problem(raw.file, raw.line, "the annotation has no id to merge it by")
