"""Choices of a new configuration: a value for each key, and the reason in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from songgen.families.costs import ModelCosts
from songgen.planning.facts import ClipFacts
from songgen.planning.machine import Machine
from songgen.planning.resource_rules import AMPERE
from songgen.planning.run_rules import LARGE_MODEL, SORTABLE_STEPS

Goal = Literal["full", "lora", "qlora", "try"]

GOALS: dict[Goal, str] = {
    "full": "train all weights",
    "lora": "train an adapter of rank 16",
    "qlora": "train an adapter of rank 16 on a base of 4 bits",
    "try": "learn one clip by heart, to see that the data can be learned",
}

ADAPTER_FILES: dict[Goal, str] = {"lora": "r16.json", "qlora": "r16_nf4.json"}
"""Goal -> shipped description of its adapter."""

FEW_CLIPS = 2_000
"""Clips below which a model learns them by heart, and needs parts of its input hidden."""

VISITS = 4_000
"""Epochs of a data set of n clips: `VISITS / sqrt(n)`, that is 500 for 60 clips and 40 for 10,000."""

FEWEST_EPOCHS, MOST_EPOCHS = 20, 500

LARGEST_STEP = 128
"""Clips of a step of the published training."""

TRY_EPOCHS = 300


@dataclass(frozen=True)
class Choice:
    """Value of a key, and why."""

    key: str
    """Key of the configuration."""
    value: Any
    """Its value."""
    reason: str
    """Reason, in one line."""


@dataclass(frozen=True)
class Situation:
    """Everything that choices depend on."""

    data: tuple[Path, ...]
    """Folders of the data set."""
    model: str
    """Model to start from: folder or hub id."""
    goal: Goal
    """What to train."""
    output_dir: str
    """Folder of the run."""
    clips: ClipFacts
    """Clips to train on."""
    held_out: int
    """Number of held-out clips."""
    costs: ModelCosts
    """Costs of the model."""
    machine: Machine
    """Machine of the run."""
    processes: int
    """Number of processes."""
    has_vocal_track: bool
    """Whether every clip has what the model's vocal heads learn."""

    @property
    def step_size(self) -> int:
        """Clips of an optimizer step."""
        if self.goal == "try":
            return 1
        wanted = min(LARGEST_STEP, max(1, round(math.sqrt(self.clips.count))))
        return max(self.processes, wanted - wanted % self.processes)

    @property
    def trains_adapter(self) -> bool:
        """Whether an adapter is trained."""
        return self.goal in ADAPTER_FILES


def chosen_goals(costs: ModelCosts, clips: int) -> tuple[Goal, ...]:
    """Return what to train if the user does not say, the best first; the others if that does not fit into memory.

    An adapter of a large trained model for few clips, and otherwise all weights. Adapters of a new model would leave
    nearly all of its weights random.
    """
    if not (costs.is_trained and costs.weights.total >= LARGE_MODEL):
        return ("full",)
    return ("lora", "qlora") if clips < FEW_CLIPS else ("full", "lora", "qlora")


def choices(situation: Situation) -> Iterator[Choice]:
    """Yield a choice for every key of a new configuration, without those that mean nothing for the model."""
    own = {key: Choice(key, entry.value, entry.reason) for key, entry in situation.costs.own_choices.items()}
    for part in (_what, _how_long, _how_fast, _conditions, _around):
        for choice in part(situation):
            if choice.key not in situation.costs.unused_keys:
                yield own.pop(choice.key, choice)
    yield from own.values()


def _what(situation: Situation) -> Iterator[Choice]:
    """Yield model, data, folder and what is trained."""
    clips = situation.clips
    yield Choice("model_name_or_path", situation.model, "the model to start from")
    folders = [str(folder) for folder in situation.data]
    lengths = f"{clips.count:,} clips, {clips.hours:.2g} h, the longest {clips.longest_seconds:.1f} s"
    yield Choice("save_to_disk", folders[0] if len(folders) == 1 else folders, lengths)
    yield Choice("output_dir", situation.output_dir, "checkpoints, metrics and finally the model")
    if situation.trains_adapter:
        yield Choice("lora_config_path", ADAPTER_FILES[situation.goal], GOALS[situation.goal])
    if situation.goal == "try":
        yield Choice("max_train_samples", 1, GOALS["try"])
    longest = max(35.0, math.ceil(clips.longest_seconds))
    yield Choice("max_duration_in_seconds", longest, "no clip is left out for its length")
    vocal = "every clip has the vocal track" if situation.has_vocal_track else "not every clip has a vocal track"
    yield Choice("add_vocal_loss", situation.has_vocal_track, f"the vocal heads of a mixed_pro model: {vocal}")


