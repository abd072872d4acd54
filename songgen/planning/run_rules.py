"""Rules about the data, the steps and the keys of a planned run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from songgen.config.changes import KIND_OF, Change, has_changed
from songgen.planning.facts import RunFacts
from songgen.planning.findings import Finding, Severity
from songgen.runtime.json_files import read_json_object
from songgen.tasks import VOCAL
from songgen.train.checkpoints.files import RUN_CONFIG_FILE
from songgen.train.checkpoints.folders import complete_checkpoints

IDLE_SHARE = 0.25
"""Share of an epoch's micro-batches above which empty ones are worth a warning."""

FEW_HELD_OUT = 4
"""Held-out clips below which their loss is mostly chance."""

FEW_STEPS = 100
"""Steps below which hardly anything is learned, whatever the data."""

PADDING_SHARE = 0.35
"""Share of padding in an epoch above which sorting by length is worth a note."""

SORTABLE_STEPS = 4
"""Steps in an epoch up to which clips are not sorted by length: nearly every batch would have the same clips."""

LARGE_MODEL = 100_000_000
"""Trained weights above which the usual learning rates of published models apply."""

FULL_RATES, ADAPTER_RATES = (5e-6, 1e-3), (2e-5, 2e-3)
"""Usual learning rates for all weights of a large model, and for adapters."""

Rule = Callable[[RunFacts], Iterator[Finding]]


def problems(facts: RunFacts) -> Iterator[Finding]:
    """Yield what keeps the run from starting."""
    for key, message in facts.problems:
        suggestion: dict[str, Any] = {}
        if key == "do_eval":
            suggestion = {"do_eval": False, "eval_strategy": "no", "predict_with_generate": False}
        elif key == "add_vocal_loss":
            suggestion = {"add_vocal_loss": False}
        yield Finding(Severity.ERROR, key, message, suggestion)


