"""Steps of a run counted from any place in its data, and the curve that is walked in them."""

import pytest

from songgen.config import RunConfig
from songgen.data.batch_plan import BatchPlan
from songgen.train.checkpoints.resume import continue_curve, count_epochs, count_steps
from songgen.train.checkpoints.state import CurvePosition, TrainerState
from songgen.train.intervals import Intervals

NEEDED = {"model_name_or_path": "model", "output_dir": "run", "save_to_disk": "data"}


def config(**changes: object) -> RunConfig:
    return RunConfig.from_dict(NEEDED | changes)


def plan(world_size: int = 1, **changes: int) -> BatchPlan:
    """Ten songs in batches of two: five batches an epoch."""
    settings = {"batch_size": 2, "accumulation": 2} | changes
    return BatchPlan([5] * 10, world_size=world_size, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (4, 12), (0.5, 2), (2.1, 7), (2.5, 8)])
def test_a_fraction_of_an_epoch_is_rounded_up(epochs: float, steps: int) -> None:
    assert count_steps(config(num_train_epochs=epochs), plan(), TrainerState()) == steps


def test_max_steps_wins_wherever_the_run_stands() -> None:
    assert count_steps(config(max_steps=9), plan(2), TrainerState(step=4, epoch=3)) == 9


@pytest.mark.parametrize("epochs", [4, 2.5])
@pytest.mark.parametrize("changes", [{}, {"max_frames_per_batch": 15}])
def test_every_place_of_a_run_counts_the_same_total(epochs: float, changes: dict[str, int]) -> None:
    own, state = plan(**changes), TrainerState()
    total = count_steps(config(num_train_epochs=epochs), own, state)
    for step in range(total):
        assert count_steps(config(num_train_epochs=epochs), own, state) == total, f"after {step} steps"
        state.step += 1
        state.batches_in_epoch += own.slots_per_step
        if state.batches_in_epoch >= len(own.batches(state.epoch)):
            state.epoch, state.batches_in_epoch = state.epoch + 1, 0


def test_what_other_processes_have_done_is_not_done_again() -> None:
    """One process has made four steps (three of the first epoch, one of the second): three batches and two epochs."""
    state = TrainerState(step=4, epoch=1, batches_in_epoch=2)
    assert count_steps(config(num_train_epochs=4), plan(2), state) == 4 + 1 + 2 + 2


def test_a_run_that_starts_walks_its_own_curve() -> None:
    assert continue_curve(TrainerState(), 12, 4) == CurvePosition(length=12, steps_per_epoch=4)


def test_the_rest_of_the_curve_is_walked_in_the_steps_that_are_left() -> None:
    state = TrainerState(step=4, updates=3, total_steps=12, curve=CurvePosition(length=12, step=4, update=3))
    assert continue_curve(state, 12, 4) is state.curve
    faster = continue_curve(state, 8, 3)
    assert faster == CurvePosition(length=12, step=4, update=3, rate=2)
    state.curve, state.total_steps, state.step = faster, 8, 6
    assert continue_curve(state, 10, 4).rate == 1, "and back"


def test_a_changed_schedule_draws_the_curve_anew() -> None:
    state = TrainerState(step=4, updates=3, total_steps=12, curve=CurvePosition(length=24, step=8, update=6, rate=2))
    assert continue_curve(state, 20, 4, {"num_train_epochs"}) == CurvePosition(20, 4, 3, steps_per_epoch=4)
    assert continue_curve(state, 12, 4, {"learning_rate"}) is state.curve


@pytest.mark.parametrize("changes", [{}, {"max_frames_per_batch": 15}])
def test_epochs_at_the_end_of_a_run(changes: dict[str, int]) -> None:
    own, state = plan(**changes), TrainerState()
    total = count_steps(config(num_train_epochs=4), own, state)
    for step in range(total + 1):
        assert count_epochs(own, state, total) == pytest.approx(4), f"after {step} steps"
        state.step += 1
        state.batches_in_epoch += own.slots_per_step
        if state.batches_in_epoch >= len(own.batches(state.epoch)):
            state.epoch, state.batches_in_epoch = state.epoch + 1, 0
    assert count_epochs(own, TrainerState(), 1) == pytest.approx(1 / own.steps_per_epoch(0))


def test_epochs_after_a_change_of_the_batch_size() -> None:
    """Three epochs of three steps, two of them done; half the batch makes the third one of five steps."""
    state = TrainerState(step=6, epoch=2)
    half = plan(batch_size=1)
    total = count_steps(config(num_train_epochs=3), half, state)
    assert (total, count_epochs(half, state, total)) == (11, 3)
    assert count_epochs(half, state, 16) == 4, "max_steps"
    assert count_epochs(half, state, 5) == 2, "nothing is left"


def test_intervals_that_are_never_due_before_the_end_are_told() -> None:
    often = Intervals(log=1, evaluate=None, save=5)
    assert not often.problems(6)
    never = Intervals(log=2_000, evaluate=20_000, save=10_000).problems(200)
    assert never == {
        "logging_steps": "2,000 in a run of 200 steps: no metrics before its end",
        "save_steps": "10,000 in a run of 200 steps: no checkpoint before its end",
    }
    assert not Intervals(log=1, evaluate=100, save=10_000).problems(200), "the first evaluation saves"
    assert "no checkpoint before the end" in Intervals(log=1, evaluate=100, save=None).problems(200)["save_steps"]
