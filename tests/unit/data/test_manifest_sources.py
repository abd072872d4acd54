import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from songgen.data.manifests.clip import ClipRow
from songgen.data.manifests.findings import ManifestError, ManifestFindings
from songgen.data.manifests.manifest import read_clip_rows
from songgen.data.manifests.raw_rows import ColumnNames, caption_of_variants, track_of_column
from songgen.data.manifests.row_reader import ManifestOptions
from songgen.data.manifests.sources import ManifestSpec
from songgen.data.manifests.tags import missing_tag_kinds

TAGS = "melodic techno, male vocal, electronic, emotional, minor key, 124 bpm, synthesizer, driving, atmospheric"
COLUMNS = ColumnNames(target="audio_abspath", references=("vocal_abspath", "acc_abspath"))


def read(name: Path | str, spool: Path | None = None, **spec: Any) -> tuple[list[ClipRow], ManifestFindings]:
    findings = ManifestFindings()
    options = ManifestOptions(COLUMNS, spool_folder=spool or Path("."))
    return list(read_clip_rows([ManifestSpec(str(name), **spec)], options, findings)), findings


def write_song(
    folder: Path, name: str, suffix: str = ".mp3", prompt: str | None = TAGS, lyrics: str | None = "la"
) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}{suffix}").write_bytes(b"audio " + name.encode())
    for kind, text in (("prompt", prompt), ("lyrics", lyrics)):
        if text is not None:
            (folder / f"{name}_{kind}.txt").write_text(text, encoding="utf-8")


def test_worked_sample_of_the_folder_layout(tmp_path: Path) -> None:
    lyrics = "[Verse]\nThe lights go down\n\n[Chorus]\nWe dance"
    write_song(tmp_path, "test_track_001", lyrics=lyrics)
    rows, findings = read(tmp_path)
    (row,) = rows
    assert row.id == "test_track_001" and row.caption == TAGS and len(row.caption.split(", ")) == 9
    assert row.lyrics == lyrics and row.tracks["mix"].given == "test_track_001.mp3"
    assert all("ref_audio_column_name" in notice for notice in findings.notices)
    assert missing_tag_kinds(row.caption) == ()


def test_all_formats_subfolders_and_separated_tracks(tmp_path: Path) -> None:
    for name, suffix in (("b", ".wav"), ("a", ".MP3"), ("deep/er/c", ".flac"), ("d", ".ogg")):
        write_song(tmp_path, name, suffix)
    (tmp_path / "b_vocal.wav").write_bytes(b"v")
    (tmp_path / "b_acc.flac").write_bytes(b"a")
    rows, _ = read(tmp_path)
    assert [row.id for row in rows] == ["a", "b", "d", "deep/er/c"]
    assert {track: path.given for track, path in rows[1].tracks.items()} == {
        "mix": "b.wav",
        "vocal": "b_vocal.wav",
        "acc": "b_acc.flac",
    }


def test_tags_split_at_any_comma(tmp_path: Path) -> None:
    write_song(tmp_path, "a", prompt="\ufeffpop ,rock,, 120 bpm ,\n")
    rows, _ = read(tmp_path)
    assert rows[0].caption == "pop, rock, 120 bpm"


def test_every_violation_of_the_naming_is_reported(tmp_path: Path) -> None:
    write_song(tmp_path, "no_prompt", prompt=None)
    write_song(tmp_path, "no_lyrics", lyrics=None)
    write_song(tmp_path, "two_lines", prompt="pop\nrock")
    (tmp_path / "no_audio_prompt.txt").write_text("pop")
    (tmp_path / "latin_prompt.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "latin.mp3").write_bytes(b"x")
    rows, findings = read(tmp_path)
    assert {row.id: row.code for row in rows} == {
        "latin": "unreadable_text",
        "no_lyrics": "",
        "no_prompt": "missing_caption",
        "two_lines": "",
    }
    notices = "\n".join(findings.notices)
    assert "no_lyrics_lyrics.txt: is missing, so the song has no lyrics" in notices
    assert "no_prompt_prompt.txt: is missing, so the song has no caption" in notices
    assert "two_lines_prompt.txt: has 2 lines" in notices and "there is no audio file no_audio.*" in notices


def test_names_that_nearly_fit_are_reported_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "Other.flac").write_bytes(b"x")
    for name in ("song_Prompt.txt", "song-lyrics.txt", "song.txt", "deep/other_prompt.txt", "deep/other lyrics.md"):
        (tmp_path / name).write_text("pop")
    rows, findings = read(tmp_path)
    assert {row.id: row.code for row in rows} == {"song": "missing_caption", "deep/Other": "missing_caption"}
    notices = "\n".join(findings.notices)
    assert "song_Prompt.txt: is not read; rename it to song_prompt.txt" in notices
    assert "song-lyrics.txt: is not read; rename it to song_lyrics.txt" in notices
    assert "song.txt: is not read; rename it to song_prompt.txt or song_lyrics.txt" in notices
    assert "other_prompt.txt: there is no audio file other.*; did you mean Other_prompt.txt?" in notices
    assert "other lyrics.md: is not read, and there is no audio file other.*; did you mean Other_lyrics.txt?" in notices


