"""Audio files come in checked and go out whole."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from songgen.data.audio import AudioRejected
from songgen.prepare.engine.audio_files import read_audio, write_audio


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_what_was_written_is_read_again_exactly(tmp_path, noise, suffix):
    path = tmp_path / f"song{suffix}"
    assert write_audio(path, noise, 16_000) == 0
    stereo, rate = read_audio(path, mono=False)
    assert rate == 16_000
    assert stereo.dtype == np.float32
    np.testing.assert_array_equal(stereo, noise)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_mono_is_the_mean_of_the_channels(tmp_path, noise):
    write_audio(tmp_path / "song.wav", noise, 16_000)
    mono, _ = read_audio(tmp_path / "song.wav")
    assert mono.shape == (32_000,)
    np.testing.assert_allclose(mono, noise.mean(axis=0), atol=1e-7)


def test_one_channel_is_written_from_a_plain_array(tmp_path, noise):
    write_audio(tmp_path / "song.wav", noise[0], 16_000)
    assert soundfile.info(str(tmp_path / "song.wav")).subtype == "PCM_16"
    np.testing.assert_array_equal(read_audio(tmp_path / "song.wav")[0], noise[0])


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampled_audio_has_the_length_that_the_rates_say(tmp_path, noise, rate):
    write_audio(tmp_path / "song.wav", noise[:, :31_999], 16_000)
    samples, found = read_audio(tmp_path / "song.wav", sample_rate=rate, mono=False)
    assert found == rate
    assert samples.shape == (2, round(31_999 * rate / 16_000))


def test_a_tone_survives_resampling(tmp_path):
    seconds = np.arange(16_000) / 16_000
    write_audio(tmp_path / "song.wav", 0.5 * np.sin(2 * np.pi * 440 * seconds), 16_000)
    samples, _ = read_audio(tmp_path / "song.wav", sample_rate=44_100)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    np.testing.assert_allclose(samples[1000:-1000], expected[1000:-1000], atol=1e-3)


def test_clipped_samples_are_limited_and_counted(tmp_path):
    below, above = 32767 / 32768, 32767.5 / 32768
    samples = np.array([0.0, 1.0, -1.0, 1.5, -1.5, below, above])
    assert write_audio(tmp_path / "song.wav", samples, 16_000) == 4
    written, _ = read_audio(tmp_path / "song.wav")
    np.testing.assert_array_equal(written * 32768, [0, 32767, -32768, 32767, -32768, 32767, 32767])


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, noise, monkeypatch):
    path = tmp_path / "song.wav"
    write_audio(path, noise, 16_000)
    before = path.read_bytes()

    def full_disk(file, *arguments, **options):
        with open(file, "wb") as partial:
            partial.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(soundfile, "write", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_audio(path, noise[:, ::-1], 16_000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def damaged_file(path, kind, noise):
    """Write a file that is wrong in one way."""
    if kind == "not_finite":
        soundfile.write(str(path), np.array([0.0, np.nan, 0.0]), 16_000, subtype="FLOAT")
    elif kind == "unreadable_audio":
        path.write_text("no audio at all")
    elif kind == "empty":
        soundfile.write(str(path), np.zeros(0), 16_000)
    elif kind == "truncated_audio":
        write_audio(path, noise, 16_000)
        path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.parametrize("kind", ["not_finite", "unreadable_audio", "empty", "truncated_audio", "file_missing"])
def test_damage_is_refused_with_its_code(tmp_path, noise, kind):
    path = tmp_path / "song.wav"
    damaged_file(path, kind, noise)
    with pytest.raises(AudioRejected) as caught:
        read_audio(path)
    assert caught.value.code == kind


def test_a_song_of_any_length_that_was_let_in_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    write_audio(path, np.zeros(1900 * 4000, dtype=np.float32), 4000)
    assert len(read_audio(path)[0]) == 1900 * 4000


def test_a_file_that_breaks_off_while_decoding_is_refused(tmp_path, noise):
    path = tmp_path / "song.flac"
    write_audio(path, noise, 16_000)
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(AudioRejected) as caught:
        read_audio(path)
    assert caught.value.code in ("truncated_audio", "unreadable_audio")
