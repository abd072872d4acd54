"""Clips of a run, for any model family: opened, filtered, and read step by step as collated micro-batches."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songgen.config import DataArguments, RunConfig, TrainingArguments
from songgen.data.batch_plan import BatchPlan
from songgen.data.curriculum.growth import KnownRows
from songgen.data.curriculum.order import BALANCED, describe_order, parse_order, phase_of
from songgen.data.dataset import RowFilter, SongDataset
from songgen.data.loader import make_loader, read_batches
from songgen.data.samples import Sample, SampleOptions, TrainingSamples
from songgen.data.schema import DEFAULT_MAX_SECONDS, EVAL_SPLIT, DatasetInfo
from songgen.families.objective import DataNeeds, MicroBatch, Objective

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processes:
    """Place of this process among those of a launch."""

    rank: int
    """Rank of this process."""
    world_size: int
    """Number of processes."""


@dataclass(frozen=True)
class TrainingData:
    """Clips with the order in which one process reads them."""

    samples: TrainingSamples
    """Clips by (epoch, index)."""
    plan: BatchPlan
    """Batch plan: which clips are in which micro-batch of which process."""
    collate: Callable[[Sequence[Sample]], MicroBatch]
    """Function that collates samples to a micro-batch; picklable, for loader workers."""
    rank: int
    """Rank of this process."""
    num_workers: int
    """Number of processes that read ahead."""
    loader_timeout: float
    """Seconds after which a loader worker that gives nothing counts as hanging."""
    content: str = ""
    """Hash of the data sets' content; see `data_sha256`."""
    known_rows: KnownRows | None = None
    """Rows of the data sets that are read, of a run whose data sets may grow."""
    signature: dict[str, Any] = field(init=False)
    """Identity of the clips, and the settings that their order depends on; stored in checkpoints."""

    def __post_init__(self) -> None:
        """Compute the signature."""
        # A position in the data (epoch, completed micro-batches) only means the same clips if all of this is the same:
        # the plan is a pure function of the clips' lengths and these settings. The hashes detect changed data.
        lengths = np.ascontiguousarray(self.plan.lengths)
        described = {
            "clips": len(lengths),
            "data_sha256": self.content,
            "lengths_sha256": hashlib.sha256(lengths.tobytes()).hexdigest(),
            "codec_fingerprint": self.samples.dataset.info.codec_fingerprint,
            "batch_size": self.plan.batch_size,
            "max_frames_per_batch": self.plan.max_frames_per_batch,
            "group_by_length": self.plan.group_by_length,
            "order": describe_order(self.plan.order),
            "seed": self.plan.seed,
            "world_size": self.plan.world_size,
            "accumulation": self.plan.accumulation,
        }
        if self.known_rows is not None:
            described |= self.known_rows.to_plan()
        object.__setattr__(self, "signature", described)

    def steps(self, epoch: int, batches_done: int = 0) -> Iterator[list[Any]]:
        """Yield this process's micro-batches of each remaining step of an epoch; all processes get the same number.

        Args:
            epoch: epoch, from 0.
            batches_done: completed micro-batches of the epoch, over all processes.
        """
        phase, first_epoch = phase_of(self.plan.phases, epoch)
        if len(self.plan.phases) > 1 and epoch == first_epoch and not batches_done:
            logger.info("epoch %d: the clips come %s from here on", epoch + 1, phase)
        loader = make_loader(
            self.samples,
            self.plan,
            collate=self.collate,
            epoch=epoch,
            rank=self.rank,
            skip_batches=batches_done,
            num_workers=self.num_workers,
            timeout=self.loader_timeout,
        )
        batches = read_batches(loader)
        # The plan fills the last step of an epoch with empty micro-batches, so that every step has `accumulation` of
        # them on every process.
        while step := list(islice(batches, self.plan.accumulation)):
            yield step


def data_sha256(data: DataArguments, split: str) -> str:
    """Return the hash of the shard hashes in the data sets' records; it does not depend on where the folders are."""
    shards = [shard.sha256 for folder in data.dataset_folders() for shard in DatasetInfo.read(folder).splits[split]]
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()


