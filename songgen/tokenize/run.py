"""Tokenizing of manifests to a data set, with any number of processes, resumable at any point."""

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from tqdm import tqdm

from songgen.data.reading import AudioReaders
from songgen.data.schema import REJECTED_FILE, REPORT_FILE, DatasetInfo, ShardInfo
from songgen.exit_codes import EXIT_BAD_DATA
from songgen.families.encoding import Encoders
from songgen.runtime.file_hashes import changed_files, read_hashes
from songgen.runtime.files import file_sha256, write_text_atomic
from songgen.runtime.json_files import read_json_object
from songgen.runtime.json_lines import LINE_ERRORS, numbered, read_lines
from songgen.runtime.processes.agreement import on_main_process
from songgen.runtime.processes.signals import leaving_on_signals
from songgen.runtime.processes.start import join_processes
from songgen.runtime.reported_work import ReportedWork
from songgen.runtime.status import TOKENIZE_STATUS_FILE
from songgen.runtime.terminal import printable
from songgen.tokenize.chunks import ChunkEncoder, ChunkRecord, audio_options, chunk_key
from songgen.tokenize.encoders import load_encoders
from songgen.tokenize.finalize import (
    CHUNK_RECORDS_FILE,
    hashed_files,
    link_or_copy,
    publish,
    with_splits,
)
from songgen.tokenize.options import TokenizeOptions
from songgen.tokenize.report import report_lines, split_statistics, write_report
from songgen.tokenize.settings import settings_fingerprint
from songgen.tokenize.text import knows_language
from songgen.tokenize.work_list import Chunk, WorkPlan, read_chunk, write_plan
from songgen.tokenize.workspace import (
    CHUNK_FOLDER,
    CODEC_FOLDER,
    lock_workspace,
    read_finished,
    remove_leftovers,
    remove_workspace,
    require_free_output,
    require_same_meaning,
)

logger = logging.getLogger(__name__)

LISTED_LANGUAGES = 8
"""Maximum number of unknown languages that a message names."""


class TooManyBadRows(ValueError):
    """More rows are damaged than `max_bad_fraction` allows, or a split has no usable row; no data set was written."""

    exit_code = EXIT_BAD_DATA
    """Exit code of every process of the run."""


def tokenize_data(
    options: TokenizeOptions, *, load: Callable[[TokenizeOptions, Any], Encoders] = load_encoders
) -> DatasetInfo:
    """Read manifests, encode all songs, and write the data set.

    Every process of the launch calls this. Finished chunks of an earlier run are reused if their rows, files, options,
    encoders and code are the same, whatever the number of processes then and now.

    Args:
        options: options of the run.
        load: function that opens the encoders of audio and texts on a device.

    Returns:
        The description of the data set in `options.output_folder`.

    Raises:
        ValueError: if manifests, model or folders cannot be used (`ManifestError` lists all problems).
        TooManyBadRows: if too many rows are damaged.
        SystemExit: if a signal ends the run; encoded chunks are kept.
    """
    with ExitStack() as stack:
        stack.enter_context(leaving_on_signals())
        state = stack.enter_context(join_processes())
        on_main_process(state, lambda: stack.enter_context(lock_workspace(options.work_folder)))
        # The work folder is removed with the status in it once the data set is complete.
        work = ReportedWork(options.work_folder, TOKENIZE_STATUS_FILE, state.process_index, keeps_finished=False)
        stack.enter_context(work)
        on_main_process(state, lambda: require_free_output(options.output_folder))
        work.begin("reading manifests")
        on_main_process(state, lambda: write_plan(options))
        plan = WorkPlan.read(options.work_folder)
        work.begin("loading codec and tokenizers")
        encoders = load(options, state.device)
        run = _Run(options.for_targets(encoders.targets.target_kind), plan, state, encoders, work)
        on_main_process(state, run.prepare)
        run.encode_share()
        run.unload_encoders()
        state.wait_for_everyone()
        work.begin("writing the data set")
        on_main_process(state, run.finish)
    return DatasetInfo.read(options.output_folder)


