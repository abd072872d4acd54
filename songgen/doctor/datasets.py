"""Diagnosis of tokenized data sets, finished or in progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from songgen.data.dataset import HASHING_THREADS, REBUILD_HINT
from songgen.data.reject_codes import REJECT_CODES
from songgen.data.schema import (
    CODES,
    DATASET_FILE,
    DURATION_COLUMN,
    ID_COLUMN,
    REJECTED_FILE,
    REPORT_FILE,
    REPORT_TEXT_FILE,
    DatasetInfo,
    ShardInfo,
)
from songgen.data.shards import BatchView, map_batches, missing_companions, shard_problem
from songgen.doctor.findings import Finding, error, ok, warning
from songgen.doctor.hashes import examine_hashes
from songgen.doctor.work_folders import activity, work_folder_of
from songgen.runtime.json_files import read_json
from songgen.tokenize.chunks import ChunkRecord
from songgen.tokenize.work_list import PLAN_FILE, WorkPlan
from songgen.tokenize.workspace import (
    CHUNK_FOLDER,
    CODEC_FOLDER,
    PLAN_FOLDER,
    SETTINGS_FILE,
    read_settings,
    replaced_folder,
)

FOR_PEOPLE = (REPORT_FILE, REPORT_TEXT_FILE, REJECTED_FILE)
"""Files that training does not read."""

CONTINUE_HINT = "run the preprocessing command again: it keeps finished work and does the rest"


def examine_dataset(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Check every byte and every value of a finished data set; with `deep`, also every id."""
    compared = list(examine_hashes(folder, REBUILD_HINT, lambda name: name not in FOR_PEOPLE))
    yield from compared
    try:
        info = DatasetInfo.read(folder)
    except ValueError as problem:
        if DATASET_FILE not in {finding.where for finding in compared}:
            yield error(DATASET_FILE, str(problem), REBUILD_HINT)
        return
    for split, shards in info.splits.items():
        yield from _split(folder, info, split, shards)
    if not info.splits:
        yield error(DATASET_FILE, "it lists no split", REBUILD_HINT)
    yield from _meaning(folder, info)
    yield from _report(folder, info)
    if deep:
        yield from _content(folder, info)
    work = work_folder_of(folder)
    if work.is_dir():
        yield warning(
            work.name, "a newer version of this data set is unfinished; this one is complete and remains in use"
        )
        yield from examine_work(work, has_finished=True)


def examine_work(folder: Path, *, has_finished: bool = False) -> Iterator[Finding]:
    """Report the progress of preprocessing. Readers never see it, because the data set appears only when complete.

    Args:
        folder: Work folder.
        has_finished: Whether there is an earlier version of the data set.
    """
    found, active = activity(folder, "preprocessing")
    yield from found
    if (folder / SETTINGS_FILE).is_file():
        try:
            yield from [ok(name, str(value)) for name, value in read_settings(folder).items()]
        except ValueError as problem:
            yield warning(SETTINGS_FILE, str(problem), "the next start writes it again")
    state, rejected = _progress(folder)
    if (folder / REPORT_FILE).is_file() and (folder / REJECTED_FILE).is_file():
        fix = f"repair the rows in {folder / REJECTED_FILE}, or raise max_bad_fraction; then {CONTINUE_HINT}"
        yield error("rows", "too many rows are damaged, so no data set was written", fix)
    if active:
        yield ok("progress", state)
    else:
        finding = warning if has_finished else error
        yield finding("progress", f"half-written: {state}", CONTINUE_HINT)
    yield from _rejections(rejected)


def examine_replaced(folder: Path) -> Iterator[Finding]:
    """Report that the process was killed between two renames, which left the data set under its temporary name."""
    yield error(
        replaced_folder(folder).name,
        f"the data set is here: preprocessing was killed while it replaced {folder.name} by a newer version",
        f"{CONTINUE_HINT}; it restores this version first",
    )


def _split(folder: Path, info: DatasetInfo, split: str, shards: tuple[ShardInfo, ...]) -> Iterator[Finding]:
    """Check the shards of a split by their hashes."""
    with ThreadPoolExecutor(HASHING_THREADS) as executor:
        problems = list(executor.map(lambda shard: shard_problem(folder, shard, info, verify_hash=True), shards))
    missing = missing_companions(folder, split)
    hours = (
        sum(_seconds(folder / shard.file) for shard, problem in zip(shards, problems, strict=True) if not problem)
        / 3600
    )
    content = f"{info.num_rows(split):,} clips, {hours:,.2f} h, {len(shards)} shard{'s' if len(shards) != 1 else ''}"
    if not any(problems) and not missing:
        yield ok(split, f"{content}; every byte is as written, all values are in range")
        return
    damaged = sum(map(bool, problems)) + len(missing)
    yield error(split, f"{content} that can be read; {damaged} files are damaged or missing", REBUILD_HINT)
    yield from (error(shard.file, problem) for shard, problem in zip(shards, problems, strict=True) if problem)
    yield from (error(name, "the file is missing") for name in missing)


