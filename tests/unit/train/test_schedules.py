"""Learning rates at the steps where they could go wrong."""

import math
import random

import pytest

from songgen.train.optimization.schedules import LearningRateSchedule


def factors(name: str, steps: list[int], **settings: object) -> list[float]:
    schedule = LearningRateSchedule(name, total_steps=110, **settings)  # type: ignore[arg-type]
    return [schedule(step) for step in steps]


def test_constant_is_one_everywhere() -> None:
    assert factors("constant", [0, 5, 500], warmup_steps=10) == [1.0, 1.0, 1.0]


def test_warmup_rises_linearly_from_zero_then_each_schedule_starts_at_its_height() -> None:
    for name in ("constant_with_warmup", "linear", "cosine", "cosine_with_restarts"):
        assert factors(name, [0, 1, 5, 10], warmup_steps=10) == pytest.approx([0.0, 0.1, 0.5, 1.0])


def test_linear_and_cosine_fall_to_the_lowest_ratio_and_stay_there() -> None:
    assert factors("linear", [10, 60, 110, 200], warmup_steps=10, min_ratio=0.2) == pytest.approx([1, 0.6, 0.2, 0.2])
    assert factors("cosine", [10, 60, 110, 200], warmup_steps=10, min_ratio=0.2) == pytest.approx([1, 0.6, 0.2, 0.2])
    assert factors("cosine", [35], warmup_steps=10) == pytest.approx([0.5 * (1 + math.cos(math.pi / 4))])


def test_restarts_jump_back_up() -> None:
    found = factors("cosine_with_restarts", [0, 54, 55, 109, 110], restarts=1)
    assert found[0] == found[2] == pytest.approx(1.0)
    assert found[1] < 0.01 and found[3] < 0.01 and found[4] == 0.0
    assert factors("cosine_with_restarts", [30, 80], restarts=0) == pytest.approx(factors("cosine", [30, 80]))


def test_each_restart_is_lower_by_the_damping_and_every_valley_is_as_deep() -> None:
    found = factors("cosine_with_restarts", [0, 27, 54, 55, 110], restarts=3, damping=0.5, min_ratio=0.1)
    heights = [
        factors("cosine_with_restarts", [27.5 * part], restarts=3, damping=0.5, min_ratio=0.1)[0] for part in range(4)
    ]  # type: ignore[list-item]
    assert heights == pytest.approx([0.1 + 0.9 * height for height in (1.0, 0.5, 0.25, 0.125)])
    assert found[1] == pytest.approx(0.1, abs=0.01) and found[2] == pytest.approx(0.1, abs=0.01) and found[4] == 0.1


@pytest.mark.parametrize("name", ["constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "multistep"])
def test_the_rate_is_a_function_of_the_position_alone(name: str) -> None:
    """Nothing settles after a resumption: whatever was asked before, in whichever order, the answer is the same."""
    settings: dict[str, object] = {"warmup_steps": 7, "milestones": (20, 60), "restarts": 2, "damping": 0.7}
    schedule = LearningRateSchedule(name, 110, **settings)  # type: ignore[arg-type]
    straight = [schedule(step) for step in range(130)]
    order = random.Random(0).sample(range(130), 130)
    resumed = LearningRateSchedule(name, 110, **settings)  # type: ignore[arg-type]
    assert {step: resumed(step) for step in order} == dict(enumerate(straight))
    assert len(set(straight)) > 2


def test_multistep_drops_at_its_milestones() -> None:
    assert factors("multistep", [0, 19, 20, 49, 50, 200], milestones=(20, 50), gamma=0.1) == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"cosin.*none of.*-1.*lr_min_ratio.*rise"):
        LearningRateSchedule("cosin", 10, warmup_steps=-1, min_ratio=2.0, milestones=(5, 3))
    with pytest.raises(ValueError, match="needs milestones"):
        LearningRateSchedule("multistep", 10)
