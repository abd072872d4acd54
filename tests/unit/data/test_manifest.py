import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from songgen.data.manifests.clip import ClipRow
from songgen.data.manifests.findings import ManifestError, ManifestFindings
from songgen.data.manifests.manifest import read_clip_rows
from songgen.data.manifests.raw_rows import ColumnNames
from songgen.data.manifests.row_index import open_row_index
from songgen.data.manifests.row_reader import ManifestOptions, column_names
from songgen.data.manifests.sources import ManifestSpec

COLUMNS = ColumnNames(target="audio_abspath", references=("vocal_abspath", "acc_abspath"))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"audio")


def song(number: int, **changes: Any) -> dict[str, Any]:
    row = {"id": f"s{number}", "caption": "calm piano", "lyrics": "la", "audio_file_name": "a.wav"}
    return {**row, **changes}


def write(path: Path, rows: list[Any], prefix: bytes = b"") -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(prefix + b"\n".join(lines) + b"\n")
    return path


def read(*specs: ManifestSpec | Path, **options: Any) -> tuple[list[ClipRow], ManifestFindings]:
    findings = ManifestFindings()
    options.setdefault("columns", COLUMNS)
    wanted = [spec if isinstance(spec, ManifestSpec) else ManifestSpec(str(spec)) for spec in specs]
    return list(read_clip_rows(wanted, ManifestOptions(**options), findings)), findings


def test_published_row(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "v.wav", "b.wav")
    row = {
        "fname": "5gRpM",
        "caption": "A slow ballad",
        "lyrics": "hello",
        "audio_abspath": str(tmp_path / "a.wav"),
        "vocal_abspath": str(tmp_path / "v.wav"),
        "acc_abspath": str(tmp_path / "b.wav"),
        "vocal_energy": 1066.88,
        "acc_energy": 895.92,
        "audio_sha256": "0F" * 32,
        "language": "english",
        "duration": 9.9935,
    }
    rows, findings = read(write(tmp_path / "metadata.jsonl", [row]))
    (clip,) = rows
    assert (clip.id, clip.language, clip.duration, clip.line) == ("5gRpM", "english", 9.9935, 1)
    assert clip.energies == {"vocal": 1066.88, "acc": 895.92}
    assert clip.hashes == {"mix": "0f" * 32}
    assert {track: Path(path.resolved).name for track, path in clip.tracks.items()} == {
        "mix": "a.wav",
        "vocal": "v.wav",
        "acc": "b.wav",
    }
    assert findings.notices == [] and ClipRow.from_json(clip.to_json()) == clip


def test_relative_names_start_at_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "songs", "wav/a.wav")
    write(tmp_path / "songs" / "metadata.jsonl", [song(1, audio_file_name="wav/a.wav")])
    monkeypatch.chdir(tmp_path)
    for name in ("songs/metadata.jsonl", "songs"):
        rows, _ = read(ManifestSpec(name))
        assert rows[0].tracks["mix"].resolved == str(tmp_path.resolve() / "songs/wav/a.wav")


def test_names_of_an_audio_column() -> None:
    assert column_names("vocal_abspath") == ("vocal_abspath", "vocal_file_name", "vocal")
    assert column_names("audio") == ("audio", "audio_abspath", "audio_file_name")


def test_configured_column_that_no_row_has(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    path = write(tmp_path / "m.jsonl", [song(1), song(2)])
    with pytest.raises(
        ManifestError, match=r"no row has the column 'description'.* audio_file_name, caption, id, lyrics"
    ):
        read(path, columns=ColumnNames(caption="description"))


def test_missing_reference_column_names_those_that_exist(tmp_path: Path) -> None:
    """The published data_musiccaps.json asks for drum_abspath, which its own rows lack: no reason to stop."""
    touch(tmp_path, "a.wav", "v.wav")
    path = write(tmp_path / "m.jsonl", [song(1, vocal_file_name="v.wav")])
    rows, findings = read(path, columns=ColumnNames(references=("vocal_abspath", "drum_abspath")))
    assert set(rows[0].tracks) == {"mix", "vocal"}
    (notice,) = findings.notices
    assert "'drum_abspath'" in notice and "audio_file_name, caption, id, lyrics, vocal_file_name" in notice


def test_further_tracks_are_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "d.wav")
    path = write(tmp_path / "m.jsonl", [song(1, drum_file_name="d.wav")])
    rows, _ = read(path, columns=ColumnNames(references=("drum_abspath",)))
    assert set(rows[0].tracks) == {"mix", "drum"}


def test_null_lyrics_are_an_instrumental_and_null_captions_are_rejected(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    rows, _ = read(write(tmp_path / "m.jsonl", [song(1, lyrics=None), song(2, caption=None)]))
    assert (rows[0].lyrics, rows[0].code) == ("", "") and rows[1].code == "missing_caption"


def test_rows_without_id_are_numbered(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    row = song(1)
    del row["id"]
    rows, _ = read(write(tmp_path / "m.jsonl", [row]))
    assert rows[0].id == "m_00000001"
    with pytest.raises(ManifestError, match="no row has the column 'uid'"):
        read(tmp_path / "m.jsonl", columns=ColumnNames(id="uid"))


def test_limits(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    first = write(tmp_path / "a.jsonl", [song(n) for n in range(5)])
    second = write(tmp_path / "b.jsonl", [song(n) for n in range(5, 9)])
    rows, _ = read(ManifestSpec(str(first), max_rows=2), ManifestSpec(str(second)), max_rows=4)
    assert [row.id for row in rows] == ["s0", "s1", "s5", "s6"]


def test_annotations_are_merged_by_id(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    rows = [{"id": f"s{n}", "audio_file_name": "a.wav", "caption": "old", "lyrics": "x"} for n in range(3)]
    main = write(tmp_path / "songs.jsonl", rows)
    annotations = write(
        tmp_path / "annotations.jsonl",
        [
            {"id": "s1", "caption": "new", "lyrics": None},
            {"id": "s0", "language": "de"},
            {"id": "gone", "caption": "?"},
        ],
    )
    clips, findings = read(ManifestSpec(str(main), annotations=str(annotations)))
    assert [(clip.caption, clip.lyrics, clip.language) for clip in clips] == [
        ("old", "x", "de"),
        ("new", "x", "en"),
        ("old", "x", "en"),
    ]
    assert any("'s2' is not in" in notice for notice in findings.notices)
    assert any("1 annotation(s) belong to no row" in notice for notice in findings.notices)


def test_row_index_finds_and_counts() -> None:
    with open_row_index() as index:
        assert index.add("a", "m:1", "x") is None and index.add("a", "m:2", "y") == ("m:1", "x")
        assert index.num_unused() == 1 and index.take("a") == "x" and index.take("b") is None
        assert index.num_unused() == 0
    with pytest.raises(sqlite3.ProgrammingError):
        index.take("a")
