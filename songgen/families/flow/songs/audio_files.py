"""Audio files of a timbre reference and of a source, checked like the audio of data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from songgen.data.audio import AudioOptions, AudioRejected, check_header, decode, resample
from songgen.families.flow.model_folder import is_turbo
from songgen.families.flow.pipeline import AUTOENCODER, COVER_PARTS, TRANSFORMER, read_index
from songgen.families.flow.songs.options import MAX_SECONDS, MIN_SECONDS
from songgen.runtime.file_hashes import checked
from songgen.runtime.json_files import read_json_object
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

MAX_REFERENCE_SECONDS = 3600.0
"""Longest file of a reference, of which the pipeline takes 30 seconds: from its beginning, middle and end."""

SILENCE_ENERGY = 1.0
"""Energy below which audio is silence; 1 is one step of a 16-bit sample."""


@dataclass(frozen=True)
class PipelineForm:
    """What is known of a pipeline before its networks are opened."""

    is_turbo: bool
    """Whether guidance is distilled into its weights."""
    can_cover: bool
    """Whether it has the networks that a cover needs."""
    sample_rate: int
    """Sample rate in Hz."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the configurations of a pipeline.

        Raises:
            ValueError: if one is missing or damaged.
        """
        present = read_index(folder)
        transformer, autoencoder = (
            read_json_object(checked(folder / part / MODEL_CONFIG_FILE)) for part in (TRANSFORMER, AUTOENCODER)
        )
        return cls(
            is_turbo=is_turbo(transformer),
            can_cover=present.keys() >= set(COVER_PARTS),
            sample_rate=int(autoencoder["sampling_rate"]),
        )


def read_reference(path: Path, sample_rate: int) -> Tensor:
    """Read a timbre reference: 2 x N samples.

    Raises:
        ValueError: if the file cannot be read, or is silent, too short or too long.
    """
    return _read(path, sample_rate, "reference", MAX_REFERENCE_SECONDS)


def read_source(path: Path, sample_rate: int) -> Tensor:
    """Read a song to repaint or to cover: 2 x N samples.

    Raises:
        ValueError: if the file cannot be read, or is silent, too short or too long.
    """
    return _read(path, sample_rate, "source", MAX_SECONDS)


def _read(path: Path, sample_rate: int, what: str, max_seconds: float) -> Tensor:
    try:
        header = check_header(path, AudioOptions(sample_rate=sample_rate, max_seconds=max_seconds))
        decoded = decode(path, header, header.frames, channels=2)
    except AudioRejected as error:
        raise ValueError(f"the {what} {path} cannot be used ({error.code}): {error.reason}") from error
    seconds = len(decoded.samples) / header.sample_rate
    if seconds < MIN_SECONDS:
        raise ValueError(f"the {what} {path} has {seconds:.2f} s; at least {MIN_SECONDS:g} s are needed")
    if decoded.signal.channel_energy < SILENCE_ENERGY:
        raise ValueError(f"the {what} {path} is silent")
    length = round(seconds * sample_rate)
    return torch.from_numpy(resample(decoded.samples, header.sample_rate, sample_rate, length).T.copy())