class _Run:
    """One process's part of a run."""

    def __init__(
        self, options: TokenizeOptions, plan: WorkPlan, state: PartialState, encoders: Encoders, work: ReportedWork
    ) -> None:
        self.options = options
        self.work = work
        self.plan = plan
        self.state = state
        self.encoders: Encoders | None = encoders
        self.chunk_folder = options.work_folder / CHUNK_FOLDER
        self.info = _describe(options, encoders)
        self.settings = settings_fingerprint(options, self.info, encoders)

    def prepare(self) -> None:
        """Check earlier output, and keep a copy of a codec from a local folder."""
        assert self.encoders is not None
        meaning = {
            name: getattr(self.info, name)
            for name in ("codec_fingerprint", "lyrics_tokenizer_fingerprint", "caption_tokenizer_fingerprint")
        }
        self._check_languages()
        require_same_meaning(self.options.output_folder, self.options.work_folder, meaning)
        self.chunk_folder.mkdir(exist_ok=True)
        for leftover in self.chunk_folder.glob("*.tmp"):
            leftover.unlink()
        if self.info.codec_spec.get("path") == CODEC_FOLDER:
            self.encoders.targets.save(self.options.work_folder / CODEC_FOLDER)
        for notice in self.plan.notices[:20]:
            logger.warning(notice)
        if self.plan.num_notices > 20:
            logger.warning("%d more notices are listed in %s", self.plan.num_notices - 20, REPORT_FILE)

    def _check_languages(self) -> None:
        """Check the languages of all rows before any audio is read, rather than fail after hours of encoding.

        Raises:
            TooManyBadRows: if unknown languages alone leave out more rows than allowed, or all rows of a split.
        """
        assert self.encoders is not None
        unknown: Counter[str] = Counter()
        empty = []
        for split, plan in self.plan.splits.items():
            refused = {name: n for name, n in plan.languages.items() if not knows_language(name, self.encoders)}
            unknown.update(refused)
            if plan.rows and sum(refused.values()) == plan.rows:
                empty.append(split)
        if not unknown:
            return
        listed = ", ".join(f"{name or 'none'} {count}" for name, count in unknown.most_common(LISTED_LANGUAGES))
        what = (
            f"{unknown.total()} of {self.plan.num_rows} rows are in languages that the lyrics tokenizer lacks: {listed}"
        )
        if not empty and unknown.total() <= self.options.max_bad_fraction * self.plan.num_rows:
            logger.warning("%s; they are left out", what)
            return
        problem = f"; no row of split {empty[0]!r} is left" if empty else ""
        raise TooManyBadRows(
            f"{what}{problem}; max_bad_fraction is {self.options.max_bad_fraction:g}. Nothing was encoded. Correct the "
            "column of languages, leave these rows out (`filter.languages` of songgen prepare), or raise the limit"
        )

    def encode_share(self) -> None:
        """Encode this process's chunks, or reuse those of an earlier run."""
        assert self.encoders is not None
        # Round robin: neighbouring chunks, which often come from the same manifest, go to different processes.
        own = self.plan.chunks()[self.state.process_index :: self.state.num_processes]
        finished = _FinishedShards(self.options.output_folder)
        start = time.monotonic()
        bar = tqdm(
            total=sum(self.plan.rows_of(chunk) for chunk in own),
            desc=f"process {self.state.process_index + 1} of {self.state.num_processes}",
            unit="clip",
            disable=not self.state.is_main_process,
        )
        self.work.begin("encoding", total=self.plan.num_rows, unit="clips")

        def done(count: int, *, by_earlier_run: bool = False) -> None:
            bar.update(count)
            self.work.advance(count, by_earlier_run=by_earlier_run)

        num_rows = 0
        num_workers = self.options.num_workers
        accepted = audio_options(self.options, self.info, self.encoders.targets.audio_channels)
        readers = AudioReaders(accepted, self.options.reading, num_workers)
        with bar, readers, ThreadPoolExecutor(num_workers) as executor:
            encoder = ChunkEncoder(self.options, self.info, self.encoders, readers, executor, done)
            try:
                for chunk in own:
                    num_rows += self._make_chunk(chunk, encoder, finished, done).rows
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)  # do not wait for songs that are not started yet
                raise
        self.work.flush()
        logger.info("process %d: %d clips in %.1f s", self.state.process_index, num_rows, time.monotonic() - start)

    def _make_chunk(
        self, chunk: Chunk, encoder: ChunkEncoder, finished: "_FinishedShards", done: Callable[..., None]
    ) -> ChunkRecord:
        content, rows = read_chunk(self.options.work_folder, self.plan, chunk)
        key = chunk_key(self.settings, chunk.split, content, rows)
        shard, record_path = self._shard_path(chunk.name, key), self.chunk_folder / f"{chunk.name}.json"
        record = self._read_record(record_path, key, shard) or finished.take(key, shard)
        if record is not None:
            done(len(rows), by_earlier_run=True)
            record.split, record.index = chunk.split, chunk.index
        else:
            record = ChunkRecord(chunk.split, chunk.index, key, self.state.process_index)
            encoder.encode(rows, shard, record)
        # The record is written after the shard: a chunk without a record is not finished.
        write_text_atomic(record_path, record.to_json())
        return record

    def _shard_path(self, name: str, key: str) -> Path:
        return self.chunk_folder / f"{name}-{key[:16]}.arrow"

    def _read_record(self, path: Path, key: str, shard: Path) -> ChunkRecord | None:
        if not path.is_file():
            return None
        try:
            record = ChunkRecord.from_json(path.read_bytes())
        except (OSError, *LINE_ERRORS) as error:
            logger.warning("%s is damaged (%s); the chunk is encoded again", path, error)
            return None
        if record.key != key:
            return None
        if record.rows and shard.is_file() and file_sha256(shard) != record.sha256:
            logger.warning("%s is damaged (its hash does not fit); the chunk is encoded again", shard)
            return None
        return record if not record.rows or shard.is_file() else None

    def unload_encoders(self) -> None:
        """Free the memory of the networks; from here on only files are handled."""
        self.encoders = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _records(self) -> Iterator[ChunkRecord]:
        for chunk in self.plan.chunks():
            path = self.chunk_folder / f"{chunk.name}.json"
            try:
                yield ChunkRecord.from_json(path.read_bytes())
            except LINE_ERRORS as error:
                raise ValueError(f"{path} is damaged ({error}); run `songgen tokenize` again") from error

    def finish(self) -> None:
        """Check the result and publish the data set (main process)."""
        self._check_damage()
        info = with_splits(self.info, self._records())
        output = self.options.output_folder
        self._name_damage()
        if read_finished(output) != info or not self._stands(info):
            publish(
                output,
                self.options.work_folder,
                info,
                self._records,
                self._shard,
                lambda folder: write_report(folder, self.options, info, self.plan, self._records()),
            )
        remove_leftovers(output)
        remove_workspace(self.options.work_folder)
        for line in report_lines(read_json_object(output / REPORT_FILE)):
            print(printable(line))

    def _name_damage(self) -> None:
        """Warn of files of the data set that are not as they were written; it is written again then."""
        output = self.options.output_folder
        try:
            problems = changed_files(output, read_hashes(output) or {})
        except ValueError as error:
            logger.warning("%s", error)
            return
        if problems:
            listed = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
            logger.warning("%s is not as it was written (%s); it is written again", output, listed)

    def _stands(self, info: DatasetInfo) -> bool:
        """Return whether the output folder is as it was written, and its shards are the files that were checked."""
        output = self.options.output_folder
        try:
            files = read_hashes(output) or {}
        except ValueError:
            return False
        if not files.keys() >= set(hashed_files(output, info)) or changed_files(output, files):
            return False
        taken = {record.key: self._shard(record) for record in self._records() if record.rows}
        return all(
            (output / shard.file).is_file() and (output / shard.file).samefile(taken[shard.key])
            for shards in info.splits.values()
            for shard in shards
        )

    def _shard(self, record: ChunkRecord) -> Path:
        return self._shard_path(Chunk(record.split, record.index).name, record.key)

    def _check_damage(self) -> None:
        totals = split_statistics(self._records())
        num_bad = sum(total.bad_rows for total in totals.values())
        empty = [split for split, total in totals.items() if not total.rows]
        if num_bad <= self.options.max_bad_fraction * self.plan.num_rows and not empty:
            return
        folder = self.options.work_folder
        report = write_report(folder, self.options, self.info, self.plan, self._records())
        problem = f"{num_bad} of {self.plan.num_rows} rows are damaged"
        if empty:
            problem = f"split {empty[0]!r} has no usable row"
        codes = {code for content in report["splits"].values() for code in content["rejected"]}
        raise TooManyBadRows(
            f"{problem} ({', '.join(sorted(codes))}); max_bad_fraction is {self.options.max_bad_fraction:g}. "
            f"The rows are listed in {folder / REJECTED_FILE}; repair them, or raise the limit: what is encoded is kept"
        )


