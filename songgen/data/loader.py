"""Data loader for the batches of a batch plan, with workers that survive signals to the process group."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from songgen.data.batch_plan import BatchPlan
from songgen.data.samples import EMPTY_SLOT, Sample, TrainingSamples
from songgen.runtime.private_names import awaited_worker, forget_workers, loader_workers, shut_down_workers
from songgen.runtime.processes.signals import ignore_stop_signals

DEFAULT_TIMEOUT_SECONDS = 600.0
"""Seconds to wait for a worker before it counts as hung."""

_WORKERS: dict[int, int] = {}
"""Process id of each loader worker of this process -> its number. When a worker dies, torch raises an error from a
signal handler, anywhere in the program, and that error only has the process id."""


_KILL_SECONDS = 1.0
"""Seconds to wait for a killed worker. Only one that waits in the kernel for a hanging disk takes longer."""


class LoaderError(RuntimeError):
    """A loader worker died or hangs."""


class PlannedBatches(Sampler[list[tuple[int, int]]]):
    """Sampler of the (epoch, index) pairs of each micro-batch of one process in one epoch."""

    def __init__(self, micro_batches: Sequence[Sequence[int]], epoch: int) -> None:
        """Keep the micro-batches of the epoch."""
        self._micro_batches = micro_batches
        self._epoch = epoch

    def __len__(self) -> int:
        """Number of micro-batches."""
        return len(self._micro_batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the keys of `TrainingSamples`; for an empty micro-batch, that of the placeholder."""
        for indices in self._micro_batches:
            yield [(self._epoch, index) for index in indices or (EMPTY_SLOT,)]


def make_loader(
    samples: TrainingSamples,
    plan: BatchPlan,
    *,
    collate: Callable[[Sequence[Sample]], Any],
    epoch: int = 0,
    rank: int = 0,
    skip_batches: int = 0,
    num_workers: int = 0,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
) -> DataLoader[Any]:
    """Return a loader of the batches of one process in one epoch.

    Args:
        samples: clips; their number is that of the plan.
        plan: batch plan.
        collate: function that collates samples to a micro-batch.
        epoch: epoch, from 0.
        rank: rank of this process.
        skip_batches: completed micro-batches of the epoch, over all processes; nothing is read for them.
        num_workers: number of processes that read ahead; 0 reads in this process.
        timeout: seconds after which a worker that does not answer is an error.

    Read it with `read_batches`, which explains the death or hanging of a worker.
    """
    assert len(samples) == len(plan.lengths), (len(samples), len(plan.lengths))
    return DataLoader(
        samples,  # type: ignore[arg-type]  # it reads samples and yields the results of collate
        batch_sampler=PlannedBatches(plan.micro_batches(epoch, rank, skip_batches), epoch),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        timeout=timeout if num_workers else 0,
        worker_init_fn=_outlive_signals,
        # The loader takes a random seed for its workers. With its own generator, the global one is not advanced, and a
        # resumed run has the same dropout as an uninterrupted one.
        generator=torch.Generator().manual_seed(plan.seed),
    )


def read_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader.

    Raises:
        LoaderError: if a worker died, or gave nothing for the loader's `timeout`; all of its workers are ended.
    """
    iterator: Any = iter(loader)
    workers = {process.pid: number for number, process in enumerate(loader_workers(iterator))}
    _WORKERS.update(workers)
    try:
        yield from iterator
    except Exception as error:  # of any kind: see `worker_failure`
        awaited = awaited_worker(iterator) if "timed out" in str(error) else None
        _kill_workers(iterator)
        if awaited is not None:
            pid = loader_workers(iterator)[awaited].pid
            raise LoaderError(
                f"loader worker {awaited} (pid {pid}) gave no batch within {loader.timeout:g} seconds "
                "(dataloader_timeout); it hangs, or reads from a disk that does not answer"
            ) from error
        if (failure := worker_failure(error)) is not None:
            raise failure from error
        raise
    finally:
        if workers:
            shut_down_workers(iterator)
            _kill_workers(iterator)  # those that did not end by themselves
        for pid in workers:
            _WORKERS.pop(pid, None)


def _kill_workers(iterator: Any) -> None:
    """Kill the workers of an iterator; one that hangs would keep this process from ending."""
    forget_workers(iterator)
    for process in loader_workers(iterator):
        process.kill()
        process.join(_KILL_SECONDS)


def worker_failure(error: BaseException) -> LoaderError | None:
    """Return the error for a dead loader worker if torch raised one, at any place; None for other errors.

    Torch raises it from a signal handler. If the program is just releasing a lock, that fails next, and torch's error
    is only the context of one such as "cannot release un-acquired lock".
    """
    named = next(filter(None, map(_named_worker, _chain(error))), None)
    if named is None or isinstance(error, LoaderError):
        return None
    pids = [int(pid) for pid in named[1].split(",")]
    who = ", ".join(f"{_WORKERS.get(pid, '?')} (pid {pid})" for pid in pids)
    how = named[2].strip().rstrip(".")
    return LoaderError(
        f"loader worker {who} died: {how}. If it was killed for want of memory (the system's log says so), lower "
        "dataloader_num_workers"
    )


def _named_worker(error: BaseException) -> re.Match[str] | None:
    """Return the process ids and the fate of workers in torch's error; None for other errors."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    return re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", text)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised from or during the handling of."""
    while error is not None:
        yield error
        if error.__cause__ is not error.__context__:
            yield from _chain(error.__cause__)
        error = error.__context__


def _outlive_signals(worker: int) -> None:
    """Ignore stop signals in a worker: the trainer decides when to stop, and needs batches until then."""
    ignore_stop_signals()
