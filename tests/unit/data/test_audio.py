"""Audio at the door: whatever a file is, the answer is checked tracks or a code and a reason."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from single_clips import OPTIONS, code_of, read, row_of

from songgen.data.audio import AudioOptions, resample
from songgen.data.clip_audio import ClipAudio, declared_seconds, read_clip
from songgen.data.manifests.clip import ClipRow, Rejection, TrackPath
from songgen.data.sound.levels import energy, to_int16


def tone(seconds: float, rate: int = 16000, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_lengths_are_inclusive(tmp_path: Path) -> None:
    for seconds, code in ((0.2, None), (3.0, None), (0.1999, "too_short"), (3.0002, "too_long"), (4, "too_long")):
        soundfile.write(tmp_path / "a.wav", tone(seconds, 10000), 10000)
        if code is None:
            assert isinstance(read(tmp_path / "a.wav"), ClipAudio)
        else:
            assert code_of(tmp_path / "a.wav") == code


def test_length_is_checked_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    soundfile.write(tmp_path / "long.wav", tone(4), 16000)
    monkeypatch.setattr("songgen.data.clip_audio._decode", lambda *_: pytest.fail("decoded"))
    result = read_clip(row_of(mix=tmp_path / "a.wav", vocal=tmp_path / "long.wav"), OPTIONS)
    assert isinstance(result, Rejection) and result.code == "too_long" and result.path == "long.wav"


def test_mp3_without_a_declared_length(tmp_path: Path) -> None:
    """Without the Info frame the length is an estimate that is some frames off."""
    soundfile.write(tmp_path / "a.mp3", tone(2.0, 44100), 44100, bitrate_mode="CONSTANT", compression_level=0.5)
    content = (tmp_path / "a.mp3").read_bytes()
    second = content.index(content[:2], 4)
    (tmp_path / "b.mp3").write_bytes(content[second:])
    assert isinstance(read(tmp_path / "b.mp3"), ClipAudio)


def test_wav_of_unknown_length(tmp_path: Path) -> None:
    """Programs that write to a pipe leave the sizes open."""
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    content[4:8] = b"\xff\xff\xff\xff"
    (tmp_path / "b.wav").write_bytes(content)
    assert isinstance(read(tmp_path / "b.wav"), ClipAudio)


def test_files_that_are_no_audio(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    (tmp_path / "text.wav").write_text("some words")
    (tmp_path / "head.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:30])
    (tmp_path / "nothing.wav").write_bytes(b"")
    for name in ("text", "head", "nothing"):
        assert code_of(tmp_path / f"{name}.wav") == "unreadable_audio"
    assert code_of(tmp_path / "absent.wav") == "unreadable_audio"


def test_headers_that_are_not_believed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", tone(0.5), 1)
    assert code_of(tmp_path / "slow.wav") == "bad_sample_rate"
    soundfile.write(tmp_path / "many.wav", np.zeros((8000, 9), np.float32), 16000)
    assert code_of(tmp_path / "many.wav") == "too_many_channels"
    soundfile.write(tmp_path / "none.wav", tone(0), 16000)
    assert code_of(tmp_path / "none.wav") == "empty"
    soundfile.write(tmp_path / "big.wav", tone(0.5), 16000)
    small = AudioOptions(sample_rate=16000, max_file_bytes=1000)
    assert code_of(tmp_path / "big.wav", small) == "file_too_large"


def test_silence_is_refused_in_the_mix_and_allowed_in_the_vocal(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000, np.float32), 16000)
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    assert code_of(tmp_path / "silent.wav") == "silent"
    result = read_clip(row_of(mix=tmp_path / "a.wav", vocal=tmp_path / "silent.wav"), OPTIONS)
    assert isinstance(result, ClipAudio) and result.energies["vocal"] == 0


def test_tracks_of_slightly_different_length_are_cut(tmp_path: Path) -> None:
    for name, seconds, rate in (("mix", 1.0, 16000), ("vocal", 1.05, 44100), ("acc", 0.98, 48000)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds, rate), rate)
    tracks = {name: tmp_path / f"{name}.wav" for name in ("mix", "vocal", "acc")}
    result = read_clip(row_of(**tracks), OPTIONS)
    assert isinstance(result, ClipAudio)
    assert {len(track) for track in result.tracks.values()} == {round(0.98 * 16000)}
    assert result.voice is not None and result.voice.dtype == np.int16 and len(result.voice) == round(0.98 * 24000)
    soundfile.write(tmp_path / "acc.wav", tone(0.9), 16000)
    result = read_clip(row_of(**tracks), OPTIONS)
    assert isinstance(result, Rejection) and result.code == "track_lengths_differ" and result.path == "acc.wav"


def test_required_tracks(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    both = AudioOptions(sample_rate=16000, required_tracks=("mix", "vocal"))
    result = read_clip(row_of(mix=tmp_path / "a.wav"), both)
    assert isinstance(result, Rejection) and result.code == "missing_track" and "'vocal'" in result.reason


def test_refused_rows_and_paths_keep_their_code(tmp_path: Path) -> None:
    refused = ClipRow("r", "c", "l", "en", {"mix": TrackPath("../x", "", "path_outside_roots", "why")}, "m", 1)
    result = read_clip(refused, OPTIONS)
    assert isinstance(result, Rejection) and (result.code, result.path) == ("path_outside_roots", "../x")
    result = read_clip(ClipRow("r", "c", "l", "en", {}, "m", 1, code="missing_caption", reason="why"), OPTIONS)
    assert isinstance(result, Rejection) and result.code == "missing_caption"


def test_clipping_is_counted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.clip(tone(0.5, level=3.0), -1, 1), 16000, subtype="FLOAT")
    result = read(tmp_path / "a.wav")
    assert isinstance(result, ClipAudio) and result.clipped_tracks == ("mix",)


def test_energy_of_a_normal_voice() -> None:
    assert energy(np.full(100, 1000 / 32768, np.float32)) == pytest.approx(1000)
    assert to_int16(np.array([0.5, 2.0, -2.0, 1e-9], np.float32)).tolist() == [16384, 32767, -32768, 0]


def test_resample_pads_and_cuts() -> None:
    assert len(resample(tone(1.0), 16000, 24000, 24003)) == 24003
    assert np.array_equal(resample(tone(1.0), 16000, 16000, 15999), tone(1.0)[:15999])


def test_declared_length_needs_no_decoding(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    assert declared_seconds(row_of(mix=tmp_path / "a.wav"), OPTIONS) == 0.5
    assert declared_seconds(row_of(mix=tmp_path / "absent.wav"), OPTIONS) == 0


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    """A WAV header may declare four gigabytes; nothing of that size is made room for."""
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0xFFF00000)
    (tmp_path / "b.wav").write_bytes(content)
    assert code_of(tmp_path / "b.wav") == "truncated_audio"
