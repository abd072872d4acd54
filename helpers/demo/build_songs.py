"""Build the demo corpus: short songs with words that are sung, and exact labels.

Run:
    python helpers/demo/build_songs.py --out datasets/demo_songs

The folder contains ``metadata.jsonl`` (training songs), ``metadata_eval.jsonl`` (held-out songs), the wav files of mix,
vocal and accompaniment (16 kHz, 16 bit; the mix is the sum of the other two, sample by sample) and ``truth.jsonl``
(words with their times and notes, tempo, key). A complete corpus with the same settings is not built again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from demo_songs.accompaniment import accompany
from demo_songs.composition import NEW_SINGER, VOCABULARY, VOICES, Song, compose_corpus
from demo_songs.singing import sing, speak_vocabulary
from demo_songs.speech import EXTRA_MISSING

SAMPLE_RATE = 16_000
VOCAL_ENERGY = 2_000.0
"""Root mean square of the 16-bit samples of a vocal track."""
ACC_ENERGY = 1_500.0
"""Root mean square of the 16-bit samples of an accompaniment."""
LARGEST_SAMPLE = 32_000
STAMP_NAME = "build.json"
TRACKS = ("audio", "vocal", "acc")


def build_songs(
    out: Path, num_songs: int, seed: int, *, num_held_out: int | None = None, new_singer: bool = False
) -> bool:
    """Build the corpus unless it exists.

    Args:
        out: Folder to write.
        num_songs: Number of songs, including held-out ones.
        seed: Seed of all choices.
        num_held_out: Number of held-out songs among them; None: about one in nine.
        new_singer: Whether all songs have a voice that no song has otherwise, for fine-tuning.

    Returns:
        Whether anything was built.

    Raises:
        ValueError: if a package is missing, a setting is out of range, or ``out`` contains something else.
    """
    voices = (NEW_SINGER,) if new_singer else VOICES
    settings = {
        "voices": [voice.name for voice in voices],
        "num_songs": num_songs,
        "num_held_out": num_held_out,
        "seed": seed,
        "sample_rate": SAMPLE_RATE,
        "source": source_digest(),
    }
    if _is_complete(out, settings):
        return False
    if out.exists() and any(out.iterdir()) and not (out / STAMP_NAME).exists():
        raise ValueError(f"{out} contains files that this script did not write; choose another --out")
    songs = compose_corpus(num_songs, seed, voices, num_held_out)
    spoken = speak_vocabulary(VOCABULARY, voices, SAMPLE_RATE)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for track in TRACKS:
        (partial / track).mkdir(parents=True)
    rows = {song.name: _write_song(partial, song, spoken) for song in songs}
    _write_lines(partial / "metadata.jsonl", (rows[song.name] for song in songs if song.split == "train"))
    _write_lines(partial / "metadata_eval.jsonl", (rows[song.name] for song in songs if song.split == "eval"))
    _write_lines(partial / "truth.jsonl", (truth_row(song) for song in songs))
    files = {str(path.relative_to(partial)): path.stat().st_size for path in sorted(partial.rglob("*.*"))}
    stamp = {"settings": settings, "files": files}
    (partial / STAMP_NAME).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return True


def render_song(song: Song, spoken: Mapping[tuple[str, str], np.ndarray]) -> dict[str, np.ndarray]:
    """Return int16 samples of a song's tracks ``audio``, ``vocal`` and ``acc``; ``audio`` is the sum of the others."""
    vocal = _with_energy(sing(song, spoken, SAMPLE_RATE), VOCAL_ENERGY)
    acc = _with_energy(accompany(song, SAMPLE_RATE), ACC_ENERGY)
    gain = min(1.0, LARGEST_SAMPLE / float(np.abs(vocal + acc).max()))
    vocal_samples = np.round(gain * vocal).astype(np.int16)
    acc_samples = np.round(gain * acc).astype(np.int16)
    return {"audio": vocal_samples + acc_samples, "vocal": vocal_samples, "acc": acc_samples}


def truth_row(song: Song) -> dict[str, Any]:
    """Return the labels of a song, which are exact because it was composed."""
    return {
        "fname": song.name,
        "split": song.split,
        "genre": song.genre.name,
        "tempo": song.tempo,
        "key": song.key,
        "voice": song.voice.name,
        "duration": song.duration,
        "chords": [[(song.key_root + interval) % 12 for interval in chord] for chord in song.chords],
        "chord_seconds": song.genre.chord_beats * song.seconds_per_beat,
        "words": [
            {
                "word": word.word,
                "start": word.start,
                "end": word.end,
                "note": word.note,
                "frequency": round(word.frequency, 3),
            }
            for word in song.words
        ],
    }


def source_digest() -> str:
    """Return a digest of all that affects the sound besides arguments: source code and the two sound libraries."""
    digest = hashlib.sha256()
    folder = Path(__file__).resolve().parent
    for path in [folder / "build_songs.py", *sorted((folder / "demo_songs").glob("*.py"))]:
        digest.update(path.read_bytes())
    for package in ("espeakng-loader", "praat-parselmouth"):
        try:
            digest.update(importlib.metadata.version(package).encode())
        except importlib.metadata.PackageNotFoundError as error:
            raise ValueError(EXTRA_MISSING) from error
    return digest.hexdigest()


def _write_song(folder: Path, song: Song, spoken: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    """Write the wav files of a song, and return its row of the manifest."""
    tracks = render_song(song, spoken)
    names = {track: f"{track}/{song.name}.wav" for track in TRACKS}
    for track, samples in tracks.items():
        soundfile.write(folder / names[track], samples, SAMPLE_RATE, subtype="PCM_16")
    return {
        "fname": song.name,
        "caption": song.caption,
        "lyrics": song.lyrics,
        "audio_file_name": names["audio"],
        "vocal_file_name": names["vocal"],
        "acc_file_name": names["acc"],
        "vocal_energy": energy(tracks["vocal"]),
        "acc_energy": energy(tracks["acc"]),
        "language": "english",
        "duration": len(tracks["audio"]) / SAMPLE_RATE,
    }


def energy(samples: np.ndarray) -> float:
    """Return the root mean square of 16-bit samples."""
    return round(float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))), 4)


def _with_energy(samples: np.ndarray, target: float) -> np.ndarray:
    return samples * float(target / np.sqrt(np.mean(samples**2)))


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _is_complete(out: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether ``out`` was built with these settings and still has all of its files."""
    stamp_path = out / STAMP_NAME
    if not stamp_path.exists():
        return False
    stamp = json.loads(stamp_path.read_text(encoding="utf-8"))
    if stamp["settings"] != settings:
        return False
    return all((out / name).is_file() and (out / name).stat().st_size == size for name, size in stamp["files"].items())


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Build the demo corpus of short sung songs.")
    parser.add_argument("--out", type=Path, default=Path("datasets/demo_songs"), help="folder to write")
    parser.add_argument("--num_songs", type=int, default=48, help="number of songs")
    parser.add_argument("--num_held_out", type=int, help="number of held-out songs (if left out: about one in nine)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--new_singer", action="store_true", help="let all songs be sung by a voice of their own")
    arguments = parser.parse_args()
    try:
        built = build_songs(
            arguments.out,
            arguments.num_songs,
            arguments.seed,
            num_held_out=arguments.num_held_out,
            new_singer=arguments.new_singer,
        )
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.out}: {arguments.num_songs} songs {'built' if built else 'already exist'}")


if __name__ == "__main__":
    main()
