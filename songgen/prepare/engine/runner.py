"""Runs steps over records: existing results come from the store, the other records are shared among processes.

There are two ways to use several processes, which give the same results: the processes of `accelerate launch`, each of
which takes its share of the records, and plain workers, which get batches from the one process that also writes. A
process holds the networks of one step at a time.
"""

import copy
import gc
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from itertools import compress, islice
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any, Self

from accelerate.state import PartialState
from tqdm import tqdm

from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import SetStep, Step, StepOutput, WorkFolder
from songgen.prepare.engine.store import (
    RESULTS_FOLDER,
    ContentHashes,
    ResultStore,
    apply_outcome,
    outcome_of_values,
    outcome_values,
    result_key,
)
from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import parse_json
from songgen.runtime.processes.agreement import on_main_process
from songgen.runtime.processes.signals import ignore_stop_signals
from songgen.runtime.reported_work import ReportedWork

BATCHES_AHEAD = 2
"""Batches in the queue for each worker, so that none is idle."""

Batch = list[tuple[str, SongRecord]]
"""Records with the keys of their results."""


class StepFailed(RuntimeError):
    """A step raised an unexpected error; the message names step and record. Earlier results are kept."""


class WorkerLost(RuntimeError):
    """A worker ended without an error, for example because the system killed it for its memory use."""


class Runner:
    """Runs steps, one after the other, in all processes of a launch alike."""

    def __init__(
        self, folder: WorkFolder, state: PartialState, workers: int = 1, work: ReportedWork | None = None
    ) -> None:
        """Open the work folder.

        Args:
            folder: where results and audio are kept.
            state: this process among those launched.
            workers: number of worker processes; 1 works in this process.
            work: reports the progress, if given.

        Raises:
            ValueError: If both ways to use several processes are configured.
        """
        if workers > 1 and state.num_processes > 1:
            raise ValueError(
                f"workers: {workers} in addition to {state.num_processes} launched processes; "
                "leave it at 1 under `accelerate launch`"
            )
        self.folder = folder
        self.state = state
        self.workers = workers
        self.work = work
        self.hashes = ContentHashes(folder, state.process_index)
        self._open = ExitStack()
        self._open.callback(self.hashes.close)
        self.loading_seconds = 0.0
        """Time in which networks were loaded in this process, over all steps so far."""
        self.num_computed = 0
        """Number of results that this process has computed, over all steps so far."""
        self._pool: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None

    def __enter__(self) -> Self:
        """Return the runner."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the workers and close the files, without waiting for batches that workers have begun.

        The pool alone cannot do this: a signal does not end its workers, and one that was killed may hold the lock that
        the others wait for.
        """
        if self._lifeline is not None:
            self._lifeline.close()
        self._open.close()

    @contextmanager
    def within_phase(self, phase: str) -> Iterator[None]:
        """Report one phase while the block runs steps, whose progress is not that of all songs."""
        work, self.work = self.work, None
        if work is not None:
            work.begin(phase)
        try:
            yield
        finally:
            self.work = work

    def run(self, step: Step | SetStep, records: Sequence[SongRecord]) -> list[SongRecord]:
        """Run a step over the records that are not refused and need it.

        Returns:
            all records in order: refused ones unchanged, clips in place of their song.

        Raises:
            ValueError: If the machine or the configuration does not allow the step.
            StepFailed: If the step raised any other error.
            WorkerLost: If a worker was killed.
        """
        if isinstance(step, SetStep):
            return self.run_set(step, records)
        needed = [record.refusal is None and step.is_needed(record) for record in records]
        if self.work is not None:
            self.work.begin(step.name, total=sum(needed), unit="records")
        with ResultStore(self.folder, self.hashes, step.name, self.state.process_index) as store:
            # Each process hashes the files of its own share only; the others read the hashes from its list.
            own = [
                (result_key(step, record, self.hashes), record) for record in self._share([*compress(records, needed)])
            ]
            pending = [(key, record) for key, record in own if store.get(record.id, key) is None]
            if self.work is not None:
                self.work.advance(len(own) - len(pending), by_earlier_run=True)
            self._work(step, pending, len(own), store)
            if self.work is not None:
                self.work.flush()
            self.state.wait_for_everyone()
            self.hashes.refresh()
            store.refresh()
            return [
                result
                for record, is_needed in zip(records, needed, strict=True)
                for result in (self._applied(step, record, store) if is_needed else [record])
            ]

    def run_set(self, step: SetStep, records: Sequence[SongRecord]) -> list[SongRecord]:
        """Run a step over all records that are not refused, at once, in the main process."""
        file = self.folder.root / RESULTS_FOLDER / f"{step.name}.set.json"
        included = [record for record in records if record.refusal is None]
        if self.work is not None:
            self.work.begin(step.name)

        def work() -> None:
            outcomes = step.run_all(included, self.folder)
            assert len(outcomes) == len(included), f"{step.name} gives one outcome for each record"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(file, json.dumps([outcome_values(outcome) for outcome in outcomes]))

        on_main_process(self.state, work)
        found = iter(parse_json(file.read_bytes(), max_bytes=None, constants=True))
        return [
            result
            for record in records
            for result in (
                [record] if record.refusal is not None else apply_outcome(step, record, outcome_of_values(next(found)))
            )
        ]

    def _share(self, records: list[SongRecord]) -> list[SongRecord]:
        return records[self.state.process_index :: self.state.num_processes]

    def _applied(self, step: Step, record: SongRecord, store: ResultStore) -> list[SongRecord]:
        outcome = store.get(record.id, result_key(step, record, self.hashes))
        if outcome is None:
            raise StepFailed(f"step {step.name}: the result for {record.id!r} or its files changed during the run")
        return apply_outcome(step, record, outcome)

    def _work(self, step: Step, pending: Batch, total: int, store: ResultStore) -> None:
        if not pending:
            return
        batches = [pending[start : start + step.batch_size] for start in range(0, len(pending), step.batch_size)]
        is_shared = self.workers > 1 and len(batches) > 1
        results = self._work_in_workers(step, batches) if is_shared else self._work_here(step, batches)
        bar: tqdm[Any] = tqdm(
            desc=step.name,
            total=total,
            initial=total - len(pending),
            unit="record",
            disable=not self.state.is_main_process,
        )
        with bar:
            for batch, outcomes in results:
                for (key, record), outcome in zip(batch, outcomes, strict=True):
                    store.put(record.id, key, outcome)
                self.num_computed += len(batch)
                bar.update(len(batch))
                if self.work is not None:
                    self.work.advance(len(batch))

    def _work_here(self, step: Step, batches: Sequence[Batch]) -> Iterator[tuple[Batch, list[StepOutput]]]:
        before = time.monotonic()
        started = _started(step)
        self.loading_seconds += time.monotonic() - before
        try:
            for batch in batches:
                yield batch, _run_batch(started, [record for _, record in batch], self.folder)
        finally:
            del started
            _free_memory()

    def _work_in_workers(self, step: Step, batches: Sequence[Batch]) -> Iterator[tuple[Batch, list[StepOutput]]]:
        waiting = iter(batches)
        running: dict[Future[list[StepOutput]], Batch] = {}
        pool = self._workers_of_the_run()

        def submit(batch: Batch) -> None:
            running[pool.submit(_run_in_worker, step, [record for _, record in batch], self.folder)] = batch

        try:
            for batch in islice(waiting, self.workers * BATCHES_AHEAD):
                submit(batch)
            # The pool watches only the workers that existed at the last submit. This call makes it watch the newest one
            # too.
            pool.submit(int)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
                    if (next_batch := next(waiting, None)) is not None:
                        submit(next_batch)
        except BrokenProcessPool as error:
            raise WorkerLost(
                f"step {step.name}: a worker was killed, most likely for its memory use. Results so far are kept: "
                "start again with fewer workers"
            ) from error

    def _workers_of_the_run(self) -> ProcessPoolExecutor:
        """Return the workers, which are kept for all steps, so that each imports the libraries once."""
        if self._pool is None:
            self._open.enter_context(_threads_shared_among(self.workers))
            context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
            theirs, self._lifeline = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_prepare_worker, initargs=(theirs,)
            )
            self._open.callback(self._pool.shutdown, cancel_futures=True)
        return self._pool


