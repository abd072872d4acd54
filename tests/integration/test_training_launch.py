"""The two scripts under accelerate launch: several processes, a signal, a resumed run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launching import ROOT, finish, make_world, records, start, wait_for_steps, worker, write_config
from limits import SAFETY_SECONDS
from safetensors.torch import load_file

from songgen.exit_codes import EXIT_DONE
from songgen.tasks import MIXED
from songgen.train.launch import run_training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.faults
def test_two_processes_stopped_and_resumed_equal_one_process(world: Path, tmp_path: Path) -> None:
    """The mixed script: the same losses, evaluation and weights, although a signal to one process stopped the run."""
    alone = write_config(world, output_dir=str(tmp_path / "one"), gradient_accumulation_steps=4, add_vocal_loss=True)
    assert run_training([str(alone)], MIXED) == EXIT_DONE
    together = write_config(world, output_dir=str(tmp_path / "two"), add_vocal_loss=True)
    first = start("run_training_mixed.py", 2, together)
    wait_for_steps(first, tmp_path / "two")
    worker(first, rank=1).terminate()
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


@pytest.mark.parametrize("script", ["run_training_mixed.py", "run_training_dual_track.py"])
def test_help_names_the_program_and_its_exit_codes(script: str) -> None:
    command = [sys.executable, str(ROOT / "training" / script), "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SAFETY_SECONDS)
    assert result.returncode == EXIT_DONE
    assert f"accelerate launch training/{script} CONFIG.json" in result.stdout and "--learning_rate" in result.stdout
    assert set(re.findall(r"(?<=[ ,])(\d) [a-z]", result.stdout.partition("usage:")[0])) == {"0", "1", "4", "5", "6"}


@pytest.mark.faults
def test_the_dual_track_script_runs(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dual"
    settings = {"track_pattern": "parallel_A_V", "max_steps": 2, "dataloader_num_workers": 1}
    finish(start("run_training_dual_track.py", 1, write_config(world, output_dir=str(folder), **settings)))
    assert [record["step"] for record in records(folder)] == [1, 2, 2]
    assert "eval/vocal/codebook_0/accuracy" in records(folder)[-1]
    assert json.loads((folder / "config.json").read_text())["track_pattern"] == "parallel_A_V"
    assert (folder / "lyrics_tokenizer.json").is_file() and (folder / "training_config.json").is_file()
