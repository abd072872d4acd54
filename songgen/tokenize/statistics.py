"""Statistics of clips that can be added up over chunks, processes and runs."""

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from songgen.data.manifests.tags import missing_tag_kinds
from songgen.data.sound.levels import is_loud_enough

LENGTH_EDGES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 45.0, 60.0, 120.0, 300.0)
"""Lower edges of the bins of the length histogram, in seconds; the last bin is open."""

ENERGY_DIFFERENCE = 0.1
"""Relative difference from which a stated energy or duration counts as different from the measured one."""


@dataclass
class EnergyStatistics:
    """Statistics of the energies of one track."""

    count: int = 0
    """Number of clips that have the track."""

    total: float = 0.0
    """Sum of the energies."""

    minimum: float = math.inf
    """Lowest energy."""

    maximum: float = 0.0
    """Highest energy."""

    below_voice_minimum: int = 0
    """Number of clips whose track is too quiet for a reference voice."""

    def add(self, energy: float, voice_min_energy: float) -> None:
        """Count one clip."""
        self.count += 1
        self.total += energy
        self.minimum = min(self.minimum, energy)
        self.maximum = max(self.maximum, energy)
        self.below_voice_minimum += not is_loud_enough(energy, voice_min_energy)

    def merge(self, other: "EnergyStatistics") -> None:
        """Add the clips of another chunk."""
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.below_voice_minimum += other.below_voice_minimum

    def summary(self) -> dict[str, float | int]:
        """Return the figures for the report; only the count if there are no clips."""
        if not self.count:
            return {"clips": 0}
        return {
            "clips": self.count,
            "mean": self.total / self.count,
            "min": self.minimum,
            "max": self.maximum,
            "below_voice_min_energy": self.below_voice_minimum,
        }


@dataclass
class ChunkStatistics:
    """Counts over the clips of a chunk, a split or a whole data set."""

    rows: int = 0
    """Number of clips in the data set."""

    seconds: float = 0.0
    """Total length of the clips in seconds."""

    frames: int = 0
    """Total number of frames."""

    lengths: dict[str, int] = field(default_factory=dict)
    """Histogram of lengths: lower edge of the bin -> number of clips."""

    energies: dict[str, EnergyStatistics] = field(default_factory=dict)
    """Track -> statistics of its energies."""

    languages: dict[str, int] = field(default_factory=dict)
    """Language -> number of clips."""

    rejected: dict[str, int] = field(default_factory=dict)
    """Reject code -> number of rows left out."""

    bad_rows: int = 0
    """Number of rows left out because they are damaged, not because of a limit."""

    instrumentals: int = 0
    """Number of clips without lyrics."""

    clipped: dict[str, int] = field(default_factory=dict)
    """Track -> number of clips in which it is clipped."""

    flaws: dict[str, int] = field(default_factory=dict)
    """Flaw and track (see `songgen.data.sound.levels.FLAWS`) -> number of clips that have it."""

    cropped: int = 0
    """Number of clips cut to their beginning (`long_clips: "crop"`)."""

    trimmed: int = 0
    """Number of clips whose tracks were cut to the shortest one."""

    unknown_lyric_pieces: int = 0
    """Number of pieces of lyrics without a token in the tokenizer."""

    lyric_pieces: int = 0
    """Number of all pieces of lyrics."""

    differing_statements: dict[str, int] = field(default_factory=dict)
    """Measured value -> number of clips for which the manifest states a different one."""

    missing_tags: dict[str, int] = field(default_factory=dict)
    """Kind of tag -> number of clips whose caption has none (see `songgen.data.manifests.tags`)."""

    facts_left_out: dict[str, int] = field(default_factory=dict)
    """Fact of the music (tempo, key, time signature) -> number of clips that state it in a form that cannot be used."""

    truncated: dict[str, int] = field(default_factory=dict)
    """Text (caption, lyrics) -> number of clips in which it was truncated to the length that the model reads."""

    def add_length(self, seconds: float, frames: int) -> None:
        """Count one clip."""
        self.rows += 1
        self.seconds += seconds
        self.frames += frames
        edge = LENGTH_EDGES[bisect_right(LENGTH_EDGES, seconds) - 1]
        count(self.lengths, f"{edge:g}")

    def add_caption(self, caption: str) -> None:
        """Count the kinds of tags that a caption lacks."""
        for kind in missing_tag_kinds(caption):
            count(self.missing_tags, kind)

    def merge(self, other: "ChunkStatistics") -> None:
        """Add the counts of another chunk."""
        for name, value in vars(other).items():
            if name == "energies":
                for track, energies in value.items():
                    self.energies.setdefault(track, EnergyStatistics()).merge(energies)
            elif isinstance(value, dict):
                setattr(self, name, dict(Counter(getattr(self, name)) + Counter(value)))
            else:
                setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as plain values for JSON."""
        content = asdict(self)
        content["energies"] = {track: asdict(energies) for track, energies in self.energies.items() if energies.count}
        return content

    @staticmethod
    def from_dict(content: dict[str, Any]) -> "ChunkStatistics":
        """Restore statistics from the result of `to_dict`."""
        energies = {track: EnergyStatistics(**energies) for track, energies in content["energies"].items()}
        return ChunkStatistics(**{**content, "energies": energies})


def count(counts: dict[str, int], name: str) -> None:
    """Increase the count of a name by one."""
    counts[name] = counts.get(name, 0) + 1


def differs(stated: float | None, measured: float) -> bool:
    """Return whether a manifest states a value that differs from the measured one."""
    return stated is not None and abs(stated - measured) > ENERGY_DIFFERENCE * max(stated, measured)
