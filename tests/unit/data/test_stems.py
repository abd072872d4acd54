"""Separated tracks belong to their songs by the names that separators and DAWs give them."""

from pathlib import Path

import pytest

from songgen.data.manifests.manifest import ManifestFindings, ManifestOptions, read_clip_rows
from songgen.data.manifests.raw_rows import ColumnNames
from songgen.data.manifests.sources import ManifestSpec

COLUMNS = ColumnNames(references=("vocal", "acc"))


def songs_of(root: Path, *names: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Make empty files; return the tracks (relative paths) or the code of each song, and the notices."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    findings = ManifestFindings()
    rows = read_clip_rows([ManifestSpec(str(root))], ManifestOptions(columns=COLUMNS, is_raw=True), findings)
    found = {}
    for row in rows:
        found[row.id] = {"code": row.code} if row.code else {track: path.given for track, path in row.tracks.items()}
    return found, findings.notices


@pytest.mark.parametrize(
    ("vocal", "accompaniment"),
    [
        ("song_vocal.wav", "song_acc.wav"),
        ("song_vocals.wav", "song_instrumental.wav"),
        ("song (Vocals).wav", "song (Instrumental).wav"),
        ("song - Vocals.flac", "song - Instrumental.flac"),
        ("song-vocals.mp3", "song-no_vocals.mp3"),
        ("song.vocals.wav", "song.accompaniment.wav"),
        ("Song [Acapella].wav", "Song [Karaoke].wav"),
        ("1_song_(Vocals).wav", "1_song_(Instrumental).wav"),
        ("song_(Vocals)_UVR-MDX-NET-Inst_HQ_3.wav", "song_(Instrumental)_UVR-MDX-NET-Inst_HQ_3.wav"),
        ("song_(Vocals)_model_bs_roformer.flac", "song_(other)_model_bs_roformer.flac"),
        ("song vocals.wav", "song accompaniment.wav"),
        ("song/vocals.wav", "song/background.wav"),
        ("song/vocals.wav", "song/no_vocals.wav"),
        ("song/vocals.wav", "song/accompaniment.wav"),
        ("song/Vocals.WAV", "song/Instrumental.WAV"),
        ("htdemucs/song/vocals.wav", "htdemucs/song/no_vocals.wav"),
        ("separated/mdx_extra/song/vocals.mp3", "separated/mdx_extra/song/no_vocals.mp3"),
        ("vocals/song.wav", "instrumental/song.wav"),
        ("uvr/1_song_(Vocals).wav", "uvr/1_song_(Instrumental).wav"),
    ],
)
def test_tracks_belong_to_their_song(tmp_path: Path, vocal: str, accompaniment: str) -> None:
    found, notices = songs_of(tmp_path, "song.wav", "other.wav", vocal, accompaniment)
    assert found == {
        "other": {"mix": "other.wav"},
        "song": {"mix": "song.wav", "vocal": vocal, "acc": accompaniment},
    }
    assert not [notice for notice in notices if "not read" in notice]


def test_a_folder_with_the_mix(tmp_path: Path) -> None:
    found, notices = songs_of(tmp_path, *(f"a song/{name}.wav" for name in ("mixture", "vocals", "drums", "bass")))
    assert found == {"a song/mixture": {"mix": "a song/mixture.wav", "vocal": "a song/vocals.wav"}}
    assert sum("part of a separated song" in notice for notice in notices) == 2, "drums and bass are named"


def test_separated_next_to_the_folder_of_the_songs(tmp_path: Path) -> None:
    found, _ = songs_of(tmp_path, "mp3/a song.mp3", "htdemucs/a song/vocals.wav", "htdemucs/a song/no_vocals.wav")
    assert found["mp3/a song"]["vocal"] == "htdemucs/a song/vocals.wav" and len(found) == 1


def test_tracks_without_their_mix_are_one_refused_song(tmp_path: Path) -> None:
    found, _ = songs_of(tmp_path, "htdemucs/x/vocals.wav", "htdemucs/x/no_vocals.wav", "y (Vocals).wav",
                        "y (Instrumental).wav")  # fmt: skip
    assert found == {"htdemucs/x": {"code": "missing_track"}, "y": {"code": "missing_track"}}


def test_songs_that_only_sound_like_tracks_remain_songs(tmp_path: Path) -> None:
    names = ("Sunrise (Instrumental).wav", "bass.wav", "Piano - Bass.mp3", "My_Voice.wav")
    found, notices = songs_of(tmp_path, *names)
    assert sorted(found) == sorted(Path(name).stem for name in names)
    assert all(list(tracks) == ["mix"] for tracks in found.values())


def test_the_better_name_wins_and_the_other_file_is_named(tmp_path: Path) -> None:
    found, notices = songs_of(tmp_path, "song.wav", "song_vocal.wav", "song_karaoke.wav", "song_instrumental.wav")
    assert found == {"song": {"mix": "song.wav", "vocal": "song_vocal.wav", "acc": "song_instrumental.wav"}}
    assert any("song_karaoke.wav" in notice and "not read" in notice for notice in notices)


@pytest.mark.parametrize("name", ["a.OPUS", "a.aiff", "a.AIF", "a.aifc", "a.caf", "a.oga", "a.Wav"])
def test_endings(tmp_path: Path, name: str) -> None:
    assert songs_of(tmp_path, name)[0] == {"a": {"mix": name}}


@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".wma", ".mp4", ".webm", ".M4A"])
def test_other_formats_come_with_the_command_for_the_whole_folder(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    findings = ManifestFindings()
    (row,) = read_clip_rows([ManifestSpec(str(tmp_path))], ManifestOptions(columns=COLUMNS, is_raw=True), findings)
    assert row.code == "unsupported_format" and str(tmp_path) not in row.reason
    assert f"find . -iname '*{suffix.lower()}' -exec sh -c 'ffmpeg" in row.reason
