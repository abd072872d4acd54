"""State of a training run at a step boundary: its position as data, and all contents of a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from songgen.config.lora import completed
from songgen.config.run_config import RunConfig
from songgen.runtime.json_files import read_json_object
from songgen.runtime.records import VERSION_KEY, Format
from songgen.runtime.tensor_files import non_finite_names

STATE_SCHEMA_VERSION = 1
TRAINER_STATE_FILE = "trainer_state.json"


@dataclass
class CurvePosition:
    """Position of a run on the curves of its learning rate and loss weights, in steps of those curves.

    These are the run's own steps, unless it was resumed with another number of processes: then one step of the run
    advances the curve by `rate` steps (see `songgen.train.checkpoints.resume.continue_curve`).
    """

    length: int = 0
    """Steps of the whole curve; 0 before the run has started."""
    step: float = 0.0
    """Position by all completed steps; loss weights depend on it."""
    update: float = 0.0
    """Position by the steps that changed the weights; the learning rate depends on it."""
    rate: float = 1.0
    """Steps of the curve for one step of the run."""
    steps_per_epoch: int = 0
    """Steps of the curve for one epoch, in which points of it may be given; 0 in checkpoints of earlier versions."""

    def advance(self, *, updated: bool) -> None:
        """Advance by one step of the run."""
        self.step += self.rate
        if updated:
            self.update += self.rate


@dataclass
class MetricSums:
    """Sums over the steps since the last line of metrics, so that the next line of a resumed run covers all of them."""

    finite_steps: int = 0
    """Number of steps in the sums."""
    bad_steps: int = 0
    """Number of steps that were not finite, and are in no sum."""
    updates: int = 0
    """Number of steps that changed the weights."""
    norm: float = 0.0
    """Sum of the gradient norms of these."""
    losses: list[float] = field(default_factory=list)
    """Share of each process in the sum of the losses. The shares are added up when they are reported, and would round
    differently if they were added up before."""
    parts: list[dict[str, list[float]]] = field(default_factory=list)
    """Shares of each process in the named parts of the loss."""


@dataclass
class CommandState:
    """Effect of the commands that a run has received, as far as it lasts."""

    learning_rate: float | None = None
    """Peak learning rate that replaces the configured one (`lr`); None for the configured one."""
    scheduled: list[str] = field(default_factory=list)
    """Commands that are due after a later step, as `COMMAND@STEP`."""
    owed: list[str] = field(default_factory=list)
    """Commands of this step whose work is not done (evaluations, songs, exports): a stop came first."""


@dataclass
class TrainerState:
    """Position of a run, stored as JSON. It is the only source of the step and the epoch (never a folder's name)."""

    step: int = 0
    """Completed optimizer steps of the plan, including skipped ones."""
    updates: int = 0
    """Number of steps that changed the weights."""
    total_steps: int = 0
    """Steps of the whole run as it was planned when it last started."""
    curve: CurvePosition = field(default_factory=CurvePosition)
    """Position on the curves of learning rate and loss weights."""
    epoch: int = 0
    """Epoch of the next step, from 0."""
    step_in_epoch: int = 0
    """Completed steps of that epoch, for display."""
    batches_in_epoch: int = 0
    """Completed micro-batches of that epoch, over all processes; with the batch plan, the place in the data."""
    samples_seen: int = 0
    """Number of songs trained on, over all processes."""
    frames_seen: int = 0
    """Number of frames trained on, over all processes (a frame counts once, whatever is predicted of it)."""
    skipped_steps: int = 0
    """Number of steps that changed nothing: they had no target, a loss or gradient that was not finite, a loss so high
    that the update was held back, or gradients that overflowed in float16."""
    consecutive_nonfinite_steps: int = 0
    """Number of latest steps in a row that were not finite."""
    overflows_at_floor: int = 0
    """Number of latest steps in a row that overflowed in float16 with the loss scale at its floor."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the latest steps, with which the next one is compared."""
    spikes_in_a_row: int = 0
    """Number of latest steps in a row with a loss far above the recent ones."""
    rewinds: int = 0
    """Number of rollbacks to a checkpoint because of such a step."""
    best_metric: float | None = None
    """Lowest evaluation loss so far."""
    best_step: int | None = None
    """Step of the lowest evaluation loss."""
    evaluated_step: int | None = None
    """Step of the latest evaluation."""
    gradient_scaler: dict[str, float] = field(default_factory=dict)
    """State of the float16 loss scaler; empty in other precisions."""
    metric_sums: MetricSums = field(default_factory=MetricSums)
    """Sums over the steps since the last line of metrics."""
    commands: CommandState = field(default_factory=CommandState)
    """Effect of the commands received so far."""
    plan: dict[str, Any] = field(default_factory=dict)
    """Identity of the data and its order (processes, batch sizes, seed, hashes) and of the frozen weights. The position
    is only valid with these."""
    schema_version: int = STATE_SCHEMA_VERSION
    """Version of this record."""

    def to_json(self) -> str:
        """Return the state as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = TRAINER_STATE_FILE) -> TrainerState:
        """Read a state that this or an earlier version wrote.

        Raises:
            ValueError: if the text is not such a record, or is of a newer version.
        """
        return _STATE_FORMAT.parse(text, where)


_OTHER_CHECKPOINT = "use another checkpoint, or start a new output_dir with this run's folder as model_name_or_path"

_STATE_FORMAT = Format(
    TrainerState,
    STATE_SCHEMA_VERSION,
    fix=_OTHER_CHECKPOINT,
    # The fields of the first checkpoints. Their defaults are those of a new run: a state that lacks one would be read
    # as an earlier position. A field that is added later belongs here only if its default would be wrong.
    required=frozenset({
        "step", "updates", "total_steps", "curve", "epoch", "step_in_epoch", "batches_in_epoch", "samples_seen",
        "frames_seen", "skipped_steps", "consecutive_nonfinite_steps", "overflows_at_floor", "recent_losses",
        "spikes_in_a_row", "rewinds", "best_metric", "best_step", "evaluated_step", "gradient_scaler", "plan",
    }),
)  # fmt: skip

SAVED_CONFIG_VERSION = 1

_CONFIG_FORMAT = Format(dict, SAVED_CONFIG_VERSION, fix=_OTHER_CHECKPOINT, unversioned=1)
"""Format of the configuration in a checkpoint. Missing keys had their defaults, so added keys need no upgrade. A
renamed key does, and from then on the files need a version. The table `lora` is completed in the same way."""


def upgraded_config(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the configuration of a checkpoint as the current version would have written it.

    Raises:
        ValueError: if a newer version wrote it.
    """
    upgraded = {key: value for key, value in _CONFIG_FORMAT.upgraded(values, where).items() if key != VERSION_KEY}
    if upgraded.get("lora"):
        upgraded["lora"] = completed(upgraded["lora"])
    return upgraded


def read_saved_config(path: Path) -> RunConfig:
    """Read the configuration in the folder of a run or checkpoint, which an earlier version may have written.

    Raises:
        ValueError: if it is damaged, or a newer version wrote it.
    """
    return RunConfig.from_dict(upgraded_config(read_json_object(path), str(path)), sources=(str(path),))


@dataclass
class CheckpointContents:
    """Contents of a checkpoint. Tensors are whole (never shards) and on the CPU.

    `model`, `optimizer` and `average` are filled on the main process only when saving, and on every process after
    loading; each process has its own `random_state`.
    """

    state: TrainerState
    """Position in the run."""
    model: dict[str, Tensor]
    """Trained parameters by name, without frozen parameters and networks."""
    optimizer: dict[str, Tensor]
    """Optimizer state by `<parameter name>.<exp_avg | exp_avg_sq | step | ...>`."""
    average: dict[str, Tensor]
    """Moving average of the trained parameters by name; empty if none is kept."""
    random_state: dict[str, Tensor]
    """Random number generators of this process; see `capture_random_state`."""
    config: dict[str, Any]
    """Resolved configuration of the run, as written to JSON."""

    def non_finite(self) -> list[str]:
        """Return the names of the tensors that hold NaN or infinity; none where there are no tensors."""
        parts = {"model": self.model, "optimizer": self.optimizer, "average": self.average}
        return [f"{part}: {name}" for part, tensors in parts.items() for name in non_finite_names(tensors)]

    @property
    def tensor_bytes(self) -> int:
        """Bytes of weights, optimizer state and average, without the random states."""
        tensors = [*self.model.values(), *self.optimizer.values(), *self.average.values()]
        return sum(tensor.nbytes for tensor in tensors)


def capture_random_state() -> dict[str, Tensor]:
    """Return the state of every random generator of this process (Python, NumPy, torch, its GPU) as tensors."""
    # As tensors of integers, since the generators' own formats would need pickle. Python: 624 words of the Mersenne
    # twister and the position, and the second value of a pair from `gauss`, if one is left.
    version, internal, gauss = random.getstate()
    assert version == 3
    numpy_state: Any = numpy.random.get_state(legacy=False)
    state = {
        "python": torch.tensor(internal, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(numpy.int64)),
        "numpy_position": torch.tensor([numpy_state["state"]["pos"], numpy_state["has_gauss"]], dtype=torch.int64),
        "numpy_gauss": torch.tensor([numpy_state["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Restore what `capture_random_state` returned.

    Raises:
        ValueError: if the state comes from a process with another kind of device.
    """
    if ("cuda" in state) != torch.cuda.is_available():
        saved, present = ("a GPU", "none") if "cuda" in state else ("no GPU", "one")
        raise ValueError(
            f"the checkpoint's random state comes from a process with {saved}, this one has {present}: resume on such "
            "a machine, or start a new output_dir with this run's folder as model_name_or_path"
        )
    gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = state["numpy_position"].tolist()
    key = state["numpy"].numpy().astype(numpy.uint32)
    numpy.random.set_state(("MT19937", key, position, has_gauss, state["numpy_gauss"].item()))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def read_trainer_state(folder: Path) -> TrainerState:
    """Read the state in a checkpoint folder."""
    path = folder / TRAINER_STATE_FILE
    return TrainerState.from_json(path.read_text(encoding="utf-8"), where=str(path))
