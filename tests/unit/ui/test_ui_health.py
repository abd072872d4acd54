"""What is said about a run from its evaluations, on series of known course."""

import random
from collections.abc import Callable

import pytest

from songgen.ui.training.health import LOSS, Finding, findings_of


def series(value: Callable[[int], float], count: int = 20) -> list[tuple[float, float]]:
    return [(10.0 * number, value(number)) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("value", "kind", "step"),
    [
        (lambda number: 6 - 0.1 * number, "falling", 200),
        (lambda number: 5 + 1 / number**3, "flat", 200),
        (lambda number: 5 + 0.001 * (number % 2), "flat", 20),
        (lambda number: 5 + 0.2 * abs(number - 8), "rising", 80),
        (lambda number: 5 + (number == 20), "flat", 10),
        (lambda number: 5 + (number == 10), "flat", 10),
    ],
)
def test_the_course_of_the_loss(value: Callable[[int], float], kind: str, step: int) -> None:
    """One evaluation above the lowest, also the last one, is no rise."""
    (finding,) = findings_of({LOSS: series(value)})
    assert (finding.kind, finding.step) == (kind, step)


def test_how_far_it_has_risen() -> None:
    (finding,) = findings_of({LOSS: [(32.0, 5.0), (64.0, 5.5), (96.0, 6.0)]})
    assert finding == Finding("rising", 32, 1.2)


@pytest.mark.parametrize("count", [6, 8, 12, 20, 100])
def test_scatter_is_not_taken_for_a_course(count: int) -> None:
    """A level loss that scatters far above `MIN_CHANGE` is hardly ever said to rise or fall."""
    generator = random.Random(count)
    found = [findings_of({LOSS: series(lambda _: 5 + generator.gauss(0, 0.5), count)})[0].kind for _ in range(200)]
    assert found.count("rising") <= 10 and found.count("falling") <= 10


def test_a_course_is_seen_through_scatter() -> None:
    generator = random.Random(0)
    courses = {"rising": 0.1, "falling": -0.5}
    for kind, slope in courses.items():
        values = series(lambda number: 20 + slope * number + generator.gauss(0, 0.05), 30)  # noqa: B023
        assert findings_of({LOSS: values})[0].kind == kind


def test_a_few_evaluations_rise_only_one_after_the_other() -> None:
    values = [5.0, 5.4, 5.2, 5.5]
    assert findings_of({LOSS: [*enumerate(values)]})[0].kind == "flat"
    assert findings_of({LOSS: [*enumerate(sorted(values))]})[0].kind == "rising"


def test_nothing_is_said_of_too_few_evaluations() -> None:
    assert findings_of({}) == []
    assert findings_of({LOSS: [(1.0, 5.0), (2.0, 6.0)]}) == []
    assert findings_of({"train/loss": series(float)}) == []


def test_a_track_that_rises_while_the_others_fall() -> None:
    found = findings_of({
        LOSS: series(lambda number: 6 - 0.05 * number),
        "eval/vocal/loss": series(lambda number: 6 - 0.2 * number),
        "eval/acc/loss": series(lambda number: 6 + 0.1 * number),
    })  # fmt: skip
    assert [(finding.kind, finding.track, finding.step) for finding in found] == [
        ("falling", "", 200), ("track_rising", "acc", 10)
    ]  # fmt: skip
    assert found[1].ratio == pytest.approx(8 / 6.1)


def test_a_track_that_lags_behind() -> None:
    found = findings_of({
        LOSS: series(lambda number: 6 - 0.1 * number),
        "eval/vocal/loss": series(lambda number: 6 - 0.2 * number),
        "eval/acc/loss": series(lambda number: 6 - 0.02 * number),
    })  # fmt: skip
    assert [finding.kind for finding in found] == ["falling", "track_lagging"]
    assert (found[1].track, found[1].other, found[1].step) == ("acc", "vocal", 10)
    assert found[1].fall == pytest.approx(0.38 / 5.98) and found[1].other_fall == pytest.approx(3.8 / 5.8)


def test_tracks_that_do_as_all_clips_do_are_not_named() -> None:
    rising = series(lambda number: 5 + 0.1 * number)
    names = (LOSS, "eval/vocal/loss", "eval/acc/loss", "eval/vocal/codebook_0/loss")
    found = findings_of(dict.fromkeys(names, rising))
    assert [finding.kind for finding in found] == ["rising"]


def test_codebooks_that_rise_while_the_loss_falls() -> None:
    rising, falling = series(lambda number: 5 + 0.1 * number), series(lambda number: 9 - 0.1 * number)
    found = findings_of({
        LOSS: falling, "eval/vocal/codebook_0/loss": rising, "eval/codebook_3/loss": rising,
        "eval/vocal/codebook_1/loss": falling,
    })  # fmt: skip
    assert found[1] == Finding("parts_rising", 0, parts=("vocal/codebook_0", "codebook_3"))
