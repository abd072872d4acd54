"""Folders, side files and manifests as other programs write them, each through `songgen prepare` and tokenizing."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from intact_data import open_intact
from preprocess_fakes import options_for, read_manifest, run, tone

from songgen.data.manifests.findings import ManifestError
from songgen.prepare.config import load_prepare_config
from songgen.prepare.preparation import prepare

CASES = Path(__file__).resolve().parents[1] / "cases"
OFF = [
    word for name in "voice agreement measure filter duplicates tag report".split() for word in (f"--{name}", "null")
]
"""Steps that no case needs; cutting and aligning stay on."""

RATE = 8000


@dataclass(frozen=True)
class Case:
    """An input, and what both commands make of it."""

    make: Callable[[Path], Path]
    """Writes the input into a folder and returns its name."""

    songs: dict[str, tuple[str, str, str]]
    """Id of each song that is used -> caption, lyrics, language (as tokenized; `en` is the default)."""

    notices: tuple[str, ...] = ()
    """Parts of notices that both commands give."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Id -> values in the prepared manifest."""

    refused: dict[str, str] = field(default_factory=dict)
    """Id -> code of songs that both commands leave out."""

    only_tokenizing_refuses: tuple[str, ...] = ()
    """Ids of songs that `songgen prepare` keeps, with a notice."""


def copied(name: str) -> Callable[[Path], Path]:
    """A case of tests/cases: a folder, or a manifest whose rows name a.wav."""

    def make(folder: Path) -> Path:
        if (CASES / name).is_dir():
            return Path(shutil.copytree(CASES / name, folder / name))
        write_song(folder)
        return Path(shutil.copy(CASES / name, folder / name))

    return make


