"""Comparison of an adapter with its base: what is doubted, and the pictures."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from songgen.train.comparing.measure import ComparedSong, Comparison, Sound
from songgen.train.comparing.page import COMPARISON_FOLDER, Subject, render, summary, write_comparison
from songgen.train.comparing.pictures import band_levels, spectrogram_png

SIDES = {"without": 0.1, "with": 0.2}


def comparison(improvements: list[float], *, equal_songs: bool | None = None, idle: bool = False) -> Comparison:
    before = 3.0
    mean = sum(improvements) / len(improvements)
    songs = []
    if equal_songs is not None:
        first, second = np.zeros(8, np.float32), np.full(8, 0.0 if equal_songs else 0.1, np.float32)
        sounds = {"without": {"mix": Sound(first, 100)}, "with": {"mix": Sound(second, 100)}}
        songs = [ComparedSong("clip<1>", "a <b>calm</b> song", "la & la", sounds)]
    metrics = {"without": {"loss": before, "accuracy": 0.1}, "with": {"loss": before - mean, "accuracy": 0.2}}
    return Comparison(metrics, improvements, songs, idle)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (comparison([0.5, 0.6, 0.55], equal_songs=False), []),
        (comparison([0.5]), []),
        (comparison([0.0, 0.0]), ["the held-out loss is the same"]),
        (comparison([1e-7, 2e-7]), ["the held-out loss is the same"]),
        (comparison([0.5, -0.4, 0.1]), ["can be chance"]),
        (comparison([-0.5, -0.6, -0.55]), ["is higher with the adapter, by 0.55"]),
        (comparison([0.5, 0.6], equal_songs=True), ["every song is the same"]),
        (comparison([0.0], equal_songs=True, idle=True), ["every second matrix", "every song", "loss is the same"]),
    ],
)
def test_an_adapter_that_does_not_help_is_doubted(found: Comparison, words: list[str]) -> None:
    warnings = found.warnings()
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True)), warnings


def test_the_spread_counts_clips() -> None:
    few, many = comparison([0.4, 0.6]), comparison([0.4, 0.6] * 50)
    assert few.improvement == pytest.approx(many.improvement)
    assert few.standard_error == pytest.approx(0.1)
    assert many.standard_error < few.standard_error / 6


def test_text_of_songs_is_escaped() -> None:
    found = comparison([0.5, 0.6], equal_songs=False)
    files = {"clip<1>": {"without": {"mix": "01_without_mix.wav"}, "with": {"mix": "01_with_mix.wav"}}}
    page = render(found, Subject("run", "a<base>", 7), files)
    assert "<b>calm" not in page and "a &lt;b&gt;calm" in page and "a&lt;base&gt;" in page and "step 7" in page
    assert page.index("without the adapter: mix") < page.index("with the adapter: mix")
    assert summary(found) == "held-out loss 2.45 with the adapter, 3 without (-18.3 %; 2 clips)"


def test_songs_in_stereo_are_written_in_stereo_with_one_picture(tmp_path: Path) -> None:
    found = comparison([0.5], equal_songs=False)
    sounds = {side: {"mix": Sound(np.full((2, 500), level, np.float32), 100)} for side, level in SIDES.items()}
    write_comparison(replace(found, songs=[ComparedSong("clip", "", "", sounds)]), Subject("run", "base"), tmp_path)
    for side, level in SIDES.items():
        samples, rate = soundfile.read(tmp_path / COMPARISON_FOLDER / f"01_{side}_mix.wav")
        assert samples.shape == (500, 2) and rate == 100 and np.allclose(samples, level, atol=1e-4)
        assert (tmp_path / COMPARISON_FOLDER / f"01_{side}_mix.png").is_file()


def test_a_spectrogram_shows_where_the_tone_is() -> None:
    rate = 16_000
    tones = [np.sin(2 * np.pi * hertz * np.arange(rate) / rate) for hertz in (200, 3000)]
    levels = [band_levels(tone.astype(np.float32), rate)[:, 30] for tone in tones]
    low, high = (int(level.argmax()) for level in levels)
    octaves = np.log2((rate / 2) / 50)
    assert high - low == pytest.approx(np.log2(3000 / 200) / octaves * 96, abs=3)
    assert (np.concatenate(levels) <= 0).all() and max(level.max() for level in levels) > -6


@pytest.mark.parametrize("length", [0, 1, 500, 100_000])
def test_pictures_are_png_files(length: int) -> None:
    content = spectrogram_png(np.random.default_rng(0).normal(size=length).astype(np.float32), 16_000)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert height == 96 and 1 <= width <= 520
    at, kinds, data = 8, [], b""
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        assert struct.unpack(">I", content[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        kinds.append(kind)
        data += body if kind == b"IDAT" else b""
        at += 12 + size
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    assert len(zlib.decompress(data)) == height * (1 + 3 * width)
