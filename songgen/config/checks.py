"""Checks across keys. Each check returns its problems; nothing is raised here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from songgen.config.data_arguments import DataArguments
from songgen.config.model_arguments import ModelArguments
from songgen.config.training_arguments import TrainingArguments

BALANCED = "balanced"
PHASES = ("duration", "random", BALANCED)
"""Kinds of phases of `order`."""
PHASE_KEYS = ("by", "epochs", "column")
"""Keys of a phase, in the order in which they are read."""


class ArgumentGroups(Protocol):
    """The three groups of keys, as `songgen.config.run_config.RunConfig` holds them."""

    @property
    def model(self) -> ModelArguments:
        """Keys of the model, its computation and generation."""

    @property
    def data(self) -> DataArguments:
        """Keys of the data."""

    @property
    def training(self) -> TrainingArguments:
        """Keys of the training."""


@dataclass(frozen=True)
class Problem:
    """Reason why a configuration cannot be used."""

    keys: tuple[str, ...]
    """Names of the keys concerned."""

    message: str
    """Description of the problem with a suggested fix."""


class ConfigError(ValueError):
    """Raised for a configuration that cannot be used; the message has one line for each problem.

    Args:
        problems: All problems.
        where: Source of the values.
    """

    def __init__(self, problems: Sequence[Problem], where: str) -> None:
        self.problems = list(problems)
        messages = list(dict.fromkeys(problem.message for problem in problems))
        count = f"{len(messages)} problem{'s' if len(messages) > 1 else ''}"
        super().__init__(f"{where} cannot be used ({count}):" + "".join(f"\n  - {message}" for message in messages))


def cross_field_problems(config: ArgumentGroups) -> list[Problem]:
    """Return all contradictions between keys of a configuration."""
    checks = (
        _purpose, _evaluation, _steps, _schedule, _milestones, _precision, _codebook_weights, _samples, _order, _tracks,
    )  # fmt: skip
    return [problem for check in checks for problem in check(config)]


def _purpose(config: ArgumentGroups) -> Iterator[Problem]:
    """Check that a run has something to do, an input and an output."""
    model, data, training = config.model, config.data, config.training
    if training.preprocessing_only:
        if not (data.train_dataset_name or data.eval_dataset_name):
            keys = ("train_dataset_name", "eval_dataset_name", "preprocessing_only")
            yield Problem(keys, "train_dataset_name: not given; name the manifest or data set to preprocess")
        if len(data.dataset_folders()) != 1:
            message = "save_to_disk: preprocessing writes one folder; give its path"
            yield Problem(("save_to_disk", "preprocessing_only"), message)
        return
    if not (training.do_train or training.do_eval):
        message = "do_train: neither do_train nor do_eval nor preprocessing_only is true, so there is nothing to do"
        yield Problem(("do_train", "do_eval", "preprocessing_only"), message)
    hint = "(a file for `songgen tokenize` says preprocessing_only true)"
    if not model.model_name_or_path:
        message = f"model_name_or_path: not given; name the folder or hub id of the model to start from {hint}"
        yield Problem(("model_name_or_path", "preprocessing_only"), message)
    if not training.output_dir:
        message = f"output_dir: not given; name the folder that the run writes to {hint}"
        yield Problem(("output_dir", "preprocessing_only"), message)
    if not data.dataset_folders():
        message = f"save_to_disk: not given; name the folder of the tokenized data set to train on {hint}"
        yield Problem(("save_to_disk", "preprocessing_only"), message)


def _evaluation(config: ArgumentGroups) -> Iterator[Problem]:
    training = config.training
    if training.eval_strategy == "steps" and not (training.eval_steps or training.eval_epochs):
        message = 'eval_strategy: "steps" needs eval_steps or eval_epochs; eval_steps may be "auto"'
        yield Problem(("eval_strategy", "eval_steps", "eval_epochs"), message)
    if training.eval_strategy != "no" and not training.do_eval:
        message = f'eval_strategy: "{training.eval_strategy}" has no effect without do_eval true; set it, or "no" here'
        yield Problem(("eval_strategy", "do_eval"), message)
    if training.eval_generation_steps and not training.predict_with_generate:
        message = "eval_generation_steps: has no effect without predict_with_generate true; set it, or null here"
        yield Problem(("eval_generation_steps", "predict_with_generate"), message)
    if training.eval_random_texts and not training.predict_with_generate:
        message = "eval_random_texts: has no effect without predict_with_generate true; set it, or false here"
        yield Problem(("eval_random_texts", "predict_with_generate"), message)
    if isinstance(training.report_to, list) and "none" in training.report_to and len(training.report_to) > 1:
        message = f"report_to: {training.report_to} contains none and a tracker; remove one of them"
        yield Problem(("report_to",), message)


def _steps(config: ArgumentGroups) -> Iterator[Problem]:
    training = config.training
    if training.max_steps == 0:
        message = "max_steps: 0 trains nothing; give -1 to count by num_train_epochs, or a positive number"
        yield Problem(("max_steps",), message)
    if 0 < training.max_steps <= training.warmup_steps:
        message = (
            f"warmup_steps: {training.warmup_steps} is not less than max_steps {training.max_steps}, so the learning "
            "rate would never be reached; give fewer, or warmup_ratio"
        )
        yield Problem(("warmup_steps", "max_steps"), message)
    if training.max_steps < 0 and training.warmup_epochs >= training.num_train_epochs:
        message = (
            f"warmup_epochs: {training.warmup_epochs:g} is not less than num_train_epochs "
            f"{training.num_train_epochs:g}, so the learning rate would never be reached; give fewer"
        )
        yield Problem(("warmup_epochs", "num_train_epochs"), message)
    if not training.freeze_text_encoder:
        message = "freeze_text_encoder: false is not possible, the text encoder is never trained; remove the key"
        yield Problem(("freeze_text_encoder",), message)


SCHEDULES_OF_OPTION = {
    "warmup_steps": ("constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "multistep"),
    "warmup_ratio": ("constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "multistep"),
    "warmup_epochs": ("constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "multistep"),
    "lr_min_ratio": ("linear", "cosine", "cosine_with_restarts"),
    "lr_scheduler_milestones": ("multistep",),
    "lr_scheduler_milestone_epochs": ("multistep",),
    "lr_scheduler_gamma": ("multistep",),
    "lr_scheduler_restarts": ("cosine_with_restarts",),
    "lr_scheduler_damping": ("cosine_with_restarts",),
}
"""Option of a schedule -> values of `lr_scheduler_type` that it has an effect on."""


def _schedule(config: ArgumentGroups) -> Iterator[Problem]:
    training = config.training
    name = training.lr_scheduler_type
    defaults = TrainingArguments()
    for option, schedules in SCHEDULES_OF_OPTION.items():
        value, default = getattr(training, option), getattr(defaults, option)
        if name not in schedules and value != default:
            message = (
                f'{option}: {value} has no effect with lr_scheduler_type "{name}", it is for {" and ".join(schedules)};'
                f" give {default}, or another lr_scheduler_type"
            )
            yield Problem((option, "lr_scheduler_type"), message)
    lengths = ("warmup_steps", "warmup_ratio", "warmup_epochs")
    if len(given := [key for key in lengths if getattr(training, key)]) > 1:
        message = f"{given[1]}: given in addition to {given[0]}; set all but one of {', '.join(given)} to 0"
        yield Problem(tuple(given), message)
    yield from _drops(training)
    if name == "cosine_with_restarts" and not training.lr_scheduler_restarts and training.lr_scheduler_damping != 1:
        message = (
            f"lr_scheduler_damping: {training.lr_scheduler_damping:g} has no effect without restarts; give "
            "lr_scheduler_restarts, or 1 here"
        )
        yield Problem(("lr_scheduler_damping", "lr_scheduler_restarts"), message)


def _drops(training: TrainingArguments) -> Iterator[Problem]:
    """Check the points at which `multistep` drops; others have no effect, which is another problem."""
    milestones, epochs = training.lr_scheduler_milestones, training.lr_scheduler_milestone_epochs
    if training.lr_scheduler_type != "multistep":
        return
    if not (milestones or epochs):
        message = (
            'lr_scheduler_milestones: empty, but "multistep" needs them; for example [0.5, 0.75], or '
            "lr_scheduler_milestone_epochs"
        )
        yield Problem(("lr_scheduler_milestones", "lr_scheduler_type"), message)
    if milestones and epochs:
        message = "lr_scheduler_milestone_epochs: given in addition to lr_scheduler_milestones; empty one of them"
        yield Problem(("lr_scheduler_milestones", "lr_scheduler_milestone_epochs"), message)
    for key, places in (("lr_scheduler_milestones", milestones), ("lr_scheduler_milestone_epochs", epochs)):
        if any(later <= earlier for earlier, later in pairwise(places)):
            yield Problem((key,), f"{key}: {places} is not in ascending order; sort them and remove repeats")
    if milestones and milestones[0] < 1 <= milestones[-1]:
        message = f"lr_scheduler_milestones: {milestones} mixes shares (below 1) and steps; use one kind"
        yield Problem(("lr_scheduler_milestones",), message)


def _milestones(config: ArgumentGroups) -> Iterator[Problem]:
    training = config.training
    for key, values, order in (
        ("loss_milestones", training.loss_milestones[::-1], "descending"),
        ("accuracy_milestones", training.accuracy_milestones, "ascending"),
    ):
        if any(later <= earlier for earlier, later in pairwise(values)):
            message = f"{key}: {getattr(training, key)} is not in {order} order; sort them and remove repeats"
            yield Problem((key,), message)


def _precision(config: ArgumentGroups) -> Iterator[Problem]:
    training = config.training
    if training.loss_scale_floor > training.loss_scale_cap:
        message = (
            f"loss_scale_floor: {training.loss_scale_floor:g} is above loss_scale_cap {training.loss_scale_cap:g}; "
            "give a lower floor or a higher cap"
        )
        yield Problem(("loss_scale_floor", "loss_scale_cap"), message)
    if training.weights_dtype not in ("float32", training.dtype):
        message = (
            f"weights_dtype: weights in {training.weights_dtype} cannot be computed with in dtype {training.dtype}; "
            f'give "float32" (autocast), or dtype "{training.weights_dtype}" too'
        )
        yield Problem(("weights_dtype", "dtype"), message)


def _codebook_weights(config: ArgumentGroups) -> Iterator[Problem]:
    training = config.training
    start, end = training.codebook_weights_start, training.codebook_weights_end
    for key, table in (("codebook_weights_start", start), ("codebook_weights_end", end)):
        if table is not None and sum(table) <= 0:
            yield Problem((key,), f"{key}: {table} has no weight above 0; give at least one")
        if table is not None and not training.codebook_weighting:
            message = f"{key}: has no effect without codebook_weighting true; set it, or null here"
            yield Problem((key, "codebook_weighting"), message)
    if start is not None and end is not None and len(start) != len(end):
        message = (
            f"codebook_weights_end: {len(end)} weights, but codebook_weights_start has {len(start)}; "
            "give the same number"
        )
        yield Problem(("codebook_weights_start", "codebook_weights_end"), message)


def _samples(config: ArgumentGroups) -> Iterator[Problem]:
    data = config.data
    longest = data.max_duration_in_seconds
    if longest is not None and data.min_duration_in_seconds >= longest:
        message = (
            f"min_duration_in_seconds: {data.min_duration_in_seconds:g} is not less than max_duration_in_seconds "
            f"{longest:g}, so no clip would be left"
        )
        yield Problem(("min_duration_in_seconds", "max_duration_in_seconds"), message)
    for prefix, sources in (("train", data.train_sources), ("eval", data.eval_sources)):
        try:
            sources()
        except ValueError as error:
            suffixes = ("dataset_name", "dataset_config_name", "split_name", "dataset_samples", "metadata_dataset_name")
            yield Problem(tuple(f"{prefix}_{suffix}" for suffix in suffixes), str(error))
    if data.voice_feature_crops and data.feature_cache_dir == "":
        message = (
            'voice_feature_crops: needs a cache on disk, and feature_cache_dir is ""; name a folder, or give 0 here'
        )
        yield Problem(("voice_feature_crops", "feature_cache_dir"), message)
    weights = data.voice_probabilities() if data.voice_choices is None else data.voice_choices
    if data.voice_feature_crops and weights.get("vocal", 0.0) <= 0:
        message = "voice_feature_crops: has no effect without reference voices; give 0 here"
        yield Problem(("voice_feature_crops", "voice_choices"), message)
    choices = data.voice_choices
    if choices is not None and (set(choices) - {"vocal", "none"} or sum(choices.values()) <= 0):
        message = (
            f'voice_choices: {choices} must weight "vocal" and "none", one of them above 0; '
            'for example {"vocal": 2, "none": 1}'
        )
        yield Problem(("voice_choices",), message)


def _order(config: ArgumentGroups) -> Iterator[Problem]:
    """Check the phases of the order of the clips."""
    order = config.data.order
    if isinstance(order, str):
        return
    if not order:
        yield Problem(("order",), 'order: the list of phases is empty; give at least one, or "random"')
    for number, phase in enumerate(order, start=1):
        for problem in _phase_problems(phase, is_last=number == len(order)):
            yield Problem(("order",), f"order: phase {number} {problem}")


def _phase_problems(phase: dict[str, Any], *, is_last: bool) -> Iterator[str]:
    by, epochs, column = (phase.get(name) for name in PHASE_KEYS)
    if unknown := [name for name in phase if name not in PHASE_KEYS]:
        yield f"has the unknown key {unknown[0]!r}; its keys are {', '.join(PHASE_KEYS)}"
    if by not in PHASES:
        yield f'must have "by": {", ".join(PHASES)}; got {by!r}'
    if by == BALANCED and not (isinstance(column, str) and column):
        yield 'needs the "column" by which it is balanced, for example "singer"'
    if by != BALANCED and column is not None:
        yield f'has a "column", which only a {BALANCED} phase uses'
    if is_last and epochs is not None:
        yield 'is the last one, which has no end; leave its "epochs" out'
    if not is_last and (type(epochs) is not int or epochs < 1):
        yield f'must last a whole number of "epochs", at least 1; got {epochs!r}'


def _tracks(config: ArgumentGroups) -> Iterator[Problem]:
    pattern = config.model.track_pattern
    if config.training.add_vocal_loss and pattern not in (None, "mixed_pro"):
        fix = 'set track_pattern "mixed_pro", or false here'
        message = f"add_vocal_loss: the layout {pattern} has no vocal heads; {fix}"
        yield Problem(("add_vocal_loss", "track_pattern"), message)
