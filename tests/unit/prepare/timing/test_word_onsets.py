"""Words begin where they sound, and a word after a pause is in the clip after the pause."""

import numpy as np
import pytest

from songgen.prepare.engine.record import Word
from songgen.prepare.listening.tempo_key import ANALYSIS_RATE, onset_strength
from songgen.prepare.steps.transcription import within_voice
from songgen.prepare.timing.clip_plan import SegmentOptions, plan_clips
from songgen.prepare.timing.intervals import Interval
from songgen.prepare.timing.lyrics_alignment import lines_of_words
from songgen.prepare.timing.text_distance import begins_phrase
from songgen.prepare.timing.word_onsets import place_words

FIRST = "Cold winds are blowing over the northern sky".split()
SECOND = "The raider was playing his song for the king".split()


def sung(starts: list[float], seconds: float, length: float = 0.28) -> np.ndarray:
    """A voice that sings one note a word, with a little noise."""
    draw = np.random.default_rng(1)
    samples = draw.normal(0, 0.002, size=round(seconds * ANALYSIS_RATE))
    times = np.arange(round(length * ANALYSIS_RATE)) / ANALYSIS_RATE
    for number, start in enumerate(starts):
        pitch = 180 * 2 ** (number % 5 / 12)
        note = sum(np.sin(2 * np.pi * pitch * partial * times) / partial for partial in range(1, 12))
        first = round(start * ANALYSIS_RATE)
        samples[first : first + len(note)] += (
            0.1 * note * np.minimum(1, times / 0.02) * np.minimum(1, (length - times) / 0.1)
        )
    return samples.astype(np.float32)


def by_attention(texts: list[str], starts: list[float], early: float) -> list[Word]:
    """Words as attention places them: too early, each until the next one begins."""
    begun = [max(0.0, start - early) for start in starts]
    return [Word(text, *span, 0.9) for text, *span in zip(texts, begun, [*begun[1:], starts[-1] + 0.3], strict=True)]


def two_lines(pause: float) -> tuple[list[float], list[Interval], float]:
    """Starts of the words of two lines, the passages with voice, and the length."""
    lengths = np.random.default_rng(2).uniform(0.3, 0.5, size=len(FIRST) + len(SECOND))
    first = (0.5 + np.cumsum(lengths[: len(FIRST)])).tolist()
    again = first[-1] + 0.28 + pause
    second = (again + np.cumsum(lengths[len(FIRST) :]) - lengths[len(FIRST)]).tolist()
    voiced = [(first[0], first[-1] + 0.28), (again, second[-1] + 0.28)]
    return [*first, *second], voiced, second[-1] + 1.0


@pytest.mark.parametrize("early", [0.0, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("is_voice_known", [True, False])
def test_words_begin_where_they_sound(early: float, is_voice_known: bool) -> None:
    starts, voiced, seconds = two_lines(pause=0.6)
    words = by_attention([*FIRST, *SECOND], starts, early)
    placed = place_words(words, onset_strength(sung(starts, seconds)), voiced if is_voice_known else None, "en")
    errors = [word.start - start for word, start in zip(placed, starts, strict=True)]
    assert abs(np.median(errors)) < 0.03
    assert np.quantile(np.abs(errors), 0.9) < 0.06


@pytest.mark.parametrize("pause", [0.3, 0.6, 1.5, 3.0])
@pytest.mark.parametrize("dot", ["", "."])
def test_a_word_after_a_pause_is_in_the_clip_after_it(pause: float, dot: str) -> None:
    starts, voiced, seconds = two_lines(pause)
    words = by_attention([*FIRST[:-1], FIRST[-1] + dot, *SECOND], starts, early=0.18)
    # As it happened: attention has "The" begin while the word before the pause is still sung.
    at = len(FIRST)
    words[at - 1] = Word(words[at - 1].text, words[at - 1].start, starts[at - 1] + 0.2, 0.9)
    words[at] = Word("The", starts[at - 1] + 0.2, words[at + 1].start, 0.9)
    placed = within_voice(place_words(words, onset_strength(sung(starts, seconds)), voiced, "en"), voiced)
    lines = lines_of_words(placed, "en")
    assert [line.text.split()[0] for line in lines] == ["Cold", "The"]
    options = SegmentOptions(min_seconds=1.0, target_seconds=3.0, max_seconds=6.0, keep_short_songs=False)
    spans = [(word.start, word.end) for word in placed]
    plan = plan_clips(seconds, voiced, [(line.start, line.end) for line in lines], spans, options)
    assert len(plan.clips) == 2
    assert starts[at - 1] + 0.28 <= plan.clips[1].start + 0.05 <= starts[at] + 0.1


def test_a_name_before_a_pause_stays_before_it() -> None:
    starts, voiced, seconds = two_lines(pause=0.6)
    texts = [*FIRST[:-1], "Paris", "we", *SECOND[1:]]
    placed = place_words(by_attention(texts, starts, 0.18), onset_strength(sung(starts, seconds)), voiced, "en")
    assert placed[len(FIRST) - 1].start == pytest.approx(starts[len(FIRST) - 1], abs=0.05)
    assert placed[len(FIRST)].start == pytest.approx(starts[len(FIRST)], abs=0.05)


def test_words_stay_in_order_and_inside_of_the_recording() -> None:
    words = [Word("a", 1.9, 1.95), Word("b", 1.95, 1.97), Word("c", 1.97, 2.0), Word("d", 2.0, 2.0)]
    placed = place_words(words, onset_strength(sung([0.5], 2.0)), [(0.4, 0.9)], "en")
    times = [time for word in placed for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= 2.1
    assert place_words([], np.zeros(10), None, "en") == []
    assert place_words(words, np.zeros(0), None, "en") == words
    assert len(place_words(words, np.zeros(300), (), "en")) == 4


@pytest.mark.parametrize(
    ("before", "word", "language", "expected"),
    [
        ("", "and", "en", True),
        ("sky", "The", "en", True),
        ("sky", "I'm", "en", False),
        ("sky", "I", "en", False),
        ("sky,", "the", "en", True),
        ("der", "Himmel", "de", False),
        ("sky", "and", "en", False),
    ],
)
def test_capital_letters_and_punctuation_begin_a_phrase(before: str, word: str, language: str, expected: bool) -> None:
    assert begins_phrase(before, word, language) is expected
