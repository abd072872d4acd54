"""Twenty songs as people have them: in several formats and layouts, some broken, one twice, one foreign, one unsung."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

DEMO = Path(__file__).resolve().parents[2] / "helpers" / "demo"
RATE = 16_000

BROKEN = ("cut", "text", "voice_memo")
"""Ids of the songs that cannot be read: a WAV without its end, a text named like an MP3, a format unknown here."""

DUPLICATE, ORIGINAL = "pop_song_again", "album__pop_song"
"""Id of an MP3 copy that is quieter, and that of its WAV original."""

SINGERS = ("Ann", "Ben")
"""Singers of the songs of the manifest."""

INSTRUMENTAL, FOREIGN, LONG = "interlude", "ausland", "live_set"
"""Ids of the songs without voice, in German, and of one that is longer than a clip."""


def sung_songs(folder: Path, count: int) -> list[dict[str, Any]]:
    """Build songs that are really sung; each has `audio`, `vocal`, `acc` (int16 samples), `lyrics`, `caption`."""
    pytest.importorskip("parselmouth", reason="praat-parselmouth (demo extra) is not installed")
    pytest.importorskip("espeakng_loader", reason="espeakng-loader (demo extra) is not installed")
    sys.path.insert(0, str(DEMO))
    from build_songs import build_songs

    build_songs(folder, num_songs=count, seed=0)
    songs = []
    for name in ("metadata.jsonl", "metadata_eval.jsonl"):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for track in ("audio", "vocal", "acc"):
                row[track] = soundfile.read(folder / row[f"{track}_file_name"], dtype="int16")[0]
            songs.append(row)
    return songs


def build_corpus(folder: Path) -> dict[str, Any]:
    """Write the twenty songs into `folder`.

    Returns:
        the `inputs` of a configuration that reads them.
    """
    songs = sung_songs(folder / "sung", 19)
    root = folder / "songs"
    for name, song in zip(
        (
            "album/pop_song.wav",
            "album/two.wav",
            "album/three.flac",
            "album/four.ogg",
            "album/deep/five.mp3",
            "album/deep/six.mp3",
        ),
        songs,
        strict=False,
    ):
        _write(root / name, song["audio"])
        _write_texts(root / name, song, "_prompt.txt", "_lyrics.txt")
    for number, song in enumerate(songs[6:8], 7):
        path = root / f"number {number}.flac"
        _write(path, song["audio"])
        _write_texts(path, song, ".caption.txt", ".lyrics.txt")
    described = root / "described.ogg"
    _write(described, songs[8]["audio"])
    variants = {"simplified": "folk", "descriptive": "A calm voice over a guitar.", "lyrics": songs[8]["lyrics"]}
    described.with_suffix(".json").write_text(json.dumps(variants | {"tags": ["folk", "calm", "male vocal"]}))
    stereo = np.stack([songs[9]["audio"], songs[9]["audio"] // 2], axis=1)
    _write(root / "stereo.wav", stereo)
    _write_texts(root / "stereo.wav", songs[9], "_prompt.txt", "_lyrics.txt")
    _write(root / f"{LONG}.flac", np.concatenate([np.append(song["audio"], np.zeros(RATE)) for song in songs[10:13]]))
    _write(root / f"{DUPLICATE}.mp3", songs[0]["audio"] // 2)
    _write(root / f"{INSTRUMENTAL}.wav", songs[13]["acc"])
    _write(root / f"{FOREIGN}.wav", songs[14]["audio"])
    foreign = {"caption": "Schlager", "lyrics": "Regen auf der Stra\u00dfe", "language": "german"}
    (root / f"{FOREIGN}.json").write_text(json.dumps(foreign))
    _write_broken(root, songs[15])
    listed = _write_manifest(folder / "listed", songs[16:])
    return {"inputs": [str(root), {"name": str(listed), "use_for": "eval"}]}


def _write_broken(root: Path, song: dict[str, Any]) -> None:
    _write(root / "cut.wav", song["audio"])
    content = (root / "cut.wav").read_bytes()
    (root / "cut.wav").write_bytes(content[: len(content) // 2])
    (root / "text.mp3").write_text("this is no audio")
    (root / "voice_memo.m4a").write_bytes(b"\0" * 64)


def _write_manifest(folder: Path, songs: Sequence[dict[str, Any]]) -> Path:
    """Write songs with their tracks as a published manifest."""
    rows = []
    for number, song in enumerate(songs):
        row = {"fname": f"listed_{number}", "caption": song["caption"], "lyrics": song["lyrics"], "language": "english"}
        row["artist"] = SINGERS[number % len(SINGERS)]
        for track in ("audio", "vocal", "acc"):
            row[f"{track}_file_name"] = f"{track}/{number}.wav"
            _write(folder / row[f"{track}_file_name"], song[track])
        rows.append(row)
    manifest = folder / "metadata.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def _write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.int16), RATE)


def _write_texts(path: Path, song: dict[str, Any], caption_suffix: str, lyrics_suffix: str) -> None:
    path.with_name(path.stem + caption_suffix).write_text(song["caption"], encoding="utf-8")
    path.with_name(path.stem + lyrics_suffix).write_text(song["lyrics"], encoding="utf-8")
