"""The loss scale of float16: between its bounds, with a warning at the floor, and an end before harm."""

import json
from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.amp.grad_scaler import GradScaler
from training_fakes import CODEBOOKS, make_batch, tiny_model, tiny_objective

from songgen.families.trainable import Trainable
from songgen.train.checkpoints.state import TrainerState
from songgen.train.optimization.anomalies import NonFiniteError
from songgen.train.optimization.engine import AcceleratedEngine, GradientLimit
from songgen.train.optimization.loss_scale import LossScaleBounds
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer
from songgen.train.step import Outcome, TrainingStep

FLOOR, CAP, PATIENCE = 8192.0, 32768.0, 2


class Run:
    """A parameter that a real scaler trains, with gradients that overflow on demand."""

    def __init__(self) -> None:
        self.bounds = LossScaleBounds(FLOOR, CAP, PATIENCE)
        self.weight = torch.ones(1, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.scaler = GradScaler("cpu", growth_interval=2)
        self.state = TrainerState()
        self.bounds.begin(self.scaler)

    def step(self, *, overflow: bool) -> float:
        """Take a step as the trainer does; returns the scale after it."""
        before = self.weight.item()
        self.scaler.scale(self.weight.sum() * (float("inf") if overflow else 1.0)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        assert (self.weight.item() == before) is overflow
        self.bounds.apply(self.scaler, Outcome.OVERFLOW if overflow else Outcome.UPDATED, self.state)
        self.state.step += 1
        return self.scaler.get_scale()


def test_the_scale_begins_at_the_cap_and_never_rises_above_it() -> None:
    run = Run()
    assert run.scaler.get_scale() == CAP
    assert [run.step(overflow=False) for _ in range(6)] == [CAP] * 6


def test_the_scale_falls_to_the_floor_and_recovers(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    assert [run.step(overflow=True) for _ in range(2)] == [16384.0, FLOOR]
    assert [record.message for record in caplog.records] == [
        "step 1: gradients overflowed in float16 and the loss scale fell to its floor 8192; the run ends after 3 more "
        "overflows in a row"
    ]
    assert [run.step(overflow=False) for _ in range(4)] == [FLOOR, 16384.0, 16384.0, CAP]


def test_overflows_at_the_floor_are_warned_of_and_end_the_run_before_the_scale_gets_lower(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run()
    for _ in range(2 + PATIENCE):
        assert run.step(overflow=True) >= FLOOR
    assert caplog.text.count("the step is skipped") == PATIENCE
    with pytest.raises(NonFiniteError, match="at its floor 8192, 3 step.s. in a row.*Set dtype to bfloat16"):
        run.step(overflow=True)
    assert run.scaler.get_scale() == FLOOR and run.state.overflows_at_floor == 0


def test_an_update_between_two_overflows_makes_them_no_row() -> None:
    run = Run()
    for _ in range(2):
        run.step(overflow=True)
    for _ in range(3 * PATIENCE):
        assert run.step(overflow=True) == FLOOR
        run.step(overflow=False)
    assert run.state.overflows_at_floor == 0


def test_a_resumed_run_goes_on_with_scale_and_count() -> None:
    """Through the state of a checkpoint, as JSON."""
    straight, stopped = Run(), Run()
    for run in (straight, stopped):
        for overflow in (True, True, True, False, True):
            run.step(overflow=overflow)
    resumed = Run()
    stopped.state.gradient_scaler = stopped.scaler.state_dict()
    resumed.state = TrainerState.from_json(stopped.state.to_json())
    resumed.scaler.load_state_dict(resumed.state.gradient_scaler)
    assert json.loads(stopped.state.to_json())["overflows_at_floor"] == 1
    for overflow in (True, False, False, False, False):
        assert resumed.step(overflow=overflow) == straight.step(overflow=overflow)


@pytest.fixture
def no_launch() -> Iterator[None]:
    """A process that has launched nothing: accelerate remembers the precision of the first accelerator."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.usefixtures("no_launch")
def test_a_step_whose_gradients_overflow_is_left_out_and_lowers_the_scale() -> None:
    """The training step with a scaler, which accelerate makes for float16 on a GPU alone, put in by hand."""
    model = tiny_model()
    accelerator = Accelerator(cpu=True, mixed_precision="fp16")
    accelerator.scaler = GradScaler("cpu")  # type: ignore[assignment]
    bounds, state = LossScaleBounds(FLOOR, CAP, PATIENCE), TrainerState()
    bounds.begin(accelerator.scaler)
    trainable = Trainable.choose(model)
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, trainable, OptimizerOptions(1e-2)))
    accelerator.native_amp = True  # after the model was wrapped: it computes in float32
    engine = AcceleratedEngine(accelerator, prepared, optimizer, trainable)
    step = TrainingStep(accelerator, engine, tiny_objective(model), GradientLimit(1.0))
    handle = model.enc_to_dec_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
    outcomes, scales, weights = [], [], []
    for overflow in (True, True, False):
        if not overflow:
            handle.remove()
        result = step.run([make_batch([5, 3])], torch.ones(CODEBOOKS) / CODEBOOKS)
        bounds.apply(accelerator.scaler, result.outcome, state)
        outcomes.append(result.outcome)
        scales.append(accelerator.scaler.get_scale())
        weights.append(model.enc_to_dec_proj.weight.detach().clone())
    assert outcomes == [Outcome.OVERFLOW, Outcome.OVERFLOW, Outcome.UPDATED]
    assert scales == [16384.0, FLOOR, FLOOR]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    bad = step.run([make_batch([5, 3])], torch.full((CODEBOOKS,), float("nan")))
    assert bad.outcome is Outcome.NON_FINITE, "a lower scale is no remedy for this"


def test_other_precisions_have_no_scale() -> None:
    bounds = LossScaleBounds(FLOOR, CAP, PATIENCE)
    bounds.begin(None)
    state = TrainerState(overflows_at_floor=PATIENCE)
    for outcome in Outcome:
        bounds.apply(None, outcome, state)
    assert state == TrainerState(overflows_at_floor=PATIENCE)
