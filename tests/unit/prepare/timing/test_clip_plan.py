"""Songs are cut at pauses and ends of lines, and every second is accounted for."""

import itertools

import numpy as np
import pytest

from songgen.prepare.timing.clip_plan import UNUSED_REASONS, SegmentOptions, plan_clips
from songgen.prepare.timing.intervals import covered_seconds, merged, within, without

CUT = SegmentOptions(keep_short_songs=False)


def ends(plan):
    return [(round(clip.start, 3), round(clip.end, 3), clip.kind) for clip in plan.clips]


def evenly(count, length, pause, start=0.0):
    """Lines of one length with equal pauses between."""
    return [(start + index * (length + pause), start + index * (length + pause) + length) for index in range(count)]


def test_a_song_is_cut_between_lines_near_the_wanted_length():
    plan = plan_clips(60.0, None, evenly(12, 4.5, 0.5), [], CUT)
    assert [clip.end for clip in plan.clips] == pytest.approx([14.75, 29.75, 44.75, 60])
    assert not plan.unused


def test_long_pauses_are_preferred_to_short_ones():
    lines = [(0, 5), (5.05, 10), (11.5, 16), (16.05, 20), (21.5, 26), (26.05, 30)]
    plan = plan_clips(30.0, None, lines, [], CUT)
    assert ends(plan) == [(0, 10.75, "sung"), (10.75, 20.75, "sung"), (20.75, 30, "sung")]


def test_the_cut_lies_where_the_voice_is_silent():
    """The note of the first line is held beyond its end."""
    plan = plan_clips(26.0, [(0, 13.2), (14.0, 26.0)], [(0, 12.0), (14.0, 26.0)], [], CUT)
    assert ends(plan) == [(0, 13.6, "sung"), (13.6, 26, "sung")]


def test_the_cut_avoids_words_that_stand_in_the_pause():
    plan = plan_clips(26.0, None, [(0, 12.0), (15.0, 26.0)], [(13.0, 14.8)], CUT)
    assert ends(plan) == [(0, 12.5, "sung"), (12.5, 26, "sung")]


def test_lines_that_overlap_stay_together():
    lines = [(0, 8), (7.5, 15), (15.5, 28)]
    assert ends(plan_clips(28.0, None, lines, [], CUT)) == [(0, 15.25, "sung"), (15.25, 28, "sung")]


def test_a_word_across_the_end_of_a_line_keeps_two_lines_together():
    lines = [(0, 14), (14, 28), (28.4, 42)]
    assert len(plan_clips(42.0, None, lines, [], CUT).clips) == 3
    plan = plan_clips(42.0, None, lines, [(13.8, 14.3)], CUT)
    assert ends(plan) == [(0, 28.2, "sung"), (28.2, 42, "sung")]


def test_long_passages_without_voice_become_clips_of_their_own_or_are_left_out():
    lines = [(10, 20), (40, 50)]
    plan = plan_clips(70.0, lines, lines, [], CUT)
    sung = [(9.5, 20.5, "sung"), (39.5, 50.5, "sung")]
    instrumental = [(0, 9.5, "instrumental"), (20.5, 39.5, "instrumental")]
    instrumental += [(50.5, 60.25, "instrumental"), (60.25, 70, "instrumental")]
    assert ends(plan) == sorted(sung + instrumental)
    plan = plan_clips(70.0, lines, lines, [], SegmentOptions(keep_short_songs=False, keep_instrumental=False))
    assert ends(plan) == sung and plan.unused == {"instrumental": pytest.approx(48.0)}


def test_short_passages_without_voice_stay_with_the_voice():
    assert ends(plan_clips(16.0, None, [(3, 13)], [], CUT)) == [(0, 16, "sung")]


def test_an_instrumental_is_cut_near_the_wanted_length():
    plan = plan_clips(70.0, (), [], [], CUT)
    assert [clip.kind for clip in plan.clips] == ["instrumental"] * 6
    assert [clip.end for clip in plan.clips] == pytest.approx([70 * part / 6 for part in range(1, 7)])


@pytest.mark.parametrize("offset", [0.0, 0.13, 0.31])
def test_an_instrumental_is_cut_on_a_beat(offset):
    beats = [offset + 0.5 * number for number in range(140)]
    asked = []

    def find_beats(start, end):
        asked.append((start, end))
        return beats

    plan = plan_clips(70.0, [(0, 0)], [], [], CUT, find_beats)
    assert asked == [(0.0, 70.0)]
    assert all(min(abs(clip.end - beat) for beat in beats) < 1e-9 for clip in plan.clips[:-1])
    assert all(abs(clip.end - clip.start - 70 / 6) < 0.6 for clip in plan.clips)


def test_far_beats_do_not_make_a_clip_too_long():
    options = SegmentOptions(keep_short_songs=False, target_seconds=30)
    plan = plan_clips(90.0, (), [], [], options, lambda start, end: [20.0, 70.0])
    assert max(clip.end - clip.start for clip in plan.clips) <= 30
    assert [clip.end for clip in plan.clips] == pytest.approx([30, 60, 90])


def test_voice_without_a_line_is_in_no_clip():
    plan = plan_clips(40.0, [(0, 12), (13, 25), (26, 40)], [(0, 12), (26, 40)], [], CUT)
    assert ends(plan) == [(0, 12.5, "sung"), (25.5, 40, "sung")]
    assert plan.unused == {"voice_without_lyrics": pytest.approx(13.0)}


