"""Fit the embedded spectral codec on the songs of one or more manifests.

    python helpers/fit_spectral_codec.py --manifest ./datasets/my_songs/metadata.jsonl --out ./outputs/codec

A manifest holds one JSON object a line; keys that end in `file_name` are audio paths relative to the manifest
(audio_file_name, vocal_file_name, acc_file_name), keys that end in `_abspath` absolute ones. Every file is used once:
the codec must know all the tracks that it will be given. The folder then serves wherever a codec is named.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
import soxr
import torch
from torch import Tensor

from songgen.codecs.spectral import SpectralSettings
from songgen.codecs.spectral_fit import FitOptions, fit_spectral_codec, reconstruction_error
from songgen.data.manifests.raw_rows import ColumnNames
from songgen.data.manifests.sources import ManifestSpec, open_source

MAX_PROBLEMS_SHOWN = 10
ERROR_FILES = 32
"""Files on which the error is measured at most: evenly chosen, so that measuring stays quick on any corpus."""


def audio_files(manifests: list[Path]) -> list[Path]:
    """Every audio file that the manifests name, once each, in their order.

    Raises:
        ValueError: A manifest cannot be read or names no audio, or files are missing.
    """
    files: dict[Path, None] = {}
    problems: list[str] = []
    for manifest in manifests:
        try:
            named = [file for row in manifest_rows(manifest, problems) for file in row_files(row, manifest.parent)]
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if not named:
            problems.append(f"{manifest} names no audio: its rows need keys that end in file_name or _abspath")
        files.update(dict.fromkeys(named))
    problems += [f"there is no audio file {file}" for file in files if not file.is_file()]
    if problems:
        more = f"; and {len(problems) - MAX_PROBLEMS_SHOWN} more" if len(problems) > MAX_PROBLEMS_SHOWN else ""
        raise ValueError("; ".join(problems[:MAX_PROBLEMS_SHOWN]) + more)
    return list(files)


def manifest_rows(manifest: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a manifest; lines that are none go to `problems`.

    Raises:
        ValueError: There is no such manifest.
    """
    # The same reader as preprocessing's: what it takes as a row is one here.
    for raw in open_source(ManifestSpec(str(manifest), method="json"), ColumnNames(), manifest.parent).rows:
        if raw.values is None:
            problems.append(f"{manifest}, line {raw.line}: {raw.error}")
        else:
            yield raw.values


def row_files(row: dict[str, Any], folder: Path) -> list[Path]:
    """The audio files that a row names."""
    return [
        (folder / value).absolute()
        for key, value in row.items()
        if isinstance(value, str) and value and key.endswith(("file_name", "_abspath"))
    ]


def read_waveforms(files: list[Path], sample_rate: int, heading: str) -> Iterator[Tensor]:
    """Reads files one by one as mono samples, telling the progress.

    Raises:
        ValueError: A file cannot be decoded.
    """
    told = time.monotonic()
    for number, file in enumerate(files, start=1):
        try:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{file} cannot be decoded: {error}") from error
        mono = samples.mean(axis=1)
        yield torch.from_numpy(mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate))
        if time.monotonic() - told > 5 or number == len(files):
            told = time.monotonic()
            print(f"{heading}: {number} of {len(files)} files", flush=True)


def main() -> None:
    """Reads the command line, fits, saves, and measures."""
    parser = argparse.ArgumentParser(description="Fit the embedded spectral codec on the songs of manifests.")
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="JSON-lines files that name the audio")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json and model.safetensors")
    parser.add_argument("--sample_rate", type=int, default=SpectralSettings.sample_rate, help="samples a second")
    parser.add_argument("--hop_length", type=int, default=SpectralSettings.hop_length, help="samples in a frame")
    parser.add_argument("--num_mels", type=int, default=SpectralSettings.num_mels, help="mel bands in a frame")
    parser.add_argument("--num_codebooks", type=int, default=SpectralSettings.num_codebooks, help="tokens in a frame")
    parser.add_argument("--codebook_size", type=int, default=SpectralSettings.codebook_size, help="codes in a codebook")
    parser.add_argument("--max_frames", type=int, default=FitOptions.max_frames, help="frames to fit on at most")
    parser.add_argument("--iterations", type=int, default=FitOptions.iterations, help="rounds of k-means a codebook")
    parser.add_argument("--seed", type=int, default=FitOptions.seed, help="of every random choice")
    arguments = parser.parse_args()
    try:
        settings = SpectralSettings(
            sample_rate=arguments.sample_rate,
            hop_length=arguments.hop_length,
            num_mels=arguments.num_mels,
            num_codebooks=arguments.num_codebooks,
            codebook_size=arguments.codebook_size,
        )
        options = FitOptions(max_frames=arguments.max_frames, iterations=arguments.iterations, seed=arguments.seed)
        files = audio_files(arguments.manifest)
        start = time.monotonic()
        codec = fit_spectral_codec(
            read_waveforms(files, settings.sample_rate, "reading"),
            settings,
            options,
            lambda line: print(line, flush=True),
        )
        codec.save(arguments.out)
        print(f"fitted in {time.monotonic() - start:.1f} s, saved in {arguments.out}", flush=True)
        measured = files[:: -(-len(files) // ERROR_FILES)]
        error = reconstruction_error(codec, read_waveforms(measured, settings.sample_rate, "measuring"))
        print(f"reconstruction error: {error:.3f} nepers (mean absolute log-mel difference, {len(measured)} files)")
    except ValueError as error:
        sys.exit(f"fit_spectral_codec: {error}")


if __name__ == "__main__":
    main()
