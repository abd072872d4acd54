"""Tags of audio files become facts of a song, unless the song states them itself."""

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from songgen.prepare.describing.embedded_facts import EmbeddedFacts, read_embedded_facts
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.steps.tagging import TagOptions, TagStep
from songgen.prepare.steps.take_in import TakeInOptions, TakeInStep

RATE = 16_000


def samples() -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)).astype(np.float32)


def with_id3(path: Path, **frames: str) -> Path:
    """An MP3 with a tag of ID3v2.3 in front."""
    soundfile.write(path, samples(), RATE, format="MP3")
    body = b""
    for name, text in frames.items():
        content = b"\x01" + text.encode("utf-16")
        body += name.encode() + struct.pack(">I", len(content)) + b"\0\0" + content
    size = bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\0\0" + size + body + path.read_bytes())
    return path


def with_comments(path: Path, **comments: str) -> Path:
    """A FLAC file with Vorbis comments in place of the encoder's."""
    soundfile.write(path, samples(), RATE, format="FLAC")
    content = path.read_bytes()
    entries = [f"{name}={value}".encode() for name, value in comments.items()]
    body = struct.pack("<I", 4) + b"test" + struct.pack("<I", len(entries))
    body += b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)
    block = bytes([4]) + struct.pack(">I", len(body))[1:] + body
    first = 4 + 4 + 34  # marker, and the header block that is always first and not the last here
    path.write_bytes(content[:first] + block + content[first:])
    return path


def test_tags_of_an_mp3_and_a_flac_are_read(tmp_path: Path) -> None:
    mp3 = with_id3(tmp_path / "a.mp3", TIT2="Night\tTrain", TCON="(17)Rock", TBPM="124", TKEY="Ebm")
    assert read_embedded_facts(mp3) == EmbeddedFacts("Night Train", ("rock",), 124.0, "Eb minor")
    flac = with_comments(tmp_path / "a.flac", TITLE="Nacht", GENRE="Hip Hop; Soul", BPM="92.5", INITIALKEY="A minor")
    assert read_embedded_facts(flac) == EmbeddedFacts("Nacht", ("hip-hop", "soul"), 92.5, "A minor")


@pytest.mark.parametrize(
    ("frames", "facts"),
    [
        ({"TBPM": "0"}, EmbeddedFacts()),
        ({"TBPM": "nan"}, EmbeddedFacts()),
        ({"TBPM": "fast"}, EmbeddedFacts()),
        ({"TCON": "Other"}, EmbeddedFacts()),
        ({"TCON": "Unknown / Pop"}, EmbeddedFacts(genres=("pop",))),
        ({"TCON": "R&B"}, EmbeddedFacts(genres=("r&b",))),
        ({"TKEY": "8A"}, EmbeddedFacts()),
        ({"TKEY": "F#"}, EmbeddedFacts(key="F# major")),
        ({"TKEY": "Gmaj"}, EmbeddedFacts(key="G major")),
    ],
)
def test_values_that_say_nothing_are_dropped(tmp_path: Path, frames: dict[str, str], facts: EmbeddedFacts) -> None:
    assert read_embedded_facts(with_id3(tmp_path / "a.mp3", **frames)) == facts


@pytest.mark.parametrize("content", [b"", b"ID3", b"ID3\x03\0\0\x7f\x7f\x7f\x7f" + b"TBPM" * 5, b"fLaC" + b"\xff" * 99])
def test_damaged_tags_state_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp3").write_bytes(content)
    assert read_embedded_facts(tmp_path / "a.mp3") == EmbeddedFacts()
    assert read_embedded_facts(tmp_path / "absent.mp3") == EmbeddedFacts()


def described(path: Path, **values: Any) -> SongRecord:
    record = SongRecord(id="s", song="s", file="f", line=1, audio={"mix": str(path)})
    record = dataclasses.replace(record, **values)
    for step in (TakeInStep(TakeInOptions()), TagStep(TagOptions())):
        [outcome] = step.run([record], WorkFolder(path.parent))
        assert outcome.refusal is None
        record = record.changed(outcome.changes)
    return record


def test_they_get_into_the_caption(tmp_path: Path) -> None:
    mp3 = with_id3(tmp_path / "a.mp3", TIT2="Night Train", TCON="Rock", TBPM="124", TKEY="Am")
    record = described(mp3)
    assert record.caption == "rock, A minor, 124 bpm"
    assert record.provenance["take_in"]["embedded"]["title"] == "Night Train"
    assert record.provenance["tag"]["sources"] == {"given": ["rock", "A minor", "124 bpm"]}


def test_what_the_song_states_itself_counts_more(tmp_path: Path) -> None:
    mp3 = with_id3(tmp_path / "a.mp3", TCON="Rock", TBPM="124", TKEY="Am")
    record = described(mp3, tempo=90.0, key="C major", analysis={"genre": ["jazz"]})
    assert record.caption == "jazz, C major, 90 bpm"
    step = TakeInStep(TakeInOptions())
    assert step.inputs(record) != step.inputs(dataclasses.replace(record, tempo=None))