def open_songs(
    data: DataArguments, split: str, needs: DataNeeds, max_rows: int | None, known_rows: KnownRows | None = None
) -> SongDataset:
    """Do what `select_songs` does; the clips left out are logged with reasons.

    Raises:
        ValueError: as `select_songs` does.
    """
    kept, left_out = select_songs(data, split, needs, max_rows, known_rows)
    if left_out:
        logger.info("%s", left_out)
    return kept


def select_songs(
    data: DataArguments, split: str, needs: DataNeeds, max_rows: int | None, known_rows: KnownRows | None = None
) -> tuple[SongDataset, str]:
    """Open one split of all data sets of the run and filter it.

    Args:
        data: folders and filters.
        split: name of the split.
        needs: kind of target, and tracks that a clip must have.
        max_rows: number of clips to keep, the first ones; None for all.
        known_rows: rows of each folder to open; None for all.

    Returns:
        The clips, and which ones were left out for which reasons; empty if none were.

    Raises:
        ValueError: if a data set is missing or damaged, the data sets do not fit together, the kind of target is wrong,
            or no clip is left.
    """
    opened = [SongDataset.open(folder, split) for folder in data.dataset_folders()]
    if known_rows is not None:
        opened = [each.select(np.arange(count)) for each, count in zip(opened, known_rows.counts, strict=False)]
    songs = SongDataset.concatenate(opened)
    if songs.info.target_kind != needs.target_kind:
        raise ValueError(
            f"{songs.name} holds {songs.info.target_kind}, and the model is trained on {needs.target_kind}: give a "
            "data set of that kind, or another model"
        )
    kept, rejected = songs.filter(
        RowFilter(
            min_seconds=data.min_duration_in_seconds or None,
            max_seconds=data.max_duration_in_seconds or DEFAULT_MAX_SECONDS[needs.target_kind],
            tracks=needs.tracks,
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
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
    if not len(kept):
        lacks_auxiliary = any(not songs.has_track(track).any() for track in needs.auxiliary_tracks)
        fix = needs.advice if lacks_auxiliary and needs.advice else "change the filters or the data"
        raise ValueError(f"{songs.name}: no clip of {len(songs)} is left ({reasons or 'it is empty'}); {fix}")
    left_out = f"{songs.name}: {len(kept)} of {len(songs)} clips are used; left out: {reasons}" if rejected else ""
    return kept, left_out


def train_split(data: DataArguments) -> str:
    """Return the name of the split to train on."""
    names = data.train_split_name
    return names if isinstance(names, str) else names[0]


def evaluation_split(data: DataArguments) -> str:
    """Return the split to evaluate on: the configured one if it exists, otherwise the one that tokenizing wrote.

    Raises:
        ValueError: if no split is in every data set.
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


def used_splits(config: RunConfig) -> list[str]:
    """Return the split to train on, then the one to evaluate on, if any."""
    used = [train_split(config.data)]
    return [*used, evaluation_split(config.data)] if config.training.do_eval else used


def sample_options(config: RunConfig, needs: DataNeeds) -> SampleOptions:
    """Return the options for random variation of clips that a model needs."""
    return SampleOptions(
        voice_choices=config.data.voice_probabilities(),
        voice_min_energy=config.data.voice_min_energy,
        voice_seconds=config.data.ref_dur_sec,
        voice_crops=config.data.voice_feature_crops,
        caption_variants=config.model.caption_variants,
        drop_caption=config.model.caption_dropout,
        drop_lyrics=config.model.lyrics_dropout,
        drop_all=config.model.condition_dropout,
        empty_caption_ids=needs.empty_caption_ids,
        empty_lyrics_ids=needs.empty_lyrics_ids,
    )


def groups_of(songs: SongDataset, order: str | list[dict[str, Any]]) -> dict[str, NDArray[np.int64]]:
    """Return the number of each clip's group, for each column by which a phase of the order is balanced.

    Raises:
        ValueError: if a column does not exist; the message lists those that do.
    """
    columns = dict.fromkeys(phase.column for phase in parse_order(order) if phase.by == BALANCED)
    groups = {}
    for column in columns:
        if column not in songs.text_columns:
            raise ValueError(
                f"order: {songs.name} has no column {column!r} to balance the clips by; it has "
                f"{', '.join(songs.text_columns)}. Tokenize again with it in keep_columns, or name one of these"
            )
        values, group, counts = np.unique(songs.texts(column), return_inverse=True, return_counts=True)
        groups[column] = group.astype(np.int64)
        logger.info("column %s: %d groups of %d to %d clips", column, len(values), counts.min(), counts.max())
        if values[0] == "":
            logger.warning("column %s: %d clips have no value; they are a group of their own", column, counts[0])
        if len(values) == 1:
            logger.warning("order: every clip has the same value in column %s, so there is nothing to balance", column)
    return groups


def _warn_of_unreached_phases(order: str | list[dict[str, Any]], training: TrainingArguments) -> None:
    """Warn if the run ends before the last phase of its order."""
    *earlier, last = parse_order(order)
    begin = sum(phase.epochs or 0 for phase in earlier)
    if training.max_steps <= 0 and begin >= training.num_train_epochs:
        logger.warning(
            "order: the last phase (%s) begins after epoch %d, and the run has num_train_epochs %g",
            last, begin, training.num_train_epochs,
        )  # fmt: skip


def training_data(
    config: RunConfig,
    objective: Objective,
    check: Callable[[SongDataset], None],
    processes: Processes,
    known_rows: KnownRows | None = None,
) -> TrainingData:
    """Open the clips to train on, in the order of the batch plan.

    Args:
        config: configuration of the run.
        objective: objective with the requirements on clips, which also collates them.
        check: function that raises a ValueError if the model cannot be trained on the clips.
        processes: place of this process.
        known_rows: rows of each data set folder to read, of a run whose data sets may grow; None for all.

    Raises:
        ValueError: if data sets, clips or batch plan do not fit.
    """
    training, split = config.training, train_split(config.data)
    songs = open_songs(config.data, split, objective.data_needs, config.data.max_train_samples, known_rows)
    check(songs)
    _warn_of_unreached_phases(config.data.order, training)
    needs = objective.data_needs
    samples = TrainingSamples(songs, sample_options(config, needs), needs.tracks, seed=training.seed)
    plan = BatchPlan(
        songs.num_frames,
        batch_size=None if config.data.max_frames_per_batch else training.per_device_train_batch_size,
        max_frames_per_batch=config.data.max_frames_per_batch,
        world_size=processes.world_size,
        accumulation=training.gradient_accumulation_steps,
        seed=training.seed,
        group_by_length=config.data.group_by_length,
        order=config.data.order,
        groups=groups_of(songs, config.data.order),
    )
    return TrainingData(
        samples,
        plan,
        objective.collate,
        processes.rank,
        training.dataloader_num_workers,
        training.dataloader_timeout,
        content=data_sha256(config.data, split),
        known_rows=known_rows,
    )


def evaluation_data(
    config: RunConfig, objective: Objective, check: Callable[[SongDataset], None], processes: Processes
) -> TrainingData:
    """Open the held-out clips, as `training_data` does, but without randomness."""
    training, needs = config.training, objective.data_needs
    songs = open_songs(config.data, evaluation_split(config.data), needs, config.data.max_eval_samples)
    check(songs)
    options = sample_options(config, needs)
    samples = TrainingSamples(songs, options, needs.tracks, seed=training.seed, deterministic=True)
    plan = BatchPlan(
        songs.num_frames,
        batch_size=training.per_device_eval_batch_size,
        world_size=processes.world_size,
        seed=training.seed,
        group_by_length=True,
    )
    return TrainingData(
        samples,
        plan,
        objective.collate,
        processes.rank,
        training.eval_dataloader_num_workers,
        training.dataloader_timeout,
    )


def first_clips(data: TrainingData, count: int) -> TrainingData:
    """Return the first held-out clips, one in a micro-batch, so that each can be measured by itself."""
    songs = data.samples.dataset.select(np.arange(min(count, len(data.samples))))
    samples = TrainingSamples(
        songs, data.samples.options, data.samples.tracks, seed=data.samples.seed, deterministic=True
    )
    plan = BatchPlan(songs.num_frames, batch_size=1, world_size=data.plan.world_size, seed=data.plan.seed)
    return replace(data, samples=samples, plan=plan, num_workers=0)
