"""Spectrograms as PNG files, without a library for plots."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_WINDOW = 1024
_BANDS = 96
_MAX_COLUMNS = 480
_LOWEST_HZ = 50.0
_RANGE_DB = 80.0

_COLORS = np.array(
    [[12, 10, 40], [64, 18, 110], [140, 41, 129], [214, 69, 103], [250, 135, 95], [252, 230, 180]], dtype=np.float64
)
"""Colours from silence to the loudest band, evenly spaced."""


def spectrogram_png(waveform: NDArray[np.float32], sample_rate: int) -> bytes:
    """Return the spectrogram of a song as a PNG: time to the right, bands of equal musical width, low notes below."""
    levels = band_levels(waveform, sample_rate)
    share = np.clip(levels / _RANGE_DB + 1, 0, 1)[::-1]
    places = np.arange(len(_COLORS)) / (len(_COLORS) - 1)
    pixels = np.stack([np.interp(share, places, channel) for channel in _COLORS.T], axis=-1)
    return _png(pixels.round().astype(np.uint8))


def band_levels(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float64]:
    """Return the levels of bands over time in dB below the loudest one: bands x columns."""
    samples = np.pad(np.asarray(waveform, np.float64), (_WINDOW // 2, _WINDOW))
    hop = max(_WINDOW // 4, len(waveform) // _MAX_COLUMNS)
    starts = np.arange(0, len(samples) - _WINDOW, hop)
    frames = np.stack([samples[start : start + _WINDOW] for start in starts]) * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = np.geomspace(_LOWEST_HZ, sample_rate / 2, _BANDS + 1) * _WINDOW / sample_rate
    first = np.minimum(edges[:-1].round().astype(int), power.shape[1] - 1)
    last = np.minimum(np.maximum(edges[1:].round().astype(int), first + 1), power.shape[1])
    bands = np.stack([power[:, low:high].mean(axis=1) for low, high in zip(first, last, strict=True)])
    loudest = max(float(bands.max()), 1e-12)
    return 10 * np.log10(np.maximum(bands / loudest, 10 ** (-_RANGE_DB / 10)))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an image (height x width x 3) as a PNG file."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each line begins with its filter: none

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