def batches(facts: RunFacts) -> Iterator[Finding]:
    """Compare micro-batches, accumulation and processes with the number of clips."""
    training, clips, length = facts.config.training, facts.clips, facts.length
    if clips is None or length is None or facts.config.data.max_frames_per_batch is not None:
        return
    size, slots = training.per_device_train_batch_size, training.gradient_accumulation_steps * facts.processes.count
    if size > clips.count:
        message = f"{size} clips, but the training split has {clips.count}: every micro-batch is the whole split"
        yield Finding(
            Severity.WARNING, "per_device_train_batch_size", message, {"per_device_train_batch_size": clips.count}
        )
        return
    micro_batches = -(-clips.count // size)
    idle = 1 - micro_batches / (length.steps_per_epoch * slots)
    if idle > IDLE_SHARE and slots > 1:
        fitting = max(1, micro_batches // facts.processes.count)
        accumulation = min(training.gradient_accumulation_steps, fitting)
        suggestion = {"gradient_accumulation_steps": accumulation}
        yield Finding(
            Severity.WARNING,
            "gradient_accumulation_steps",
            f"a step has {slots} micro-batches ({training.gradient_accumulation_steps} accumulated x "
            f"{facts.processes.count} processes), and an epoch only {micro_batches}: {idle:.0%} of them are empty",
            suggestion if accumulation != training.gradient_accumulation_steps else {},
        )
    elif micro_batches % slots:
        yield Finding(
            Severity.NOTE,
            "gradient_accumulation_steps",
            f"{micro_batches} micro-batches an epoch are not a multiple of {slots}: the last step of each epoch has "
            f"{micro_batches % slots} of {slots} (its loss is still the exact mean)",
        )


def intervals(facts: RunFacts) -> Iterator[Finding]:
    """Find intervals that are longer than the run, and a run that saves all the time."""
    training, length = facts.config.training, facts.length
    if length is None:
        return
    total = length.total_steps
    shown = {
        "logging_steps": ("logging_epochs", training.logging_interval(total, length.steps_per_epoch)),
        "save_steps": ("save_epochs", training.save_interval(total, length.steps_per_epoch)),
        "eval_steps": ("eval_epochs", training.eval_interval(total, length.steps_per_epoch)),
        "every_plot_step": ("plot_epochs", training.plot_interval(total, length.steps_per_epoch)),
    }
    for key, (other, steps) in shown.items():
        if steps is not None and steps > total > 1:
            message = f"every {steps:,} steps, but the run has {total:,}: it is due at the end only"
            yield Finding(
                Severity.WARNING, key, message, {key: "auto"} | ({other: None} if getattr(training, other) else {})
            )
    save, disk, time = shown["save_steps"][1], facts.disk, facts.time
    if save is not None and disk is not None and time is not None and 2 * save * time.step < disk.checkpoint / 1e9 * 5:
        yield Finding(
            Severity.NOTE,
            "save_steps",
            f"a checkpoint of {disk.checkpoint / 1e9:.1f} GB every {save * time.step:.0f} s: saving may take longer "
            "than training",
        )


def epochs(facts: RunFacts) -> Iterator[Finding]:
    """Say how long the run is, and whether that is short for the data."""
    training, length, clips = facts.config.training, facts.length, facts.clips
    if length is None or clips is None:
        return
    if training.max_steps > 0:
        message = f"{training.max_steps:,} steps, which are {length.epochs:.3g} epochs; num_train_epochs is not used"
        yield Finding(Severity.NOTE, "max_steps", message)
    if length.total_steps < FEW_STEPS:
        wanted = -(-FEW_STEPS * 3 // max(1, length.steps_per_epoch))
        yield Finding(
            Severity.NOTE,
            "num_train_epochs",
            f"{length.total_steps} steps in all ({length.steps_per_epoch} an epoch): little is learned in fewer than "
            f"{FEW_STEPS}; small data sets need many epochs, here about {wanted}",
        )
    warmup = training.num_warmup_steps(length.total_steps, length.steps_per_epoch)
    if warmup >= length.total_steps and training.lr_scheduler_type != "constant":
        yield Finding(
            Severity.WARNING,
            "warmup_steps",
            f"{warmup:,} steps, but the run has {length.total_steps:,}: learning_rate is never reached",
            {"warmup_steps": 0, "warmup_ratio": 0.05},
        )


def evaluation(facts: RunFacts) -> Iterator[Finding]:
    """Compare the evaluation with the held-out clips."""
    training, held_out, data = facts.config.training, facts.held_out, facts.config.data
    if not training.do_eval:
        yield Finding(
            Severity.NOTE, "do_eval", "no evaluation: a model that only learns its clips by heart is not noticed"
        )
        return
    if held_out is None:
        return
    if held_out.count < FEW_HELD_OUT:
        message = f"{held_out.count} held-out clips: their loss is mostly chance; hold out at least {FEW_HELD_OUT}"
        yield Finding(Severity.NOTE, "eval_split_name", message)
    slots = training.per_device_eval_batch_size * facts.processes.count
    if slots > held_out.count and training.per_device_eval_batch_size > 1:
        fitting = max(1, held_out.count // facts.processes.count)
        yield Finding(
            Severity.NOTE,
            "per_device_eval_batch_size",
            f"{training.per_device_eval_batch_size} clips in each of {facts.processes.count} processes, but there are "
            f"{held_out.count} held-out clips",
            {"per_device_eval_batch_size": fitting},
        )
    if training.predict_with_generate and training.num_generated_samples > held_out.count:
        yield Finding(
            Severity.WARNING,
            "num_generated_samples",
            f"{training.num_generated_samples} songs, but there are {held_out.count} held-out clips to take texts from",
            {"num_generated_samples": held_out.count},
        )
    length, time, clips = facts.length, facts.time, facts.clips
    if length is None or time is None or clips is None or data.max_eval_samples is not None:
        return
    every = training.eval_interval(length.total_steps, length.steps_per_epoch)
    share = held_out.count / 3 / max(1, (every or length.total_steps) * clips.count / max(1, length.steps_per_epoch))
    if share > IDLE_SHARE:
        wanted = max(FEW_HELD_OUT, round(held_out.count * IDLE_SHARE / share))
        yield Finding(
            Severity.NOTE,
            "max_eval_samples",
            f"evaluating {held_out.count} clips takes about {share:.0%} of the time of the training in between",
            {"max_eval_samples": wanted} if wanted < held_out.count else {},
        )


def resuming(facts: RunFacts) -> Iterator[Finding]:
    """Check the checkpoint to resume from, and what has changed since it was saved."""
    training = facts.config.training
    if not training.output_dir or not training.do_train:
        return
    folder, named = Path(training.output_dir), training.resume not in ("auto", "never")
    if named and not Path(training.resume).is_dir():
        message = f"there is no checkpoint {training.resume}"
        yield Finding(Severity.ERROR, "resume", message, {"resume": "auto"})
        return
    if training.overwrite_output_dir and named:
        message = "overwrite_output_dir starts a new run, and resume names a checkpoint: one of them is not meant"
        yield Finding(Severity.WARNING, "overwrite_output_dir", message, {"overwrite_output_dir": False})
    if training.overwrite_output_dir or training.allow_config_changes or not (folder / RUN_CONFIG_FILE).is_file():
        return
    checkpoints = complete_checkpoints(folder)
    if not checkpoints:
        return
    try:
        then = read_json_object(folder / RUN_CONFIG_FILE)
    except ValueError:
        return  # `songgen doctor` says what is wrong with the folder
    now = facts.config.to_dict()
    for key in sorted(set(then) & set(now)):
        if KIND_OF.get(key) in (Change.COMPUTATION, Change.FIXED) and has_changed(key, then[key], now[key]):
            yield Finding(
                Severity.ERROR,
                key,
                f"the run in {folder} was started with {then[key]!r}, now it is {now[key]!r}: it does not resume with "
                "that (allow_config_changes permits it for keys that can change)",
                {key: then[key]},
            )
    saved = next(iter(checkpoints.values())).world_size
    if saved != facts.processes.count and not training.allow_world_size_change:
        yield Finding(
            Severity.ERROR,
            "num_processes",
            f"the newest checkpoint was saved by {saved} processes, now there are {facts.processes.count}",
            {"allow_world_size_change": True},
        )


def learning_rate(facts: RunFacts) -> Iterator[Finding]:
    """Compare the learning rate with the usual ones, and say what happens outside of them."""
    if facts.costs is None:
        return
    weights, own_rate = facts.costs.weights, facts.config.adapter.lora_learning_rate
    key = "learning_rate" if own_rate is None else "lora_learning_rate"
    rate = own_rate or facts.config.training.learning_rate
    is_adapter = weights.trained < 0.5 * weights.total
    if not is_adapter and weights.trained < LARGE_MODEL:
        return
    lowest, highest = ADAPTER_RATES if is_adapter else FULL_RATES
    kind = "adapters or few weights" if is_adapter else "all weights of a model of this size"
    if rate > highest:
        yield Finding(
            Severity.WARNING,
            key,
            f"{rate:g} is above the usual {lowest:g} to {highest:g} for {kind}: the loss may jump up and not come back",
            {key: highest / 5},
        )
    elif rate < lowest:
        yield Finding(
            Severity.WARNING,
            key,
            f"{rate:g} is below the usual {lowest:g} to {highest:g} for {kind}: the model may hardly change",
            {key: lowest * 5},
        )


def samples(facts: RunFacts) -> Iterator[Finding]:
    """Check voices, lengths and padding."""
    data, training, clips = facts.config.data, facts.config.training, facts.clips
    if clips is None:
        return
    reads_voices = facts.costs is None or "voice_choices" not in facts.costs.unused_keys
    if reads_voices and data.voice_probabilities().get(VOCAL, 0.0) > 0 and not clips.with_voice:
        message = "reference voices are asked for, but no clip has one that is loud enough"
        yield Finding(Severity.WARNING, "voice_choices", message, {"voice_choices": {"none": 1}})
    batch = training.per_device_train_batch_size
    padding = 1 - clips.average.frames / clips.largest.frames
    step = batch * training.gradient_accumulation_steps * facts.processes.count
    if batch > 1 and clips.count > SORTABLE_STEPS * step and padding > PADDING_SHARE and not data.group_by_length:
        if data.max_frames_per_batch is None and data.order == "random":
            message = f"clips are {padding:.0%} shorter than the longest one on average: batches are mostly padding"
            yield Finding(Severity.NOTE, "group_by_length", message, {"group_by_length": True})
    if data.max_frames_per_batch is not None and batch != 8:
        message = "max_frames_per_batch counts batches in frames, and this key is not used"
        yield Finding(Severity.NOTE, "per_device_train_batch_size", message)


RUN_RULES: tuple[Rule, ...] = (
    problems,
    batches,
    epochs,
    intervals,
    evaluation,
    resuming,
    learning_rate,
    samples,
)
"""All rules, in the order in which their findings are shown."""
