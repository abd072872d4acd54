"""The batch plan: nothing lost, nothing repeated, the same on any number of processes."""

import itertools

import numpy as np
import pytest

from songgen.data.batch_plan import BatchPlan
from songgen.data.curriculum.order import ORDERS, balanced_visits


def _lengths(count, seed=0):
    return np.random.default_rng(seed).integers(1, 100, size=count)


CASES = [
    {"count": count, "batch_size": batch, "world_size": world, "accumulation": accumulation, "group_by_length": group}
    for count, batch, world, accumulation, group in itertools.product(
        (1, 2, 5, 17, 64), (1, 2, 4), (1, 2, 3), (1, 2, 4), (False, True)
    )
]


def _plan(count, **options):
    return BatchPlan(_lengths(count), **options)


@pytest.mark.parametrize("limits", [{}, {"max_frames_per_batch": 230}])
@pytest.mark.parametrize("order", ORDERS)
def test_every_clip_exactly_once_an_epoch_and_every_rank_the_same_number_of_passes(limits, order):
    for case in CASES:
        plan = _plan(**case, **limits, order=order, seed=3)
        for epoch in (0, 1):
            by_rank = [plan.micro_batches(epoch, rank) for rank in range(plan.world_size)]
            seen = [index for batches in by_rank for batch in batches for index in batch]
            assert sorted(seen) == list(range(case["count"])), case
            steps = plan.steps_per_epoch(epoch)
            assert {len(batches) for batches in by_rank} == {steps * plan.accumulation}, case
            # No step is all empty, and only the last one has empty slots.
            for step in range(steps):
                first = step * plan.accumulation
                slots = [batch for batches in by_rank for batch in batches[first : first + plan.accumulation]]
                assert any(slots) and (all(slots) or step == steps - 1), case


def test_limits_hold_with_padding_counted():
    for seed in range(20):
        lengths = _lengths(200, seed)
        for group in (False, True):
            plan = BatchPlan(lengths, batch_size=6, max_frames_per_batch=300, group_by_length=group, seed=seed)
            for batch in plan.batches(0):
                assert len(batch) <= 6 and len(batch) * lengths[batch].max() <= 300


def _steps(plan, epoch):
    """The multiset of micro-batches of each step, over all processes."""
    by_rank = [plan.micro_batches(epoch, rank) for rank in range(plan.world_size)]
    size = plan.accumulation
    return [
        sorted(tuple(batch) for batches in by_rank for batch in batches[step * size : (step + 1) * size])
        for step in range(plan.steps_per_epoch(epoch))
    ]


def test_processes_and_accumulation_can_be_exchanged():
    for count in (5, 64, 131):
        for group in (False, True):
            options = {"batch_size": 3, "seed": 7, "group_by_length": group}
            one = _plan(count, world_size=1, accumulation=4, **options)
            two = _plan(count, world_size=2, accumulation=2, **options)
            four = _plan(count, world_size=4, accumulation=1, **options)
            assert _steps(one, 2) == _steps(two, 2) == _steps(four, 2)


def test_order_is_a_function_of_seed_and_epoch():
    options = {"count": 64, "batch_size": 4, "group_by_length": True}
    first = _plan(**options, seed=1)
    expected = first.micro_batches(3, 0)
    assert first.micro_batches(4, 0) != expected
    assert first.micro_batches(3, 0) == expected
    assert _plan(**options, seed=1).micro_batches(3, 0) == expected
    assert _plan(**options, seed=2).micro_batches(3, 0) != expected


def test_the_order_does_not_change_between_versions():
    plan = BatchPlan([5] * 8, batch_size=8, seed=456)
    assert plan.micro_batches(1, 0) == [[1, 3, 5, 0, 6, 4, 2, 7]]


def test_resume_continues_where_the_epoch_stopped():
    plan = _plan(101, batch_size=2, world_size=2, accumulation=3, group_by_length=True)
    for rank in (0, 1):
        whole = plan.micro_batches(5, rank)
        for step in range(plan.steps_per_epoch(5) + 1):
            assert plan.micro_batches(5, rank, skip_batches=step * plan.slots_per_step) == whole[step * 3 :]


def test_another_number_of_processes_finishes_the_epoch():
    options = {"count": 101, "batch_size": 2, "group_by_length": True, "seed": 5}
    before, after = _plan(**options, world_size=2, accumulation=2), _plan(**options, world_size=3, accumulation=1)
    done_steps = 7
    done = [i for rank in (0, 1) for batch in before.micro_batches(1, rank)[: done_steps * 2] for i in batch]
    skip = done_steps * before.slots_per_step
    rest = [i for rank in range(3) for batch in after.micro_batches(1, rank, skip_batches=skip) for i in batch]
    assert sorted(done + rest) == list(range(101))
    assert len(after.micro_batches(1, 0, skip_batches=skip)) == after.steps_per_epoch(1, skip_batches=skip)


