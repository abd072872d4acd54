"""The loader: what the plan says, from any number of workers, and workers that behave when things end."""

import multiprocessing
import os
import random
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch

from songgen.data.batch_plan import BatchPlan
from songgen.data.collate import collate
from songgen.data.dataset import SongDataset
from songgen.data.loader import LoaderError, make_loader, read_batches
from songgen.data.samples import SampleOptions, TrainingSamples

MIX_ALONE = partial(collate, target_tracks=("mix",))


@pytest.fixture
def samples(tmp_path, make_rows, write_dataset):
    dataset = SongDataset.open(write_dataset(tmp_path / "songs", make_rows(13)), "train")
    options = SampleOptions(voice_choices={"vocal": 0.5, "none": 0.5}, drop_caption=0.5, voice_seconds=1.0)
    return TrainingSamples(dataset, options, ("mix", "vocal"), seed=4)


def _plan(samples, **options):
    return BatchPlan(samples.dataset.num_frames, batch_size=2, seed=4, group_by_length=True, **options)


def _load(samples, plan, **options):
    both = partial(collate, target_tracks=("mix",), auxiliary_tracks=("vocal",))
    return list(make_loader(samples, plan, collate=both, **options))


def _assert_same(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one.ids == two.ids
        for name, value in one.model_inputs().items():
            torch.testing.assert_close(value, two.model_inputs()[name], rtol=0, atol=0)


def test_batches_are_those_of_the_plan_in_order(samples):
    plan = _plan(samples, world_size=2, accumulation=2)
    for rank in (0, 1):
        batches = _load(samples, plan, epoch=3, rank=rank)
        expected = [[f"song{index}" for index in batch] for batch in plan.micro_batches(3, rank)]
        assert [batch.ids for batch in batches] == expected
        assert [batch.frames.tolist() == [0] for batch in batches] == [not batch for batch in expected]


def test_workers_change_nothing(samples):
    plan = _plan(samples, world_size=2)
    _assert_same(_load(samples, plan, epoch=1), _load(samples, plan, epoch=1, num_workers=2))


def test_resume_reads_the_rest_and_nothing_else(samples, monkeypatch):
    plan = _plan(samples, accumulation=2)
    whole = _load(samples, plan, epoch=1)
    read = []
    original = TrainingSamples.__getitem__
    monkeypatch.setattr(TrainingSamples, "__getitem__", lambda self, place: read.append(place) or original(self, place))
    _assert_same(_load(samples, plan, epoch=1, skip_batches=2 * plan.slots_per_step), whole[4:])
    assert len(read) == sum(max(1, len(batch.ids)) for batch in whole[4:])


def test_global_random_states_are_left_alone(samples):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    _load(samples, _plan(samples), num_workers=1)
    _load(samples, _plan(samples))
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


def test_workers_outlive_a_signal_to_the_process_group(samples):
    iterator = iter(make_loader(samples, _plan(samples), collate=MIX_ALONE, num_workers=2))
    # One batch of each worker: only then have both changed their signal handlers.
    next(iterator), next(iterator)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for _ in range(2):  # from a batch system, and from the launcher
            os.kill(worker.pid, signal.SIGTERM)
            os.kill(worker.pid, signal.SIGINT)
            time.sleep(0.05)
    assert len(list(iterator)) == 5
    del iterator
    assert all(not worker.is_alive() for worker in workers)


def test_a_killed_worker_is_an_error(samples, monkeypatch):
    monkeypatch.setattr(TrainingSamples, "__getitem__", lambda self, place: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match="worker"):
        _load(samples, _plan(samples), num_workers=1)


def test_a_hung_worker_is_named_within_the_timeout_and_ended(samples, monkeypatch):
    monkeypatch.setattr(TrainingSamples, "__getitem__", lambda self, place: time.sleep(60))
    before = set(multiprocessing.active_children())
    start = time.monotonic()
    loader = make_loader(samples, _plan(samples), collate=MIX_ALONE, num_workers=1, timeout=1)
    with pytest.raises(LoaderError, match=r"loader worker 0 \(pid \d+\) gave no batch within 1 seconds"):
        next(read_batches(loader))
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - start < 10


def test_a_hung_worker_is_ended_when_nobody_wants_its_batches(samples):
    before = set(multiprocessing.active_children())
    batches = read_batches(make_loader(samples, _plan(samples), collate=MIX_ALONE, num_workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGSTOP)
    batches.close()
    assert not worker.is_alive()