def test_two_files_of_one_name(tmp_path: Path) -> None:
    write_song(tmp_path, "a", ".mp3")
    write_song(tmp_path, "a", ".wav")
    write_song(tmp_path, "b", ".wav")
    rows, _ = read(tmp_path)
    assert [(row.id, row.code) for row in rows] == [("a", "ambiguous_audio"), ("b", "")]
    assert "a.mp3 and a.wav have one name; keep one of them" in rows[0].reason


def test_formats_that_are_not_read_are_rows_too(tmp_path: Path) -> None:
    write_song(tmp_path, "a", ".m4a")
    write_song(tmp_path, "b", ".wav")
    (tmp_path / "b.aac").write_bytes(b"x")
    rows, findings = read(tmp_path)
    assert {row.id: row.code for row in rows} == {"b": "", "a": "unsupported_format"}
    assert any(
        "b.aac: this format is not read; convert" in notice and "ffmpeg" in notice for notice in findings.notices
    )
    assert not any("a_prompt.txt" in notice for notice in findings.notices)


def test_other_names_of_the_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    (tmp_path / "a.caption.txt").write_text("pop, sunny")
    (tmp_path / "a.lyrics.txt").write_text("la")
    (tmp_path / "b.wav").write_bytes(b"x")
    (tmp_path / "b.json").write_text('{"tags": ["rock", "loud"], "lyrics": "na na", "language": "german"}')
    (tmp_path / "b_lyrics.txt").write_text("no no")
    (tmp_path / "list.json").write_text("[]")
    rows, findings = read(tmp_path)
    assert [(row.caption, row.lyrics, row.language) for row in rows] == [
        ("pop, sunny", "la", "en"),
        ("rock, loud", "no no", "german"),
    ]
    assert all("ref_audio_column_name" in notice for notice in findings.notices)


def test_text_files_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    write_song(tmp_path / "songs", "a", prompt=None)
    (tmp_path / "songs" / "a_prompt.txt").symlink_to(tmp_path / "secret.txt")
    rows, _ = read(tmp_path / "songs")
    assert rows[0].code == "unreadable_text" and "outside the folder" in rows[0].reason


def test_lists_in_the_ljspeech_form(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    for name in ("LJ001-0001.wav", "two.wav"):
        (tmp_path / "wavs" / name).write_bytes(b"x")
    lines = ["\ufeffaudio_file|text", "LJ001-0001|In 1999|in nineteen ninety-nine", "", "wavs/two.wav|Hello"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    for name in (tmp_path, tmp_path / "metadata.csv"):
        rows, _ = read(name)
        assert [(row.id, row.lyrics, row.line) for row in rows] == [
            ("wavs/LJ001-0001", "In 1999", 2),
            ("wavs/two", "Hello", 4),
        ]
        assert all(row.tracks["mix"].resolved and row.code == "missing_caption" for row in rows)
    (tmp_path / "train.txt").write_text("no text here\n")
    with pytest.raises(ManifestError, match=r"train.txt:1: not a line of path\|text"):
        read(tmp_path / "train.txt")


def test_raw_songs_need_neither_texts_nor_separated_tracks(tmp_path: Path) -> None:
    write_song(tmp_path, "a", prompt=None, lyrics=None)
    findings = ManifestFindings()
    options = ManifestOptions(COLUMNS, is_raw=True, kept_columns=("tags", "tempo"))
    (row,) = read_clip_rows([ManifestSpec(str(tmp_path))], options, findings)
    assert (row.code, row.caption, row.extra) == ("", "", {})
    assert len(findings.notices) == 2 and all("is missing, so the song has no" in text for text in findings.notices)
    write_song(tmp_path, "a", prompt="pop,  sunny")
    (row,) = read_clip_rows([ManifestSpec(str(tmp_path))], options, ManifestFindings())
    assert row.extra == {"tags": ["pop", "sunny"]}


def test_variants_in_json_are_chosen_by_id(tmp_path: Path) -> None:
    variants = {
        "simplified": "pop",
        "expanded": "dance pop",
        "descriptive": "a bright song",
        "analysis": {"tempo": "1"},
    }
    write_song(tmp_path, "a", prompt=None)
    (tmp_path / "a_prompt.json").write_text(json.dumps(variants))
    rows, _ = read(tmp_path)
    assert rows[0].caption == caption_of_variants(variants, "a")
    assert {caption_of_variants(variants, str(n)) for n in range(50)} == {"pop", "dance pop", "a bright song"}


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no row in it"):
        read(tmp_path)


def ace_row(name: str) -> dict[str, Any]:
    return {
        "keys": name,
        "filename": f"data/{name}.mp3",
        "tags": TAGS.split(", "),
        "speaker_emb_path": "",
        "norm_lyrics": "[Verse]\nla",
        "recaption": {},
    }


def test_saved_data_set_of_the_ace_layout(tmp_path: Path) -> None:
    """The converter repeats rows (`repeat_count`); the audio lies beside the data set's folder."""
    write_song(tmp_path / "data", "one")
    write_song(tmp_path / "data", "two")
    rows = [ace_row("one"), ace_row("two")] * 3
    for row in rows:
        row["recaption"] = {"unused": ""}
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "zh_lora_dataset"))
    clips, findings = read(tmp_path / "zh_lora_dataset")
    assert [(clip.id, clip.caption, clip.lyrics) for clip in clips] == [
        ("one", TAGS, "[Verse]\nla"),
        ("two", TAGS, "[Verse]\nla"),
    ]
    assert clips[0].tracks["mix"].resolved == str((tmp_path / "data" / "one.mp3").resolve())
    assert findings.repeated_rows == 4
    (notice,) = [notice for notice in findings.notices if "repeat" in notice]
    assert "4 rows repeat others and are used once, 2 rows remain; num_train_epochs" in notice


