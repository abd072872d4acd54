"""Options of songs by flow matching, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from songgen.data.manifests.music_facts import FASTEST, SLOWEST, stated_key
from songgen.families.flow.prompts import SIGNATURES

MIN_SECONDS, MAX_SECONDS = 1.0, 600.0
"""Shortest and longest song; the model was trained on up to ten minutes."""

DEFAULT_SECONDS = 60.0
"""Default duration of a song, that of the pipeline."""

MAX_STEPS, TURBO_STEPS, DEFAULT_STEPS = 1000, 8, 50
"""Most steps of generation; steps of turbo models, and of others, if no number is given."""

MAX_GUIDANCE, DEFAULT_GUIDANCE = 100.0, 7.0
"""Largest guidance scale, and that of guided models if none is given."""

MAX_SHIFT, DEFAULT_SHIFT = 100.0, 3.0
"""Largest shift of the timesteps, and the default."""

MAX_SONGS = 1000
"""Most songs of one request."""

MAX_SEED = 2**63
"""Seeds are below this, as torch's generators take them."""

_SEED_STEP = 0x9E3779B97F4A7C15
"""Distance between the seeds of two songs of a request (odd, so that no two are equal)."""


@dataclass(frozen=True)
class Section:
    """Part of a song in seconds."""

    start: float
    """Beginning."""
    end: float
    """End."""

    def __str__(self) -> str:
        """Return the section in the form of the command line."""
        return f"{self.start:g}:{self.end:g}"

    def require_inside(self, seconds: float) -> None:
        """Check that the section is in a source of this length; it may end later.

        Raises:
            ValueError: if it begins after the end.
        """
        if self.start >= seconds:
            raise ValueError(f"repaint {self}: the source is only {seconds:.2f} s long")


@dataclass(frozen=True)
class Sampling:
    """How latents are written."""

    steps: int
    """Number of steps."""
    guidance: float
    """Scale of classifier-free guidance; 1 is none."""
    shift: float
    """Shift of the timesteps."""

    @classmethod
    def of_model(
        cls, is_turbo: bool, *, steps: int | None = None, guidance: float | None = None, shift: float = DEFAULT_SHIFT
    ) -> Sampling:
        """Fill in what was not given.

        Args:
            is_turbo: whether the model was distilled to few steps without guidance.
            steps: number of steps; None for 8 with turbo models, and 50 with others.
            guidance: scale of guidance; None for 1 with turbo models, and 7 with others.
            shift: shift of the timesteps.

        Raises:
            ValueError: if guidance is asked of a turbo model.
        """
        if is_turbo and guidance is not None and guidance > 1:
            raise ValueError(
                f"guidance {guidance:g}: guidance is distilled into the weights of turbo models, which cannot be "
                "guided further. Leave it out (--guidance 1), or use a model that is not a turbo model"
            )
        return cls(
            steps=(TURBO_STEPS if is_turbo else DEFAULT_STEPS) if steps is None else steps,
            guidance=(1.0 if is_turbo else DEFAULT_GUIDANCE) if guidance is None else guidance,
            shift=shift,
        )