def _describe(options: TokenizeOptions, encoders: Encoders) -> DatasetInfo:
    targets, texts = encoders.targets, encoders.texts
    return DatasetInfo(
        codec_spec=targets.spec,
        codec_fingerprint=targets.fingerprint,
        sample_rate=targets.sample_rate,
        hop_length=targets.hop_length,
        num_codebooks=targets.num_codebooks,
        codebook_size=targets.codebook_size,
        lyrics_tokenizer_fingerprint=texts.lyrics_fingerprint,
        caption_tokenizer_fingerprint=texts.caption_fingerprint,
        voice_sample_rate=encoders.voice_sample_rate if options.store_voice else 0,
        tracks=options.tracks if targets.tracks is None else targets.tracks,
        target_kind=targets.target_kind,
        num_channels=targets.num_channels,
        kept_columns=options.kept_columns,
    )


class _FinishedShards:
    """Shards of the data set in the output folder, by the key of their chunk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, ChunkRecord] = {}
        self.shards: dict[str, ShardInfo] = {}
        info = read_finished(folder)
        if info is not None and (folder / CHUNK_RECORDS_FILE).is_file():
            lines = read_lines(folder / CHUNK_RECORDS_FILE, ChunkRecord.from_json)
            self.records = {record.key: record for record in lines.values}
            if lines.damaged:
                damaged = numbered(lines.damaged)
                logger.warning("%s: damaged %s; these chunks are encoded again", lines.path, damaged)
            self.shards = {shard.key: shard for shards in info.splits.values() for shard in shards}

    def take(self, key: str, target: Path) -> ChunkRecord | None:
        """Link the shard of an unchanged chunk to `target`; return None if there is none, or it is damaged."""
        record = self.records.get(key)
        if record is None or not record.rows:
            return record
        shard = self.shards.get(key)
        source = self.folder / shard.file if shard else None
        if source is None or not source.is_file() or file_sha256(source) != record.sha256:
            return None
        link_or_copy(source, target)
        return record
