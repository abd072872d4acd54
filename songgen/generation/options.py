"""Options of generation, checked before anything is computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from songgen.layout import TokenLayout

DEFAULT_MAX_SECONDS = 30.0
"""Default length limit: the longest clips of the published training data."""

DEFAULT_TOP_K = 50
"""Default number of candidates to sample from, as in the published model."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 1e4
"""Range of the temperature: outside of it, scaled logits of float32 are infinite, or all equal."""

MAX_GUIDANCE_SCALE = 100.0
"""Largest guidance scale; useful ones are below 10."""

MAX_SECONDS = 3600.0
"""Longest song in seconds: codes of all steps are kept in memory."""

MAX_STEPS = 1_000_000
"""Longest song in decoder steps or frames."""

MAX_SONGS = 1000
"""Most songs for each input: they are sampled side by side."""

MAX_SEED = 2**63
"""Seeds are below this, as torch's generators take them."""

_SEQUENCE_SEED_STEP = 0x9E3779B97F4A7C15
"""Distance between the seeds of two sequences of one song (odd, so that no two are equal)."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How songs are generated.

    Raises:
        ValueError: if any value is out of its range; one message names all of them.
    """

    do_sample: bool = True
    """Sample; False is greedy."""

    temperature: float = 1.0
    """Divisor of the logits before sampling; below 1 is more conservative."""

    top_k: int | None = DEFAULT_TOP_K
    """Sample from the k most likely codes only; None or 0 for no limit."""

    top_p: float | None = None
    """Sample from the smallest set of codes that has this probability; None for no limit."""

    guidance_scale: float = 1.0
    """Strength of classifier-free guidance; 1 is none."""

    max_length: int | None = None
    """Longest song in decoder steps, the start column included (the published meaning)."""

    max_frames: int | None = None
    """Longest song in codec frames."""

    max_seconds: float | None = None
    """Longest song in seconds; without any of the three limits, 30."""

    min_new_tokens: int | None = None
    """Decoder steps before a song may end; None for one more than there are codebooks."""

    num_return_sequences: int = 1
    """Songs for each input; they follow each other in the output."""

    seed: int | Sequence[int] | None = None
    """One seed for every input, or one for each; None samples them from torch's own generator."""

    def __post_init__(self) -> None:
        """Check every value and report all problems at once."""
        problems = [*self._sampling_problems(), *self._length_problems(), *self._seed_problems()]
        if problems:
            raise ValueError("generation options: " + "; ".join(problems))

    def _sampling_problems(self) -> list[str]:
        """Return what is wrong with the values that shape the distribution."""
        problems = []
        if not _is_number(self.temperature) or not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            problems.append(
                f"temperature must be a number from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}, got "
                f"{self.temperature!r} (do_sample=False is greedy; on the command line, --greedy)"
            )
        if self.top_k is not None and (not _is_integer(self.top_k) or self.top_k < 0):
            problems.append(f"top_k must be a whole number of at least 1 (None or 0 for no limit), got {self.top_k!r}")
        if self.top_p is not None and (not _is_number(self.top_p) or not 0 < self.top_p <= 1):
            problems.append(f"top_p must be above 0 and at most 1 (None for no limit), got {self.top_p!r}")
        if not _is_number(self.guidance_scale) or not 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE:
            problems.append(
                f"guidance_scale must be a number from 0 to {MAX_GUIDANCE_SCALE:g} (1 for none), got "
                f"{self.guidance_scale!r}"
            )
        if not _is_integer(self.num_return_sequences) or not 1 <= self.num_return_sequences <= MAX_SONGS:
            problems.append(f"num_return_sequences must be from 1 to {MAX_SONGS}, got {self.num_return_sequences!r}")
        return problems

    def _length_problems(self) -> list[str]:
        """Return what is wrong with the length limits."""
        limits = {"max_length": self.max_length, "max_frames": self.max_frames, "max_seconds": self.max_seconds}
        given = [name for name, value in limits.items() if value is not None]
        problems = []
        if len(given) > 1:
            problems.append(f"give one of {', '.join(limits)}, not {' and '.join(given)}")
        for name in ("max_length", "max_frames"):
            value = limits[name]
            if value is not None and (not _is_integer(value) or not 1 <= value <= MAX_STEPS):
                problems.append(f"{name} must be a whole number from 1 to {MAX_STEPS:,}, got {value!r}")
        seconds = self.max_seconds
        if seconds is not None and (not _is_number(seconds) or not 0 < seconds <= MAX_SECONDS):
            problems.append(f"max_seconds must be a number above 0 and at most {MAX_SECONDS:,.0f}, got {seconds!r}")
        if self.min_new_tokens is not None and (not _is_integer(self.min_new_tokens) or self.min_new_tokens < 0):
            problems.append(f"min_new_tokens must be a whole number of at least 0, got {self.min_new_tokens!r}")
        return problems

    def _seed_problems(self) -> list[str]:
        """Return what is wrong with the seed."""
        if self.seed is None:
            return []
        seeds = list(self.seed) if isinstance(self.seed, Sequence) else [self.seed]
        if not seeds:
            return ["seed is an empty list; give a number, one number for each input, or None"]
        wrong = [seed for seed in seeds if not _is_integer(seed) or not 0 <= seed < MAX_SEED]
        return [f"seed must hold whole numbers from 0 to 2**63 - 1, got {wrong!r}"] if wrong else []

    def num_frames(self, layout: TokenLayout, frame_rate: float) -> int:
        """Return T, the frames of the longest song allowed.

        Args:
            layout: decides how many decoder steps a song of T frames takes.
            frame_rate: frames a second of the codec.

        Raises:
            ValueError: if the limit leaves no room for a single frame.
        """
        if self.max_frames is not None:
            return self.max_frames
        if self.max_length is not None:
            # The last frame that fits takes the start column, a step of its own and the delay of its last codebook and
            # track; every frame before it takes a stride.
            shortest = layout.max_offset + 2
            if self.max_length < shortest:
                raise ValueError(
                    f"max_length {self.max_length} leaves no room for a frame: layout {layout.name!r} needs at least "
                    f"{shortest} decoder steps"
                )
            return (self.max_length - shortest) // layout.stride + 1
        frames = math.floor((self.max_seconds or DEFAULT_MAX_SECONDS) * frame_rate + 1e-6)
        if frames < 1:
            raise ValueError(f"max_seconds {self.max_seconds} is shorter than one frame of {1 / frame_rate:.3f} s")
        return frames

    def forced_end(self, layout: TokenLayout) -> int | None:
        """Return the frame at which every stream is ended if that is not the end of the longest song, else None.

        A limit in decoder steps ends the loop, and published dual-track models sample up to it on streams whose next
        frame will never be complete; later codes are conditioned on those.
        """
        return None if self.max_length is None else self.max_length - layout.num_codebooks

    def first_ending_step(self, layout: TokenLayout) -> int:
        """Return the first decoder step (from 0, the start column not counted) at which a song may end."""
        return layout.num_codebooks + 1 if self.min_new_tokens is None else self.min_new_tokens

    def song_seeds(self, num_songs: int) -> list[int]:
        """Return one seed for each input.

        Raises:
            ValueError: if there is a list of seeds of another length than there are inputs.
        """
        if self.seed is None:
            return torch.randint(MAX_SEED - 1, (num_songs,)).tolist()
        seeds = [self.seed] * num_songs if isinstance(self.seed, int) else list(self.seed)
        if len(seeds) != num_songs:
            raise ValueError(f"{len(seeds)} seeds for {num_songs} inputs; give one number, or one for each input")
        return seeds

    def sequence_seeds(self, num_songs: int) -> list[int]:
        """Return the seeds of all sequences, song by song; a song's first sequence has the song's own seed."""
        return [
            (seed + sequence * _SEQUENCE_SEED_STEP) % MAX_SEED
            for seed in self.song_seeds(num_songs)
            for sequence in range(self.num_return_sequences)
        ]


def _is_integer(value: object) -> bool:
    """Tell whether a value is a whole number and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    """Tell whether a value is a finite number and not a truth value; whole numbers have no limit in Python."""
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))