@dataclass(frozen=True, kw_only=True)
class SongOptions:
    """What is generated, and how. Audio is given next to this.

    Raises:
        ValueError: if values are out of range or do not fit each other; one message names all problems.
    """

    caption: str = ""
    """Genre, mood, instruments, singer."""
    lyrics: str = ""
    """Lyrics; an instrumental if they are empty."""
    language: str = "en"
    """Language of the lyrics, as a code or a name."""
    seconds: float | None = None
    """Duration; None for 60 seconds, or with a source that of the source."""
    steps: int | None = None
    """Number of steps; None for the model's."""
    guidance: float | None = None
    """Scale of classifier-free guidance; None for the model's."""
    shift: float = DEFAULT_SHIFT
    """Shift of the timesteps: above 1, more steps are near the noise."""
    bpm: float | None = None
    """Tempo in beats per minute; None leaves it to the model."""
    key: str = ""
    """Key, such as `A minor`; empty leaves it to the model."""
    time_signature: str = ""
    """Time signature, such as `4/4`; empty leaves it to the model."""
    has_source: bool = False
    """Whether there is a source, which needs `repaint` or `cover`."""
    repaint: Section | None = None
    """Section of the source to write again; the rest is the source."""
    cover: float | None = None
    """Strength of the instruction to cover the source, from 0 to 1; None for no cover."""
    num_songs: int = 1
    """Number of songs."""
    seed: int | None = None
    """Seed of the first song; None for a random one."""

    def __post_init__(self) -> None:
        """Check every value and report all problems at once."""
        problems = [*self._range_problems(), *self._music_problems(), *self._source_problems()]
        if problems:
            raise ValueError("options of the song: " + "; ".join(problems))

    def _range_problems(self) -> list[str]:
        """Return which numbers are out of range."""
        problems = []
        ranges = {
            "seconds": (self.seconds, MIN_SECONDS, MAX_SECONDS),
            "guidance": (self.guidance, 0.0, MAX_GUIDANCE),
            "bpm": (self.bpm, SLOWEST, FASTEST),
        }
        for name, (value, low, high) in ranges.items():
            if value is not None and not _is_between(value, low, high):
                problems.append(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
        if not (_is_between(self.shift, 0.0, MAX_SHIFT) and self.shift > 0):
            problems.append(f"shift must be a number above 0 and at most {MAX_SHIFT:g}, got {self.shift!r}")
        wholes = {"steps": (self.steps, MAX_STEPS), "num_songs": (self.num_songs, MAX_SONGS)}
        for count, (number, most) in wholes.items():
            if number is not None and not (_is_whole(number) and 1 <= number <= most):
                problems.append(f"{count} must be a whole number from 1 to {most}, got {number!r}")
        if self.seed is not None and not (_is_whole(self.seed) and 0 <= self.seed < MAX_SEED):
            problems.append(f"seed must be a whole number from 0 to 2**63 - 1, got {self.seed!r}")
        return problems

    def _music_problems(self) -> list[str]:
        """Return what is wrong with the texts."""
        problems = []
        if not self.caption.strip() and not self.lyrics.strip():
            problems.append("a caption or lyrics are needed")
        if self.key and not stated_key(self.key):
            problems.append(f"key {self.key!r} is not a key such as 'C major', 'F# minor' or 'Bbm'")
        if self.time_signature and self.time_signature not in (*SIGNATURES, *SIGNATURES.values()):
            problems.append(
                f"time_signature {self.time_signature!r} is not one of those that the model knows: "
                + ", ".join(SIGNATURES)
            )
        return problems

    def _source_problems(self) -> list[str]:
        """Return what does not fit a source."""
        problems = []
        tasks = [name for name in ("repaint", "cover") if getattr(self, name) is not None]
        if tasks and not self.has_source:
            problems.append(f"{' and '.join(tasks)} is about a source: give one (--source FILE)")
        if self.has_source and len(tasks) != 1:
            problems.append(
                "a source is there to repaint a section of it (--repaint START:END) or to cover it (--cover): say "
                f"which, {'not both' if tasks else 'one of both'}"
            )
        if self.has_source and self.seconds is not None:
            problems.append("the song is as long as its source: leave out seconds")
        if self.repaint is not None and not (
            math.isfinite(self.repaint.end) and 0 <= self.repaint.start < self.repaint.end
        ):
            problems.append(
                f"repaint {self.repaint.start:g}:{self.repaint.end:g} is not a section: START must be below END"
            )
        if self.cover is not None and not _is_between(self.cover, 0.0, 1.0):
            problems.append(f"cover must be a strength from 0 to 1, got {self.cover!r}")
        return problems

    def song_seeds(self) -> list[int]:
        """Return the seeds of the songs; the first song has the seed that was given."""
        first = self.seed
        if first is None:
            import torch

            first = int(torch.randint(MAX_SEED - 1, ()))
        return [(first + song * _SEED_STEP) % MAX_SEED for song in range(self.num_songs)]


def _is_whole(value: object) -> bool:
    """Return whether a value is a whole number and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_between(value: object, low: float, high: float) -> bool:
    """Return whether a value is a finite number in a range."""
    is_number = _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
    return is_number and low <= float(value) <= high  # type: ignore[arg-type]
