"""Vocal and accompaniment add up to the song, whatever its length and whatever the network finds."""

import json

import numpy as np
import pytest
from tiny_demucs import save_demucs

from songgen.data.sound.levels import INT16_SCALE, energy, to_int16
from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.steps.separation import (
    SeparateStep,
    SeparationOptions,
    separate_vocals,
    split_exactly,
)

SUM_ERROR = 0.5 / INT16_SCALE
"""Most that a sample of the mix differs from the sum of its two tracks: the mix is rounded to 16 bits."""

RATE = 8000


class Oracle:
    """Knows the vocals of one song, and finds a passage by its first samples; notes how long passages are."""

    def __init__(self, song, vocals):
        self.song, self.known = song, vocals
        self.lengths, self.levels = [], set()

    def vocals(self, samples, sample_rate, mean, deviation):
        self.lengths.append(len(samples))
        self.levels.add((mean, deviation))
        begin = next(
            at
            for at in range(self.song.shape[1] - len(samples) + 1)
            if np.array_equal(self.song[:, at : at + 8].T, samples[:8])
        )
        return self.known[:, begin : begin + len(samples)].T


@pytest.fixture
def stems():
    """Ten seconds of a stereo song and its vocals."""
    generator = np.random.default_rng(3)
    vocals = generator.normal(0, 0.1, size=(2, 10 * RATE)).astype(np.float32)
    return vocals + generator.normal(0, 0.1, size=vocals.shape).astype(np.float32), vocals


@pytest.mark.parametrize("passage", [1.0, 2.5, 3.0, 9.999, 10.0, 60.0])
def test_passages_join_without_a_seam(stems, passage):
    song, vocals = stems
    network = Oracle(song, vocals)
    found = separate_vocals(song, RATE, network, passage, 0.4)
    np.testing.assert_allclose(found, vocals, atol=1e-6)
    assert max(network.lengths) <= passage * RATE
    assert len(network.levels) == 1, "every passage is scaled by the level of the whole song"


def test_a_song_of_any_length_is_covered(stems):
    song, vocals = stems
    for length in (1, 9, 3999, 4000, 4001, 7600, 7601, 11_200):
        found = separate_vocals(song[:, :length], RATE, Oracle(song[:, :length], vocals[:, :length]), 0.5, 0.05)
        np.testing.assert_allclose(found, vocals[:, :length], atol=1e-6)


@pytest.mark.parametrize("loudness", [0.1, 1.0, 40.0])
def test_the_tracks_add_up_to_the_mix_exactly(stems, loudness):
    song, vocals = stems
    vocal, accompaniment = split_exactly(song * loudness, -vocals * loudness)
    assert vocal.dtype == accompaniment.dtype == np.int16
    np.testing.assert_array_equal(vocal.astype(int) + accompaniment, to_int16(song * loudness))


def test_the_vocal_is_the_estimate_where_the_rest_fits(stems):
    song, vocals = stems
    np.testing.assert_array_equal(split_exactly(song, vocals)[0], to_int16(vocals))


def test_what_does_not_fit_into_the_accompaniment_stays_in_the_vocal():
    vocal, accompaniment = split_exactly(np.array([0.9, -0.9, 1.0, -1.0]), np.array([-0.9, 0.9, -1.0, 1.0]))
    np.testing.assert_array_equal(accompaniment, [32767, -32768, 32767, -32768])
    np.testing.assert_array_equal(vocal, to_int16(np.array([0.9, -0.9, 1.0, -1.0])).astype(int) - accompaniment)


@pytest.fixture
def record(tmp_path, stems):
    write_audio(tmp_path / "mine.wav", stems[0], RATE)
    return SongRecord("one", "one", "songs", 1, audio={"mix": str(tmp_path / "mine.wav")})


def started(options, network):
    """A step with another network than the configured one."""
    step = SeparateStep(options)
    step._network = network
    return step


