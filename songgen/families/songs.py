"""The songs of a run: opened, filtered, checked against the model, and handed out step by step."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from songgen.config import DataArguments
from songgen.data.batch_plan import BatchPlan
from songgen.data.collate import Batch
from songgen.data.dataset import RowFilter, SongDataset
from songgen.data.loader import make_loader, read_batches
from songgen.data.samples import TrainingSamples
from songgen.data.schema import EVAL_SPLIT, DatasetInfo
from songgen.tasks import MIX, VOCAL

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """Clips with the order in which one process reads them."""

    samples: TrainingSamples
    """Clips by (epoch, index)."""
    plan: BatchPlan
    """Which clips meet where."""
    target_tracks: tuple[str, ...]
    """Tracks that the model writes, in the order of the layout."""
    auxiliary_tracks: tuple[str, ...]
    """Tracks of the auxiliary loss."""
    rank: int
    """Of this process."""
    num_workers: int
    """Processes that read ahead."""
    loader_timeout: float
    """Seconds after which one that gives nothing counts as hanging."""
    content: str = ""
    """Hash of the data sets' content; see `data_sha256`."""
    signature: dict[str, Any] = field(init=False)
    """What the order depends on."""

    def __post_init__(self) -> None:
        """Describe the order."""
        lengths = np.ascontiguousarray(self.plan.lengths)
        described = {
            "clips": len(lengths),
            "data_sha256": self.content,
            "lengths_sha256": hashlib.sha256(lengths.tobytes()).hexdigest(),
            "codec_fingerprint": self.samples.dataset.info.codec_fingerprint,
            "batch_size": self.plan.batch_size,
            "max_frames_per_batch": self.plan.max_frames_per_batch,
            "group_by_length": self.plan.group_by_length,
            "order": self.plan.order,
            "seed": self.plan.seed,
            "world_size": self.plan.world_size,
            "accumulation": self.plan.accumulation,
        }
        object.__setattr__(self, "signature", described)

    def steps(self, epoch: int, batches_done: int = 0) -> Iterator[list[Batch]]:
        """Yield this process's micro-batches of each remaining step of an epoch; every process gets as many.

        Args:
            epoch: from 0.
            batches_done: micro-batches of the epoch, over all processes, that lie behind.
        """
        loader = make_loader(
            self.samples,
            self.plan,
            target_tracks=self.target_tracks,
            auxiliary_tracks=self.auxiliary_tracks,
            epoch=epoch,
            rank=self.rank,
            skip_batches=batches_done,
            num_workers=self.num_workers,
            timeout=self.loader_timeout,
        )
        batches = read_batches(loader)
        while step := list(islice(batches, self.plan.accumulation)):
            yield step


def data_sha256(data: DataArguments, split: str) -> str:
    """Hash of what the data sets' records say of a split's content: the same wherever the folders lie."""
    shards = [shard.sha256 for folder in data.dataset_folders() for shard in DatasetInfo.read(folder).splits[split]]
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()


def open_songs(data: DataArguments, split: str, tracks: Sequence[str], max_rows: int | None) -> SongDataset:
    """Open one split of all the run's data sets, filtered; what was left out is logged.

    Args:
        data: folders and filters.
        split: name of the split.
        tracks: tracks that a clip must have.
        max_rows: keep the first so many.

    Raises:
        ValueError: a data set is missing or damaged, they do not fit together, or no clip is left.
    """
    songs = SongDataset.concatenate([SongDataset.open(folder, split) for folder in data.dataset_folders()])
    kept, rejected = songs.filter(
        RowFilter(
            min_seconds=data.min_duration_in_seconds or None,
            max_seconds=data.max_duration_in_seconds,
            tracks=tuple(tracks),
        )
    )
    for name, lengths, limit in (
        ("max_description_token_length", kept.caption_lengths(), data.max_description_token_length),
        ("max_prompt_token_length", kept.lyrics_lengths(), data.max_prompt_token_length),
    ):
        if limit is not None and (excess := int((lengths > limit).sum())):
            rejected[f"above {name} {limit}"] = excess
            kept = kept.select(np.flatnonzero(lengths <= limit))
    if max_rows is not None:
        kept = kept.select(np.arange(min(max_rows, len(kept))))
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        logger.info("%s: %d of %d clips are used; left out: %s", songs.name, len(kept), len(songs), reasons)
    if not len(kept):
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items()) or "it is empty"
        way_out = "change the filters or the data"
        if {MIX, VOCAL} <= set(tracks) and not songs.has_track(VOCAL).any():
            way_out = "without separated tracks, train without the loss of the vocal heads: --add_vocal_loss false"
        raise ValueError(f"{songs.name}: no clip of {len(songs)} is left ({reasons}); {way_out}")
    return kept


def evaluation_split(data: DataArguments) -> str:
    """Name of the split to evaluate on: the configured one where there is one, else the one preprocessing wrote.

    Raises:
        ValueError: no split that every data set has.
    """
    folders = data.dataset_folders()
    splits = [set(DatasetInfo.read(folder).splits) for folder in folders]
    shared = set.intersection(*splits)
    wanted = data.eval_split_name if isinstance(data.eval_split_name, str) else data.eval_split_name[0]
    for name in (wanted, EVAL_SPLIT):
        if name in shared:
            return name
    raise ValueError(
        f"do_eval is true, but {' and '.join(folders)} have no split {wanted!r} or {EVAL_SPLIT!r} "
        f"(they share: {', '.join(sorted(shared)) or 'none'}): preprocess with eval_dataset_name, name one of these as "
        "eval_split_name, or set do_eval to false"
    )
