"""Audio files as other programs write them, each through `songgen prepare` and tokenizing.

All cases are songs of one folder, which each command reads once. To add a case, add a file to tests/cases or a function
that makes one, and a line to `TABLE`.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from intact_data import open_intact
from preprocess_fakes import options_for, read_manifest, run

from songgen.data.audio import AudioOptions, AudioRejected, check_header, decode
from songgen.prepare.config import load_prepare_config
from songgen.prepare.preparation import prepare

CASES = Path(__file__).resolve().parents[1] / "cases"

RATE, SECONDS = 16000, 1.5

OFF = [
    word for name in "voice agreement measure filter duplicates tag report".split() for word in (f"--{name}", "null")
]
"""Steps that no case needs."""


def sound(seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """A tone in noise, so that codecs have something to do."""
    times = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(times))
    return (0.3 * np.sin(2 * np.pi * 220 * times) + 0.02 * noise).astype(np.float32)


def encoded(suffix: str, samples: np.ndarray | None = None, rate: int = RATE, **options: Any) -> bytearray:
    """Content of an audio file."""
    path = encoded.folder / f"part{suffix}"  # type: ignore[attr-defined]
    soundfile.write(path, sound(rate=rate) if samples is None else samples, rate, **options)
    return bytearray(path.read_bytes())


def with_bytes(content: bytearray, *changes: tuple[int, bytes]) -> bytes:
    """The content with other bytes at some places."""
    for place, new in changes:
        content[place : place + len(new)] = new
    return bytes(content)


def wav(size: int | Callable[[int], int], order: str = "<", **options: Any) -> bytes:
    """A WAV file that declares this size of its sound."""
    content = encoded(".wav", **options)
    place = content.index(b"data") + 4
    declared = size(len(content)) if callable(size) else size
    whole = min(declared + 36, 0xFFFFFFFF)
    return with_bytes(content, (place, struct.pack(f"{order}I", declared)), (4, struct.pack(f"{order}I", whole)))


def cut(content: bytes | bytearray, share: float = 0.6) -> bytes:
    """The beginning of a file."""
    return bytes(content[: int(share * len(content))])


def rf64(size: int) -> bytes:
    """An RF64 file that declares this size of 64 bits."""
    content = encoded(".rf64", format="RF64")
    place = content.index(b"ds64") + 8
    return with_bytes(content, (place, struct.pack("<QQQ", size, size, size)))


def w64(size: int) -> bytes:
    content = encoded(".w64")
    declared = struct.pack("<Q", size)
    return with_bytes(content, (content.index(b"data\xf3\xac") + 16, declared), (16, declared))


def aiff(sound_bytes: int, frames: int) -> bytes:
    content = encoded(".aiff")
    places = [(content.index(b"SSND") + 4, sound_bytes), (content.index(b"COMM") + 10, frames), (4, sound_bytes)]
    return with_bytes(content, *((place, struct.pack(">I", number)) for place, number in places))


def caf(size: int) -> bytes:
    content = encoded(".caf", format="CAF")
    return with_bytes(content, (content.index(b"data") + 4, struct.pack(">q", size)))


def au(size: int) -> bytes:
    return with_bytes(encoded(".au"), (8, struct.pack(">I", size)))


def without_total(content: bytearray) -> bytes:
    """A FLAC file as a program writes it to a pipe."""
    return with_bytes(content, (21, bytes([content[21] & 0xF0])), (22, bytes(4)))


def mp3(seconds: float = SECONDS, rate: int = RATE, *, xing: bool = True) -> bytes:
    content = bytes(encoded(".mp3", sound(seconds, rate), rate))
    return content if xing else content[content.index(content[:2], 100) :]


def xing_without_frames() -> bytes:
    content = bytearray(mp3())
    place = max(content.find(b"Info"), content.find(b"Xing"))
    return with_bytes(content, (place + 8, bytes(4)))


ID3 = b"ID3\x04\0\0" + bytes([0, 0, 8, 0]) + b"\xff\xfb\x90\0" * 256
"""A tag whose picture looks like frames."""


def mp3_in_wav() -> bytes:
    sound_bytes = mp3(xing=False)
    head = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 144, 1, 1393)
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"fact" + struct.pack("<II", 4, 1)
    chunks += b"data" + struct.pack("<I", 0xFFFFFFFF) + sound_bytes
    return b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + chunks


def with_station_names(content: bytes, every: int = 700) -> bytes:
    """A recorded radio stream, in which the server has put titles."""
    title = b"\x01StreamTitle='x';"
    return b"".join(content[start : start + every] + title for start in range(0, len(content), every))


def without_page() -> bytes:
    """An OGG file that lacks a page in the middle."""
    content = bytes(encoded(".ogg", sound(8.0)))
    pages = content.split(b"OggS")[1:]
    assert len(pages) > 4
    return b"".join(b"OggS" + page for number, page in enumerate(pages) if number != 3)


def unpadded_chunk() -> bytes:
    """A WAV file with a chunk of odd size and no padding in front of the sound."""
    content = bytes(encoded(".wav"))
    place = content.index(b"data")
    return content[:place] + b"bext" + struct.pack("<I", 3) + b"abc" + content[place:]


def noise() -> bytes:
    """Static, as a radio between two stations gives."""
    return bytes(encoded(".wav", 0.2 * np.random.default_rng(0).standard_normal(5 * RATE)))


def stereo(left: float, right: float, offset: float = 0.0) -> bytes:
    return bytes(encoded(".wav", np.stack([left * sound(), right * sound()], axis=1) + offset))


TABLE: dict[str, tuple[Callable[[], bytes] | None, float | str]] = {
    # file name: (function that makes it, or None for a file of tests/cases; seconds, or code of the refusal)
    "vbr_noxing.mp3": (None, 3.05),
    "chained.ogg": (None, 8.0),
    "rf64_cut.wav": (None, "truncated_audio"),
    "float32_int_scale.wav": (None, "out_of_scale"),
    "stream_sox.wav": (None, 3.0),
    "streamed.flac": (None, 3.0),
    # Sizes of programs that write to a pipe, and of servers of speech
    "size_0.wav": (lambda: wav(0), SECONDS),
    "size_ffmpeg.wav": (lambda: wav(0xFFFFFFFF), SECONDS),
    "size_ffmpeg_less_header.wav": (lambda: wav(0xFFFFFFFF - 36), SECONDS),
    "size_speech_server.wav": (lambda: wav(0x7FFFFFFF), SECONDS),
    "size_sox.wav": (lambda: wav(0x7FFFF000), SECONDS),
    "size_oggdec.wav": (lambda: wav(0x7FFFFFD3), SECONDS),
    "size_arecord.wav": (lambda: wav(0x80000000), SECONDS),
    "size_billion_samples.wav": (lambda: wav(2_000_000_000), SECONDS),
    "size_with_header.wav": (lambda: wav(lambda length: length), SECONDS),
    "size_rifx.wav": (lambda: wav(0xFFFFFFFF, ">", endian="BIG"), SECONDS),
    "size_rf64_0.rf64": (lambda: rf64(0), SECONDS),
    "size_rf64_minus_1.wav": (lambda: rf64((1 << 64) - 1), SECONDS),
    "size_w64_minus_1.w64": (lambda: w64((1 << 64) - 1), SECONDS),
    "size_w64_ffmpeg.w64": (lambda: w64((1 << 63) - 1), SECONDS),
    "size_aiff_sox.aiff": (lambda: aiff(0x7F000008, 0x3F800000), SECONDS),
    "size_aiff_0.aif": (lambda: aiff(0, 0), SECONDS),
    "size_caf.caf": (lambda: caf(-1), SECONDS),
    "size_au.au": (lambda: au(0xFFFFFFFF), SECONDS),
    "size_flac_tagged.flac": (lambda: ID3 + without_total(encoded(".flac")), SECONDS),
    # Files that were cut
    "cut_wav.wav": (lambda: cut(encoded(".wav")), "truncated_audio"),
    "cut_rifx.wav": (lambda: cut(encoded(".wav", endian="BIG")), "truncated_audio"),
    "cut_w64.w64": (lambda: cut(encoded(".w64")), "truncated_audio"),
    "cut_aiff.aiff": (lambda: cut(encoded(".aiff")), "truncated_audio"),
    "cut_aifc.aifc": (lambda: cut(encoded(".aifc", format="AIFF", subtype="FLOAT")), "truncated_audio"),
    "cut_au.au": (lambda: cut(encoded(".au")), "truncated_audio"),
    "cut_caf.caf": (lambda: cut(encoded(".caf", format="CAF")), "truncated_audio"),
    "cut_flac.flac": (lambda: cut(encoded(".flac")), "truncated_audio"),
    "cut_stream.flac": (lambda: cut(without_total(encoded(".flac"))), "truncated_audio"),
    "cut_ogg.ogg": (lambda: cut(encoded(".ogg")), "truncated_audio"),
    "cut_opus.opus": (lambda: cut(encoded(".opus", format="OGG", subtype="OPUS")), "truncated_audio"),
    "cut_mp3.mp3": (lambda: cut(mp3()), "truncated_audio"),
    "page_lost.ogg": (without_page, "truncated_audio"),
    "cut_in_the_joined.mp3": (lambda: cut(mp3()) + mp3(), "truncated_audio"),
    # Files that were joined
    "joined.wav": (lambda: bytes(2 * encoded(".wav")), 2 * SECONDS),
    "joined.flac": (lambda: bytes(2 * encoded(".flac")), 2 * SECONDS),
    "joined.opus": (lambda: bytes(2 * encoded(".opus", format="OGG", subtype="OPUS")), 2 * SECONDS),
    "joined.mp3": (lambda: ID3 + mp3() + ID3 + mp3(), 2 * SECONDS),
    "joined_noxing.mp3": (lambda: mp3() + mp3(xing=False), 2 * SECONDS),
    "joined_rates.mp3": (lambda: mp3() + mp3(rate=44100), "changing_format"),
    # MP3
    "noxing.mp3": (lambda: mp3(xing=False), SECONDS),
    "xing_0.mp3": (xing_without_frames, SECONDS),
    "junk_in_front.mp3": (lambda: b"\0" * 500 + mp3(xing=False), SECONDS),
    "radio.mp3": (lambda: with_station_names(mp3(xing=False)), SECONDS),
    "in_wav.wav": (mp3_in_wav, SECONDS),
    # Endings and contents
    "upper.FLAC": (lambda: bytes(encoded(".flac")), SECONDS),
    "opus.opus": (lambda: bytes(encoded(".opus", format="OGG", subtype="OPUS")), SECONDS),
    "aifc.aifc": (lambda: bytes(encoded(".aifc", format="AIFF", subtype="FLOAT")), SECONDS),
    "alac.caf": (lambda: bytes(encoded(".caf", format="CAF", subtype="ALAC_16")), SECONDS),
    "flac_named.mp3": (lambda: bytes(encoded(".flac")), SECONDS),
    "m4a_named.mp3": (lambda: b"\0\0\0\x20ftypM4A " + bytes(200), "unsupported_format"),
    "unpadded.wav": (unpadded_chunk, SECONDS),
    "declares_half.wav": (lambda: wav(lambda length: length // 4, samples=sound(8.0)), "length_differs"),
    # Levels
    "scale_8_bits.wav": (lambda: bytes(encoded(".wav", 127 * sound(), subtype="FLOAT")), "out_of_scale"),
    "scale_24_bits.wav": (lambda: bytes(encoded(".wav", 2.0**23 * sound(), subtype="DOUBLE")), "out_of_scale"),
    "loud.wav": (lambda: bytes(encoded(".wav", 3 * sound(), subtype="FLOAT")), SECONDS),
    "cancelling.wav": (lambda: stereo(1, -1), "cancelling_channels"),
    "silent.wav": (lambda: stereo(0, 0), "silent"),
    "dead_channel.wav": (lambda: stereo(1, 0), SECONDS),
    "noise.wav": (noise, 5.0),
    "offset.wav": (lambda: stereo(1, 1, offset=0.1), SECONDS),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, each with a caption."""
    place = tmp_path_factory.mktemp("cases")
    encoded.folder = place  # type: ignore[attr-defined]
    songs = place / "songs"
    songs.mkdir()
    for name, (make, _) in TABLE.items():
        # A song's name is its whole file name, since cases of several endings have one stem.
        stem, suffix = name.rsplit(".", 1)
        path = songs / f"{stem}-{suffix}.{suffix}"
        path.write_bytes((CASES / name).read_bytes() if make is None else make())
        path.with_name(f"{stem}-{suffix}_prompt.txt").write_text("pop")
    return place


