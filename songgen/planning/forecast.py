"""The forecast that a training run shows at its start."""

from __future__ import annotations

import os

from accelerate import Accelerator

from songgen.config import RunConfig
from songgen.planning.check import three_lines
from songgen.planning.facts import gather_facts
from songgen.planning.machine import this_machine
from songgen.planning.processes import running_processes
from songgen.train.forecast import Forecast


def forecast_run(config: RunConfig, accelerator: Accelerator) -> Forecast:
    """Return the forecast of a run; see `songgen.train.forecast.Forecaster`."""
    uses_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    facts = gather_facts(config, this_machine(), running_processes(accelerator, uses_deepspeed=uses_deepspeed))
    memory = facts.memory
    return Forecast(
        lines=tuple(three_lines(facts)),
        tensor_bytes=None if memory is None else memory.tensors,
        process_bytes=None if memory is None else memory.total,
    )
