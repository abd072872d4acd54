"""Estimate of the disk space that a run takes in its output folder."""

from __future__ import annotations

from dataclasses import dataclass

from songgen.families.costs import FLOAT32
from songgen.planning.memory import OPTIMIZER_BYTES

LINE_BYTES = 2_000
"""Bytes of a line of metrics."""


@dataclass(frozen=True)
class DiskEstimate:
    """Estimated bytes of a run's output folder."""

    checkpoint: int
    """Size of one checkpoint."""
    checkpoints: int
    """Largest number of checkpoints at one time: those that are kept, the best one, and the one being written."""
    model: int
    """Size of the model that the run writes at its end."""
    songs: int
    """Size of all generated songs."""
    metrics: int
    """Size of the metrics."""
    free: int
    """Free bytes on the disk."""

    @property
    def total(self) -> int:
        """Bytes of everything together."""
        return self.checkpoint * self.checkpoints + self.model + self.songs + self.metrics


def estimate_disk(
    *,
    trained: int,
    written: int,
    optimizer: str,
    keeps_average: bool,
    saves: int,
    save_total_limit: int | None,
    evaluates: bool,
    songs: int,
    song_bytes: int,
    lines: int,
    free: int,
) -> DiskEstimate:
    """Estimate the disk space of a run.

    Args:
        trained: number of trained weights.
        written: number of weights that the run writes at its end.
        optimizer: name of the optimizer.
        keeps_average: whether there is a moving average, which a checkpoint holds as well.
        saves: number of checkpoints that are written in the whole run.
        save_total_limit: number of newest checkpoints that are kept; None for all.
        evaluates: whether the best checkpoint is kept in addition.
        songs: number of generated songs.
        song_bytes: size of one of them.
        lines: number of lines of metrics.
        free: free bytes on the disk.
    """
    each = FLOAT32 + OPTIMIZER_BYTES[optimizer] + FLOAT32 * keeps_average
    kept = saves if save_total_limit is None else min(saves, save_total_limit + evaluates + 1)
    return DiskEstimate(
        checkpoint=each * trained,
        checkpoints=kept,
        model=FLOAT32 * written,
        songs=songs * song_bytes,
        metrics=lines * LINE_BYTES,
        free=free,
    )