Outcome = dict[str, float | str]
"""Id -> length in seconds, or code."""


@pytest.fixture(scope="module")
def tokenized(folder: Path) -> tuple[Outcome, dict[str, Any]]:
    run(options_for(folder / "songs", folder / "data", max_bad_fraction=1.0, max_seconds=30.0))
    songs = open_intact(folder / "data", "train")
    outcome: Outcome = {songs.row(index).id: songs.row(index).duration for index in range(len(songs))}
    outcome |= {row["id"]: row["code"] for row in read_manifest(folder / "data" / "rejected.jsonl")}
    return outcome, json.loads((folder / "data" / "report.json").read_text())["splits"]["train"]


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Outcome:
    words = ["--inputs", str(folder / "songs"), "--output_dir", str(folder / "out"), "--max_bad_fraction", "1"]
    assert prepare(load_prepare_config([*words, "--segment.min_seconds", "0.5", *OFF])) is not None
    rows = read_manifest(folder / "out" / "metadata.jsonl")
    outcome: Outcome = {row["provenance"]["input"]["id"]: row["duration"] for row in rows}
    refused = read_manifest(folder / "out" / "rejected.jsonl")
    assert not [row for row in refused if str(folder) in row["reason"]], "reasons travel with the data set"
    return outcome | {row["id"]: row["code"] for row in refused}


