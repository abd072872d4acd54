"""The two scripts under accelerate launch: several processes, a signal, a resumed run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "train"))

from training_fakes import write_dataset, write_model_folder  # noqa: E402

from songgen.tasks import MIXED  # noqa: E402
from songgen.train.launch import EXIT_DONE, run_training  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    folder = tmp_path_factory.mktemp("world")
    write_model_folder(folder / "model")
    write_dataset(folder / "data", folder / "model", 7, 3)
    return folder


def write_config(world: Path, **changes: Any) -> Path:
    """A small configuration beside its output folder; keywords change its keys."""
    config: dict[str, Any] = {
        "model_name_or_path": str(world / "model"),
        "save_to_disk": str(world / "data"),
        "num_train_epochs": 8,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-4,
        "do_eval": True,
        "ddp_timeout": 60,
    }
    path = Path(changes["output_dir"]).with_suffix(".json")
    path.write_text(json.dumps(config | changes))
    return path


def start(script: str, processes: int, config: Path) -> "subprocess.Popen[str]":
    """Launch a script."""
    kind = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *kind, "--num_processes", str(processes)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, str(ROOT / "training" / script), str(config)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> None:
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output + errors


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def signal_one_worker(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Ask the last process to stop as soon as a step is done."""
    deadline = time.monotonic() + TIMEOUT
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    workers = [
        child for child in psutil.Process(process.pid).children(recursive=True) if child.environ().get("RANK") == "1"
    ]
    workers[0].terminate()


def test_two_processes_stopped_and_resumed_equal_one_process(world: Path, tmp_path: Path) -> None:
    """The mixed script: the same losses, evaluation and weights, although a signal to one process stopped the run."""
    alone = write_config(world, output_dir=str(tmp_path / "one"), gradient_accumulation_steps=4, add_vocal_loss=True)
    assert run_training([str(alone)], MIXED) == EXIT_DONE
    together = write_config(world, output_dir=str(tmp_path / "two"), add_vocal_loss=True)
    first = start("run_training_mixed.py", 2, together)
    signal_one_worker(first, tmp_path / "two")
    finish(first)
    stopped_at = records(tmp_path / "two")[-1]["step"]
    assert 0 < stopped_at < 16 and (tmp_path / "two" / "model.safetensors").is_file()
    finish(start("run_training_mixed.py", 2, together))
    for one, two in zip(records(tmp_path / "one"), records(tmp_path / "two"), strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"time", "train/tokens_per_second", "train/samples_per_second"}:
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), (one["step"], name)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_the_dual_track_script_runs(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dual"
    settings = {"track_pattern": "parallel_A_V", "max_steps": 2, "dataloader_num_workers": 1}
    finish(start("run_training_dual_track.py", 1, write_config(world, output_dir=str(folder), **settings)))
    assert [record["step"] for record in records(folder)] == [1, 2, 2]
    assert "eval/vocal/codebook_0/accuracy" in records(folder)[-1]
    assert json.loads((folder / "config.json").read_text())["track_pattern"] == "parallel_A_V"
    assert (folder / "lyrics_tokenizer.json").is_file() and (folder / "training_config.json").is_file()


def test_processes_that_would_train_alone_are_refused(world: Path, tmp_path: Path) -> None:
    path = write_config(world, output_dir=str(tmp_path / "out"))
    script = str(ROOT / "training" / "run_training_mixed.py")
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    result = subprocess.run(
        [sys.executable, script, str(path)],
        env=environment | {"WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 1 and "accelerate launch" in result.stderr
    assert not (tmp_path / "out").exists()
