"""Counts over clips that add up: chunk by chunk, process by process, run after run."""

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from songgen.data.manifests.tags import missing_tag_kinds

LENGTH_EDGES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 45.0, 60.0, 120.0, 300.0)
"""Lower edges of the bins of the length histogram, in seconds; the last bin is open."""

ENERGY_DIFFERENCE = 0.1
"""Share by which a stated energy or duration may differ from the measured one before it is counted."""


@dataclass
class EnergyStatistics:
    """Energies of one track over clips."""

    count: int = 0
    """Clips that have the track."""

    total: float = 0.0
    """Sum of the energies."""

    minimum: float = math.inf
    """Lowest energy."""

    maximum: float = 0.0
    """Highest energy."""

    below_voice_minimum: int = 0
    """Clips whose track is too quiet to be a reference voice."""

    def add(self, energy: float, voice_min_energy: float) -> None:
        """Count one clip."""
        self.count += 1
        self.total += energy
        self.minimum = min(self.minimum, energy)
        self.maximum = max(self.maximum, energy)
        self.below_voice_minimum += energy < voice_min_energy

    def merge(self, other: "EnergyStatistics") -> None:
        """Add the clips of another chunk."""
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.below_voice_minimum += other.below_voice_minimum

    def summary(self) -> dict[str, float | int]:
        """Return the figures of the report; none of them without a clip."""
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
    """Clips in the data set."""

    seconds: float = 0.0
    """Their length."""

    frames: int = 0
    """Their codec frames."""

    lengths: dict[str, int] = field(default_factory=dict)
    """Histogram: lower edge of the bin -> clips."""

    energies: dict[str, EnergyStatistics] = field(default_factory=dict)
    """Track -> energies."""

    languages: dict[str, int] = field(default_factory=dict)
    """Language -> clips."""

    rejected: dict[str, int] = field(default_factory=dict)
    """Code -> rows left out."""

    bad_rows: int = 0
    """Rows left out because something is wrong with them, and not because of a limit."""

    instrumentals: int = 0
    """Clips without lyrics."""

    clipped: dict[str, int] = field(default_factory=dict)
    """Track -> clips in which it is clipped."""

    cropped: int = 0
    """Clips of which only the beginning was kept (`long_clips: "crop"`)."""

    trimmed: int = 0
    """Clips whose tracks were cut to the shortest one."""

    unknown_lyric_pieces: int = 0
    """Pieces of lyrics that the tokenizer has no token for."""

    lyric_pieces: int = 0
    """All pieces of lyrics."""

    differing_statements: dict[str, int] = field(default_factory=dict)
    """Clips whose measured duration or energy is not what the manifest states."""

    missing_tags: dict[str, int] = field(default_factory=dict)
    """Kind of tag -> clips whose caption has none (see `songgen.data.manifests.tags`)."""

    def add_length(self, seconds: float, frames: int) -> None:
        """Count one clip."""
        self.rows += 1
        self.seconds += seconds
        self.frames += frames
        edge = LENGTH_EDGES[bisect_right(LENGTH_EDGES, seconds) - 1]
        count(self.lengths, f"{edge:g}")

    def add_caption(self, caption: str) -> None:
        """Count what kinds of tags a caption lacks."""
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
        """Return plain values for JSON."""
        content = asdict(self)
        content["energies"] = {track: asdict(energies) for track, energies in self.energies.items() if energies.count}
        return content

    @staticmethod
    def from_dict(content: dict[str, Any]) -> "ChunkStatistics":
        """Read what `to_dict` wrote."""
        energies = {track: EnergyStatistics(**energies) for track, energies in content["energies"].items()}
        return ChunkStatistics(**{**content, "energies": energies})


def count(counts: dict[str, int], name: str) -> None:
    """Count one more of a name."""
    counts[name] = counts.get(name, 0) + 1


def differs(stated: float | None, measured: float) -> bool:
    """Whether a manifest states another figure than the one measured."""
    return stated is not None and abs(stated - measured) > ENERGY_DIFFERENCE * max(stated, measured)
