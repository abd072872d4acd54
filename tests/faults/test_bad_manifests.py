"""Cases 26, 28 and 29: manifests, texts and paths that anyone may have written."""

import ctypes
import json
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
from intact_data import open_intact
from preprocess_fakes import RATE, fake_encoders, options_for, read_manifest, run, tone, write_manifest

from songgen.data.manifests.findings import ManifestError
from songgen.data.manifests.sources import ManifestSpec
from songgen.lyrics import train_lyrics_tokenizer
from songgen.tokenize import TokenizeOptions, tokenize_data

SURROGATE_JSON = b'{"id": "s14", "caption": "half \\ud83d", "lyrics": "", "audio": "a.wav"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of songs with one good file."""
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs" / "a.wav", tone(0.5), RATE)
    return tmp_path / "songs"


def song(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"s{number}", "caption": "calm piano", "lyrics": "la", "audio": "a.wav", **changes}


def without(row: dict[str, Any], column: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != column}


def write(path: Path, rows: list[Any], prefix: bytes = b"") -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(prefix + b"\n".join(lines) + b"\n")
    return path


def options(manifest: Path, **changes: Any) -> TokenizeOptions:
    return options_for(manifest, manifest.parent.with_name("data"), **{"max_bad_fraction": 1.0, **changes})


def codes(data: Path) -> dict[str, str]:
    return {row["id"]: row["code"] for row in read_manifest(data / "rejected.jsonl")}


def songs_of(data: Path) -> dict[str, Any]:
    songs = open_intact(data, "train")
    return {songs.row(index).id: songs.row(index) for index in range(len(songs))}


@pytest.mark.case(26)
def test_all_problems_are_said_at_once_before_any_audio_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("songgen.data.reading._Reader._start", lambda self: pytest.fail("audio was read"))
    first = write(
        folder / "first.jsonl",
        [
            song(1),
            without(song(2), "caption"),
            without(song(3), "audio"),
            song(4, lyrics=7),
            song(5, duration="long"),
            song(6, audio=["a.wav"]),
            b'{"id": "s7", ',
            song(1),
            b"[1, 2]",
            b'{"caption": "\xff"}',
            song(11, id=True),
            song(12, vocal_energy=-1),
            song(13, duration=10**400),
            b'{"id": "s14", "duration": ' + b"9" * 5000 + b"}",
            song(15, id="half \ud83d"),
            b"[" * 100_000,
            song(17, duration=float("nan")),
        ],
    )
    second = write(folder / "second.jsonl", [song(1), song(18)])
    specs = tuple(ManifestSpec(str(path)) for path in (first, second, folder / "absent.jsonl"))
    with pytest.raises(ManifestError) as error:
        run(options(first, splits={"train": specs}))
    lines = str(error.value).splitlines()
    expected = [
        (f"{first}:2:", "'caption' is missing"),
        (f"{first}:3:", "'audio_abspath' is missing"),
        (f"{first}:4:", "'lyrics' must be a text or null, not int '7'"),
        (f"{first}:5:", "'duration' must be a number"),
        (f"{first}:6:", "'audio' must be a path"),
        (f"{first}:7:", "not a line of JSON"),
        (f"{first}:8:", f"id 's1' was already used at {first}:1"),
        (f"{first}:9:", "a row must be an object"),
        (f"{first}:10:", "not a line of JSON"),
        (f"{first}:11:", "'id' must be a text"),
        (f"{first}:12:", "'vocal_energy' must be a number"),
        (f"{first}:13:", "not a line of JSON"),
        (f"{first}:14:", "not a line of JSON"),
        (f"{first}:15:", "'id' must be a text"),
        (f"{first}:16:", "not a line of JSON"),
        (f"{first}:17:", "not a line of JSON: NaN is not a JSON number"),
        (f"{second}:1:", f"id 's1' was already used at {first}:1"),
        ("absent.jsonl", "there is no manifest"),
    ]
    assert lines[0] == f"the manifests have {len(expected)} problem(s):"
    for place, message in expected:
        assert any(place in line and message in line for line in lines), (place, message)
    assert [path.name for path in folder.parent.iterdir()] == ["songs"], "nothing is written"


@pytest.mark.case(26)
def test_a_byte_order_mark_and_empty_lines_are_no_problem(folder: Path) -> None:
    manifest = write(folder / "m.jsonl", [song(1), b"", song(2)], prefix=b"\xef\xbb\xbf")
    run(options(manifest))
    assert set(songs_of(folder.parent / "data")) == {"s1", "s2"}


@pytest.mark.case(26)
def test_what_a_manifest_says_cannot_drive_a_terminal(folder: Path) -> None:
    manifest = write(folder / "m.jsonl", [without(song(1, **{"\x1b[31mred\n\ud83d": 1}), "caption")])
    with pytest.raises(ManifestError) as error:
        run(options(manifest))
    message = str(error.value)
    assert "\x1b" not in message and r"\x1b[31mred" in message
    message.encode("utf-8")


