"""What a training run is at a step boundary: its position as data, and everything a checkpoint holds."""

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

from songgen.runtime.records import VERSION_KEY, Format

STATE_SCHEMA_VERSION = 1
TRAINER_STATE_FILE = "trainer_state.json"


@dataclass
class CurvePosition:
    """Where a run stands on the curves of its learning rate and codebook weights, in steps of those curves.

    They are the run's own steps, unless it goes on with another number of processes: then a step walks the remaining
    curve at another pace.
    """

    length: int = 0
    """Steps of the whole curve; 0 before the run has begun."""
    step: float = 0.0
    """Place after all steps."""
    update: float = 0.0
    """Place after the steps that changed the weights: the learning rate's."""
    rate: float = 1.0
    """Steps of the curve that one step of the run walks."""

    def advance(self, *, updated: bool) -> None:
        """Walk one step."""
        self.step += self.rate
        if updated:
            self.update += self.rate


@dataclass
class TrainerState:
    """The position of a run. Plain JSON; it is the only source of the step and the epoch (never a folder's name)."""

    step: int = 0
    """Optimizer steps of the plan that lie behind, steps that were skipped included."""
    updates: int = 0
    """Steps that really changed the weights."""
    total_steps: int = 0
    """Steps of the whole run as it was planned when it last started."""
    curve: CurvePosition = field(default_factory=CurvePosition)
    """Place on the curves of learning rate and codebook weights."""
    epoch: int = 0
    """The epoch that the next step belongs to, from 0."""
    step_in_epoch: int = 0
    """Steps of that epoch that lie behind, for display."""
    batches_in_epoch: int = 0
    """Micro-batches of that epoch that lie behind, over all processes: with the batch plan, the place in the data."""
    samples_seen: int = 0
    """Songs trained on, over all processes."""
    frames_seen: int = 0
    """Codec frames trained on, over all processes (one frame counts once, however many codebooks and tracks it has)."""
    skipped_steps: int = 0
    """Steps that changed nothing: they had no target, a loss or gradient that was not finite, a loss so high that the
    update was held back, or gradients that overflowed in float16."""
    consecutive_nonfinite_steps: int = 0
    """How many of the latest steps in a row were not finite."""
    overflows_at_floor: int = 0
    """How many of the latest steps in a row overflowed in float16 with the loss scale at its floor."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the latest steps, which the next one is compared with."""
    spikes_in_a_row: int = 0
    """How many of the latest steps in a row had a loss far above the recent ones."""
    rewinds: int = 0
    """How often the weights went back to a checkpoint because of such a step."""
    best_metric: float | None = None
    """The lowest evaluation loss so far."""
    best_step: int | None = None
    """The step of that loss."""
    evaluated_step: int | None = None
    """The step of the latest evaluation."""
    gradient_scaler: dict[str, float] = field(default_factory=dict)
    """State of the float16 loss scaler; empty in other precisions."""
    plan: dict[str, Any] = field(default_factory=dict)
    """What the run is made of: what its data order depends on (processes, batch sizes, seed, data), and its frozen
    weights. Without these the position means nothing."""
    schema_version: int = STATE_SCHEMA_VERSION
    """Version of this record."""

    def to_json(self) -> str:
        """The state as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = TRAINER_STATE_FILE) -> TrainerState:
        """Read what `to_json` of this or an earlier version wrote.

        Raises:
            ValueError: if the text is no such record, or one of a newer version.
        """
        return _STATE_FORMAT.parse(text, where)


_OTHER_CHECKPOINT = "use another checkpoint, or start a new output_dir with this run's folder as model_name_or_path"

_STATE_FORMAT = Format(
    TrainerState,
    STATE_SCHEMA_VERSION,
    fix=_OTHER_CHECKPOINT,
    # The fields of the first checkpoints. Their defaults are those of a run that begins: a state that lacks one would
    # be taken for an earlier place. A field that is added later belongs here only if its default would be wrong.
    required=frozenset({
        "step", "updates", "total_steps", "curve", "epoch", "step_in_epoch", "batches_in_epoch", "samples_seen",
        "frames_seen", "skipped_steps", "consecutive_nonfinite_steps", "overflows_at_floor", "recent_losses",
        "spikes_in_a_row", "rewinds", "best_metric", "best_step", "evaluated_step", "gradient_scaler", "plan",
    }),
)  # fmt: skip

SAVED_CONFIG_VERSION = 1

_CONFIG_FORMAT = Format(dict, SAVED_CONFIG_VERSION, fix=_OTHER_CHECKPOINT, unversioned=1)
"""The configuration in a checkpoint: keys that it lacks had their defaults, so that added keys need nothing here; one
that is renamed gets an upgrade, and the files that are written then a version."""


def upgraded_config(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the configuration of a checkpoint as the present version would have written it.

    Raises:
        ValueError: if a newer version wrote it.
    """
    return {key: value for key, value in _CONFIG_FORMAT.upgraded(values, where).items() if key != VERSION_KEY}


@dataclass
class CheckpointContents:
    """Everything a checkpoint holds. Tensors are whole (never shards) and on the CPU.

    `model`, `optimizer` and `average` are filled on the main process alone when saving, and on every process when
    loaded; `random_state` is each process's own.
    """

    state: TrainerState
    """Position, as JSON."""
    model: dict[str, Tensor]
    """Trained parameters by name. Frozen parameters and frozen networks are not here."""
    optimizer: dict[str, Tensor]
    """Optimizer state, keys `<parameter name>.<exp_avg | exp_avg_sq | step | ...>`."""
    average: dict[str, Tensor]
    """Moving average of the trained parameters by name; empty when none is kept."""
    random_state: dict[str, Tensor]
    """Random number generators of this process: see `capture_random_state`."""
    config: dict[str, Any]
    """The resolved run configuration, as it is written to JSON."""

    @property
    def tensor_bytes(self) -> int:
        """Bytes of weights, optimizer and average; those of the random states do not count."""
        tensors = [*self.model.values(), *self.optimizer.values(), *self.average.values()]
        return sum(tensor.nbytes for tensor in tensors)


def capture_random_state() -> dict[str, Tensor]:
    """State of every generator of this process (Python, NumPy, torch, its accelerator) as tensors."""
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
    """Put back what `capture_random_state` took.

    Raises:
        ValueError: the state comes from a process with another kind of device.
    """
    if ("cuda" in state) != torch.cuda.is_available():
        saved, present = ("a GPU", "none") if "cuda" in state else ("no GPU", "one")
        raise ValueError(
            f"the checkpoint's random state comes from a process with {saved}, this one has {present}: go on on such a "
            "machine, or start a new output_dir with this run's folder as model_name_or_path"
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
    """The state that a checkpoint folder holds."""
    path = folder / TRAINER_STATE_FILE
    return TrainerState.from_json(path.read_text(encoding="utf-8"), where=str(path))
