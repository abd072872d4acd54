"""Measure the demo's models, and write the round trip of the codec.

Run:
    python helpers/demo/figures.py --out outputs/demo

Reads the demo songs, the tokenized data set and ``OUT/generated/mixed`` and ``OUT/generated/dual_track``; writes
``OUT/figures.json`` and ``OUT/round_trip/NAME_TRACK.wav`` (the data set's codes decoded).

The figures are computed over the training songs, which were generated greedily from captions and lyrics:

- first-codebook agreement: share of the codes of the original's first codebook that generation reproduces at the same
  position, mean over songs; frames that were not generated count as wrong.
- nearest to its own original: share of the songs that are closer to their own original than to any other training
  song, by the mean difference of their log-mel spectrograms.
- codec round trip: mean difference between the log-mel spectrograms of originals and of their decoded codes; and, for
  the mixes, between the codec's log-mel frames before and after quantization, without the estimation of a phase.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_report.files import (
    CODES_FILE,
    ORIGINAL_COLUMNS,
    SPLITS,
    GeneratedSong,
    read_generated,
    read_songs,
    read_sound,
    write_sound,
)
from demo_report.measures import demo_log_mel, first_codebook_agreement, nearest_originals
from numpy.typing import NDArray
from safetensors.numpy import load_file

from songgen.codecs import AudioCodec, load_codec
from songgen.codecs.spectral import SpectralCodec
from songgen.codecs.spectral_fit import reconstruction_error
from songgen.data.dataset import SongDataset
from songgen.metrics.mel import mel_distance

MODES = ("mixed", "dual_track")
Spectrograms = dict[str, dict[str, NDArray[np.float32]]]
"""Track -> song name -> log-mel spectrogram."""


@dataclass(frozen=True)
class Corpus:
    """Demo songs as spectrograms and as codes."""

    codes: dict[str, dict[str, NDArray[np.int16]]]
    """Song name -> track -> K x T codes."""
    names: dict[str, list[str]]
    """Names of songs by split."""
    spectrograms: Spectrograms
    """Spectrograms of the originals."""


def read_corpus(songs_folder: Path, tokens_folder: Path) -> Corpus:
    """Read the original songs of all splits."""
    songs = read_songs(songs_folder)
    codes = {}
    for split in SPLITS:
        dataset = SongDataset.open(tokens_folder, split)
        for index in range(len(dataset)):
            row = dataset.row(index)
            codes[row.id] = row.targets
    spectrograms: Spectrograms = {track: {} for track in ORIGINAL_COLUMNS}
    for song in (song for rows in songs.values() for song in rows):
        for track, column in ORIGINAL_COLUMNS.items():
            spectrograms[track][song["fname"]] = demo_log_mel(*read_sound(songs_folder / song[column]))
    names = {split: [row["fname"] for row in rows] for split, rows in songs.items()}
    return Corpus(codes, names, spectrograms)


def measure_codec(corpus: Corpus, codec: AudioCodec, out: Path) -> dict[str, dict[str, float]]:
    """Decode the data set's codes to ``out``, and return the log-mel error in nepers by split and track."""
    errors: dict[str, dict[str, float]] = {}
    for split, names in corpus.names.items():
        for track in ORIGINAL_COLUMNS:
            distances = []
            for name in names:
                codes = torch.from_numpy(corpus.codes[name][track].astype(np.int64))[None]
                decoded = codec.decode(codes)[0, 0].float().cpu().numpy()
                original = corpus.spectrograms[track][name]
                write_sound(out / f"{name}_{track}.wav", decoded, codec.sample_rate)
                # The last frame of codes may extend past the end of the original.
                distances.append(mel_distance(demo_log_mel(decoded, codec.sample_rate)[: len(original)], original))
            errors.setdefault(split, {})[track] = float(np.mean(distances))
    return errors


def measure_quantizer(songs_folder: Path, codec: AudioCodec) -> dict[str, float]:
    """Return the quantization error of the mixes in nepers, by split.

    Raises:
        ValueError: if the codec is not a spectral codec.
    """
    if not isinstance(codec, SpectralCodec):
        raise ValueError(f"the demo measures a spectral codec, not one of the kind {codec.kind!r}")
    return {
        split: reconstruction_error(
            codec, (torch.from_numpy(read_sound(songs_folder / row[ORIGINAL_COLUMNS["mix"]])[0]) for row in rows)
        )
        for split, rows in read_songs(songs_folder).items()
    }


def measure_mode(corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Return the figures of one mode over the training songs."""
    songs = [song for song in read_generated(folder) if song.split == "train"]
    codes = load_file(folder / CODES_FILE)
    tracks = songs[0].tracks
    agreement = measure_agreement(songs, codes, corpus.codes)
    nearest = {}
    for track in dict.fromkeys([*tracks, "mix"]):
        generated = [demo_log_mel(*read_sound(folder / song.files[track])) for song in songs]
        nearest[track] = measure_nearest([song.fname for song in songs], generated, corpus.spectrograms[track])
    return {
        "num_songs": len(songs),
        "tracks": list(tracks),
        "first_codebook_agreement": {**agreement, "mean": float(np.mean(list(agreement.values())))},
        "nearest_to_own_original": nearest,
    }


def measure_agreement(
    songs: Sequence[GeneratedSong],
    generated: Mapping[str, NDArray[np.int16]],
    originals: Mapping[str, Mapping[str, NDArray[np.int16]]],
) -> dict[str, float]:
    """Return the first-codebook agreement of each track, mean over songs."""
    return {
        track: float(
            np.mean(
                [first_codebook_agreement(generated[song.fname][index], originals[song.fname][track]) for song in songs]
            )
        )
        for index, track in enumerate(songs[0].tracks)
    }


def measure_nearest(
    names: Sequence[str], generated: Sequence[NDArray[np.float32]], originals: Mapping[str, NDArray[np.float32]]
) -> float:
    """Return the share of songs that are closer to their own original than to those of the other songs."""
    nearest = nearest_originals(generated, [originals[name] for name in names])
    return float(np.mean([index == own for own, index in enumerate(nearest)]))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description="Measure the demo's generated songs.")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--songs", type=Path, default=Path("datasets/demo_songs"))
    parser.add_argument("--tokens", type=Path, default=Path("datasets/demo_tokens"), help="tokenized data set")
    parser.add_argument("--codec", type=Path, default=Path("outputs/demo/codec"))
    arguments = parser.parse_args()
    corpus = read_corpus(arguments.songs, arguments.tokens)
    codec = load_codec(str(arguments.codec))
    figures: dict[str, Any] = {
        "codec_log_mel_error": measure_codec(corpus, codec, arguments.out / "round_trip"),
        "codec_quantizer_error": measure_quantizer(arguments.songs, codec),
    }
    for mode in MODES:
        figures[mode] = measure_mode(corpus, arguments.out / "generated" / mode)
    text = json.dumps(figures, indent=2)
    (arguments.out / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
