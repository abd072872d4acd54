"""Milestones: the next one, and when it is reached, by curves whose future is known."""

import json
import math
import random
from pathlib import Path

import pytest

from songgen.train.reporting.milestones import Milestones, Trend, describe
from songgen.train.reporting.trackers import METRICS_FILE


def noisy(law, steps: range, *, outliers: float = 0.0) -> list[tuple[float, float]]:
    numbers = random.Random(0)
    found = []
    for step in steps:
        value = law(step) * math.exp(0.02 * numbers.gauss(0, 1))
        found.append((float(step), value * (4 if numbers.random() < outliers else 1)))
    return found


@pytest.mark.parametrize("outliers", [0.0, 0.2])
@pytest.mark.parametrize(
    ("law", "target", "reached"),
    [(lambda step: 8 * step**-0.2, 1.2, (8 / 1.2) ** 5), (lambda step: 7 * math.exp(-step / 9_000), 2.0, 11_275)],
)
def test_the_estimates_enclose_the_step_at_which_a_curve_reaches_a_value(law, target, reached, outliers) -> None:
    """Known up to 60 % of the way; every fifth loss may be four times too high."""
    trend = Trend.of(noisy(law, range(20, int(0.6 * reached), 20), outliers=outliers))
    assert trend is not None
    early, late = trend.steps_of(target)
    assert 0.9 * reached < late and early < 1.1 * reached
    assert 0.6 * reached < early <= late < 4 * reached


def test_one_lucky_value_is_no_milestone_and_the_last_difference_does_not_count() -> None:
    milestones = Milestones((5.0, 4.0, 3.0), ())
    for step, value in noisy(lambda step: 9 * step**-0.1, range(10, 1_000, 10)):
        milestones.add({"train/loss": value}, int(step))
    before = describe(milestones.expected(), 10_000, 1.0)
    assert before.startswith("next: loss 4 in") and "step" in before
    milestones.add({"train/loss": 1.0}, 1_000)
    assert describe(milestones.expected(), 10_000, 1.0).startswith("next: loss 4 in")


def test_what_does_not_come_in_this_run_is_not_promised() -> None:
    milestones = Milestones((3.0,), (0.9,))
    for step, value in noisy(lambda step: 8 * step**-0.1, range(10, 1_000, 10)):
        milestones.add({"train/loss": value}, int(step))
    for step in range(100, 1_000, 100):  # gets worse
        milestones.add({"eval/accuracy": 0.5 - step / 10_000}, step)
    text = describe(milestones.expected(), 1_500, 2.0)
    assert text == "next: loss 3 not within this run, accuracy 0.9 not within this run"


def test_time_follows_from_the_speed_and_few_points_give_no_estimate() -> None:
    milestones = Milestones((3.0, 1.0), (0.5,))
    assert describe(milestones.expected(), 100, 1.0) == ""
    milestones.add({"train/loss": 6.0, "train/unweighted_loss": 2.5}, 1)
    milestones.add({"eval/accuracy": 0.6}, 1)
    text = describe(milestones.expected(), 100, 1.0)
    assert text == "next: loss 1", "the unweighted loss counts, and accuracy 0.5 is reached"
    straight = Milestones((3.0,), ())
    for step in range(100, 201, 10):
        straight.add({"train/loss": 8 * math.exp(-step / 400)}, step)
    early = 400 * math.log(8 / 3)
    assert f"in {int((early - 200) / 0.5) // 60:02d}:" in describe(straight.expected(), 1_000, 0.5)
    assert f"(step {early:,.0f} to" in describe(straight.expected(), 1_000, 0.5)


def test_a_resumed_run_knows_what_was_before(tmp_path: Path) -> None:
    straight, resumed = Milestones((3.0,), (0.5,)), Milestones((3.0,), (0.5,))
    lines = []
    for step in range(10, 400, 10):
        values = {"train/loss": 8 * step**-0.1} if step % 20 else {"eval/accuracy": 1 - step**-0.05}
        straight.add(values, step)
        lines.append(json.dumps({"step": step, "epoch": 0.5, "time": 1.0, **values}) + "\n")
    lines[3] = '{"step": 40, "train/loss": nul\n'
    lines.append('{"step": 400, "train/loss": null}\n')
    (tmp_path / METRICS_FILE).write_text("".join(lines))
    resumed.read(tmp_path)
    assert describe(resumed.expected(), 5_000, 1.0) == describe(straight.expected(), 5_000, 1.0) != ""
    Milestones((3.0,)).read(tmp_path / "missing")


def test_a_long_run_keeps_few_points_and_stays_quick() -> None:
    milestones = Milestones((1.0,), ())
    for step in range(1, 50_000):
        milestones.add({"train/loss": 8 * step**-0.1}, step)
    assert len(milestones._loss) <= 4_000
    assert milestones._loss[0][0] < milestones._loss[-1][0], "but"
    assert "loss 1" in describe(milestones.expected(), 10**7, 1.0)