def test_the_converter_s_data_set_is_the_folder_that_it_was_made_of(tmp_path: Path) -> None:
    write_song(tmp_path / "data", "test_track_001", lyrics="[Verse]\nla")
    Dataset.from_list([ace_row("test_track_001")] * 20).save_to_disk(str(tmp_path / "zh_lora_dataset"))
    (converted,), _ = read(tmp_path / "zh_lora_dataset")
    (song,), _ = read(tmp_path / "data")
    for name in ("id", "caption", "lyrics", "language", "code", "is_instrumental"):
        assert getattr(converted, name) == getattr(song, name), name
    assert converted.tracks["mix"].resolved == song.tracks["mix"].resolved


def test_tensors_of_another_trainer_are_never_opened(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_song(tmp_path / "songs", name)
        (tmp_path / "songs" / f"{name}.pt").write_bytes(b"a pickle")
    rows, findings = read(tmp_path / "songs")
    assert [row.id for row in rows] == ["a", "b"]
    said = [notice for notice in findings.notices if "never opened; songs are read from their audio" in notice]
    assert len(said) == 2 and "a.pt" in said[0]
    (tmp_path / "tensors").mkdir()
    (tmp_path / "tensors" / "a.pt").write_bytes(b"a pickle")
    with pytest.raises(ManifestError, match=r"no row in it.*\.pt files are tensors.*name the folder of the songs"):
        read(tmp_path / "tensors")
    with pytest.raises(ManifestError, match="never opened; name its songs"):
        read(tmp_path / "tensors" / "a.pt")


def test_saved_data_set_of_the_published_layout(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    row = {"fname": "x", "caption": "c", "lyrics": "l", "audio_abspath": "a.wav", "language": "english"}
    DatasetDict({"test": Dataset.from_list([row])}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "a.wav").write_bytes(b"x")
    clips, _ = read(tmp_path / "saved", split="test")
    assert clips[0].id == "x" and clips[0].tracks["mix"].resolved
    with pytest.raises(ManifestError, match="has no split 'train'; it has test"):
        read(tmp_path / "saved")


def test_audio_inside_of_rows_is_not_decoded(tmp_path: Path) -> None:
    row = {"id": "x", "caption": "c", "lyrics": "l", "audio_abspath": {"bytes": b"not audio at all", "path": "x.wav"}}
    Dataset.from_list([row]).save_to_disk(str(tmp_path / "saved"))
    clips, _ = read(tmp_path / "saved", spool=tmp_path / "spool")
    path = Path(clips[0].tracks["mix"].resolved)
    assert path.parent == (tmp_path / "spool").resolve() and path.read_bytes() == b"not audio at all"


def test_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*arguments: Any, **keywords: Any) -> Dataset:
        asked.append((arguments, keywords))
        return Dataset.from_list([{"id": "x", "caption": "c", "lyrics": "l", "audio": {"bytes": b"1", "path": None}}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    clips, _ = read("user/songs", spool=tmp_path, config_name="default", split="test")
    assert asked == [(("user/songs", "default"), {"split": "test"})]
    assert clips[0].tracks["mix"].resolved.startswith(str(tmp_path.resolve()))


def test_a_name_that_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="neither a file or folder here nor a data set"):
        read("user/absent")
    (tmp_path / "table.xlsx").write_text("a,b")
    with pytest.raises(ManifestError, match="must be a .jsonl file"):
        read(tmp_path / "table.xlsx")
    with pytest.raises(ManifestError, match="there is no folder"):
        read(tmp_path / "absent", method="folder")


@pytest.mark.parametrize(
    ("column", "track"),
    [("vocal_abspath", "vocal"), ("acc_file_name", "acc"), ("drum", "drum"), ("vocal_path", "vocal")],
)
def test_track_of_a_column(column: str, track: str) -> None:
    assert track_of_column(column) == track


def test_kinds_of_tags() -> None:
    assert missing_tag_kinds("") == ("style", "voice", "instruments", "mood", "tempo", "key")
    assert missing_tag_kinds("C# minor, 90 BPM") == ("style", "voice", "instruments", "mood")
    assert missing_tag_kinds("happy pop with female vocals and drums") == ("tempo", "key")
