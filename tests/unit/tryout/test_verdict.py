"""The verdict on a trial, and the curve that is shown with it."""

import math
from typing import Any

import pytest

from songgen.families.objective import Mastery
from songgen.families.tokens.objective import TokenObjective
from songgen.tryout.picture import HEIGHT, curve
from songgen.tryout.verdict import Findings, verdict

FALLING = [5 * 0.9**step for step in range(60)]


def found(losses: list[float], **values: Any) -> Findings:
    given: dict[str, Any] = {"norms": [1.0], "learning_rate": 1e-4, "weight_change": 0.1} | values
    given = {"mastery": TokenObjective.mastery} | given
    return Findings(losses=losses, **given)


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        (found(FALLING, known=0.99, recall=1.0), "it learns: 60 steps"),
        (found(FALLING, known=0.99, recall=None), "it learns: 60 steps"),
        (found(FALLING, known=0.99, recall=0.4), "does not sing it by itself"),
        (found(FALLING, known=0.8, recall=0.6, mastery=Mastery()), "noise fell by 80%, 60% of the clip comes back"),
        (found(FALLING, known=0.8, recall=0.1, mastery=Mastery()), "but does not generate it"),
        (found(FALLING, known=0.7), "there was no time to learn the clip"),
        (found([5.0] * 20 + [2.0] * 60, known=0.7), "the loss fell and then stopped"),
        (found([5.0] * 40, weight_change=1e-7), "learning_rate 0.0001 is too low"),
        (found([5.0, 2.0, 6.0, 3.0] * 10, weight_change=1e-7, known=0.0), "learning_rate 0.0001 is too low"),
        (found([5.0] * 40, weight_change=0.2, frozen=("decoder",)), "although the weights change (frozen: decoder)"),
        (found([5.0] * 20 + [9.0] * 20), "learning_rate 0.0001 is too high"),
        (found([5.0, math.inf]), "is too high"),
        (found([5.0] * 40, norms=[0.0, 0.0]), "no gradient reaches the trained parameters"),
        (found([5.0] * 3, too_slow=True, seconds_per_step=9.0), "a step takes 9.0 s on cpu"),
        (found([5.0] * 3, too_slow=True, seconds_per_step=9.0), "a machine with a GPU"),
        (found([], refusal="everything is frozen"), "it does not learn: everything is frozen"),
    ],
)
def test_the_reason_is_the_right_one(findings: Findings, words: str) -> None:
    assert words in verdict(findings)
    assert verdict(findings).startswith("it learns" if findings.learned else "it does not learn")


def test_the_curve_falls_from_the_upper_left_to_the_lower_right() -> None:
    lines = curve(FALLING, "loss").splitlines()
    drawn = [line.partition("|")[2] for line in lines if "|" in line]
    assert len(drawn) == HEIGHT and sum(line.count("*") for line in drawn) == 60
    assert drawn[0].startswith("*") and drawn[-1].endswith("*") and not drawn[-1].startswith("*")
    assert "5" in lines[1] and "60 steps" in lines[-1]
    assert curve([math.nan, math.inf], "loss") == "" and "*" in curve([2.0], "loss")