@pytest.mark.case(28)
def test_odd_texts_are_taken_composed_or_rejected_and_counted(folder: Path) -> None:
    """With a real tokenizer; `lyrics` empty or null is how a song is declared to be an instrumental."""
    rows = [
        song(1, lyrics=""),
        song(2, lyrics=" \n\t "),
        song(3, lyrics=None),
        song(4, lyrics="x" * 100_000),
        song(5, lyrics="\N{MUSICAL NOTE} la \U0001f3b5"),
        song(6, lyrics="\u05e9\u05dc\u05d5\u05dd", language="he"),
        song(7, lyrics="cafe\u0301"),
        song(8, lyrics="café"),
        song(9, lyrics="a\0b"),
        song(10, lyrics="half \ud83d"),
        song(11, caption="x" * 501),
        song(12, caption="x" * 500),
        song(13, caption="zwei Sa\u0308tze"),
        SURROGATE_JSON,
        song(15, caption="nul \0"),
        song(16, language="klingon"),
        song(17, lyrics="\u0633\u0644\u0627\u0645", language="ar"),
    ]
    manifest = write(folder / "m.jsonl", rows)
    tokenizer = train_lyrics_tokenizer([("la la la", "en"), ("café", "fr")], 300)
    encoders = fake_encoders(lyrics=tokenizer)
    tokenize_data(options(manifest), load=lambda *_: encoders)
    data = folder.parent / "data"
    rejected, kept = codes(data), songs_of(data)
    assert {name: code for name, code in rejected.items() if name != "s6"} == {
        "s4": "lyrics_too_long",
        "s9": "bad_text",
        "s10": "bad_text",
        "s11": "caption_too_long",
        "s14": "bad_text",
        "s15": "bad_text",
        "s16": "unknown_language",
    }
    assert [kept[name].lyrics for name in ("s1", "s2", "s3")] == ["", "", ""]
    assert kept["s7"].lyrics == kept["s8"].lyrics == "café"
    assert kept["s7"].lyrics_ids.tolist() == kept["s8"].lyrics_ids.tolist()
    assert kept["s13"].caption == "zwei S\u00e4tze" and len(kept["s12"].caption) == 500
    assert kept["s5"].lyrics == "\N{MUSICAL NOTE} la \U0001f3b5"
    assert kept["s17"].lyrics == "\u0633\u0644\u0627\u0645" and len(kept["s17"].lyrics_ids) > 2
    # Hebrew is none of the tokenizer's languages: that is said, and nothing is guessed.
    assert rejected["s6"] == "unknown_language"
    report = json.loads((data / "report.json").read_text())["splits"]["train"]
    assert report["instrumentals"] == 3 and report["rejected"]["lyrics_too_long"] == 1
    assert report["rows"] + sum(report["rejected"].values()) == report["rows_in_manifests"] == len(rows)


@pytest.mark.case(28)
def test_text_files_that_are_no_text_cost_their_song(folder: Path) -> None:
    for name, lyrics in (
        ("latin", "café".encode("latin-1")),
        ("huge", b"x" * (2 << 20)),
        ("good", b"la\r\nla"),
        ("mark", b"\xef\xbb\xbfla"),
    ):
        shutil.copy(folder / "a.wav", folder / f"{name}.wav")
        (folder / f"{name}_prompt.txt").write_text("pop")
        (folder / f"{name}_lyrics.txt").write_bytes(lyrics)
    (folder / "a.wav").unlink()
    undecodable = os.fsdecode(b"\xe9")
    soundfile.write(folder / "x.wav", tone(0.5), RATE)
    (folder / "x.wav").rename(folder / f"{undecodable}.wav")
    (folder / f"{undecodable}_prompt.txt").write_text("pop")
    run(options(folder, output_folder=folder.parent / "data"))
    data = folder.parent / "data"
    rejected = codes(data)
    assert rejected.pop("\\udce9") == "path_invalid", "a name that is no text is shown escaped"
    assert rejected == {"latin": "unreadable_text", "huge": "unreadable_text"}
    assert {name: row.lyrics for name, row in songs_of(data).items()} == {"good": "la\nla", "mark": "la"}