def write_song(folder: Path, name: str = "a", suffix: str = ".wav", seconds: float = 1.0, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{suffix}"
    soundfile.write(path, tone(seconds, RATE, seed=seed), RATE)
    return path


def written(files: dict[str, str | bytes], *songs: str, manifest: str = "") -> Callable[[Path], Path]:
    """A folder of songs and side files, or one of these files as manifest."""

    def make(folder: Path) -> Path:
        for number, song in enumerate(songs or ("a",)):
            write_song(folder / "songs" / Path(song).parent, Path(song).name, seed=number)
        for name, content in files.items():
            path = folder / "songs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / "songs" / manifest if manifest else folder / "songs"

    return make


def parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    content = write_song(folder / "elsewhere").read_bytes()
    rows = [{"id": "x", "caption": "pop", "lyrics": "la", "audio": {"bytes": content, "path": "x.wav"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000.parquet")
    return folder / "train-00000.parquet"


def synchronized_frame(version: int = 3) -> bytes:
    """An ID3 tag with a SYLT frame of two lines."""
    lines = b"".join(
        text + b"\0" + struct.pack(">I", time) for text, time in ((b"blue water", 100), (b"red fire", 600))
    )
    body = b"\0eng\x02\x01\0" + lines
    frame = b"SYLT" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = len(frame)
    return b"ID3" + bytes([version, 0, 0, size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + frame


def tagged_mp3(folder: Path) -> Path:
    path = write_song(folder / "songs", suffix=".mp3")
    path.write_bytes(synchronized_frame() + path.read_bytes())
    (folder / "songs" / "a_prompt.txt").write_text("pop")
    return folder / "songs"


def tagged_flac(folder: Path) -> Path:
    """A Vorbis comment, put in front of the audio of a FLAC file."""
    path = write_song(folder / "songs", suffix=".flac")
    content = path.read_bytes()
    comments = [b"TITLE=x", b"LYRICS=[00:00.10]blue water\n[00:00.60]red fire"]
    body = struct.pack("<I", 0) + struct.pack("<I", len(comments))
    body += b"".join(struct.pack("<I", len(comment)) + comment for comment in comments)
    first = 8 + struct.unpack(">I", b"\0" + content[5:8])[0]
    block = bytes([4]) + struct.pack(">I", len(body))[1:] + body
    path.write_bytes(b"fLaC" + bytes([content[4] & 0x7F]) + content[5:first] + block + content[first:])
    (folder / "songs" / "a_prompt.txt").write_text("pop")
    return folder / "songs"


LRC = "[ti:Song]\n[offset:+100]\n[00:00.20]blue water\n[00:00.70]red fire\n"
SUNG = {"a": ("pop", "blue water\nred fire", "en")}
ROW = '"caption": "pop", "lyrics": "la", "audio": "a.wav"'
ONE = {"a": ("pop", "la", "en")}

TABLE: dict[str, Case] = {
    "lrc and srt": Case(
        copied("case_lrc"),
        {
            "a": ("pop", "blue water runs\nunder the moon", "en"),
            "b": ("pop", "green grass", "en"),
            "c": ("pop", "blue water runs", "en"),
        },
        ("the times in the lyrics are",),
    ),
    "SimpleTuner": Case(copied("case_simpletuner"), {"a": ("pop, male vocal", "[verse]\nblue water", "en")}),
    "ACE-Step 1.5": Case(
        copied("case_ace15"),
        {
            "a": ("a warm pop song, with piano", "[Verse]\nblue water", "zh"),
            "b": ("a pop song", "", "en"),
            "c": ("rock", "[Verse]\nred fire", "en"),
        },
        facts={
            "a": {"tempo": 124.0, "key": "A minor", "language": "zh"},
            "b": {"tempo": 124.0, "key": "A minor"},
            "c": {"tempo": 120.0, "key": "A minor"},
        },
    ),
    "composed and decomposed names": Case(
        copied("case_nfd"), {"caf\u00e9 \u00e9t\u00e9": ("pop, male vocal", "[verse]\nblue water", "en")}
    ),
    "AppleDouble": Case(
        copied("case_appledouble"),
        {"s1": ("pop, female voice, piano, happy, 120 bpm", "[verse]\nriver stone number 1", "en")},
        ("2 hidden files and folders are skipped, such as ._s1.wav",),
    ),
    "JSON array": Case(copied("json_array.json"), {"a": ("pop", "blue", "en")}),
    "languages": Case(
        copied("lang.jsonl"),
        {
            name: ("pop", "x", code)
            for name, code in {
                "eng": "en", "jp": "ja", "kr": "ko", "cn": "zh", "Mandarin": "zh", "zh_CN": "zh", "unknown": "en",
                "instrumental": "en", "English (US)": "en", "en-US": "en",
            }.items()
        },
        ("language 'unknown' states none",),
        only_tokenizing_refuses=("yue", "sv"),
    ),  # fmt: skip
    "archive of a Mac": Case(
        written({"a_prompt.txt": "pop", "a_lyrics.txt": "la", "__MACOSX/._a.wav": b"\0\5\x16\7", "Thumbs.db": b"x",
                 ".hidden/b.wav": b"x", ".DS_Store": b"x", "@eaDir/a.wav/x.wav": b"x"}),
        ONE,
        ("5 hidden files and folders are skipped",),
    ),
    "resource fork in a manifest": Case(
        written({"m.jsonl": f'{{{ROW}, "id": "a"}}\n' + '{"id": "b", "caption": "x", "lyrics": "", "audio": "._a.wav"}',
                 "._a.wav": b"\0\5\x16\7"}, manifest="m.jsonl"),
        ONE,
        ("is skipped",),
    ),
    "decomposed path in a manifest": Case(
        written({"m.jsonl": '{"id": "a", "caption": "pop", "lyrics": "la", "audio": "caf\u00e9.wav"}'}, "cafe\u0301",
                manifest="m.jsonl"),
        ONE,
    ),
    "backslashes": Case(
        written({"m.jsonl": r'{"id": "a", "caption": "pop", "lyrics": "la", "audio": "deep\\x.wav"}'}, "deep/x",
                manifest="m.jsonl"),
        ONE,
    ),
    "enhanced LRC beside plain lyrics": Case(
        written({"a_prompt.txt": "pop", "a_lyrics.txt": "[verse]\nBlue water!\n\nRed fire",
                 "a.lrc": "[00:00.10]<00:00.10>blue <00:00.30>water<00:00.50>\n[00:00.60]red fire"}),
        {"a": ("pop", "[verse]\nBlue water!\nRed fire", "en")},
        ("the times in the lyrics are",),
    ),
    "LRC with other words than the lyrics": Case(
        written({"a_prompt.txt": "pop", "a_lyrics.txt": "la", "a.lrc": LRC}),
        ONE,
        ("a.lrc: is not read, because a_lyrics.txt is there too",),
    ),
    "LRC of a music service": Case(
        written({"a_prompt.txt": "pop", "a.lrc": '{"t":0,"c":[{"tx":"x"}]}\n[00:00.000] \u4f5c\u8bcd : x\n'
                 "[00:00.20]blue water\n[00:00.20]\u84dd\u6c34\n[00:00.70]red fire\n[00:00.70]\u7ea2\u706b\n"}),
        SUNG,
    ),
    "WebVTT": Case(
        written({"a_prompt.txt": "pop", "a.vtt": "WEBVTT\n\n1\n00:00.100 --> 00:00.500 align:start\n<c>blue</c> water"
                 "\n\n"
                 "00:00.600 --> 00:00.900\n\u266a red fire \u266a\n"}),
        SUNG,
    ),
    "output of Whisper": Case(
        written({"a_prompt.txt": "pop",
                 "a_lyrics.txt": "[00:00.000 --> 00:00.500]  blue water\n[00:00.600 --> 00:00.900]  red fire\n"}),
        SUNG,
    ),
    "labels of Audacity": Case(
        written({"a_prompt.txt": "pop", "a_lyrics.txt": "0.1\t0.5\tblue water\n0.6\t0.9\tred fire\n"}), SUNG
    ),
    "SYLT of an MP3": Case(tagged_mp3, SUNG, ("lyrics in the tags", "the times in the lyrics are")),
    "comment of a FLAC": Case(tagged_flac, SUNG, ("lyrics in the tags", "the times in the lyrics are")),
    "ai-toolkit": Case(
        written({"a.txt": "<CAPTION>pop</CAPTION>\n<LYRICS>\nla\n</LYRICS>\n<BPM>120</BPM><KEYSCALE>A minor</KEYSCALE>"
                 "<TIMESIGNATURE>4</TIMESIGNATURE><DURATION>1</DURATION><LANGUAGE>de</LANGUAGE>"}),
        {"a": ("pop", "la", "de")},
        facts={"a": {"tempo": 120.0, "key": "A minor", "language": "de"}},
    ),
    "data set of ACE-Step 1.5": Case(
        written({"d.json": json.dumps({"metadata": {"name": "x"}, "samples": [
            {"id": "a", "audio_path": "a.wav", "filename": "a.wav", "caption": "pop", "lyrics": "[Instrumental]",
             "bpm": "N/A", "keyscale": "", "language": "instrumental", "is_instrumental": True}]}, indent=1)},
                manifest="d.json"),
        {"a": ("pop", "", "en")},
    ),
    "audiofolder": Case(
        written({"metadata.csv": 'file_name,caption,lyrics,bpm\nx/a.wav,"pop, loud","blue\nwater",120\n'}, "x/a"),
        {"metadata_00000003": ("pop, loud", "blue\nwater", "en")},
        facts={"metadata_00000003": {"tempo": 120.0}},
    ),
    "semicolons of a spreadsheet, UTF-16": Case(
        written({"m.csv": "\ufeffFile;Caption;Lyrics\r\na.wav;pop;la\r\n".encode("utf-16-le")}, manifest="m.csv"),
        {"m_00000002": ("pop", "la", "en")},
    ),
    "UTF-16 texts": Case(
        written({"a_prompt.txt": "pop".encode("utf-16"), "a_lyrics.txt": "b\u00e9 la\r\nlo".encode("utf-16")}),
        {"a": ("pop", "b\u00e9 la\nlo", "en")},
    ),
    "Parquet with audio inside": Case(parquet, {"x": ("pop", "la", "en")}),
    "objects one after another": Case(
        written({"m.json": f'{{\n "id": "a", {ROW}\n}}\n{{\n "id": "b", {ROW}\n}}\n'}, manifest="m.json"),
        {"a": ("pop", "la", "en"), "b": ("pop", "la", "en")},
    ),
    "object by file": Case(
        written({"m.json": '{"a.wav": {"caption": "pop", "lyrics": "la"}}'}, manifest="m.json"),
        {"a.wav": ("pop", "la", "en")},
    ),
    "lyrics as a list of lines": Case(
        written({"a.json": '{"caption": "pop", "lyrics": ["[verse]", "la", "lo"]}'}),
        {"a": ("pop", "[verse]\nla\nlo", "en")},
    ),
    "HTML, entities, full width, invisible characters, escaped line breaks": Case(
        written({"a_prompt.txt": "pop", "a_lyrics.txt": r"Rock &amp;amp; roll<br/>I <i>said</i> &#39;<3&#39;\n"
                 "\uff28\uff45\uff59\uff01\u3000\u200byou\ufeff"}),
        {"a": ("pop", "Rock & roll\nI said '<3'\nHey! you", "en")},
        ("HTML in the lyrics is left out",),
    ),
    "Chinese punctuation stays": Case(
        written({"a.json": '{"caption": "pop", "lyrics": "\u4f60\u597d\uff0c\uff37\uff4f\uff01", "language": "cmn"}'}),
        {"a": ("pop", "\u4f60\u597d\uff0cWo\uff01", "zh")},
    ),
    "nobody sings, in many words": Case(
        written({f"{name}_{kind}.txt": text for name, lyrics in (
            ("a", "(Instrumental)"), ("b", "No lyrics."), ("c", "instrumental track"),
            ("d", "\u7eaf\u97f3\u4e50\uff0c\u8bf7\u6b23\u8d4f"), ("e", "[intro]\n[inst]\n[outro]"),
            ("f", "[00:00.00]\u30a4\u30f3\u30b9\u30c8")) for kind, text in (("prompt", "pop"), ("lyrics", lyrics))},
            *"abcdef"),
        {name: ("pop", "", "en") for name in "abcdef"},
    ),
    "one bad file costs its song": Case(
        written({"a_prompt.txt": "pop", "a_lyrics.txt": "la", "b.json": '{"caption": 5}', "c.json": "[", "d_prompt.txt":
                 "caf\u00e9".encode("latin-1"), "e.json": "[" * 100_000}, *"abcde"),
        ONE,
        refused=dict.fromkeys("bcde", "unreadable_text"),
    ),
    "texts that are not read are named": Case(
        written({"a_prompt.txt": "pop", "a_lyrics.txt": "la", "a.txt": "x", "a.genre.txt": "x", "a - notes.md": "x",
                 "a.ttml": "<tt/>", "a.jpg": b"x"}),
        ONE,
        ("4 times: is not read; rename it to NAME_prompt.txt or NAME_lyrics.txt",),
    ),
}  # fmt: skip


def prepared(source: Path, place: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Rows of the prepared manifest by song, refusals by id, and notices."""
    words = ["--inputs", str(source), "--output_dir", str(place / "out"), "--max_bad_fraction", "1"]
    assert prepare(load_prepare_config([*words, "--segment.min_seconds", "0.5", *OFF])) is not None
    rows = {row["fname"].split("~")[0]: row for row in read_manifest(place / "out" / "metadata.jsonl")}
    refused = {row["id"]: row for row in read_manifest(place / "out" / "rejected.jsonl")}
    return rows, refused, json.loads((place / "out.work" / "songs.notices.json").read_text())["notices"]


def tokenized(source: Path, place: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Rows of the tokenized data set by id, rejections by id, and notices."""
    run(options_for(source, place / "data", max_bad_fraction=1.0))
    songs = open_intact(place / "data", "train")
    rows = {songs.row(index).id: songs.row(index) for index in range(len(songs))}
    rejected = {row["id"]: row for row in read_manifest(place / "data" / "rejected.jsonl")}
    return rows, rejected, json.loads((place / "data" / "report.json").read_text())["notices"]


@pytest.mark.faults
@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_both_commands_read_what_other_programs_write(case: Case, tmp_path: Path) -> None:
    source = case.make(tmp_path / "in")
    made, refused, notices = prepared(source, tmp_path)
    assert len(made) == len(case.songs) + len(case.only_tokenizing_refuses)
    by_source = {row["provenance"]["input"]["id"]: row for row in made.values()}
    for name, (caption, lyrics, _) in case.songs.items():
        assert (by_source[name]["caption"], _flat(by_source[name]["lyrics"])) == (caption, _flat(lyrics)), name
    for name, facts in case.facts.items():
        assert {key: by_source[name][key] for key in facts} == facts
    assert {name: row["code"] for name, row in refused.items()} == case.refused
    for part in case.notices:
        assert any(part in notice for notice in notices), (part, notices)
    for name in case.only_tokenizing_refuses:
        assert any(f"language {name!r} is not one of" in notice for notice in notices), "said at once"

    rows, rejected, notices = tokenized(source, tmp_path)
    assert {name: (row.caption, row.lyrics, row.language) for name, row in rows.items()} == case.songs
    expected = {**case.refused, **dict.fromkeys(case.only_tokenizing_refuses, "unknown_language")}
    assert {name: row["code"] for name, row in rejected.items()} == expected
    for part in case.notices:
        assert any(part in notice for notice in notices), (part, notices)


def _flat(lyrics: str) -> str:
    """Lyrics without empty lines, and with tags in lower case, as clips have them that were cut by line times."""
    return "\n".join(line.lower() if line.startswith("[") else line for line in lyrics.split("\n") if line)


def test_a_whole_song_with_times_is_cut_without_a_recognizer(tmp_path: Path) -> None:
    seconds = 60
    write_song(tmp_path / "in", seconds=seconds)
    (tmp_path / "in" / "a_prompt.txt").write_text("pop")
    lines = [f"[00:{second:02d}.00]line number {second}" for second in range(2, 56, 3)]
    (tmp_path / "in" / "a.lrc").write_text("[Verse]\n" + "\n".join(lines) + "\n[00:58.00]\n")
    rows, refused, _ = prepared(tmp_path / "in", tmp_path)
    assert not refused and rows
    rows_of_clips = read_manifest(tmp_path / "out" / "metadata.jsonl")
    assert len(rows_of_clips) > 2 and max(row["duration"] for row in rows_of_clips) <= 30
    sung = [line for row in rows_of_clips for line in row["lyrics"].split("\n") if not line.startswith("[")]
    assert sung == [f"line number {second}" for second in range(2, 56, 3)], "every line is in one clip"
    for row in rows_of_clips:
        starts = [int(line.rsplit(" ", 1)[1]) for line in row["lyrics"].split("\n") if line.startswith("line")]
        assert all(row["start"] <= start < row["start"] + row["duration"] for start in starts)


def test_times_of_another_version_of_the_song_are_not_used(tmp_path: Path) -> None:
    for name, seconds in (("a", 40), ("b", 3)):
        write_song(tmp_path / "in", name, seconds=seconds)
        (tmp_path / "in" / f"{name}_prompt.txt").write_text("pop")
        (tmp_path / "in" / f"{name}.lrc").write_text("[00:01.00]blue water\n[00:50.00]red fire\n")
    rows, refused, _ = prepared(tmp_path / "in", tmp_path)
    assert refused["a"]["code"] == "lyrics_without_times" and "another version" in refused["a"]["reason"]
    assert rows["b"]["lyrics"] == "blue water\nred fire", "a clip needs no times"


def test_made_ids_of_two_sources_do_not_collide(tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two")):
        write_song(tmp_path / folder, "s1", seed=number)
        (tmp_path / folder / "s1_prompt.txt").write_text("pop")
        (tmp_path / folder / "s1_lyrics.txt").write_text("la")
        row = {"caption": "pop", "lyrics": "la", "audio": "s1.wav"}
        (tmp_path / f"{folder}_m").mkdir()
        shutil.copy(tmp_path / folder / "s1.wav", tmp_path / f"{folder}_m" / "s1.wav")
        (tmp_path / f"{folder}_m" / "metadata.jsonl").write_text(json.dumps(row))
    from songgen.data.manifests.sources import ManifestSpec

    specs = tuple(ManifestSpec(str(tmp_path / name)) for name in ("one", "two", "one_m", "two_m"))
    run(options_for("", tmp_path / "data", splits={"train": specs}))
    songs = open_intact(tmp_path / "data", "train")
    ids = [songs.row(index).id for index in range(len(songs))]
    assert len(set(ids)) == 4 and [name.split("-")[0] for name in ids] == ["s1", "s1"] + ["metadata_00000001"] * 2
    twice = (specs[0], specs[0])
    with pytest.raises(ManifestError, match="was already used"):
        run(options_for("", tmp_path / "again", splits={"train": twice}))


def test_many_notices_of_one_kind_are_one_line(tmp_path: Path) -> None:
    for number in range(48):
        path = write_song(tmp_path / "in", f"s{number:02d}", seconds=0.5, seed=number)
        path.with_name(f"{path.stem}_prompt.txt").write_text("pop")
    (tmp_path / "in" / "s00-lyrics.txt").write_text("la")
    _, _, notices = tokenized(tmp_path / "in", tmp_path)
    notices = [notice for notice in notices if "ref_audio_column_name" not in notice]
    assert len(notices) == 2 and "rename it to s00_lyrics.txt" in notices[0]
    assert notices[1].startswith("48 times: is missing, so the song has no lyrics: ") and "and 43 more" in notices[1]


def test_a_folder_for_a_method_that_reads_manifests(tmp_path: Path) -> None:
    from songgen.data.manifests.sources import ManifestSpec

    write_song(tmp_path / "in")
    specs = (ManifestSpec(str(tmp_path / "in"), method="json"),)
    with pytest.raises(ManifestError, match='loading_method.*is "json"; "auto" or "folder" reads a folder of songs'):
        run(options_for("", tmp_path / "data", splits={"train": specs}))


def test_damaged_tags_cost_nothing(tmp_path: Path) -> None:
    """Every byte of a tag changed: the song is used, with or without lyrics."""
    from songgen.data.embedded_tags import embedded_lyrics

    tag = bytearray(synchronized_frame())
    generator = np.random.default_rng(0)
    path = tmp_path / "a.mp3"
    for at in range(len(tag)):
        damaged = bytes(tag[:at]) + bytes(generator.integers(0, 256, 1, dtype=np.uint8)) + bytes(tag[at + 1 :])
        path.write_bytes(damaged + b"\xff\xfb\x90\x00" * 10)
        found = embedded_lyrics(path)
        assert found is None or isinstance(found, str)
