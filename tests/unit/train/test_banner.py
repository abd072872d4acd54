"""The banner of a failed run, and the run that shows it."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import make_world, write_config

from songgen.config import RunConfig
from songgen.data.loader import LoaderError
from songgen.exit_codes import EXIT_ERROR, EXIT_NON_FINITE
from songgen.runtime.status import read_run_status
from songgen.tasks import MIXED
from songgen.train.checkpoints.manager import CheckpointError
from songgen.train.launch import run_training
from songgen.train.optimization.anomalies import NonFiniteError
from songgen.train.reporting.banner import banner, diagnose, is_out_of_memory


def config(**keys: Any) -> RunConfig:
    return RunConfig.from_dict({"model_name_or_path": "m", "save_to_disk": "d", "output_dir": "o", **keys})


def text_of(error: BaseException, config: RunConfig, step: int | None = None) -> str | None:
    diagnosis = diagnose(error, config)
    return None if diagnosis is None else banner(diagnosis, error, Path("o"), step)


def changes(text: str | None) -> list[str]:
    """The keys that a banner says to change, number by number."""
    assert text is not None
    lines = [line for line in text.splitlines() if re.match(r"  \d\. ", line)]
    return [" ".join(re.findall(r'"(\w+)": [^(]+\(now', line)) for line in lines]


HALVED = "per_device_train_batch_size gradient_accumulation_steps"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ["gradient_checkpointing", HALVED]),
        ({"gradient_checkpointing": True}, [HALVED, "optimizer"]),
        ({"gradient_checkpointing": True, "per_device_train_batch_size": 1}, ["optimizer", "dtype"]),
        (
            {"gradient_checkpointing": True, "max_frames_per_batch": 100},
            ["max_frames_per_batch gradient_accumulation_steps", "optimizer"],
        ),
    ],
)
def test_the_two_settings_follow_from_the_present_ones(keys: dict[str, Any], expected: list[str]) -> None:
    text = text_of(torch.OutOfMemoryError("CUDA out of memory"), config(**keys), 7)
    assert changes(text) == expected and text is not None
    assert "OUT OF MEMORY, after step 7" in text and "o/run_status.json" in text


def test_numbers_and_reading_processes_have_their_own() -> None:
    text = text_of(NonFiniteError("loss is NaN"), config(dtype="float16", learning_rate=3e-4), 3)
    assert changes(text) == ["dtype", "learning_rate"] and text is not None
    assert '"learning_rate": 0.0001 (now 0.0003)' in text and "o/non_finite_steps.jsonl" in text
    dead = LoaderError("loader worker 1 (pid 9) died: killed by signal: Killed")
    assert changes(text_of(dead, config(dataloader_num_workers=4)))[0] == "dataloader_num_workers"
    hung = LoaderError("loader worker 1 (pid 9) gave no batch within 600 seconds (dataloader_timeout)")
    assert changes(text_of(hung, config(dataloader_num_workers=4), 1))[0] == "dataloader_timeout"
    assert text_of(ValueError("anything else"), config(), 1) is None


def test_a_full_disk_is_found_behind_the_failed_save() -> None:
    """The save that fails for it raises another error."""
    failed = CheckpointError("the checkpoint of step 9 could not be saved")
    failed.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    text = text_of(failed, config(save_total_limit=4), 9)
    assert text is not None and "THE DISK IS FULL, after step 9" in text
    assert "1. free space on the disk" in text and '2. "save_total_limit": 1 (now 4)' in text
    assert text_of(CheckpointError("anything else"), config(), 9) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    outer = RuntimeError("the step failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer) is expected


def test_a_cpu_that_is_out_of_memory_is_recognized_by_torchs_own_error() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a data set."""
    return make_world(tmp_path_factory.mktemp("banners"), num_train=4, num_evaluation=1)


@pytest.mark.parametrize(
    ("error", "code", "title"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), EXIT_ERROR, "OUT OF MEMORY"),
        (NonFiniteError("the loss is NaN"), EXIT_NON_FINITE, "NOT A NUMBER"),
    ],
)
def test_a_run_ends_with_its_banner(
    world: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    title: str,
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr("songgen.train.step.TrainingStep.run", fail)
    run = world / title.replace(" ", "-").lower()
    assert run_training([str(write_config(world, output_dir=str(run)))], MIXED) == code
    printed = capfd.readouterr().err
    assert printed.count(f"{title}") == 1 and "change first:" in printed and f"{run}/run_status.json" in printed
    assert printed.index("error: ") < printed.index(title)
    status = read_run_status(run)
    assert status is not None and status.diagnosis is not None and title in status.diagnosis.title
    assert status.reason is not None and str(error) in status.reason
    for remedy in status.diagnosis.remedies:
        assert set(remedy.changes) == set(remedy.now) and remedy.effect in printed
