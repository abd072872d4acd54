"""The estimate of time, compared with real steps."""

import time

import pytest
import torch
from account_fakes import SIZE, forward_of, in_run, planned, small_model

from songgen.families.costs import BatchCosts
from songgen.planning.speed import Speed, estimate_time, measured_speed, shown_seconds


def test_a_real_step_takes_about_as_long_as_estimated() -> None:
    """In the time of this thread: the machine may be busy. A factor of 2 is stated, 3 is tested."""
    model = small_model("mixed")
    config, costs = planned(model)
    in_run(model, config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    forward, seconds = forward_of(model, half=False), []
    for _ in range(4):
        begin = time.thread_time()
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.thread_time() - begin)
    batch, trained = costs.batch(SIZE, "cpu"), costs.weights.trained
    estimate = estimate_time(measured_speed("cpu", "float32"), batch, accumulation=1, trained=trained, steps=10)
    assert 1 / 3 < min(seconds) / estimate.step < 3
    assert estimate.seconds == 10 * estimate.step


def test_accumulation_multiplies_and_computing_again_adds_a_forward_pass() -> None:
    _, plain = planned(small_model("mixed"))
    _, again = planned(small_model("mixed"), gradient_checkpointing=True)
    ratio = again.batch(SIZE, "cuda").operations / plain.batch(SIZE, "cuda").operations
    assert ratio == pytest.approx(4 / 3, rel=0.1)
    speed, batch = Speed(1e9, 1e9, 1e-6), BatchCosts(operations=1e9)
    steps = [estimate_time(speed, batch, accumulation=count, trained=0, steps=1).step for count in (1, 4)]
    assert steps[1] == 4 * steps[0] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (80, "80 s"), (600, "10 minutes"), (9_000, "2.5 hours"), (400_000, "4.6 days")]
)
def test_durations_are_rounded_as_estimates_are(seconds: float, text: str) -> None:
    assert shown_seconds(seconds) == text
