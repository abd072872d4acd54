"""A tiny model with its data, and the facts of runs on machines that need not exist."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_fakes import TEXT_WIDTH, write_dataset, write_model_folder

from songgen.conditioning import TextEncoder, caption_tokenizer_fingerprint, train_caption_tokenizer
from songgen.config import RunConfig
from songgen.doctor.hashes import accept
from songgen.planning.facts import RunFacts, gather_facts
from songgen.planning.machine import Device, Machine
from songgen.planning.memory import Processes
from songgen.planning.speed import Speed

SPEED = Speed(operations=1e10, bandwidth=1e10, start=1e-5)

BIG = Machine((), cores=16, memory=64 * 2**30, free_memory=48 * 2**30)
"""A machine without a GPU on which everything fits."""


def gpus(count: int, free: float, *, capability: tuple[int, int] = (8, 0)) -> Machine:
    """A machine with GPUs that have `free` bytes."""
    return replace(BIG, devices=(Device("a GPU", int(2 * free), int(free), capability),) * count)


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that can also be asked for songs, and 20 clips to train it on, 5 held out."""
    folder = tmp_path_factory.mktemp("planning")
    model = write_model_folder(folder / "model")
    tokenizer = train_caption_tokenizer(["calm", "loud"], 300, model / "caption_tokenizer")
    TextEncoder.small(len(tokenizer), d_model=TEXT_WIDTH, num_layers=1, num_heads=2).save(model / "text_encoder")
    accept(model)
    fingerprint = caption_tokenizer_fingerprint(tokenizer)
    write_dataset(folder / "data", model, 20, 5, caption_tokenizer_fingerprint=fingerprint)
    return folder


FactsOf = Callable[..., RunFacts]


@pytest.fixture
def facts_of(world: Path) -> FactsOf:
    """Function that returns the facts of a run with other keys, machine or processes."""

    def gathered(machine: Machine = BIG, processes: Processes | None = None, **keys: Any) -> RunFacts:
        config = {
            "model_name_or_path": str(world / "model"),
            "save_to_disk": str(world / "data"),
            "output_dir": str(world / "run"),
            "num_train_epochs": 50,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 2,
            "do_eval": True,
            "eval_strategy": "steps",
            "warmup_ratio": 0.05,
        }
        run = RunConfig.from_dict(config | keys)
        return gather_facts(run, machine, processes or Processes(), SPEED)

    return gathered
