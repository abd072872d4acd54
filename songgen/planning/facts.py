"""Facts about a planned run: its data, its steps, its costs and the machine. Nothing is loaded, written or joined."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from songgen.config import RunConfig
from songgen.data.batch_plan import BatchPlan
from songgen.data.dataset import SongDataset
from songgen.data.samples import TrainingSamples
from songgen.data.schema import DatasetInfo
from songgen.families.costs import BatchCosts, BatchSize, ModelCosts
from songgen.families.objective import DataNeeds
from songgen.families.registry import family_of
from songgen.families.songs import evaluation_split, sample_options, select_songs, train_split
from songgen.planning.disk import DiskEstimate, estimate_disk
from songgen.planning.machine import Machine
from songgen.planning.memory import MemoryEstimate, Processes, StepSettings, estimate_memory
from songgen.planning.speed import Speed, TimeEstimate, estimate_time, measured_speed
from songgen.runtime.files import free_bytes
from songgen.tasks import VOCAL
from songgen.train.checkpoints.folders import complete_checkpoints
from songgen.train.checkpoints.resume import count_steps
from songgen.train.checkpoints.state import TrainerState

SECONDS_PER_HOUR = 3600

SAMPLE_BYTES = 2
"""Bytes of a sample of a generated song."""


@dataclass(frozen=True)
class ClipFacts:
    """Facts about the clips of a split."""

    count: int
    """Number of clips."""
    hours: float
    """Their total length."""
    longest_seconds: float
    """Length of the longest one."""
    largest: BatchSize
    """Size of a batch of one clip with the longest song, caption, lyrics and voice."""
    average: BatchSize
    """The same with average lengths."""
    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False, compare=False)
    """Number of frames of each clip."""
    with_voice: int = 0
    """Number of clips with a reference voice."""
    sample_rate: int = 0
    """Sample rate of the encoded audio in Hz."""
    caption_tokens: int = 0
    """Tokens of all captions, and of their variants if these are used."""


@dataclass(frozen=True)
class Length:
    """Length of a run in steps."""

    steps_per_epoch: int
    """Optimizer steps of an epoch."""
    total_steps: int
    """Optimizer steps of the whole run."""
    done: int = 0
    """Steps of the checkpoint that the run resumes from."""

    @property
    def epochs(self) -> float:
        """Number of epochs."""
        return self.total_steps / max(1, self.steps_per_epoch)


@dataclass(frozen=True)
class RunFacts:
    """Facts about a planned run; what could not be found out is None, and `problems` says why."""

    config: RunConfig
    """Configuration of the run."""
    machine: Machine
    """Machine that it is planned for."""
    processes: Processes
    """Processes of the launch."""
    problems: tuple[tuple[str, str], ...] = ()
    """Key and text of each error that keeps the run from starting."""
    clips: ClipFacts | None = None
    """Clips to train on."""
    held_out: ClipFacts | None = None
    """Clips to evaluate on; None without evaluation."""
    length: Length | None = None
    """Length of the run."""
    costs: ModelCosts | None = None
    """Costs of the model."""
    memory: MemoryEstimate | None = None
    """Memory of each process."""
    time: TimeEstimate | None = None
    """Time of the run."""
    disk: DiskEstimate | None = None
    """Disk space of the run."""

    def batch(self, size: BatchSize) -> BatchCosts:
        """Return the costs of a micro-batch on this machine."""
        assert self.costs is not None
        return self.costs.batch(size, self.machine.device_type)


def gather_facts(config: RunConfig, machine: Machine, processes: Processes, speed: Speed | None = None) -> RunFacts:
    """Find out what a run needs, as far as it can be known before it starts.

    Args:
        config: configuration of the run.
        machine: machine that it is planned for.
        processes: processes of its launch.
        speed: speed of the device; None to measure it if everything else is known.
    """
    facts = RunFacts(config, machine, processes)
    try:
        family = family_of(config.model.model_name_or_path, config.model.model_revision)
        costs = family.costs(config) if family.costs is not None else None
    except ValueError as error:
        return replace(facts, problems=(("model_name_or_path", str(error)),))
    if costs is None:
        return facts
    facts = replace(facts, costs=costs)
    try:
        infos = [DatasetInfo.read(folder) for folder in config.data.dataset_folders()]
        if misfits := [line for info in infos for line in costs.misfits(info)]:
            raise ValueError(f"the model and the data set do not fit together: {'; '.join(misfits)}")
        clips = clip_facts(config, train_split(config.data), costs.data_needs, config.data.max_train_samples)
    except ValueError as error:
        key = "add_vocal_loss" if _has_clips_without_vocals(config, costs.data_needs) else "save_to_disk"
        return replace(facts, problems=(*facts.problems, (key, str(error))))
    facts = replace(facts, clips=clips, costs=costs.with_captions(clips.caption_tokens))
    if config.training.do_eval:
        try:
            split, rows = evaluation_split(config.data), config.data.max_eval_samples
            facts = replace(facts, held_out=clip_facts(config, split, costs.data_needs, rows))
        except ValueError as error:
            facts = replace(facts, problems=(*facts.problems, ("do_eval", str(error))))
    try:
        facts = replace(facts, length=_length(config, clips, processes))
    except ValueError as error:
        return replace(facts, problems=(*facts.problems, ("per_device_train_batch_size", str(error))))
    return with_estimates(facts, speed)


def _has_clips_without_vocals(config: RunConfig, needs: DataNeeds) -> bool:
    """Return whether a run without the loss of the vocal heads would have clips to train on."""
    if not needs.auxiliary_tracks:
        return False
    try:
        clip_facts(config, train_split(config.data), replace(needs, auxiliary_tracks=()), config.data.max_train_samples)
    except ValueError:
        return False
    return True


def with_estimates(facts: RunFacts, speed: Speed | None = None) -> RunFacts:
    """Add memory, time and disk space to facts in which data and costs are known."""
    config, training = facts.config, facts.config.training
    assert facts.costs is not None and facts.clips is not None and facts.length is not None
    settings = StepSettings(
        optimizer=training.optimizer,
        keeps_average=bool(training.ema_decay),
        accumulates=training.gradient_accumulation_steps > 1,
    )
    clips, device = facts.clips, facts.machine.device_type
    largest, average = micro_batches(config, clips)
    memory = estimate_memory(facts.costs, facts.batch(largest), settings, facts.processes, device)
    speed = speed or measured_speed(device, training.dtype)
    time = estimate_time(
        speed,
        facts.batch(average),
        accumulation=training.gradient_accumulation_steps,
        trained=facts.costs.weights.trained,
        steps=facts.length.total_steps - facts.length.done,
    )
    return replace(facts, memory=memory, time=time, disk=_disk(facts))


def clip_facts(config: RunConfig, split: str, needs: DataNeeds, max_rows: int | None) -> ClipFacts:
    """Return the facts about the clips of a split that a run uses.

    Raises:
        ValueError: as `songgen.families.songs.select_songs` does.
    """
    songs, _ = select_songs(config.data, split, needs, max_rows)
    samples = TrainingSamples(songs, sample_options(config, needs), needs.tracks, seed=config.training.seed)
    has_voice = samples.has_voice() & (config.data.voice_probabilities().get(VOCAL, 0.0) > 0)
    voice = np.minimum(songs.voice_lengths(), round(config.data.ref_dur_sec * songs.info.voice_sample_rate)) * has_voice
    return ClipFacts(
        count=len(songs),
        hours=float(songs.durations.sum()) / SECONDS_PER_HOUR,
        longest_seconds=float(songs.durations.max()),
        largest=_size(songs, voice, np.max),
        average=_size(songs, voice, np.mean),
        frames=songs.num_frames,
        with_voice=int(has_voice.sum()),
        sample_rate=songs.info.sample_rate,
        caption_tokens=int(songs.caption_lengths().sum() + songs.variant_lengths().sum() * samples.varies_captions),
    )


def _size(songs: SongDataset, voice: np.ndarray, take: object) -> BatchSize:
    """Return the size of one clip, by `np.max` or `np.mean` of the lengths."""
    assert callable(take)
    parts = (songs.num_frames, songs.caption_lengths(), songs.lyrics_lengths(), voice)
    frames, caption, lyrics, samples = (round(float(take(part))) for part in parts)
    return BatchSize(1, max(1, frames), max(1, caption), max(1, lyrics), samples)


def micro_batches(config: RunConfig, clips: ClipFacts) -> tuple[BatchSize, BatchSize]:
    """Return the size of the largest and of an average micro-batch."""
    budget = config.data.max_frames_per_batch
    most = clips.count if budget is not None else min(config.training.per_device_train_batch_size, clips.count)
    if budget is None:
        return replace(clips.largest, clips=most), replace(clips.average, clips=most)
    # By frames, a micro-batch has few long clips or many short ones; attention makes the long ones larger.
    longest = max(1, min(most, budget // clips.largest.frames))
    return replace(clips.largest, clips=longest), replace(
        clips.average, clips=min(most, budget // clips.average.frames)
    )


def _length(config: RunConfig, clips: ClipFacts, processes: Processes) -> Length:
    """Count the steps of the run.

    Raises:
        ValueError: if no batches can be planned.
    """
    training, budget = config.training, config.data.max_frames_per_batch
    plan = BatchPlan(
        clips.frames,
        batch_size=None if budget else training.per_device_train_batch_size,
        max_frames_per_batch=budget,
        world_size=processes.count,
        accumulation=training.gradient_accumulation_steps,
        seed=training.seed,
        group_by_length=config.data.group_by_length,
        order=config.data.order,
    )
    total = count_steps(config, plan, TrainerState())
    done = 0
    if training.resume == "auto" and not training.overwrite_output_dir and training.output_dir:
        newest = next(iter(complete_checkpoints(Path(training.output_dir)).values()), None)
        done = 0 if newest is None else min(total, newest.step)
    return Length(plan.steps_per_epoch(0), total, done)


def _disk(facts: RunFacts) -> DiskEstimate:
    """Estimate the disk space of a run."""
    training, clips, length = facts.config.training, facts.clips, facts.length
    assert facts.costs is not None and clips is not None and length is not None
    total, weights = length.total_steps, facts.costs.weights
    save = training.save_interval(total, length.steps_per_epoch)
    evaluate = training.eval_interval(total, length.steps_per_epoch)
    evaluations = 0 if facts.held_out is None else 1 + (total // evaluate if evaluate else 0)
    songs = 0
    if training.predict_with_generate and facts.held_out is not None:
        songs = evaluations * min(training.num_generated_samples, facts.held_out.count)
    tracks = len(facts.costs.data_needs.target_tracks)
    log = training.logging_interval(total, length.steps_per_epoch)
    output = Path(training.output_dir).absolute()
    existing = next(folder for folder in (output, *output.parents) if folder.is_dir())
    return estimate_disk(
        trained=weights.trained,
        written=weights.written,
        optimizer=training.optimizer,
        keeps_average=bool(training.ema_decay),
        saves=1 + (total // save if save else 0),
        save_total_limit=training.save_total_limit,
        evaluates=evaluations > 0,
        songs=songs,
        song_bytes=round(clips.longest_seconds * clips.sample_rate * SAMPLE_BYTES * (tracks + 1)),
        lines=total // log + evaluations,
        free=free_bytes(existing),
    )
