"""Lyrics in time: exact words give exact times, and errors stay where they are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from songgen.prepare.engine.record import SongRecord, Transcript, Word
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.steps.alignment import AlignStep
from songgen.prepare.timing.lyrics_alignment import (
    AlignOptions,
    WrittenLine,
    align_lyrics,
    align_units,
    lines_of_words,
    written_lines,
)

VERSE = ["walking down the empty road tonight", "every window throws a golden light", "nobody remembers what I said"]
CHORUS = ["hold on to the river", "hold on to the rain", "we will never sing alone again"]
SONG = [
    *VERSE,
    *CHORUS,
    "morning came and found me far away",
    "all the clocks had nothing left to say",
    *CHORUS,
    *CHORUS,
]
WORD_SECONDS, LINE_PAUSE = 0.4, 0.6


def sung(lines: Sequence[str]) -> list[list[Word]]:
    """The words of each line as an exact recognizer hears them, at a steady pace with pauses between lines."""
    words, now = [], 1.0
    for line in lines:
        row = []
        for text in line.split():
            row.append(Word(text, now, now + WORD_SECONDS, 0.9))
            now += WORD_SECONDS
        words.append(row)
        now += LINE_PAUSE
    return words


def flat(rows: Sequence[Sequence[Word]]) -> list[Word]:
    return [word for row in rows for word in row]


def written(lines: Sequence[str]) -> list[WrittenLine]:
    return [WrittenLine(line, "") for line in lines]


def with_errors(words: Sequence[Word], share: float, seed: int) -> list[Word]:
    """Replace, drop or double words at random: the three errors of a recognizer in equal parts."""
    draw = np.random.default_rng(seed)
    made: list[Word] = []
    for word in words:
        kind = draw.choice(["right", "wrong", "lost", "twice"], p=[1 - share, share / 3, share / 3, share / 3])
        if kind == "right":
            made.append(word)
        elif kind == "wrong":
            made.append(replace(word, text="zzyx"))
        elif kind == "twice":
            middle = (word.start + word.end) / 2
            made += [replace(word, end=middle), replace(word, text="qua", start=middle)]
    return made


def test_exact_words_give_every_line_its_exact_times() -> None:
    rows = sung(SONG)
    alignment = align_lyrics(written(SONG), flat(rows), "en")
    assert [line.text for line in alignment.lines] == SONG
    for line, row in zip(alignment.lines, rows, strict=True):
        assert (line.start, line.end) == (row[0].start, row[-1].end)
        assert line.confidence == 1.0
    assert alignment.coverage == 1.0
    assert not alignment.unsung


def test_with_a_fifth_of_the_words_wrong_line_starts_stay_within_a_word() -> None:
    rows = sung(SONG)
    starts = {line: [row[0].start for row, own in zip(rows, SONG, strict=True) if own == line] for line in SONG}
    errors = []
    for seed in range(40):
        lines = align_lyrics(written(SONG), with_errors(flat(rows), 0.2, seed), "en").lines
        # A line may lose most of its words by chance, and its place with them.
        assert len(lines) >= len(SONG) - 2
        # Every line has one of its own places, and choruses have different ones.
        nearest = [min(starts[line.text], key=lambda start: abs(start - line.start)) for line in lines]
        assert len(set(nearest)) == len(lines)
        errors += [abs(start - line.start) for start, line in zip(nearest, lines, strict=True)]
    within_a_word = np.array(errors) <= WORD_SECONDS + 1e-9
    # What is left are lines whose first two words the recognizer lost.
    assert within_a_word.mean() > 0.98
    assert max(errors) <= 3 * WORD_SECONDS + 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_lines_are_in_order_and_do_not_overlap_whatever_is_heard(seed: int) -> None:
    words = with_errors(flat(sung(SONG)), 0.6, seed)
    lines = align_lyrics(written(SONG), words, "en", AlignOptions(min_confidence=0.1)).lines
    assert lines
    for line in lines:
        assert line.start <= line.end
    for line, following in zip(lines, lines[1:], strict=False):
        assert line.end <= following.start


@pytest.mark.parametrize("missing", range(len(SONG)))
def test_a_line_that_nobody_sings_has_no_place_and_shifts_no_other(missing: int) -> None:
    rows = sung(SONG)
    heard = [row for number, row in enumerate(rows) if number != missing]
    alignment = align_lyrics(written(SONG), flat(heard), "en")
    places = {(line.start, line.end) for line in alignment.lines}
    assert places == {(row[0].start, row[-1].end) for row in heard}
    assert [line.text for line in alignment.unsung] == [SONG[missing]]


@pytest.mark.parametrize("sung_line", [0, 1])
@pytest.mark.parametrize(
    "lines",
    [
        ["hold on to the river", "hold on to the rain"],
        ["down beside the river", "dreaming near the river"],
    ],
)
def test_a_line_is_not_taken_for_its_neighbour_that_is_sung_alike(lines: list[str], sung_line: int) -> None:
    row = sung(lines)[sung_line]
    [placed] = align_lyrics(written(lines), row, "en").lines
    assert (placed.text, placed.start, placed.end) == (lines[sung_line], row[0].start, row[-1].end)
    assert placed.confidence == 1.0


def test_demo_songs_sung_one_after_another_have_their_exact_times(demo_songs: list[dict[str, Any]]) -> None:
    begin, lines, rows = 0.0, [], []
    for song in demo_songs:
        rows.append([Word(word["word"], begin + word["start"], begin + word["end"]) for word in song["words"]])
        lines.append(" ".join(word.text for word in rows[-1]))
        begin += song["duration"]
    alignment = align_lyrics(written(lines), flat(rows), "en")
    assert alignment.coverage == 1.0
    assert [(line.text, line.start, line.end) for line in alignment.lines] == [
        (line, row[0].start, row[-1].end) for line, row in zip(lines, rows, strict=True)
    ]


def test_a_word_far_from_its_line_does_not_stretch_it() -> None:
    [row] = sung(["never gonna say goodbye"])
    early = [replace(row[0], start=-20.0, end=-19.6), *row[1:]]
    moved = [replace(word, start=word.start + 30, end=word.end + 30) for word in early]
    [line] = align_lyrics(written(["never gonna say goodbye"]), moved, "en").lines
    assert line.start == moved[1].start
    assert line.confidence == 0.75


def test_a_first_word_heard_wrongly_still_gives_the_line_its_start() -> None:
    [row] = sung(["mighty rivers run to the sea"])
    wrong = [replace(row[0], text="zzyx"), *row[1:]]
    [line] = align_lyrics(written(["mighty rivers run to the sea"]), wrong, "en").lines
    assert line.start == row[0].start


def test_pairs_have_the_highest_sum() -> None:
    partners, similarities = align_units(["a", "b", "c"], ["x", "b", "c", "a"], [0, 0, 0])
    assert partners == [0, 1, 2]
    assert similarities == [0.0, 1.0, 1.0]
    assert align_units([], ["a"], []) == ([], [])
    assert align_units(["a"], [], [0]) == ([-1], [0.0])


def test_characters_of_a_language_without_blanks_share_the_time_of_their_word() -> None:
    words = [Word("我爱你", 1.0, 4.0, 0.9), Word("月亮", 6.0, 8.0, 0.9)]
    first, second = align_lyrics(written(["爱你", "月亮"]), words, "zh").lines
    assert (first.start, first.end) == (2.0, 4.0)
    assert (second.start, second.end) == (6.0, 8.0)


def test_tags_name_the_section_of_the_lines_behind_them() -> None:
    lyrics = (
        "intro words\n[Verse 1: All]\nfirst line\n\nsecond line\n[Pre-Chorus] third line [chorus]\nfourth line\n[2]\nx"
    )
    assert [(line.text, line.section) for line in written_lines(lyrics)] == [
        ("intro words", ""),
        ("first line", "verse"),
        ("second line", "verse"),
        ("third line", "pre-chorus"),
        ("fourth line", "chorus"),
        ("x", ""),
    ]


def test_heard_words_become_lines_at_pauses_and_punctuation() -> None:
    texts = "Hello there, my old friend. I came to talk with you again".split()
    words = [Word(text, number * 0.5, number * 0.5 + 0.4, 0.9) for number, text in enumerate(texts)]
    words[8:] = [replace(word, start=word.start + 2, end=word.end + 2) for word in words[8:]]
    assert [line.text for line in lines_of_words(words, "en")] == [
        "Hello there, my old friend.",
        "I came to",
        "talk with you again",
    ]
    long = [Word("la", number * 0.5, number * 0.5 + 0.4, 0.9) for number in range(30)]
    assert [len(line.text.split()) for line in lines_of_words(long, "en")] == [12, 12, 6]
    kana = [Word("あ", number * 0.5, number * 0.5 + 0.4, 0.9) for number in range(3)]
    assert [line.text for line in lines_of_words(kana, "ja")] == ["あああ"]


def record(**values: object) -> SongRecord:
    return replace(SongRecord(id="a", song="a", file="songs", line=1, audio={"mix": "a.wav"}), **values)  # type: ignore[arg-type]


def aligned(song: SongRecord) -> SongRecord:
    [outcome] = AlignStep(AlignOptions()).run([song], WorkFolder(Path()))
    return song.changed(outcome.changes)


def heard_transcript(lines: Sequence[str]) -> dict[str, Transcript]:
    words = tuple(flat(sung(lines)))
    return {"transcribe": Transcript(" ".join(word.text for word in words), "en", 0.9, words)}


def test_given_lyrics_stay_and_are_measured() -> None:
    song = aligned(
        record(lyrics="[verse]\n" + "\n".join([*VERSE, "nobody ever hears this"]), transcripts=heard_transcript(VERSE))
    )
    assert song.lyrics_source == "given"
    assert song.lyrics.startswith("[verse]\nwalking")
    assert [line.section for line in song.lines] == ["verse"] * 3
    assert song.language == "en"
    assert song.measures["unsung_lines"] == 1
    assert 0.75 < song.measures["lyrics_coverage"] < 0.95


def test_a_song_without_lyrics_gets_what_was_heard() -> None:
    song = aligned(record(transcripts=heard_transcript(VERSE)))
    assert song.lyrics_source == "transcribed"
    assert song.lyrics == "\n".join(line.text for line in song.lines)
    assert song.lyrics.split() == " ".join(VERSE).split()
    assert "lyrics_coverage" not in song.measures


def test_an_instrumental_is_said_to_be_one() -> None:
    song = aligned(record(voiced=()))
    assert (song.lyrics, song.lyrics_source, song.lines) == ("", "instrumental", ())


def test_lyrics_of_a_song_in_which_nobody_sings_are_all_unsung() -> None:
    song = aligned(record(voiced=(), lyrics="some words\nmore words"))
    assert song.lyrics_source == "given"
    assert song.measures == {"lyrics_coverage": 0.0, "unsung_lines": 2.0}


def test_without_a_recognizer_lyrics_pass_through() -> None:
    song = aligned(record(lyrics="some words"))
    assert (song.lyrics, song.lyrics_source, song.lines) == ("some words", "given", ())


def test_options_are_checked_all_at_once() -> None:
    with pytest.raises(ValueError, match=r"min_confidence.*max_pause_seconds.*max_line_words"):
        AlignOptions(min_confidence=0, max_pause_seconds=-1, max_line_words=0)
