"""The figures of a clip are those that its samples have."""

import dataclasses

import numpy as np
import pytest

from songgen.prepare.engine.audio_files import write_audio
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.listening.tempo_key import ANALYSIS_RATE
from songgen.prepare.steps.measures import MeasureOptions, MeasureStep, clipped_share, loudness, silent_share

RATE = 48_000

pytest.importorskip("pyloudnorm", reason="pyloudnorm (prepare extra) is not installed")


def tone(seconds: float, amplitude: float, frequency: float = 997.0, rate: int = RATE) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("level_db", [0, -23, -50])
def test_a_tone_of_the_standard_has_the_loudness_that_the_standard_says(level_db, rate):
    """ITU-R BS.1770-4, annex 1: 997 Hz at full scale in one channel reads -3.01 LUFS."""
    assert loudness(tone(5, 10 ** (level_db / 20), rate=rate), rate) == pytest.approx(-3.01 + level_db, abs=0.1)


def test_two_channels_are_louder_than_one():
    both = np.stack([tone(5, 0.1)] * 2, axis=1)
    assert loudness(both, RATE) - loudness(both[:, 0], RATE) == pytest.approx(3.01, abs=0.01)


def test_silence_does_not_lower_the_loudness():
    with_pause = np.concatenate([tone(5, 0.1), np.zeros(5 * RATE)])
    assert loudness(with_pause, RATE) == pytest.approx(loudness(tone(5, 0.1), RATE), abs=0.3)


def test_silence_has_the_lowest_loudness_and_a_moment_has_none():
    assert loudness(np.zeros(RATE), RATE) == -70.0
    assert loudness(np.zeros(RATE // 4), RATE) is None


def test_silence_is_measured_by_frames():
    samples = np.concatenate([tone(1.0, 0.1), np.zeros(RATE * 3)])
    assert silent_share(samples, RATE, -60) == pytest.approx(0.75)
    assert silent_share(np.full(10, 0.0009), RATE, -60) == 1.0
    assert silent_share(np.full(RATE + 1, 0.0011), RATE, -60) == 0.0


def test_clipping_is_measured_by_samples():
    assert clipped_share(np.array([0.0, 1.0, -1.0, 0.9998])) == 0.5


@pytest.fixture
def record(tmp_path):
    """A clip with three tracks of known figures; the mix has onsets at 120 beats a minute."""
    times = np.arange(8 * ANALYSIS_RATE) / ANALYSIS_RATE
    beats = 0.3 * np.sin(2 * np.pi * 440 * times) * np.exp(-8 * (times % 0.5))
    vocal = np.where(times < 2, 0.1 * np.sin(2 * np.pi * 300 * times), 0)
    for name, samples in (("mix", beats + vocal), ("vocal", vocal), ("acc", beats)):
        write_audio(tmp_path / f"{name}.wav", samples, ANALYSIS_RATE)
    return SongRecord("a", "a", "songs", 1, audio={track: f"{track}.wav" for track in ("mix", "vocal", "acc")})


def measure(record, tmp_path, **options):
    step = MeasureStep(MeasureOptions(**options))
    step.start()
    (outcome,) = step.run([record], WorkFolder(tmp_path))
    return outcome


def test_the_step_fills_in_everything(record, tmp_path):
    done = record.changed(measure(record, tmp_path).changes)
    assert done.duration == 8.0
    assert done.tempo == pytest.approx(120, rel=0.01)
    assert done.energies["vocal"] == pytest.approx(0.1 * 32768 / 2**0.5 / 2, rel=0.001)
    assert set(done.energies) == {"mix", "vocal", "acc"}
    assert done.measures["vocal_silent_share"] == pytest.approx(0.75, abs=0.01)
    assert done.measures["silent_share"] == done.measures["clipped_share"] == 0
    assert 0.3 < done.measures["peak"] < 0.4 and -30 < done.measures["loudness"] < -10
    assert set(done.measures) == {
        "peak", "loudness", "tempo_confidence", "key_confidence", "clipped_share", "silent_share",
        "vocal_clipped_share", "vocal_silent_share", "acc_clipped_share", "acc_silent_share",
    }  # fmt: skip


def test_what_is_given_is_not_estimated(record, tmp_path):
    given = dataclasses.replace(record, tempo=90.0, key="C major")
    changes = measure(given, tmp_path).changes
    assert "tempo" not in changes and "key" not in changes
    assert "tempo_confidence" not in changes["measures"]


def test_what_is_not_asked_for_is_not_estimated(record, tmp_path):
    changes = measure(record, tmp_path, tempo=False, key=False).changes
    assert "tempo" not in changes and "key" not in changes


def test_what_is_not_clear_is_not_stated(record, tmp_path):
    changes = measure(record, tmp_path, min_tempo_confidence=1.0, min_key_confidence=1.0).changes
    assert "tempo" not in changes and "key" not in changes
    assert 0 < changes["measures"]["tempo_confidence"] < 1


def test_silence_and_moments_are_measured_too(record, tmp_path):
    write_audio(tmp_path / "mix.wav", np.zeros(1000), ANALYSIS_RATE)
    changes = measure(dataclasses.replace(record, audio={"mix": "mix.wav"}), tmp_path).changes
    assert changes["measures"] == {"clipped_share": 0.0, "silent_share": 1.0, "peak": 0.0}
    assert changes["energies"] == {"mix": 0.0} and changes["duration"] == 1000 / ANALYSIS_RATE


def test_a_damaged_track_is_refused_with_its_code(record, tmp_path):
    (tmp_path / "vocal.wav").write_text("no audio")
    assert measure(record, tmp_path).refusal.code == "unreadable_audio"


def test_a_missing_package_is_said_with_the_way_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyloudnorm", None)
    with pytest.raises(ValueError, match=r'-e "\.\[prepare\]"'):
        MeasureStep(MeasureOptions()).start()


def test_wrong_options_are_named_all_at_once():
    with pytest.raises(ValueError, match=r"silence_db.*min_key_confidence"):
        MeasureOptions(silence_db=3, min_key_confidence=2)
