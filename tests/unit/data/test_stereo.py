"""Songs read as left and right, for autoencoders of two channels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from single_clips import row_of

from songgen.data.audio import AudioOptions, mixed
from songgen.data.clip_audio import ClipAudio, read_clip
from songgen.data.manifests.clip import ClipRow, Rejection, TrackPath
from songgen.data.reading import AudioReaders, ReadingLimits

RATE = 16_000
STEREO = AudioOptions(RATE, channels=2, max_seconds=3.0)
MONO = replace(STEREO, channels=1)
TIME = np.arange(RATE) / RATE
LEFT, RIGHT = (0.3 * np.sin(2 * np.pi * pitch * TIME).astype(np.float32) for pitch in (220, 331))


def write(path: Path, *channels: np.ndarray, rate: int = RATE) -> ClipRow:
    soundfile.write(path, np.stack(channels, axis=1), rate, subtype="FLOAT")
    return row_of(mix=path)


def clip_of(row: ClipRow, options: AudioOptions = STEREO) -> ClipAudio:
    clip = read_clip(row, options)
    assert isinstance(clip, ClipAudio), clip
    return clip


def test_both_channels_are_kept_and_the_energy_is_that_of_their_average(tmp_path: Path) -> None:
    row = write(tmp_path / "a.wav", LEFT, RIGHT)
    clip, mono = clip_of(row), clip_of(row, MONO)
    np.testing.assert_array_equal(clip.tracks["mix"], np.stack([LEFT, RIGHT]))
    assert clip.tracks["mix"].flags.c_contiguous and mono.tracks["mix"].shape == (RATE,)
    assert clip.energies == mono.energies and clip.signals == mono.signals and clip.duration == mono.duration


def test_one_channel_is_on_both_sides(tmp_path: Path) -> None:
    clip = clip_of(write(tmp_path / "a.wav", LEFT))
    np.testing.assert_array_equal(clip.tracks["mix"], np.stack([LEFT, LEFT]))


def test_each_channel_is_resampled_as_if_it_were_alone(tmp_path: Path) -> None:
    both = clip_of(write(tmp_path / "a.wav", LEFT, RIGHT, rate=11_025))
    right = clip_of(write(tmp_path / "b.wav", RIGHT, rate=11_025), MONO)
    assert both.tracks["mix"].shape == (2, round(RATE * RATE / 11_025))
    np.testing.assert_allclose(both.tracks["mix"][1], right.tracks["mix"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8])
def test_surround_sound_is_folded_down(count: int) -> None:
    """Left and right change sides nowhere, sides are equally loud, and full scale is not exceeded."""
    sides = [mixed(np.eye(count, dtype=np.float32)[[place]], 2)[0] for place in range(count)]
    assert sides[0][0] > 0 == sides[0][1] and sides[1][1] > 0 == sides[1][0]
    assert np.sum(sides, axis=0) == pytest.approx([1, 1])
    if count in (3, 5, 6, 7, 8):
        assert sides[2] == pytest.approx(sides[0].max() * np.sqrt([0.5, 0.5]))
    if count >= 6:
        assert not sides[3].any(), "the bass channel repeats what the others have"


def test_only_the_average_of_opposite_channels_is_silent(tmp_path: Path) -> None:
    row = write(tmp_path / "a.wav", LEFT, -LEFT)
    rejection = read_clip(row, MONO)
    assert isinstance(rejection, Rejection) and rejection.code == "cancelling_channels"
    clip = clip_of(row)
    assert clip.energies["mix"] < 1 and np.abs(clip.tracks["mix"]).max() > 0.2
    silence = read_clip(write(tmp_path / "b.wav", 0 * LEFT, 0 * LEFT), STEREO)
    assert isinstance(silence, Rejection) and silence.code == "silent"


def test_the_reading_process_returns_both_channels(tmp_path: Path) -> None:
    row = write(tmp_path / "a.wav", LEFT, RIGHT)
    soundfile.write(tmp_path / "v.wav", RIGHT, RATE)
    row = replace(row, tracks={**row.tracks, "vocal": TrackPath("v.wav", str(tmp_path / "v.wav"))})
    options = replace(STEREO, voice_sample_rate=8000)
    with AudioReaders(options, ReadingLimits(), 1) as readers:
        theirs = readers.read(row)
    ours = clip_of(row, options)
    assert isinstance(theirs, ClipAudio) and theirs.tracks.keys() == {"mix", "vocal"}
    for track, samples in ours.tracks.items():
        np.testing.assert_array_equal(theirs.tracks[track], samples)
    assert ours.voice is not None and ours.voice.shape == (8000,) and np.array_equal(ours.voice, theirs.voice)
