"""What a review page sends is checked as a whole before anything is written."""

from typing import Any

import pytest
from prepare_steps import make_record

from songgen.prepare.engine.record import LyricLine, Refusal, SongRecord
from songgen.prepare.review.corrections import EDITABLE
from songgen.prepare.review.fields import MAX_LENGTHS, MAX_TAGS, FieldProblems, checked_changes, line_times


@pytest.fixture
def record() -> SongRecord:
    lines = (LyricLine("one two", 0.5, 1.5, "verse", 0.9), LyricLine("three", 2.0, 3.0, "chorus", 0.4))
    return make_record("a", duration=4.0, lyrics="[verse]\none two\nnever sung\n[chorus]\nthree", lines=lines)


def problems(record: SongRecord, given: Any) -> list[str]:
    with pytest.raises(FieldProblems) as raised:
        checked_changes(record, given)
    return raised.value.problems


def test_lines_of_the_lyrics_are_shown_with_their_times(record: SongRecord) -> None:
    assert line_times(record) == [[0.5, 1.5], None, [2.0, 3.0]]


def test_lyrics_become_lines_under_their_sections(record: SongRecord) -> None:
    given = {"lyrics": "[Verse 2]\r\none two \n\nfour\n[chorus] three", "times": [[0.5, 1.5], None, [2.25, 3.5]]}
    changes = checked_changes(record, given)
    assert changes["lyrics"] == "[Verse 2]\none two \n\nfour\n[chorus] three"
    assert changes["lines"] == [
        {"text": "one two", "start": 0.5, "end": 1.5, "section": "verse", "confidence": 0.9},
        {"text": "three", "start": 2.25, "end": 3.5, "section": "chorus", "confidence": None},
    ], "only a line that stayed where it was heard keeps its confidence"


def test_what_is_shown_and_sent_back_changes_nothing_of_the_lines(record: SongRecord) -> None:
    changes = checked_changes(record, {"lyrics": record.lyrics, "times": line_times(record)})
    assert changes["lyrics"] == record.lyrics
    assert tuple(LyricLine(**line) for line in changes["lines"]) == record.lines


def test_an_end_behind_the_clip_by_a_rounding_is_its_end(record: SongRecord) -> None:
    changes = checked_changes(record, {"lyrics": "one", "times": [[0, 4.0004]]})
    assert changes["lines"][0]["end"] == 4.0


@pytest.mark.parametrize("time", [[2, 1], [1, 1], [-0.1, 1], [3, 4.1], [1], [1, 2, 3], ["0", "1"], [True, 2], 5, {}])
def test_a_time_that_is_none_is_refused_with_its_line(record: SongRecord, time: Any) -> None:
    [problem] = problems(record, {"lyrics": "one\ntwo", "times": [None, time]})
    assert "line 2" in problem and "4.000 s" in problem


@pytest.mark.parametrize("given", [{"lyrics": "one"}, {"times": []}, {"lyrics": "one", "times": []},
                                   {"lyrics": "one", "times": None}])  # fmt: skip
def test_lyrics_come_with_a_time_or_none_for_every_line(record: SongRecord, given: Any) -> None:
    assert any("times" in problem for problem in problems(record, given))


def test_texts_are_composed_and_lose_control_characters(record: SongRecord) -> None:
    given = {"caption": " cafe\u0301 \x1b[2J\tand\nsong ", "lyrics": "a\u2028b\x07", "times": [None, None]}
    changes = checked_changes(record, given)
    assert changes["caption"] == "café [2Jand song" and changes["lyrics"] == "a\nb"


def test_tags_are_single_and_not_empty(record: SongRecord) -> None:
    assert checked_changes(record, {"tags": [" pop ", "", "pop", "124  bpm"]}) == {"tags": ["pop", "124 bpm"]}


@pytest.mark.parametrize("language", ["english", "e", "en us", "<b>"])
def test_a_language_is_a_code(record: SongRecord, language: str) -> None:
    assert "is not a language code" in problems(record, {"language": language})[0]
    assert checked_changes(record, {"language": "EN"}) == {"language": "en"}
    assert checked_changes(record, {"language": ""}) == {"language": ""}


@pytest.mark.parametrize(
    "given",
    [
        {"caption": 7},
        {"caption": "\ud800"},
        {"caption": "nul\0"},
        {"caption": "x" * (MAX_LENGTHS["caption"] + 1)},
        {"tags": "pop"},
        {"tags": [1]},
        {"tags": ["x"] * (MAX_TAGS + 1)},
        {"tags": ["x" * 201]},
        {"verdict": "perhaps"},
        {"reason": None},
        {"id": "other"},
        {"audio": {"mix": "elsewhere.wav"}},
        {"refusal": None},
        {"lines": []},
        [],
        None,
    ],
)
def test_what_cannot_be_stored_or_changed_is_refused(record: SongRecord, given: Any) -> None:
    assert len(problems(record, given)) == 1


def test_all_problems_are_said_at_once(record: SongRecord) -> None:
    assert len(problems(record, {"caption": 1, "tags": 2, "language": "english", "verdict": "no", "id": "b"})) == 5


def test_a_song_that_never_became_a_clip_cannot_be_accepted(record: SongRecord) -> None:
    broken = make_record("b", refusal=Refusal("take_in", "truncated_audio", "cut"))
    assert "no clip" in problems(broken, {"verdict": "accepted"})[0]
    assert checked_changes(broken, {"verdict": "refused", "reason": " a  b "}) == {
        "verdict": "refused",
        "reason": "a b",
    }


def test_every_change_is_one_that_corrections_know(record: SongRecord) -> None:
    given = {"lyrics": "", "times": [], "caption": "", "tags": [], "language": "", "verdict": "", "reason": ""}
    assert set(checked_changes(record, given)) == set(EDITABLE)