def _how_long(situation: Situation) -> Iterator[Choice]:
    """Yield epochs and the sizes of steps; memory may make micro-batches smaller afterwards."""
    count, size, processes = situation.clips.count, situation.step_size, situation.processes
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(VISITS / math.sqrt(count))))
    reason = f"{count:,} clips: small sets need many passes (500 for 60 clips), large ones few"
    if situation.goal == "try":
        epochs, reason = TRY_EPOCHS, "until one clip is known by heart"
    elif situation.trains_adapter:
        epochs, reason = max(FEWEST_EPOCHS // 2, epochs // 2), f"{reason}; half for an adapter"
    yield Choice("num_train_epochs", epochs, reason)
    steps = f"a step of {size} clips, about the root of {count:,}, so that an epoch has as many steps"
    yield Choice("per_device_train_batch_size", size // processes, steps)
    yield Choice("gradient_accumulation_steps", 1, "the whole step at once, unless memory is short")
    varies = situation.clips.average.frames < 0.8 * situation.clips.largest.frames
    grouped = varies and count > SORTABLE_STEPS * size
    reason = "too few steps in an epoch to sort the clips" if varies else "lengths are alike"
    yield Choice("group_by_length", grouped, "clips of similar length together: less padding" if grouped else reason)


def _how_fast(situation: Situation) -> Iterator[Choice]:
    """Yield precision, learning rate and schedule."""
    machine, costs = situation.machine, situation.costs
    if not machine.devices:
        yield Choice("dtype", "float32", "no GPU: CPUs compute float32 fastest")
    elif (0, 0) < machine.devices[0].capability < AMPERE:
        yield Choice("dtype", "float16", f"{machine.devices[0].name} has no bfloat16")
    else:
        yield Choice("dtype", "bfloat16", "half of the activations, several times faster, no loss scaling")
    if situation.trains_adapter:
        yield Choice("learning_rate", 1e-4, "usual for adapters")
    elif costs.weights.total < LARGE_MODEL:
        yield Choice("learning_rate", 1e-3, f"a small model ({costs.weights.total / 1e6:.2g} million weights)")
    elif costs.is_trained:
        yield Choice("learning_rate", 5e-5, "a trained model: small changes, so that it keeps what it knows")
    else:
        yield Choice("learning_rate", 1e-4, "a new model, as published")
    yield Choice("lr_scheduler_type", "cosine", "fast first, fine at the end")
    yield Choice("warmup_ratio", 0.05, "small steps at first, while the moments of AdamW are not known yet")
    yield Choice("lr_min_ratio", 0.1, "the last steps still learn")


def _conditions(situation: Situation) -> Iterator[Choice]:
    """Yield how voices, captions and lyrics are used."""
    clips = situation.clips
    if clips.with_voice:
        reason = (
            f"{clips.with_voice:,} clips have a voice: used for half of the samples, so that songs work without one"
        )
        yield Choice("voice_choices", {"vocal": 1, "none": 1}, reason)
    else:
        yield Choice("voice_choices", {"none": 1}, "no clip has a reference voice that is loud enough")
    is_try = situation.goal == "try"
    yield Choice("condition_dropout", 0.0 if is_try else 0.1, "guidance compares with songs without conditions")
    hidden = 0.15 if clips.count < FEW_CLIPS and not is_try else 0.0
    reason = "few clips: hides parts of the song, so that caption and lyrics count" if hidden else "not needed"
    yield Choice("input_masking", hidden, reason)


def _around(situation: Situation) -> Iterator[Choice]:
    """Yield workers, evaluation, checkpoints and intervals."""
    machine, processes = situation.machine, situation.processes
    if machine.devices:
        workers = max(0, min(2, machine.cores // processes - 1))
        yield Choice("dataloader_num_workers", workers, f"{machine.cores} cores; two for each GPU are enough")
    else:
        yield Choice("dataloader_num_workers", 0, "the CPU computes; reading tokens is quick")
    evaluates = situation.held_out > 0 and situation.goal != "try"
    found = f"{situation.held_out} held-out clips" if situation.held_out else "no clip is held out"
    yield Choice("do_eval", evaluates, found)
    yield Choice("eval_strategy", "steps" if evaluates else "no", "eight times in a run" if evaluates else found)
    if evaluates:
        size = max(1, min(8, situation.held_out // processes))
        yield Choice("per_device_eval_batch_size", size, found)
    yield Choice("save_total_limit", 3, "the newest three checkpoints, and the best one")
    for key, often in (
        ("logging_steps", "80 lines of metrics"),
        ("save_steps", "16 checkpoints"),
        ("eval_steps", "8 evaluations"),
    ):
        yield Choice(key, "auto", f"{often} in a run, however long it is")
