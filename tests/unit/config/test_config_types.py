from typing import Annotated, Any, Literal

import pytest

from songgen.config.types import PositiveInt, Probability, Range, coerce, describe, parse_text

Choice = Literal["no", "steps"]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, float, 3.0),
        (True, bool, True),
        (None, PositiveInt | None, None),
        (1, Probability, 1.0),
        (["a"], list[str] | str, ["a"]),
        ("a", list[str] | str, "a"),
        ({"vocal": 2}, dict[str, float] | None, {"vocal": 2.0}),
        ({"type": "dac", "bandwidth": None}, str | dict[str, Any] | None, {"type": "dac", "bandwidth": None}),
        ("no", Choice, "no"),
        ([[0, 1]], list[list[Probability]], [[0.0, 1.0]]),
    ],
)
def test_values_of_the_type_are_kept(value: Any, annotation: Any, expected: Any) -> None:
    converted = coerce(value, annotation)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, int),
        (1, bool),
        (1.5, int),
        ("1", int),
        (None, int),
        (0, PositiveInt),
        (1.01, Probability),
        (float("nan"), float),
        (float("inf"), float | None),
        (["a", 1], list[str]),
        ({"a": "x"}, dict[str, float]),
        ("maybe", Choice),
        (1.0, Annotated[float, Range(below=1)]),
        (0.0, Annotated[float, Range(above=0)]),
    ],
)
def test_other_values_are_refused(value: Any, annotation: Any) -> None:
    with pytest.raises(ValueError, match=r"^" + describe(annotation).replace("[", r"\[")):
        coerce(value, annotation)


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("1e-4", float, 1e-4),
        (".5", Probability, 0.5),
        ("7", int, 7),
        ("True", bool, True),
        ("no", bool, False),
        ("no", Choice, "no"),
        ("none", PositiveInt | None, None),
        ("null", str | None, None),
        ("none", str, "none"),
        ("none", list[Literal["wandb", "none"]] | Literal["wandb", "none"], "none"),
        ("12", str, "12"),
        ("12", str | None, "12"),
        ("a/b", list[str] | str | None, "a/b"),
        ('["a", "b"]', list[str] | str | None, ["a", "b"]),
        ('{"vocal": 1}', dict[str, float] | None, {"vocal": 1.0}),
        ('{"type": "dac"}', str | dict[str, Any] | None, {"type": "dac"}),
        ("[0.5, 0.75]", list[float], [0.5, 0.75]),
    ],
)
def test_command_line_texts_are_read_by_type(text: str, annotation: Any, expected: Any) -> None:
    assert parse_text(text, annotation) == expected


@pytest.mark.parametrize(
    ("text", "annotation"),
    [("x", int), ("1.5", int), ("maybe", bool), ("[1", list[int]), ("[1]", list[str]), ("2", Choice)],
)
def test_other_texts_are_refused(text: str, annotation: Any) -> None:
    with pytest.raises(ValueError):
        parse_text(text, annotation)
