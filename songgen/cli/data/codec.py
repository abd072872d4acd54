"""`songgen codec`: fit the embedded spectral codec on the songs of manifests."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from songgen.exit_codes import EXIT_DONE

if TYPE_CHECKING:
    from torch import Tensor

ERROR_FILES = 32
"""Maximum number of files on which the error is measured, evenly spaced, so that it is quick on any corpus."""

PROGRESS_SECONDS = 5.0
"""Seconds between two lines of progress."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen codec`."""
    from songgen.codecs.spectral import SpectralSettings
    from songgen.codecs.spectral_fit import FitOptions

    settings, options = SpectralSettings, FitOptions
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="JSON-lines files that name the audio")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json and model.safetensors")
    parser.add_argument("--sample_rate", type=int, default=settings.sample_rate, help="sample rate in Hz")
    parser.add_argument("--hop_length", type=int, default=settings.hop_length, help="samples per frame")
    parser.add_argument("--num_mels", type=int, default=settings.num_mels, help="mel bands per frame")
    parser.add_argument("--num_codebooks", type=int, default=settings.num_codebooks, help="tokens per frame")
    parser.add_argument("--codebook_size", type=int, default=settings.codebook_size, help="codes per codebook")
    parser.add_argument("--max_frames", type=int, default=options.max_frames, help="maximum number of frames to fit on")
    parser.add_argument("--iterations", type=int, default=options.iterations, help="iterations of k-means per codebook")
    parser.add_argument("--seed", type=int, default=options.seed, help="seed of every random choice")


def run(arguments: argparse.Namespace) -> int:
    """Fit a codec on all audio files named in the manifests, save it, and measure its error.

    Raises:
        ValueError: if manifests or audio files cannot be read, or if a setting is out of range.
    """
    from songgen.codecs.spectral import SpectralSettings
    from songgen.codecs.spectral_fit import FitOptions, fit_spectral_codec, reconstruction_error
    from songgen.data.manifests.contents import find_audio_files
    from songgen.runtime.file_hashes import record_hashes

    settings = SpectralSettings(
        sample_rate=arguments.sample_rate,
        hop_length=arguments.hop_length,
        num_mels=arguments.num_mels,
        num_codebooks=arguments.num_codebooks,
        codebook_size=arguments.codebook_size,
    )
    options = FitOptions(max_frames=arguments.max_frames, iterations=arguments.iterations, seed=arguments.seed)
    files = find_audio_files(arguments.manifest)
    start = time.monotonic()
    codec = fit_spectral_codec(
        _read_waveforms(files, settings.sample_rate, "reading"),
        settings,
        options,
        lambda line: print(line, flush=True),
    )
    codec.save(arguments.out)
    record_hashes(arguments.out, ["config.json", "model.safetensors"])
    print(f"fitted in {time.monotonic() - start:.1f} s, saved in {arguments.out}", flush=True)
    measured = files[:: -(-len(files) // ERROR_FILES)]
    error = reconstruction_error(codec, _read_waveforms(measured, settings.sample_rate, "measuring"))
    print(f"reconstruction error: {error:.3f} nepers (mean absolute log-mel difference, {len(measured)} files)")
    return EXIT_DONE


def _read_waveforms(files: list[Path], sample_rate: int, heading: str) -> "Iterator[Tensor]":
    """Yield the mono samples of files one by one, and print the progress.

    Raises:
        ValueError: if a file cannot be decoded.
    """
    import soundfile
    import soxr
    import torch

    told = time.monotonic()
    for number, file in enumerate(files, start=1):
        try:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{file} cannot be decoded: {error}") from error
        mono = samples.mean(axis=1)
        yield torch.from_numpy(mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate))
        if time.monotonic() - told > PROGRESS_SECONDS or number == len(files):
            told = time.monotonic()
            print(f"{heading}: {number} of {len(files)} files", flush=True)
