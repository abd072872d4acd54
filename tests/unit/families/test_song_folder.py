"""Folders of generated songs: what is written into them is read again, and nothing else."""

import json
from pathlib import Path

import pytest

from songgen.families.use.song_folder import (
    REQUEST_FILE,
    SongRequest,
    Take,
    read_song_request,
    read_song_texts,
    song_files,
    song_path,
    write_song_request,
)

REQUEST = SongRequest(
    (Take("a", "models/base"), Take("b", "org/model", ("runs/x:0.5", "y"))),
    options={"seed": 7, "seconds": 2.5, "stream": True, "voice": "v.wav"}, ending=".flac", created=12.5,
)  # fmt: skip


def test_a_request_and_its_texts_are_read_as_they_were_written(tmp_path: Path) -> None:
    texts = {"caption": "<b>流行</b>", "lyrics": "[verse]\r\n</script>\n\u2028 'x' $(y)\n"}
    write_song_request(tmp_path, REQUEST, texts)
    assert read_song_request(tmp_path) == REQUEST
    assert read_song_texts(tmp_path) == {**texts, "lyrics": texts["lyrics"].replace("\r\n", "\n")}


def test_a_text_that_is_not_there_is_empty(tmp_path: Path) -> None:
    write_song_request(tmp_path, REQUEST, {"caption": "", "lyrics": "la"})
    assert not (tmp_path / "caption.txt").exists()
    assert read_song_texts(tmp_path) == {"caption": "", "lyrics": "la"}


def test_half_of_a_character_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="caption: character 2 is half of one"):
        write_song_request(tmp_path, REQUEST, {"caption": "a\ud800", "lyrics": "la"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"takes": []}, "takes must have"),
        ({"takes": [{"name": "../a", "model": "m"}]}, "takes must have"),
        ({"takes": [{"name": "a", "model": "m"}, {"name": "a", "model": "n"}]}, "takes must have"),
        ({"ending": "/../x.wav"}, "ending of an audio file"),
        ({"ending": ".wav.sh"}, "ending of an audio file"),
        ({"schema_version": 2}, "update songgen"),
        ({"more": 1}, "unknown keys"),
    ],
)
def test_a_damaged_request_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_song_request(tmp_path, REQUEST, {})
    values = json.loads((tmp_path / REQUEST_FILE).read_text())
    (tmp_path / REQUEST_FILE).write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=message):
        read_song_request(tmp_path)


def test_files_are_found_by_take_song_and_track(tmp_path: Path) -> None:
    names = [song_path(tmp_path / f"{take}.flac", song, 2, track).name
             for take in "ba" for song in (1, 0) for track in ("vocal", "")]  # fmt: skip
    for name in [*names, "c.flac", "a.wav", "a-0.flac", "a-1.flac.tmp", "request.json", "ab.flac"]:
        (tmp_path / name).touch()
    (tmp_path / "a-3.flac").mkdir()
    found = song_files(tmp_path, REQUEST)
    assert [(file.take, file.song, file.track) for file in found] == [
        (take, song, track) for take in "ab" for song in (0, 1) for track in ("", "vocal")
    ]
    assert {file.path.name for file in found} == {*names}
