"""The voice is found where words are sung, and nowhere else."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.steps import voice_activity
from songgen.prepare.steps.voice_activity import (
    BLOCK_FRAMES,
    FRAME_SECONDS,
    SAMPLE_RATE,
    VoiceDetector,
    VoiceOptions,
    VoiceStep,
    load_voice_detector,
    voiced_intervals,
)

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None, reason="silero-vad (prepare extra) is not installed"
)
PLAIN = VoiceOptions(threshold=0.5, hysteresis=0.15, min_voiced_seconds=0.0, min_pause_seconds=0.0, padding_seconds=0.0)


def frames(*values: float) -> np.ndarray:
    return np.array(values)


def test_a_passage_begins_at_the_threshold_and_ends_well_below_it():
    found = voiced_intervals(frames(0.1, 0.4, 0.5, 0.4, 0.36, 0.34, 0.45, 0.1), 8 * FRAME_SECONDS, PLAIN)
    assert found == ((0.064, 0.16),)


def test_a_passage_ends_with_the_recording_at_the_latest():
    assert voiced_intervals(frames(0.9, 0.9), 0.05, PLAIN) == ((0.0, 0.05),)
    padded = VoiceOptions(padding_seconds=1.0, min_voiced_seconds=0.0)
    assert voiced_intervals(frames(0.0, 0.9, 0.0), 0.09, padded) == ((0.0, 0.09),)


def test_short_pauses_are_bridged_before_short_passages_are_dropped():
    options = VoiceOptions(min_voiced_seconds=0.09, min_pause_seconds=0.04, padding_seconds=0.0)
    values = frames(0.9, 0.0, 0.9, 0.0, 0.0, 0.9, 0.9, 0.0, 0.0)
    assert voiced_intervals(values, 9 * FRAME_SECONDS, options) == ((0.0, 0.096),)


def test_passages_that_touch_once_padded_become_one():
    options = VoiceOptions(min_voiced_seconds=0.0, min_pause_seconds=0.0, padding_seconds=0.032)
    values = frames(0.0, 0.9, 0.0, 0.0, 0.9, 0.0)
    assert voiced_intervals(values, 6 * FRAME_SECONDS, options) == ((0.0, 0.192),)


def test_silence_has_no_passage():
    assert voiced_intervals(frames(), 0.0, PLAIN) == ()
    assert voiced_intervals(frames(0.3, 0.4), 2 * FRAME_SECONDS, PLAIN) == ()


def test_intervals_are_in_order_apart_and_inside_whatever_the_probabilities():
    generator = np.random.default_rng(11)
    for _ in range(300):
        values = generator.uniform(size=generator.integers(0, 60)) ** generator.uniform(0.2, 3)
        duration = max(0.0, len(values) * FRAME_SECONDS - generator.uniform(0, FRAME_SECONDS))
        options = VoiceOptions(
            threshold=0.5,
            min_voiced_seconds=generator.uniform(0, 0.2),
            min_pause_seconds=generator.uniform(0, 0.2),
            padding_seconds=generator.uniform(0, 0.1),
        )
        edges = [edge for interval in voiced_intervals(values, duration, options) for edge in interval]
        assert all(a < b for a, b in zip(edges, edges[1:], strict=False))
        assert not edges or (edges[0] >= 0 and edges[-1] <= duration + 5e-4)


@needs_weights
def test_the_network_is_the_published_one(demo_songs):
    """With the weights of the package's own program, which are others, it gives what that program gives."""
    folder = Path(importlib.util.find_spec("silero_vad").submodule_search_locations[0]) / "data"
    program = torch.jit.load(str(folder / "silero_vad.jit"))
    theirs = program.state_dict()
    names = {"stft_conv.weight": "_model.stft.forward_basis_buffer"}
    for kind in ("weight", "bias"):
        names[f"final_conv.{kind}"] = f"_model.decoder.decoder.2.{kind}"
        names |= {f"conv{i + 1}.{kind}": f"_model.encoder.{i}.reparam_conv.{kind}" for i in range(4)}
    names |= {
        f"lstm.{part}_l0": f"_model.decoder.rnn.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    detector = VoiceDetector().eval()
    detector.load_state_dict({ours: theirs[name] for ours, name in names.items()})
    samples = read_audio(demo_songs[0]["vocal"])[0]
    padded = torch.from_numpy(np.pad(samples, (0, -len(samples) % 512)))
    with torch.no_grad():
        expected = [program(frame, SAMPLE_RATE).item() for frame in padded.split(512)]
    np.testing.assert_allclose(detector.probabilities(samples), expected, atol=1e-4)


@needs_weights
def test_blocks_of_a_long_song_give_what_the_whole_gives(demo_songs, monkeypatch):
    samples = read_audio(demo_songs[0]["vocal"])[0]
    detector = load_voice_detector()
    whole = detector.probabilities(samples)
    assert len(whole) < BLOCK_FRAMES
    monkeypatch.setattr(voice_activity, "BLOCK_FRAMES", 17)
    np.testing.assert_allclose(detector.probabilities(samples), whole, atol=1e-5)


@needs_weights
@pytest.mark.parametrize(("track", "precision", "recall"), [("vocal", 0.9, 0.95), ("audio", 0.88, 0.92)])
def test_sung_words_are_found(demo_songs, track, precision, recall):
    """Per hundredth of a second against the exact words; what is sung between words 30 ms apart counts as wrong."""
    detector, options = load_voice_detector(), VoiceOptions()
    both = found_alone = missed = 0
    for song in demo_songs:
        samples = read_audio(song[track], sample_rate=SAMPLE_RATE)[0]
        duration = len(samples) / SAMPLE_RATE
        sung, found = np.zeros((2, round(duration * 100) + 1), dtype=bool)
        for word in song["words"]:
            sung[round(word["start"] * 100) : round(word["end"] * 100)] = True
        for start, end in voiced_intervals(detector.probabilities(samples), duration, options):
            found[round(start * 100) : round(end * 100)] = True
        both += (sung & found).sum()
        found_alone += (found & ~sung).sum()
        missed += (sung & ~found).sum()
    assert both / (both + found_alone) > precision
    assert both / (both + missed) > recall


@needs_weights
def test_an_accompaniment_has_little_voice(demo_songs):
    detector = load_voice_detector()
    voiced = seconds = 0.0
    for song in demo_songs:
        samples = read_audio(song["acc"], sample_rate=SAMPLE_RATE)[0]
        duration = len(samples) / SAMPLE_RATE
        found = voiced_intervals(detector.probabilities(samples), duration, VoiceOptions())
        voiced += sum(end - start for start, end in found)
        seconds += duration
    assert voiced / seconds < 0.1


@needs_weights
def test_the_step_listens_to_the_vocal_track_where_there_is_one(tmp_path, demo_songs):
    song = demo_songs[0]
    mix = SongRecord("a", "a", "songs", 1, audio={"mix": str(song["acc"])})
    both = mix.changed({"audio": {"vocal": str(song["vocal"])}})
    write_audio(tmp_path / "silence.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    silent = SongRecord("c", "c", "songs", 3, audio={"mix": "silence.wav"})
    broken = SongRecord("d", "d", "songs", 4, audio={"mix": "missing.wav"})
    step = VoiceStep(VoiceOptions(device="cpu"))
    step.start()
    outcomes = step.run([mix, both, silent, broken], WorkFolder(tmp_path))
    shares = [outcome.changes.get("measures", {}).get("voiced_share") for outcome in outcomes]
    assert shares[0] < 0.5 < shares[1] and shares[2] == 0 and shares[3] is None
    assert outcomes[3].refusal.code == "file_missing"
    done = both.changed(outcomes[1].changes)
    assert done.voiced and not step.is_needed(done) and step.is_needed(both)
    assert done.voiced[0][0] == pytest.approx(song["words"][0]["start"], abs=0.15)
    assert done.voiced[-1][1] == pytest.approx(song["words"][-1]["end"], abs=0.25)
    assert step.files(both) == [str(song["vocal"])] and step.files(mix) == [str(song["acc"])]


def test_missing_weights_are_said_with_the_way_out(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'-e "\.\[prepare\]"'):
        VoiceStep(VoiceOptions(device="cpu")).start()


def test_wrong_options_are_named_all_at_once():
    with pytest.raises(ValueError, match=r"threshold.*padding_seconds"):
        VoiceOptions(threshold=1.5, padding_seconds=-1)
