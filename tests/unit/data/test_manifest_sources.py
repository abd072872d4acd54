import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from songgen.data.clip import ClipRow
from songgen.data.manifest import ManifestError, ManifestFindings, ManifestOptions, read_clip_rows
from songgen.data.sources import ColumnNames, ManifestSpec, caption_of_variants, track_of_column
from songgen.data.tags import missing_tag_kinds

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
    assert "no_lyrics_lyrics.txt: is missing; the song is taken as an instrumental" in notices
    assert "two_lines_prompt.txt: has 2 lines" in notices and "there is no audio file no_audio.*" in notices


def test_two_files_of_one_name(tmp_path: Path) -> None:
    write_song(tmp_path, "a", ".mp3")
    write_song(tmp_path, "a", ".wav")
    with pytest.raises(ManifestError, match="id 'a' was already used"):
        read(tmp_path)


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
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(ManifestError, match="must be a .jsonl file"):
        read(tmp_path / "table.csv")
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