def test_a_line_that_is_too_long_is_in_no_clip():
    plan = plan_clips(60.0, None, [(0, 10), (11, 45), (46, 60)], [], CUT)
    assert ends(plan) == [(0, 10.5, "sung"), (45.5, 60, "sung")]
    assert plan.unused == {"line_too_long": pytest.approx(35.0)}


def test_a_line_that_fits_only_without_its_pauses_loses_a_part_of_them():
    plan = plan_clips(36.0, None, [(3, 32.5)], [], CUT)
    assert ends(plan) == [(2.75, 32.75, "sung")]
    assert plan.unused == {"pause": pytest.approx(6.0)}


def test_voice_without_known_words_is_cut_hard_when_it_never_pauses():
    plan = plan_clips(80.0, [(0, 80)], [], [], CUT)
    assert [clip.hard_cuts for clip in plan.clips] == [1, 2, 1]
    assert not plan.unused


def test_voice_with_known_words_is_cut_between_them():
    words = evenly(160, 0.45, 0.05)
    words[40] = (20.0, 20.3)
    plan = plan_clips(80.0, [(0, 80)], [], words, CUT)
    assert len(plan.clips) >= 3
    assert all(clip.hard_cuts == 0 and clip.end - clip.start <= 30 for clip in plan.clips)
    assert all(round(clip.end % 0.5, 3) in (0.475, 0.4, 0.0) for clip in plan.clips)


def test_a_recording_of_which_nothing_is_known_is_cut_evenly():
    plan = plan_clips(45.0, None, [], [], CUT)
    assert [(clip.start, clip.end, clip.hard_cuts) for clip in plan.clips] == [(0, 22.5, 1), (22.5, 45, 1)]


def test_a_short_song_stays_whole():
    options = SegmentOptions()
    assert ends(plan_clips(29.0, [(10, 12)], [(10, 12)], [], options)) == [(0, 29, "sung")]
    assert ends(plan_clips(29.0, (), [], [], options)) == [(0, 29, "instrumental")]
    assert plan_clips(1.0, None, [], [], options).unused == {"too_short": 1.0}


def random_song(generator):
    """A song with anything wrong with it: lines in disorder, overlapping, outside, across words."""
    duration = float(generator.uniform(1, 200))

    def spans(most, longest):
        starts = generator.uniform(-5, duration + 5, size=generator.integers(0, most))
        return [(float(start), float(start + generator.exponential(longest))) for start in starts]

    lines = spans(25, 5) if generator.random() < 0.7 else []
    words = spans(80, 0.4) if generator.random() < 0.6 else []
    voiced = merged(within(spans(20, 8), duration)) if generator.random() < 0.7 else None
    least = float(generator.uniform(0.5, 4))
    options = SegmentOptions(
        min_seconds=least,
        target_seconds=least * 3,
        max_seconds=least * float(generator.uniform(3, 8)),
        max_pause_seconds=float(generator.uniform(1, 6)),
        keep_instrumental=bool(generator.random() < 0.5),
        keep_short_songs=bool(generator.random() < 0.5),
    )
    return duration, voiced, lines, words, options


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_song_the_plan_keeps_its_promises(seed):
    generator = np.random.default_rng(seed)
    seen = set()
    for _ in range(400):
        duration, voiced, lines, words, options = random_song(generator)
        plan = plan_clips(duration, voiced, lines, words, options)
        inside = merged(within(lines, duration))
        for clip in plan.clips:
            assert 0 <= clip.start < clip.end <= duration
            length = clip.end - clip.start
            assert options.min_seconds - 1e-5 <= length <= options.max_seconds + 1e-5
            cut = [
                time
                for time in (clip.start, clip.end)
                if any(start + 1e-5 < time < end - 1e-5 for start, end in merged(within(words, duration)))
            ]
            assert len(cut) <= clip.hard_cuts <= 2
            assert not any(start + 1e-5 < time < end - 1e-5 for time in (clip.start, clip.end) for start, end in inside)
        assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(plan.clips))
        used = sum(clip.end - clip.start for clip in plan.clips)
        assert used + sum(plan.unused.values()) == pytest.approx(duration, abs=1e-4)
        assert all(seconds > 0 for seconds in plan.unused.values())
        seen |= set(plan.unused)
    assert seen == set(UNUSED_REASONS), "the songs drawn reach every reason"


def test_wrong_options_are_named_all_at_once():
    with pytest.raises(ValueError, match=r"target_seconds.*padding_seconds.*sample_rate"):
        SegmentOptions(min_seconds=9, target_seconds=3, padding_seconds=9, sample_rate=-1)


def test_intervals_are_joined_subtracted_and_measured():
    assert merged([(3, 5), (0, 1), (4, 7), (1, 2)]) == [(0, 1), (1, 2), (3, 7)]
    assert without([(0, 10)], [(8, 12), (2, 3), (2.5, 4), (-1, 0)]) == [(0, 2), (4, 8)]
    assert without([(0, 1), (2, 3)], [(0, 5)]) == []
    assert within([(-1, 2), (3, 9), (7, 8), (4, 4)], 5) == [(0, 2), (3, 5)]
    assert covered_seconds([(0, 2), (1, 4), (8, 9)], (1, 8.5)) == 3.5
