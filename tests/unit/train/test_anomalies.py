"""Spikes of the loss: what counts as one, and what is done about it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_fakes import make_batch

from songgen.train.checkpoints.state import TrainerState
from songgen.train.optimization.anomalies import (
    LOSS_SPIKES_FILE,
    MIN_LOSSES,
    WINDOW,
    AnomalyPolicy,
    AnomalyWatch,
    robust_deviations,
)
from songgen.train.step import Outcome, StepResult

POLICY = AnomalyPolicy(non_finite="stop", max_skipped_steps=5, spikes="warn", spike_threshold=8.0, spike_budget=2)


def noisy_losses(count: int, seed: int = 0) -> list[float]:
    """Losses around 4 that spread by 0.1."""
    return (4 + 0.1 * np.random.default_rng(seed).standard_normal(count)).tolist()  # type: ignore[no-any-return]


def watch(folder: Path, **policy: Any) -> AnomalyWatch:
    return AnomalyWatch(dataclasses.replace(POLICY, **policy), folder, ["data"], is_main_process=True)


def take(watcher: AnomalyWatch, state: TrainerState, loss: float) -> Outcome:
    """A step with this loss; returns what became of it."""
    outcome = Outcome.UPDATED if watcher.allows_update(loss, state) else Outcome.HELD_BACK
    result = StepResult(
        outcome=outcome, objective=torch.tensor(loss), loss=loss, parts={},
        gradient_norm=torch.tensor(1.0), samples=1, frames=1, targets=1, has_commands=False,
    )  # fmt: skip
    watcher.after_step([make_batch([3])], result, state)
    state.step += 1
    return outcome


def spikes(folder: Path) -> list[int]:
    """Steps that were written down."""
    path = folder / LOSS_SPIKES_FILE
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def test_deviations_of_normal_noise_are_those_of_its_standard_deviation() -> None:
    losses = noisy_losses(10_001)
    assert robust_deviations(4.3, losses) == pytest.approx(3, rel=0.1)
    assert robust_deviations(3.7, losses) == pytest.approx(-3, rel=0.1)


def test_earlier_spikes_do_not_hide_a_later_one() -> None:
    losses = [*noisy_losses(80), *[200.0] * 20]
    assert robust_deviations(8.0, losses) > 8
    mean, deviation = np.mean(losses), np.std(losses)
    assert (8.0 - mean) / deviation < 0, "mean and standard deviation would hide it"


def test_a_run_that_hardly_spreads_is_not_warned_of_small_changes() -> None:
    assert robust_deviations(1.05, [1.0] * 50) == pytest.approx(5)
    assert robust_deviations(1e-6, [0.0] * 50) > 8


def test_nothing_is_a_spike_before_there_is_something_to_compare_with(tmp_path: Path) -> None:
    watcher, state = watch(tmp_path), TrainerState()
    for loss in [*noisy_losses(MIN_LOSSES - 1), 400.0]:
        take(watcher, state, loss)
    assert spikes(tmp_path) == []
    take(watcher, state, 400.0)
    assert spikes(tmp_path) == [MIN_LOSSES]


def test_normal_noise_and_a_falling_loss_raise_no_alarm(tmp_path: Path) -> None:
    watcher, state = watch(tmp_path), TrainerState()
    for step, noise in enumerate(noisy_losses(2000)):
        take(watcher, state, noise * (1 + np.exp(-step / 200)))
    assert spikes(tmp_path) == [] and len(state.recent_losses) == WINDOW


def test_a_level_that_lasts_is_no_spike_any_more_after_half_a_window(tmp_path: Path) -> None:
    watcher, state = watch(tmp_path, spikes="skip"), TrainerState()
    for loss in noisy_losses(WINDOW):
        take(watcher, state, loss)
    outcomes = [take(watcher, state, loss + 4) for loss in noisy_losses(WINDOW, seed=1)]
    assert outcomes.count(Outcome.HELD_BACK) == POLICY.spike_budget
    assert spikes(tmp_path)[-1] < WINDOW + WINDOW / 2 + 5


def test_switched_off_nothing_is_watched(tmp_path: Path) -> None:
    watcher, state = watch(tmp_path, spikes="off"), TrainerState()
    for loss in [*noisy_losses(WINDOW), 400.0]:
        assert take(watcher, state, loss) is Outcome.UPDATED
    assert spikes(tmp_path) == []


def test_a_full_disk_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watcher, state = watch(tmp_path / "gone"), TrainerState()
    for loss in [*noisy_losses(WINDOW), 400.0]:
        take(watcher, state, loss)
    assert "cannot be written" in caplog.text and '"step": 100' in caplog.text
