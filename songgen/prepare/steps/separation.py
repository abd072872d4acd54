"""The step that separates songs into vocal and accompaniment, which add up to the song exactly."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from songgen.data.audio import AudioRejected
from songgen.data.sound.levels import INT16_SCALE, energy, to_int16
from songgen.generation.demucs_weights import load_demucs
from songgen.generation.separation import DEFAULT_MODEL, VocalSeparator
from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.section import Phase, Section
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.listening.devices import choose_device
from songgen.tasks import ACCOMPANIMENT, MIX, VOCAL


@dataclass(frozen=True)
class SeparationOptions:
    """Options of the separation."""

    model: str = DEFAULT_MODEL
    """Demucs model: published name, or a folder with its safetensors files (`.th` files are pickles and refused)."""

    revision: str = ""
    """Commit, tag or branch of the hub repository; empty for the newest."""

    device: str = ""
    """Device of the network, such as `cuda:0`; empty for the GPU if there is one."""

    mono: bool = True
    """Whether channels are averaged (training uses one); otherwise tracks have the channels of the song."""

    passage_seconds: float = 60.0
    """Length of the passages in which a song goes through the network, so that memory does not grow with the song."""

    overlap_seconds: float = 2.0
    """Overlap of neighbouring passages, in which they are cross-faded."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.model:
            raise ValueError(f"model must name a Demucs model, such as {DEFAULT_MODEL!r}")
        if not 0 < self.overlap_seconds <= self.passage_seconds / 2:
            raise ValueError(
                f"overlap_seconds must be more than 0 and at most half of passage_seconds ({self.passage_seconds:g}), "
                f"got {self.overlap_seconds:g}"
            )


class FindsVocals(Protocol):
    """Interface of a separation network, such as `VocalSeparator`."""

    def vocals(self, samples: np.ndarray, sample_rate: int, mean: float, deviation: float) -> np.ndarray:
        """Return the vocals (about N x channels) of a passage (N x channels) of a song of that mean and deviation."""


def separate_vocals(
    song: np.ndarray, sample_rate: int, network: FindsVocals, passage_seconds: float, overlap_seconds: float
) -> np.ndarray:
    """Return the vocals of a song of any length.

    Args:
        song: channels x N.
        sample_rate: sample rate.
        network: network that separates one passage.
        passage_seconds: length of a passage.
        overlap_seconds: overlap of neighbouring passages, in which they are cross-faded.

    Returns:
        channels x N, float32.
    """
    num_channels, num_samples = song.shape
    length, overlap = round(passage_seconds * sample_rate), round(overlap_seconds * sample_rate)
    mono = song.mean(axis=0, dtype=np.float64)
    mean, deviation = float(mono.mean()), float(mono.std())
    del mono
    vocals = np.zeros_like(song, dtype=np.float32)
    # The weights of two neighbours add up to 1 at every sample; the first passage begins and the last ends with 1.
    rise = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
    begin = 0
    while True:
        end = min(begin + length, num_samples)
        found = network.vocals(song[:, begin:end].T, sample_rate, mean, deviation)[: end - begin]
        if found.shape[1] != num_channels:
            found = found.mean(axis=1, keepdims=True)
        weights = np.ones(len(found), dtype=np.float32)
        if begin > 0:
            weights[:overlap] = rise[: len(weights)]
        if end < num_samples:
            weights[length - overlap :] = rise[::-1][: max(0, len(weights) - (length - overlap))]
        vocals[:, begin : begin + len(found)] += (found * weights[:, None]).T
        if end == num_samples:
            return vocals
        begin += length - overlap


def split_exactly(mix: np.ndarray, vocals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vocal and accompaniment as 16-bit samples whose sum is the mix in 16 bits, sample by sample.

    Where the accompaniment exceeds 16 bits, it is clipped and the vocal takes the rest.

    Args:
        mix: samples of any shape, full scale is 1.0.
        vocals: estimate of the same shape.

    Returns:
        int16 vocal, int16 accompaniment.
    """
    whole = to_int16(mix).astype(np.int32)
    accompaniment = np.clip(whole - to_int16(vocals), -32768, 32767)
    vocal = whole - accompaniment
    # Where the accompaniment was clipped, the vocal is between 0 and its estimate, so it fits.
    assert np.abs(vocal).max(initial=0) <= 32768
    return vocal.astype(np.int16), accompaniment.astype(np.int16)


class SeparateStep(Step):
    """Writes the tracks `vocal` and `acc` of songs that lack them, at the song's sample rate."""

    name = "separate"
    version = 1

    def __init__(self, options: SeparationOptions) -> None:
        self.options = options
        self._network: FindsVocals | None = None

    def parameters(self) -> JsonObject:
        """Return all options except the device."""
        parameters = asdict(self.options)
        del parameters["device"]
        return parameters

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return the names of the tracks."""
        return {"tracks": sorted(record.audio)}

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return the mix."""
        return [record.audio[MIX]]

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether one of the two tracks is missing."""
        return not {VOCAL, ACCOMPANIMENT} <= set(record.audio)

    def start(self) -> None:
        """Load the network.

        Raises:
            ValueError: If it cannot be loaded; with a suggested fix.
        """
        try:
            model = load_demucs(self.options.model, self.options.revision)
        except ImportError as error:
            raise ValueError(
                f"separation needs demucs, which cannot be imported ({error}): "
                'pip install -c constraints.txt -e ".[prepare]", or skip this step'
            ) from error
        except ValueError as error:
            raise ValueError(f"{error}; name a folder with the model, or skip this step") from error
        self._network = VocalSeparator(model, choose_device(self.options.device))

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Separate songs; a track that the user gave is kept."""
        return [self._separate(record, folder) for record in records]

    def _separate(self, record: SongRecord, folder: WorkFolder) -> StepOutput:
        assert self._network is not None, "start() comes first"
        options = self.options
        try:
            song, rate = read_audio(folder.track(record, MIX), mono=False)
        except AudioRejected as error:
            return StepOutput(refusal=Refusal(self.name, error.code, error.reason))
        vocals = separate_vocals(song, rate, self._network, options.passage_seconds, options.overlap_seconds)
        if options.mono:
            # The mean over the last axis of frames x channels gives the same rounding as reading the file in mono.
            song, vocals = song.T.mean(axis=1), vocals.mean(axis=0)
        vocal, accompaniment = split_exactly(song, vocals)
        audio, energies = {}, {MIX: energy(song)}
        for track, samples in ((VOCAL, vocal), (ACCOMPANIMENT, accompaniment)):
            if track not in record.audio:
                decoded = samples / np.float32(INT16_SCALE)
                audio[track] = folder.new_file(self.name, record, track)
                write_audio(folder.path(audio[track]), decoded, rate)
                energies[track] = energy(decoded)
        return StepOutput(changes={"audio": audio, "energies": energies})


SECTION = Section(
    "separate",
    "vocal and accompaniment are taken apart (Demucs) where a song has the mix alone",
    SeparationOptions,
    Phase.SONGS,
    [SeparateStep],
    is_on=False,
    main_key="model",
)