class OpenedFiles:
    """What the kernel saw opened (inotify), by whichever process and library."""

    IN_OPEN, IN_NONBLOCK, IN_CLOEXEC = 0x20, 0o4000, 0o2000000
    EVENT_HEADER = 16

    def __init__(self, *watched: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(self.IN_NONBLOCK | self.IN_CLOEXEC)
        assert self.descriptor >= 0
        for path in watched:
            assert libc.inotify_add_watch(self.descriptor, bytes(path), self.IN_OPEN) >= 0

    def any_opened(self) -> bool:
        """Whether a watched file was opened since the last call."""
        try:
            events = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return False
        masks, place = [], 0
        while place < len(events):
            _, mask, _, name_length = struct.unpack_from("iIII", events, place)
            masks.append(mask)
            place += self.EVENT_HEADER + name_length
        return any(mask & self.IN_OPEN for mask in masks)

    def close(self) -> None:
        os.close(self.descriptor)


@pytest.fixture
def outside(folder: Path) -> Iterator[OpenedFiles]:
    """Good audio and text outside of the songs' folder, and ways that lead there; tells whether any was opened."""
    evil = folder.with_name("songs_evil")
    evil.mkdir()
    baits = [folder.with_name("outside.wav"), evil / "x.wav", folder.with_name("secret.txt")]
    for path in baits[:2]:
        shutil.copy(folder / "a.wav", path)
    baits[2].write_text("a secret")
    (folder / "link.wav").symlink_to(baits[0])
    (folder / "linked_folder").symlink_to(folder.parent)
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    opened = OpenedFiles(*baits, folder / "pipe.wav", folder / "folder.wav")
    yield opened
    opened.close()


PATHS = {
    "../outside.wav": "path_outside_roots",
    "{parent}/outside.wav": "path_outside_roots",
    "../songs_evil/x.wav": "path_outside_roots",
    "link.wav": "path_outside_roots",
    "linked_folder/outside.wav": "path_outside_roots",
    "http://127.0.0.1/a.wav": "path_url",
    "file://{parent}/outside.wav": "path_url",
    "zip://a.wav::b.zip": "path_url",
    "nul\0.wav": "path_invalid",
    "half\ud800.wav": "path_invalid",
    "x" * 5000: "path_invalid",
    "pipe.wav": "not_a_file",
    "folder.wav": "not_a_file",
    "absent.wav": "file_missing",
}


@pytest.mark.case(29)
def test_paths_that_lead_elsewhere_are_rejected_and_never_opened(folder: Path, outside: OpenedFiles) -> None:
    given = [path.replace("{parent}", str(folder.parent)) for path in PATHS]
    rows = [song(100 + index, audio=path) for index, path in enumerate(given)]
    write_manifest(folder / "m.jsonl", [song(1), *rows])
    run(options(folder / "m.jsonl"))
    listed = {row["id"]: row for row in read_manifest(folder.parent / "data" / "rejected.jsonl")}
    assert {row["path"]: row["code"] for row in listed.values()} == dict(zip(given, PATHS.values(), strict=True))
    assert all(row["reason"] and row["line"] for row in listed.values())
    assert set(songs_of(folder.parent / "data")) == {"s1"}
    assert not outside.any_opened(), "a file outside of the folder was opened"
    (folder.parent / "outside.wav").read_bytes()
    assert outside.any_opened(), "the watch works"


@pytest.mark.case(29)
def test_another_folder_must_be_named_to_be_read(folder: Path, outside: OpenedFiles) -> None:
    write_manifest(folder / "m.jsonl", [song(1), song(2, audio="../songs_evil/x.wav")])
    chosen = options(folder / "m.jsonl")
    run(replace(chosen, manifests=replace(chosen.manifests, roots=(folder.with_name("songs_evil"),))))
    assert set(songs_of(folder.parent / "data")) == {"s1", "s2"} and outside.any_opened()


@pytest.mark.case(29)
def test_texts_beside_songs_are_not_read_through_links_that_lead_out(folder: Path, outside: OpenedFiles) -> None:
    (folder / "link.wav").unlink()
    (folder / "pipe.wav").unlink()
    (folder / "folder.wav").rmdir()  # a subfolder is rightly listed
    (folder / "a_prompt.txt").write_text("pop")
    (folder / "a_lyrics.txt").symlink_to(folder.with_name("secret.txt"))
    shutil.copy(folder / "a.wav", folder / "b.wav")
    (folder / "b_prompt.txt").write_text("pop")
    run(options(folder, output_folder=folder.parent / "data"))
    assert codes(folder.parent / "data") == {"a": "unreadable_text"}
    assert not outside.any_opened()


@pytest.mark.case(29)
def test_a_pipe_that_takes_a_files_place_later_is_not_opened(folder: Path) -> None:
    """Between the manifest and the audio a file may be replaced; opening a pipe would wait for ever."""
    write_manifest(folder / "m.jsonl", [song(1), song(2, audio="b.wav")])
    shutil.copy(folder / "a.wav", folder / "b.wav")

    def load(*_: Any) -> Any:
        (folder / "b.wav").unlink()
        os.mkfifo(folder / "b.wav")
        return fake_encoders()

    tokenize_data(options(folder / "m.jsonl"), load=load)
    assert codes(folder.parent / "data") == {"s2": "not_a_file"}
