"""What of a text is compared, and how far texts are apart."""

import numpy as np
import pytest

from songgen.prepare.timing.text_distance import comparable_units, edit_distance, joiner, word_similarity


def slow_edit_distance(left: str, right: str) -> int:
    """The definition, cell by cell."""
    table = [[row + column for column in range(len(right) + 1)] for row in range(len(left) + 1)]
    for row in range(1, len(left) + 1):
        for column in range(1, len(right) + 1):
            table[row][column] = min(
                table[row - 1][column] + 1,
                table[row][column - 1] + 1,
                table[row - 1][column - 1] + (left[row - 1] != right[column - 1]),
            )
    return table[-1][-1]


def test_the_distance_is_that_of_the_definition() -> None:
    draw = np.random.default_rng(3)
    for _ in range(200):
        left, right = ("".join(draw.choice(list("abc"), size=draw.integers(0, 9))) for _ in range(2))
        assert edit_distance(left, right) == slow_edit_distance(left, right), (left, right)


def test_words_are_units_as_well_as_letters() -> None:
    assert edit_distance(("come", "back", "home"), ("come", "home", "now")) == 2
    assert edit_distance("kitten", "sitting") == 3


def test_similarity_is_the_share_of_letters_that_stay() -> None:
    assert word_similarity("rivers", "river") == pytest.approx(5 / 6)
    assert word_similarity("same", "same") == 1.0
    assert word_similarity("abc", "xyz") == 0.0


@pytest.mark.parametrize(
    ("language", "left", "right"),
    [
        ("en", "Don't STOP -- me, now!", "dont stop me now"),
        ("en", "24 hours", "twenty-four hours"),
        ("en", "ﬁre ｓｏｎｇ", "fire song"),
        ("de", "3 Könige", "drei könige"),
        ("fr", "cafe\u0301", "café"),
        ("zh", "我爱你，24天", "我 爱 你 二十四 天"),
        ("ja", "キャット、ねこ", "きやつとねこ"),
        ("", "Any Words", "any words"),
    ],
)
def test_what_is_sung_alike_compares_as_equal(language: str, left: str, right: str) -> None:
    assert comparable_units(left, language) == comparable_units(right, language)
    assert comparable_units(left, language)


@pytest.mark.parametrize(
    ("language", "left", "right"), [("en", "night", "knife"), ("zh", "我", "你"), ("en", "1", "2")]
)
def test_what_is_sung_otherwise_does_not(language: str, left: str, right: str) -> None:
    assert comparable_units(left, language) != comparable_units(right, language)


def test_languages_without_blanks_are_cut_into_characters_but_latin_words_stay() -> None:
    assert comparable_units("我爱rock你", "zh-cn") == ("我", "爱", "rock", "你")
    assert comparable_units("ที่รัก", "th") == ("ที่", "รั", "ก")
    assert comparable_units("我爱", "en") == ("我爱",)
    assert joiner("ja") == "" and joiner("ko") == " "


def test_punctuation_alone_is_nothing() -> None:
    assert comparable_units("... ♪ -- !", "en") == ()