def test_grouping_saves_padding_and_balances_processes():
    lengths = np.random.default_rng(0).integers(100, 1500, size=4000)

    def padding(plan):
        frames = sum(len(batch) * int(lengths[batch].max()) for batch in plan.batches(0))
        return frames / lengths.sum() - 1

    grouped = BatchPlan(lengths, batch_size=8, group_by_length=True, world_size=4)
    assert padding(grouped) < 0.1 < 0.5 < padding(BatchPlan(lengths, batch_size=8))
    # Grouped batches still come in random order: neighbours in time are not neighbours in length.
    longest = [int(lengths[batch].max()) for batch in grouped.batches(0)]
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.2
    assert longest[0] == lengths.max()


def test_curriculum_goes_from_short_to_long():
    lengths = _lengths(50)
    plan = BatchPlan(lengths, batch_size=4, order="short_to_long_first_epoch")
    first = np.concatenate(plan.batches(0))
    assert (np.diff(lengths[first]) >= 0).all()
    assert (np.diff(lengths[np.concatenate(plan.batches(1))]) < 0).any()
    always = BatchPlan(lengths, batch_size=4, order="short_to_long")
    assert (np.diff(lengths[np.concatenate(always.batches(1))]) >= 0).all()


CURRICULUM = [
    {"by": "duration", "epochs": 1},
    {"by": "random", "epochs": 2},
    {"by": "balanced", "column": "singer"},
]


def _curriculum(count=60, seed=3, **options):
    """A plan of three phases over clips of four singers with 1, 5, 14 and 40 clips."""
    singers = np.random.default_rng(1).permutation(np.repeat(np.arange(4), [1, 5, 14, 40])[:count])
    return BatchPlan(_lengths(count), order=CURRICULUM, groups={"singer": singers}, seed=seed, **options)


def test_phases_follow_each_other():
    plan = _curriculum(batch_size=4)
    orders = [np.concatenate(plan.batches(epoch)) for epoch in range(5)]
    assert (np.diff(plan.lengths[orders[0]]) >= 0).all()
    for epoch in (1, 2):
        assert orders[epoch].tolist() == np.concatenate(_plan(60, batch_size=4, seed=3).batches(epoch)).tolist()
    for epoch in (3, 4):
        counts = np.bincount(plan.groups["singer"][orders[epoch] % 60])
        assert counts.tolist() == [15, 15, 15, 15]


def test_a_balanced_phase_visits_groups_and_the_clips_of_a_group_equally_often():
    groups = np.random.default_rng(0).integers(0, 7, size=53)
    groups[:7] = np.arange(7)
    visits = np.zeros(53, dtype=int)
    for epoch in range(2, 12):
        found = balanced_visits(groups, seed=5, epoch=epoch, first_epoch=2)
        assert len(found) == len(set(found.tolist())) == 53, "a second visit to a clip has a number of its own"
        visits += np.bincount(found % 53, minlength=53)
        of_groups = np.bincount(groups, weights=visits)
        assert of_groups.max() - of_groups.min() <= 1
        for group in range(7):
            clips = visits[groups == group]
            assert clips.max() - clips.min() <= 1
    assert (visits > 0).all()
    again = balanced_visits(groups, seed=5, epoch=11, first_epoch=2)
    assert again.tolist() == found.tolist() != balanced_visits(groups, 6, 11, 2).tolist()


@pytest.mark.parametrize("grouped", [False, True])
def test_limits_processes_and_resuming_hold_in_every_phase(grouped):
    options = {"batch_size": 3, "max_frames_per_batch": 230, "group_by_length": grouped}
    one = _curriculum(world_size=1, accumulation=4, **options)
    two = _curriculum(world_size=2, accumulation=2, **options)
    for epoch in range(5):
        assert _steps(one, epoch) == _steps(two, epoch)
        for batch in one.batches(epoch):
            assert len(batch) <= 3 and len(batch) * one.lengths[batch % 60].max() <= 230
        whole = two.micro_batches(epoch, 1)
        fresh = _curriculum(world_size=2, accumulation=2, **options)
        assert fresh.micro_batches(epoch, 1, skip_batches=2 * two.slots_per_step) == whole[2 * 2 :]


def test_all_problems_are_told_at_once():
    with pytest.raises(ValueError) as caught:
        BatchPlan([10, 300], max_frames_per_batch=200, world_size=0, accumulation=0, order="upwards")
    for part in ("world_size", "accumulation", "1 clips are longer", "300 frames", "upwards"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="there are no clips"):
        BatchPlan([], batch_size=2)
    with pytest.raises(ValueError, match="batch_size, max_frames_per_batch or both"):
        BatchPlan([3])