def _run_batch(step: Step, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
    """Run a batch; on an error, find the record that caused it.

    Raises:
        ValueError: If the step finds a problem of machine or configuration; names step and record.
        StepFailed: If the step raises any other error.
    """
    try:
        outcomes = step.run(records, folder)
    except Exception as error:
        if len(records) > 1:
            # Records are run one by one, to name the one that fails. If only the batch was too large, all of them
            # succeed.
            return [outcome for record in records for outcome in _run_batch(step, [record], folder)]
        message = f"step {step.name}, record {records[0].id!r}: {error}"
        if isinstance(error, ValueError):
            raise ValueError(message) from error
        raise StepFailed(f"{message} ({type(error).__name__}); results so far are kept") from error
    assert len(outcomes) == len(records), f"step {step.name} gives one outcome for each record"
    return outcomes


def _started(step: Step) -> Step:
    """Return a copy of a step with its networks loaded; they are freed together with the copy.

    Raises:
        ValueError: If the step finds a problem of machine or configuration; names the step.
    """
    started = copy.deepcopy(step)
    try:
        started.start()
    except ValueError as error:
        raise ValueError(f"step {step.name}: {error}") from error
    return started


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _threads_shared_among(workers: int) -> Iterator[None]:
    """Divide the cores among workers started in the block, unless the user has set the number of threads."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


class _Worker:
    """State of a worker process: one step at a time, with its networks."""

    key: str | None = None
    step: Step | None = None


def _prepare_worker(lifeline: Connection) -> None:
    # Signals reach the whole process group; the main process decides.
    ignore_stop_signals()
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()


def _end_with_parent(lifeline: Connection) -> None:
    """End this worker when the main process closes its end of the pipe or has died; nothing else would end it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([lifeline, parent.sentinel])
    os._exit(1)


def _run_in_worker(step: Step, records: list[SongRecord], folder: WorkFolder) -> list[StepOutput]:
    key = json.dumps([step.name, step.version, step.parameters()], sort_keys=True)
    if _Worker.step is None or key != _Worker.key:
        _Worker.step = None  # free the networks of the previous step first
        _free_memory()
        _Worker.step, _Worker.key = _started(step), key
    return _run_batch(_Worker.step, records, folder)