def _seconds(path: Path) -> float:
    """Return the total length of a shard's clips in seconds."""
    return float(sum(BatchView(batch).value_column(DURATION_COLUMN).sum() for batch in map_batches(path)))


def _meaning(folder: Path, info: DatasetInfo) -> Iterator[Finding]:
    """Report codec, tokenizers and tracks, and check that a codec inside the data set is there."""
    encoder, frame = "codec", f"{info.num_codebooks} codebooks of {info.codebook_size}"
    if info.target_kind != CODES:
        encoder, frame = "autoencoder", f"{info.target_kind} of {info.num_channels} channels"
    layout = f"{frame}, {info.frame_rate:g} frames/s"
    yield ok(encoder, f"{info.codec_spec.get('type', '?')} {info.codec_fingerprint}; {layout}")
    if info.codec_spec.get("path") == CODEC_FOLDER and not (folder / CODEC_FOLDER).is_dir():
        yield error(CODEC_FOLDER, "the codec of the tokens should be in this folder, but is missing", REBUILD_HINT)
    yield ok("lyrics tokenizer", info.lyrics_tokenizer_fingerprint)
    yield ok("caption tokenizer", info.caption_tokenizer_fingerprint)
    tracks, rate = ", ".join(info.tracks), info.voice_sample_rate
    yield ok("tracks", f"{tracks}; voice at {rate} Hz" if rate else f"{tracks}; no voice")


def _report(folder: Path, info: DatasetInfo) -> Iterator[Finding]:
    """Report the rows that preprocessing left out, by reason."""
    report = _read_json(folder / REPORT_FILE)
    try:
        splits = report["splits"]
        rejected = Counter[str]()
        for content in splits.values():
            rejected.update(content["rejected"])
        rows = {split: content["rows"] for split, content in splits.items()}
    except (KeyError, TypeError, AttributeError):
        yield warning(REPORT_FILE, "missing or damaged; what was left out is not known", REBUILD_HINT)
        return
    for split in info.splits:
        if rows.get(split) != info.num_rows(split):
            what = f"it reports {rows.get(split)} clips of {split}, {DATASET_FILE} lists {info.num_rows(split)}"
            yield warning(REPORT_FILE, what, REBUILD_HINT)
    yield from _rejections(rejected)


def _rejections(rejected: Counter[str]) -> Iterator[Finding]:
    """Report the rows that were left out, by reason."""
    if not rejected:
        yield ok("rows left out", "none")
    for code, count in sorted(rejected.items()):
        known = REJECT_CODES.get(code)
        meaning = known.meaning if known else "a reason that this version does not know"
        what = f"{count:,} x {code}: {meaning}"
        if known and known.is_limit:
            yield ok("rows left out", what)
        else:
            yield warning("rows left out", what, f"{REJECTED_FILE} lists each row")


def _content(folder: Path, info: DatasetInfo) -> Iterator[Finding]:
    """Check every id of the shards without a problem."""
    names: dict[str, list[str]] = {split: [] for split in info.splits}
    for split, shards in info.splits.items():
        for shard in shards:
            if shard_problem(folder, shard, info):
                continue
            for batch in map_batches(folder / shard.file):
                with suppress(UnicodeDecodeError):  # reported with the shard
                    names[split] += batch.column(ID_COLUMN).to_pylist()
    if info.target_kind != CODES:
        yield ok(info.target_kind, f"{info.num_channels} values a frame")
    repeated = sum(len(ids) - len(set(ids)) for ids in names.values())
    everywhere = Counter(name for ids in names.values() for name in set(ids))
    shared = sum(count > 1 for count in everywhere.values())
    if repeated:
        yield warning("ids", f"{repeated:,} clips have the id of another clip of their split")
    if shared:
        yield warning("ids", f"{shared:,} clips are in several splits, so that an evaluation on them says little")
    if not repeated and not shared:
        yield ok("ids", f"{len(everywhere):,}, all different")


def _progress(folder: Path) -> tuple[str, Counter[str]]:
    """Return the numbers of finished chunks and rows as text, and the number of rows left out by reason."""
    rejected = Counter[str]()
    try:
        plan = WorkPlan.read(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return f"no work list yet ({PLAN_FOLDER}/{PLAN_FILE}); the manifests were still being read", rejected
    chunks = plan.chunks()
    finished = rows = 0
    for chunk in chunks:
        path = folder / CHUNK_FOLDER / f"{chunk.name}.json"
        try:
            record = ChunkRecord.from_json(path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError):
            continue
        finished += 1
        rows += plan.rows_of(chunk)
        rejected.update(rejection.code for rejection in record.rejections)
    return f"{finished} of {len(chunks)} chunks, {rows:,} of {plan.num_rows:,} rows", rejected


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file; None if it cannot be read."""
    try:
        return read_json(path)
    except ValueError:
        return None
