"""Clips hold the same passage of every track, and of the lyrics what is sung in it."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import PartialState
from prepare_songs import write_song

from songgen.prepare.config import config_of_values
from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.record import FIRST, LyricLine, SongRecord, Transcript, Word
from songgen.prepare.engine.runner import Runner
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.engine.store import apply_outcome
from songgen.prepare.inputs import read_songs, unique_id
from songgen.prepare.steps.segmentation import SECTION, SegmentStep, cut_record, split_long_lines, write_lyrics
from songgen.prepare.steps.take_in import TakeInOptions, TakeInStep
from songgen.prepare.steps.voice_activity import SAMPLE_RATE, VoiceOptions, load_voice_detector, voiced_intervals
from songgen.prepare.timing.clip_plan import PlannedClip, SegmentOptions, plan_clips

RATE = 8000
SHORT = SegmentOptions(min_seconds=1, target_seconds=4, max_seconds=8, max_pause_seconds=2, keep_short_songs=False)

WITHOUT_INSTRUMENTALS = dataclasses.replace(SHORT, keep_instrumental=False)


def words(*spans, confidence=None):
    return tuple(Word(f"w{index}", start, end, confidence) for index, (start, end) in enumerate(spans))


@pytest.fixture
def folder(tmp_path):
    return WorkFolder(tmp_path / "work")


@pytest.fixture
def song(tmp_path):
    """Twenty seconds: four lines with pauses, then six seconds in which nobody sings."""
    generator = np.random.default_rng(5)
    vocal, accompaniment = np.rint(generator.uniform(-8000, 8000, size=(2, 20 * RATE + 3))) / 32768
    for name, samples in (("mix", vocal + accompaniment), ("vocal", vocal), ("acc", accompaniment)):
        write_audio(tmp_path / f"{name}.wav", samples, RATE)
    lines = (
        LyricLine("one two", 0.5, 3.0, "verse", 1.0),
        LyricLine("three", 3.4, 6.5, "verse"),
        LyricLine("four", 7.0, 10.0, "chorus"),
        LyricLine("five", 10.2, 13.5, "chorus"),
    )
    heard = words((0.5, 1.5), (1.6, 3.0), (3.4, 6.5), (7.0, 10.0), (10.2, 13.5), confidence=0.5)
    return SongRecord(
        "rock/one", "rock/one", "songs", 1,
        audio={track: str(tmp_path / f"{track}.wav") for track in ("mix", "vocal", "acc")},
        duration=20.0, language="en", lyrics="[verse]\none two\nthree\n[chorus]\nfour\nfive", lyrics_source="given",
        lines=lines, voiced=((0.5, 6.5), (7.0, 13.5)), transcripts={FIRST: Transcript("all", "en", 0.5, heard)},
        caption="rock", energies={"mix": 1.0}, measures={"voiced_share": 0.6, "language_probability": 0.9},
    )  # fmt: skip


def cut(song, folder, options=SHORT):
    (outcome,) = SegmentStep(options).run([song], folder)
    return outcome


def test_clips_have_ids_lyrics_and_times_of_their_own(song, folder):
    clips = cut(song, folder).clips
    assert [clip.id for clip in clips] == ["rock/one~000", "rock/one~001", "rock/one~002"]
    assert [(clip.start, clip.start + clip.duration) for clip in clips[:2]] == [(0, 6.75), (6.75, 14.0)]
    assert [clip.lyrics for clip in clips] == ["[verse]\none two\nthree", "[chorus]\nfour\nfive", ""]
    times = [(line.text, line.start, line.end) for line in clips[1].lines]
    assert times == [("four", 0.25, 3.25), ("five", 3.45, 6.75)]
    assert clips[1].voiced == ((0.25, 6.75),)
    assert clips[1].measures["voiced_share"] == pytest.approx(6.5 / 7.25, abs=1e-4)
    heard = clips[1].transcripts[FIRST]
    assert (heard.text, heard.confidence) == ("w3 w4", 0.5)
    assert [(word.start, word.end) for word in heard.words] == [(0.25, 3.25), (3.45, 6.75)]
    assert {clip.song for clip in clips} == {"rock/one"} and {clip.caption for clip in clips} == {"rock"}


def test_a_passage_without_voice_is_known_to_be_instrumental(song, folder):
    *sung, last = cut(song, folder).clips
    assert last.lyrics_source == "instrumental" and last.voiced == () and last.transcripts[FIRST].text == ""
    assert {clip.lyrics_source for clip in sung} == {"given"}


def test_no_song_can_have_the_id_of_a_clip(song: SongRecord, folder: WorkFolder) -> None:
    clips = cut(dataclasses.replace(song, id="beat", song="beat"), folder).clips
    assert [unique_id(clip.id, "songs", {}) for clip in clips] == ["beat_000", "beat_001", "beat_002"]
    assert [clip.id for clip in clips] == ["beat~000", "beat~001", "beat~002"]


def test_every_track_is_cut_at_the_same_samples_and_nothing_is_changed(song, folder, tmp_path):
    clips = cut(song, folder).clips
    for track in ("mix", "vocal", "acc"):
        parts = [read_audio(folder.track(clip, track))[0] for clip in clips]
        np.testing.assert_array_equal(np.concatenate(parts), read_audio(tmp_path / f"{track}.wav")[0])
    assert len(clips) == 3
    for clip in clips:
        mix, vocal, acc = (read_audio(folder.track(clip, track))[0] for track in ("mix", "vocal", "acc"))
        np.testing.assert_array_equal(mix, vocal + acc)
        assert clip.duration == len(mix) / RATE


def test_figures_of_the_whole_song_do_not_pass_to_its_clips(song, folder):
    clips = cut(song, folder).clips
    assert len(clips) == 3
    for clip in clips:
        assert clip.energies == {} and clip.measures["language_probability"] == 0.9


def test_what_is_in_no_clip_is_counted_once(song, folder):
    first, *others = cut(song, folder, WITHOUT_INSTRUMENTALS).clips
    assert first.measures["unused_instrumental_seconds"] == pytest.approx(6.0, abs=0.01)
    assert not any(name.startswith("unused_") for clip in others for name in clip.measures)


def test_clips_can_have_another_rate(song, folder):
    clip = cut(song, folder, dataclasses.replace(SHORT, sample_rate=16_000)).clips[0]
    samples, rate = read_audio(folder.track(clip, "vocal"))
    assert rate == 16_000 and len(samples) == round(6.75 * 16_000)


def test_a_song_that_fits_stays_whole_with_all_that_is_known(song, folder):
    song = dataclasses.replace(song, lines=(), transcripts={FIRST: Transcript("no times", "en", 0.5)})
    (clip,) = cut(song, folder, SegmentOptions()).clips
    assert clip.lyrics == song.lyrics and clip.transcripts == song.transcripts and clip.id == "rock/one~000"


def test_a_transcript_without_times_goes_to_no_clip(song, folder):
    song = dataclasses.replace(song, transcripts={FIRST: Transcript("no times", "en", 0.5)})
    assert [clip.transcripts for clip in cut(song, folder).clips] == [{}, {}, {}]


def test_a_song_of_which_nothing_is_known_still_gives_clips(song, folder):
    song = SongRecord("one", "one", "songs", 1, audio={"mix": song.audio["mix"]})
    clips = cut(song, folder).clips
    assert len(clips) == 3 and {clip.lyrics_source for clip in clips} == {""}
    assert [clip.measures["hard_cuts"] for clip in clips] == [1, 2, 1]


@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({"lines": ()}, SHORT, "lyrics_without_times"),
        ({"lines": (), "lyrics": "", "voiced": ()}, WITHOUT_INSTRUMENTALS, "no_clip_instrumental"),
        ({"lines": (LyricLine("a", 0, 20),), "transcripts": {}}, SHORT, "no_clip_line_too_long"),
        ({"lines": (LyricLine("a", 0, 0.5),), "voiced": ((0, 20),)}, SHORT, "no_clip_voice_without_lyrics"),
        ({}, SegmentOptions(min_seconds=21, target_seconds=22), "too_short"),
    ],
)  # fmt: skip
def test_a_song_without_a_clip_is_refused_with_the_reason(song, folder, changes, options, code):
    refusal = cut(dataclasses.replace(song, **changes), folder, options).refusal
    assert refusal is not None and refusal.code == code
    assert code in SECTION.refusal_codes


def test_tracks_of_other_lengths_are_refused(song, folder, tmp_path):
    write_audio(tmp_path / "vocal.wav", np.zeros(19 * RATE), RATE)
    assert cut(song, folder).refusal.code == "track_lengths_differ"


def test_a_damaged_track_is_refused_with_its_code(song, folder, tmp_path):
    (tmp_path / "acc.wav").write_bytes(b"RIFF")
    assert cut(song, folder).refusal.code == "unreadable_audio"


def test_clips_are_not_cut_again(song, folder):
    step = SegmentStep(SHORT)
    assert step.is_needed(song) and [step.is_needed(clip) for clip in cut(song, folder).clips] == [False] * 3


def test_what_clips_inherit_decides_about_the_result_but_not_where_the_song_comes_from(song):
    step = SegmentStep(SHORT)
    other = dataclasses.replace(song, caption="pop")
    elsewhere = dataclasses.replace(song, file="others", line=7, singer="Ann", provenance={"take_in": {"version": 2}})
    assert step.inputs(song) == step.inputs(elsewhere)
    moved = dataclasses.replace(song, audio={track: f"elsewhere/{track}" for track in song.audio})
    assert step.inputs(song) != step.inputs(other) and step.inputs(song) == step.inputs(moved)


def test_clips_have_the_present_singer_of_their_song(song, folder):
    outcome = cut(song, folder)
    named = apply_outcome(SegmentStep(SHORT), dataclasses.replace(song, singer="Ann"), outcome)
    assert [clip.singer for clip in named] == ["Ann"] * 3


def test_a_new_song_and_another_name_of_the_folder_leave_other_songs_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def cut_songs(name: str) -> list[SongRecord]:
        config = config_of_values({"inputs": [name], "output_dir": str(tmp_path / "out")})
        records = read_songs(config).records
        with Runner(WorkFolder(tmp_path / "work"), PartialState(cpu=True)) as runner:
            for step in (TakeInStep(TakeInOptions()), SegmentStep(SegmentOptions())):
                records = runner.run(step, records)
        return records

    write_song(tmp_path / "songs", "b.wav", seed=1)
    write_song(tmp_path / "songs", "c.wav", seed=2)
    before = cut_songs("./songs")
    write_song(tmp_path / "songs", "a.wav", seed=3)
    _, *after = cut_songs(str(tmp_path / "songs"))
    for step in ("take_in", "segment"):
        lines = (tmp_path / "work" / "results" / f"{step}.0.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == ["b", "c", "a"]
    # The clips say where their song stands now.
    assert [(clip.file, clip.line) for clip in before] == [("songs", 1), ("songs", 2)]
    assert [(clip.file, clip.line) for clip in after] == [(str(tmp_path / "songs"), 2), (str(tmp_path / "songs"), 3)]
    assert {clip.provenance["input"]["name"] for clip in after} == {str(tmp_path / "songs")}
    assert [clip.audio for clip in after] == [clip.audio for clip in before]


def test_a_long_line_is_divided_at_its_longest_pauses():
    line = LyricLine("a b c d e", 0, 20, "verse")
    heard = words((0, 3), (3.1, 6), (7, 9), (9.1, 15), (15.2, 20))
    parts = split_long_lines([line], heard, 10)
    assert [(part.text, part.start, part.end) for part in parts] == [("a b", 0, 6), ("c d", 7, 15), ("e", 15.2, 20)]
    assert {part.section for part in parts} == {"verse"}


def test_a_long_line_whose_words_are_not_known_is_not_divided():
    line = LyricLine("a b c", 0, 20)
    assert split_long_lines([line], words((0, 3), (4, 6)), 10) == (line,)
    assert split_long_lines([line], (), 10) == (line,)


def test_a_language_without_spaces_is_divided_by_characters():
    heard = words((0, 3), (4, 6), (11, 12))
    parts = split_long_lines([LyricLine("你好吗", 0, 12)], heard, 10, "zh")
    assert [part.text for part in parts] == ["你好", "吗"]


def test_a_section_tag_stands_where_its_section_begins():
    lines = [LyricLine("a", 0, 1), LyricLine("b", 1, 2, "verse"), LyricLine("c", 2, 3, "verse"), LyricLine("d", 3, 4)]
    assert write_lyrics(lines) == "a\n[verse]\nb\nc\nd"
    assert write_lyrics(lines[2:3]) == "[verse]\nc"


def test_a_clip_that_was_cut_again_does_not_inherit_figures_of_the_cut(song):
    song = dataclasses.replace(song, measures={"hard_cuts": 1, "unused_pause_seconds": 2.0})
    assert "hard_cuts" not in cut_record(song, "x", PlannedClip(0, 5, "sung"), song.lines).measures
    assert cut_record(song, "x", PlannedClip(0, 5, "sung", 2), song.lines).measures["hard_cuts"] == 2


@pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason="silero-vad (prepare extra) is missing")
def test_cuts_found_by_the_voice_alone_lie_between_words(demo_songs):
    """All demo songs in a row, heard and cut without knowing what is sung, held against the exact words."""
    tracks = [read_audio(song["vocal"])[0] for song in demo_songs]
    begins = np.cumsum([0, *(len(track) for track in tracks)]) / SAMPLE_RATE
    sung = [
        (begin + word["start"], begin + word["end"])
        for song, begin in zip(demo_songs, begins[:-1], strict=True)
        for word in song["words"]
    ]
    probabilities = load_voice_detector().probabilities(np.concatenate(tracks))
    voiced = voiced_intervals(probabilities, begins[-1], VoiceOptions())
    plan = plan_clips(begins[-1], voiced, [], [], SegmentOptions())
    assert len(plan.clips) >= 2 and not plan.unused
    assert not any(start < clip.end < end for clip in plan.clips for start, end in sung)