@pytest.mark.parametrize("name", TABLE)
def test_both_commands_read_all_of_a_file_or_say_why_not(
    name: str, prepared: Outcome, tokenized: tuple[Outcome, dict[str, Any]]
) -> None:
    wanted = TABLE[name][1]
    for outcome in (prepared, tokenized[0]):
        found = outcome["-".join(name.rsplit(".", 1))]
        if isinstance(wanted, str) or isinstance(found, str):
            assert found == wanted
        else:
            # Encoders add up to 0.1 s at each end.
            assert found == pytest.approx(wanted, abs=0.25 if name.startswith("joined") else 0.12)


def test_the_report_counts_what_is_probably_wrong(tokenized: tuple[Outcome, dict[str, Any]]) -> None:
    assert tokenized[1]["flaws"] == {"dc_offset of mix": 1, "dead_channel of mix": 1, "steady_noise of mix": 1}


def test_damaged_files_are_read_or_refused_but_never_an_error_of_ours(folder: Path, tmp_path: Path) -> None:
    """Changed, cut and inserted bytes, most of them in headers."""
    generator = np.random.default_rng(0)
    paths = sorted(path for path in (folder / "songs").iterdir() if path.suffix != ".txt")
    options = AudioOptions(sample_rate=0, max_seconds=60.0)
    codes = set()
    for number in range(600):
        path = paths[number % len(paths)]
        content = bytearray(path.read_bytes())
        for place in generator.integers(0, min(len(content), 200), 3):
            content[place] = generator.integers(0, 256)
        if number % 3 == 1:
            content[50:50] = generator.bytes(9)
        content = content[: generator.integers(1, len(content))] if number % 3 == 2 else content
        damaged = tmp_path / f"damaged{path.suffix}"
        damaged.write_bytes(content)
        try:
            header = check_header(damaged, options)
            decode(damaged, header, header.frames, channels=1)
        except AudioRejected as error:
            codes.add(error.code)
            assert str(tmp_path) not in error.reason
    assert {"truncated_audio", "unreadable_audio"} <= codes
