"""Training samples: clips with randomly chosen reference voices, captions and dropped conditions.

Every random choice is a function of (seed, epoch, index), so it depends neither on workers nor on the number of
processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch.utils.data
from numpy.typing import NDArray

from songgen.data.dataset import SongDataset, SongRow
from songgen.data.seeded_random import SAMPLE_STREAM, TARGET_STREAM, random_bits, random_uniforms
from songgen.data.sound.levels import VOICE_MIN_ENERGY, is_loud_enough
from songgen.tasks import VOCAL
from songgen.vocabulary import EMPTY_CAPTION_IDS, EMPTY_LYRICS_IDS

NO_VOICE = "none"

VOICE_CHOICES = (VOCAL, NO_VOICE)
"""Possible sources of a reference voice."""

EMPTY_SLOT = -1
"""Index of the placeholder in an empty micro-batch."""

_NO_SAMPLES: NDArray[np.int16] = np.zeros(0, dtype=np.int16)


@dataclass(frozen=True)
class SampleOptions:
    """Options for turning clips into training samples.

    Raises:
        ValueError: if values are out of range; the message lists all of them.
    """

    voice_choices: Mapping[str, float] = field(default_factory=lambda: {VOCAL: 1.0})
    """Source of the reference voice -> relative weight: "vocal" (the clip's own vocal track) or "none"."""
    voice_min_energy: float = VOICE_MIN_ENERGY
    """Minimum energy of a vocal track that is used as a reference voice; one of unknown energy is not used."""
    voice_seconds: float = 3.0
    """Length of the reference voice in seconds; a shorter vocal track keeps its length."""
    voice_crops: int = 0
    """Number of fixed crops of a vocal track, evenly spaced, from which the reference voice is chosen; 0 for a crop at
    any place."""
    caption_variants: float = 0.0
    """Probability that one of the clip's further descriptions, chosen uniformly, replaces the caption."""
    drop_caption: float = 0.0
    """Probability of an empty caption."""
    drop_lyrics: float = 0.0
    """Probability of empty lyrics."""
    drop_all: float = 0.0
    """Probability that all conditions are dropped together, for classifier-free guidance."""
    empty_caption_ids: tuple[int, ...] = EMPTY_CAPTION_IDS
    """Ids of an empty caption."""
    empty_lyrics_ids: tuple[int, ...] = EMPTY_LYRICS_IDS
    """Ids of empty lyrics."""

    def __post_init__(self) -> None:
        """Check all values."""
        problems = []
        if unknown := [name for name in self.voice_choices if name not in VOICE_CHOICES]:
            problems.append(f"voice_choices: unknown {', '.join(unknown)}; known: {', '.join(VOICE_CHOICES)}")
        weights = list(self.voice_choices.values())
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            problems.append(f"voice_choices must have weights of 0 or more, not all 0; got {dict(self.voice_choices)}")
        if self.voice_crops < 0:
            problems.append(f"voice_crops must be 0 or more, got {self.voice_crops}")
        if self.voice_seconds <= 0:
            problems.append(f"voice_seconds must be above 0, got {self.voice_seconds}")
        for name in ("caption_variants", "drop_caption", "drop_lyrics", "drop_all"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} must be in 0..1, got {getattr(self, name)}")
        if problems:
            raise ValueError("sample options:\n" + "\n".join(f"- {problem}" for problem in problems))


@dataclass(frozen=True)
class Sample:
    """Clip as it is used in one epoch."""

    id: str
    """Name of the clip."""
    num_frames: int
    """Number of frames, T; 0 for the placeholder in an empty micro-batch."""
    targets: dict[str, NDArray[Any]]
    """Track -> K x T codes, or C x T latents, for each requested track."""
    caption_ids: NDArray[np.int32]
    """Token ids of the caption, or of an empty one."""
    lyrics_ids: NDArray[np.int32]
    """Token ids of the lyrics, or of empty ones."""
    voice: NDArray[np.int16]
    """Reference voice at the voice encoder's rate; empty if there is none."""
    random_seed: int = 0
    """Seed below 2**63 for random choices of the objective about this sample, such as noise: a function of (seed,
    epoch, index), and in evaluation of the clip alone."""
    is_unconditional: bool = False
    """Whether all conditions were dropped together."""


class TrainingSamples(torch.utils.data.Dataset[Sample]):
    """Samples by (epoch, visit): the number of a clip, plus the number of clips for each earlier visit in the epoch.

    Args:
        dataset: clips that all have the tracks (see `check_against_model`).
        options: options for random variation.
        tracks: tracks whose targets are read.
        seed: seed of all random choices.
        deterministic: for evaluation: the most likely voice (the first one of equal weights), no dropped conditions,
            and the crop of epoch 0 in every epoch.
    """

    def __init__(
        self,
        dataset: SongDataset,
        options: SampleOptions,
        tracks: Sequence[str],
        *,
        seed: int = 0,
        deterministic: bool = False,
    ) -> None:
        """Read nothing yet."""
        self.dataset = dataset
        self.options = options
        self.tracks = tuple(tracks)
        self.seed = seed
        self.deterministic = deterministic
        names, weights = zip(*options.voice_choices.items(), strict=True)
        self._voice_names = names
        self._voice_bounds = np.cumsum(weights)[:-1] / sum(weights)
        self._most_likely_voice = names[int(np.argmax(weights))]
        self._empty_caption = np.array(options.empty_caption_ids, dtype=np.int32)
        self._empty_lyrics = np.array(options.empty_lyrics_ids, dtype=np.int32)
        self._voice_length = round(options.voice_seconds * dataset.info.voice_sample_rate)

    @property
    def varies_captions(self) -> bool:
        """Whether a clip's further descriptions are ever used."""
        return self.options.caption_variants > 0 and not self.deterministic

    def has_voice(self) -> NDArray[np.bool_]:
        """Return whether each clip's vocal track can be a reference voice: it is stored and loud enough."""
        return (self.dataset.voice_lengths() > 0) & (self.dataset.energies(VOCAL) >= self.options.voice_min_energy)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """Return the sample of (epoch, visit), see `curriculum.order`; `EMPTY_SLOT` gives clip 0 without frames."""
        epoch, index = place
        if index == EMPTY_SLOT:
            return self._empty_sample()
        row = self.dataset.row(index % len(self.dataset))
        draws = random_uniforms(self.seed, SAMPLE_STREAM, 0 if self.deterministic else epoch, index, count=7)
        # One of the seven numbers is not used any more. It is kept: with fewer, resumed runs would choose other
        # captions.
        choice, start, drop_all, drop_caption, drop_lyrics, _, variant = draws.tolist()
        options = self.options
        vary = not self.deterministic
        withhold = vary and drop_all < options.drop_all
        no_caption = withhold or (vary and drop_caption < options.drop_caption)
        no_lyrics = withhold or (vary and drop_lyrics < options.drop_lyrics)
        return Sample(
            id=row.id,
            num_frames=row.num_frames,
            targets={track: row.targets[track] for track in self.tracks},
            caption_ids=self._empty_caption if no_caption else self._caption(row, variant),
            lyrics_ids=self._empty_lyrics if no_lyrics else row.lyrics_ids,
            voice=_NO_SAMPLES if withhold else self._voice(row, choice, start),
            random_seed=self._random_seed(epoch, index),
            is_unconditional=withhold,
        )

    def _random_seed(self, epoch: int, index: int) -> int:
        """Return the seed of a sample; see `Sample.random_seed`."""
        bits = random_bits(self.seed, TARGET_STREAM, 0 if self.deterministic else epoch, index, count=1)
        return int(bits[0] >> np.uint64(1))

    def _caption(self, row: SongRow, draw: float) -> NDArray[np.int32]:
        """Return the caption or, with a probability, a further description; in evaluation always the caption."""
        probability = self.options.caption_variants
        if not (self.varies_captions and row.caption_variants) or draw >= probability:
            return row.caption_ids
        # Given draw < probability, draw / probability is uniform in [0, 1): the same number also chooses the
        # description.
        return row.caption_variants[int(draw / probability * len(row.caption_variants))]

    def _voice(self, row: SongRow, choice: float, start: float) -> NDArray[np.int16]:
        """Return the reference voice: choose a source, and crop it."""
        sampled = self._voice_names[int(np.searchsorted(self._voice_bounds, choice, side="right"))]
        name = self._most_likely_voice if self.deterministic else sampled
        return _NO_SAMPLES if name == NO_VOICE else self._vocal(row, start)

    def _vocal(self, row: SongRow, start: float) -> NDArray[np.int16]:
        """Return the crop of a vocal track that a number in [0, 1) chooses; nothing if the track is too quiet."""
        if not is_loud_enough(row.energies.get(VOCAL), self.options.voice_min_energy):
            return _NO_SAMPLES
        surplus = len(row.voice_samples) - self._voice_length
        if surplus <= 0:
            begin = 0
        elif crops := self.options.voice_crops:
            begin = self._crop_begins(surplus)[int(start * crops)]
        else:
            begin = int(start * (surplus + 1))
        return row.voice_samples[begin : begin + self._voice_length]

    def _crop_begins(self, surplus: int) -> list[int]:
        """Return the first samples of the fixed crops of a voice that is `surplus` longer than a crop.

        They depend on the voice alone, so that runs with other seeds find the features of the same crops.
        """
        crops = self.options.voice_crops
        return [surplus // 2] if crops == 1 else [surplus * number // (crops - 1) for number in range(crops)]

    def fixed_voices(self, index: int) -> list[NDArray[np.int16]]:
        """Return all reference voices that the samples of a clip can have, with fixed crops (`voice_crops`)."""
        assert self.options.voice_crops
        if self.deterministic:
            voices = [self[0, index].voice]
        elif self.options.voice_choices.get(VOCAL, 0) <= 0:
            voices = []
        else:
            row, count = self.dataset.row(index), self.options.voice_crops
            voices = [self._vocal(row, (number + 0.5) / count) for number in range(count)]
        return [voice for voice in voices if len(voice)]

    def _empty_sample(self) -> Sample:
        """Return the placeholder in an empty micro-batch: the texts of clip 0, no frames, no voice."""
        row = self.dataset.row(0)
        return Sample(
            id="",
            num_frames=0,
            targets=dict.fromkeys(self.tracks, self.dataset.no_target),
            caption_ids=row.caption_ids,
            lyrics_ids=row.lyrics_ids,
            voice=_NO_SAMPLES,
        )
