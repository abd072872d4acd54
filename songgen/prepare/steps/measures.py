"""The step that measures the signal: energies, loudness, clipping, silence, tempo and key."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from songgen.data.audio import CLIPPED_LEVEL, AudioRejected, energy
from songgen.prepare.engine.audio_files import read_audio, resample_frames
from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.section import Phase, Section
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.listening.tempo_key import ANALYSIS_RATE, estimate_key, estimate_tempo
from songgen.prepare.steps.song_vote import SongVoteStep
from songgen.tasks import ACCOMPANIMENT, MIX

FRAME_SECONDS = 0.05
"""Length of the frames in which silence is measured."""

MIN_LOUDNESS_SECONDS = 0.4
"""Length of a block in ITU-R BS.1770; a shorter recording has no loudness."""

LOUDNESS_FLOOR = -70.0
"""Loudness in LUFS below which the standard ignores a block; silence gets this value."""


@dataclass(frozen=True)
class MeasureOptions:
    """Options of the measurements."""

    silence_db: float = -60.0
    """Root mean square, in decibels of full scale, below which a frame of 50 ms is silent."""

    tempo: bool = True
    """Whether the tempo is estimated if none is given."""

    min_tempo_confidence: float = 0.15
    """Lowest confidence of a tempo that is kept: noise has 0.1, the demo songs 0.36 and more."""

    key: bool = True
    """Whether the key is estimated if none is given."""

    min_key_confidence: float = 0.8
    """Lowest confidence of a key that is kept: noise has 0.45; two thirds of the demo songs have more than 0.8."""

    def __post_init__(self) -> None:
        """Check all values."""
        problems = []
        if not self.silence_db < 0:
            problems.append(f"silence_db must be negative (0 is full scale), got {self.silence_db:g}")
        for name in ("min_tempo_confidence", "min_key_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} must be between 0 and 1, got {getattr(self, name):g}")
        if problems:
            raise ValueError("; ".join(problems))


def loudness(samples: np.ndarray, sample_rate: int) -> float | None:
    """Return the integrated loudness by ITU-R BS.1770-4.

    Args:
        samples: N, or N x channels; full scale is 1.0.
        sample_rate: sample rate.

    Returns:
        LUFS, at least -70; None for less than 0.4 s.
    """
    import pyloudnorm

    if len(samples) < MIN_LOUDNESS_SECONDS * sample_rate:
        return None
    # The loudness of silence is -inf, for which numpy would warn.
    with np.errstate(divide="ignore"):
        measured = float(pyloudnorm.Meter(sample_rate).integrated_loudness(samples.astype(np.float64)))
    return max(LOUDNESS_FLOOR, measured)


def silent_share(samples: np.ndarray, sample_rate: int, silence_db: float) -> float:
    """Return the fraction of frames of 50 ms that are silent; a shorter last frame counts too.

    Args:
        samples: N mono samples, at least one.
        sample_rate: sample rate.
        silence_db: root mean square, in decibels of full scale, below which a frame is silent.
    """
    length = max(1, round(FRAME_SECONDS * sample_rate))
    starts = np.arange(0, len(samples), length)
    sizes = np.diff(np.append(starts, len(samples)))
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts) / sizes
    return float(np.mean(power < 10 ** (silence_db / 10)))


def clipped_share(samples: np.ndarray) -> float:
    """Return the fraction of samples at full scale."""
    return float(np.mean(np.abs(samples) >= CLIPPED_LEVEL))


class MeasureStep(Step):
    """Sets duration, energies, tempo and key, and these `measures`.

    Of the mix: `peak` (amplitude, 1 is full scale), `loudness` (LUFS), `clipped_share` (of samples), `silent_share` (of
    frames), `tempo_confidence`, `key_confidence`. Of each other track: `<track>_clipped_share`, `<track>_silent_share`.
    """

    name = "measure"
    version = 2

    def __init__(self, options: MeasureOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return all options."""
        return asdict(self.options)

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return the tracks, and tempo and key if they are known."""
        return {"tracks": sorted(record.audio), "tempo": record.tempo, "key": record.key}

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return all tracks, sorted by name."""
        return [record.audio[track] for track in sorted(record.audio)]

    def start(self) -> None:
        """Make sure that loudness can be measured.

        Raises:
            ValueError: If the package for it is not installed.
        """
        try:
            import pyloudnorm  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"loudness needs pyloudnorm, which cannot be imported ({error}): "
                'pip install -c constraints.txt -e ".[prepare]", or skip this step'
            ) from error

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Measure clips."""
        return [self._measure(record, folder) for record in records]

    def _measure(self, record: SongRecord, folder: WorkFolder) -> StepOutput:
        energies: dict[str, float] = {}
        measures: dict[str, float] = {}
        tracks: dict[str, tuple[np.ndarray, int]] = {}
        try:
            for track in record.audio:
                tracks[track] = read_audio(folder.track(record, track))
        except AudioRejected as error:
            return StepOutput(refusal=Refusal(self.name, error.code, error.reason))
        for track, (samples, rate) in tracks.items():
            prefix = "" if track == MIX else f"{track}_"
            energies[track] = round(energy(samples), 4)
            measures[f"{prefix}clipped_share"] = clipped_share(samples)
            measures[f"{prefix}silent_share"] = silent_share(samples, rate, self.options.silence_db)
        mix, rate = tracks[MIX]
        measures["peak"] = float(np.abs(mix).max())
        measured = loudness(mix, rate)
        if measured is not None:
            measures["loudness"] = round(measured, 2)
        changes: dict[str, Any] = {"duration": len(mix) / rate, "energies": energies, "measures": measures}
        self._estimate(record, tracks, changes)
        return StepOutput(changes=changes)

    def _estimate(self, record: SongRecord, tracks: dict[str, tuple[np.ndarray, int]], changes: dict[str, Any]) -> None:
        """Add tempo and key if they are enabled, not known, and have enough confidence."""
        options = self.options
        if options.tempo and record.tempo is None:
            tempo = estimate_tempo(_for_analysis(*tracks[MIX]))
            if tempo is not None:
                changes["measures"]["tempo_confidence"] = tempo.confidence
                if tempo.confidence >= options.min_tempo_confidence:
                    changes["tempo"] = tempo.beats_per_minute
        if options.key and not record.key:
            # A voice slides between notes, so the accompaniment shows the key more clearly.
            track = ACCOMPANIMENT if changes["energies"].get(ACCOMPANIMENT) else MIX
            key = estimate_key(_for_analysis(*tracks[track]))
            if key is not None:
                changes["measures"]["key_confidence"] = key.confidence
                if key.confidence >= options.min_key_confidence:
                    changes["key"] = key.name


def _for_analysis(samples: np.ndarray, rate: int) -> np.ndarray:
    return resample_frames(samples[:, None], rate, ANALYSIS_RATE)[:, 0]


SECTION = Section(
    "measure",
    "energies, loudness, clipping, silence, tempo and key",
    MeasureOptions,
    Phase.CLIPS,
    [MeasureStep, SongVoteStep],
)