@pytest.mark.parametrize("mono", [True, False])
def test_the_step_writes_tracks_whose_sum_is_the_mix(tmp_path, stems, record, mono):
    folder = WorkFolder(tmp_path / "work")
    song, _ = read_audio(tmp_path / "mine.wav", mono=False)
    step = started(SeparationOptions(passage_seconds=3, overlap_seconds=0.5, mono=mono), Oracle(song, stems[1]))
    (outcome,) = step.run([record], folder)
    done = record.changed(outcome.changes)
    mix, rate = read_audio(folder.track(done, "mix"), mono=mono)
    tracks = {track: read_audio(folder.track(done, track), mono=mono) for track in ("vocal", "acc")}
    assert {rate for _, rate in tracks.values()} == {rate}
    assert np.abs(mix - tracks["vocal"][0] - tracks["acc"][0]).max() <= SUM_ERROR
    assert done.energies == {
        track: pytest.approx(energy(samples)) for track, (samples, _) in {**tracks, "mix": (mix, rate)}.items()
    }
    assert not step.is_needed(done)
    assert done.audio["vocal"] == "audio/separate/one.vocal.wav"


def test_a_given_vocal_track_is_kept(tmp_path, stems, record):
    write_audio(tmp_path / "vocal.wav", stems[1], RATE)
    record = record.changed({"audio": {"vocal": str(tmp_path / "vocal.wav")}})
    song, _ = read_audio(tmp_path / "mine.wav", mono=False)
    step = started(SeparationOptions(), Oracle(song, stems[1]))
    assert step.is_needed(record)
    (outcome,) = step.run([record], WorkFolder(tmp_path / "work"))
    assert set(outcome.changes["audio"]) == {"acc"}


def test_a_damaged_song_is_refused_with_its_code(tmp_path, record):
    (tmp_path / "mine.wav").write_text("no audio")
    (outcome,) = started(SeparationOptions(), None or Oracle(None, None)).run([record], WorkFolder(tmp_path))
    assert outcome.refusal is not None and outcome.refusal.code == "unreadable_audio"


def test_a_real_network_goes_through_the_step(tmp_path, record):
    """Small and untrained: that rates, channels and lengths fit is all that can be seen."""
    htdemucs = pytest.importorskip("demucs.htdemucs")
    network = htdemucs.HTDemucs(
        ["drums", "vocals"], channels=16, depth=2, t_layers=1, t_heads=2, nfft=512, samplerate=11_025, segment=1
    )
    save_demucs(network, tmp_path / "model", "small")
    options = SeparationOptions(model=str(tmp_path / "model"), device="cpu", passage_seconds=4, overlap_seconds=1)
    step = SeparateStep(options)
    step.start()
    folder = WorkFolder(tmp_path / "work")
    outcomes = step.run([record], folder)
    assert outcomes == step.run([record], folder), "the same song gives the same tracks"
    done = record.changed(outcomes[0].changes)
    mix, vocal, acc = (read_audio(folder.track(done, track))[0] for track in ("mix", "vocal", "acc"))
    assert len(vocal) == len(mix) and vocal.any()
    assert np.abs(mix - vocal - acc).max() <= SUM_ERROR


def test_a_missing_model_is_said_with_the_way_out(tmp_path):
    step = SeparateStep(SeparationOptions(model=str(tmp_path)))
    with pytest.raises(ValueError, match="skip this step"):
        step.start()


def test_missing_demucs_is_said_with_the_way_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "demucs.apply", None)
    with pytest.raises(ValueError, match=r'-e "\.\[prepare\]"'):
        SeparateStep(SeparationOptions()).start()


@pytest.mark.parametrize("wrong", [{"model": ""}, {"overlap_seconds": 0}, {"overlap_seconds": 40}])
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SeparationOptions(**wrong)


def test_the_device_is_no_parameter_of_the_result():
    assert SeparateStep(SeparationOptions(device="cuda")).parameters() == SeparateStep(SeparationOptions()).parameters()
    json.dumps(SeparateStep(SeparationOptions()).parameters())
