"""A checkpoint of a full run becomes the model that the run would have written."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import make_world, write_config
from safetensors.torch import load_file

from songgen.cli.main import main
from songgen.exit_codes import EXIT_DONE
from songgen.runtime.file_hashes import checked_folder
from songgen.tasks import MIXED
from songgen.train.launch import run_training


@pytest.fixture(scope="module", params=[None, 0.9], ids=["plain", "averaged"])
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("full"), track_pattern="mixed")
    changes = {"max_steps": 2, "save_steps": 1, "do_eval": False, "freeze_cross": True}
    config = write_config(world, output_dir=str(world / "run"), ema_decay=request.param, **changes)
    assert run_training([str(config)], MIXED) == EXIT_DONE
    return world / "run"


def test_it_is_the_model_of_the_run(run_folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "model"
    assert main(["export", str(run_folder), "--model", str(out)]) == 0
    assert "checkpoint-2 written to" in capsys.readouterr().out
    expected, found = (load_file(folder / "model.safetensors") for folder in (run_folder, out))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (out / "config.json").read_bytes() == (run_folder / "config.json").read_bytes()
    assert checked_folder(out) == out
    earlier = tmp_path / "earlier"
    assert main(["export", str(run_folder / "checkpoint-1"), "--model", str(earlier)]) == 0
    assert not torch.equal(
        *(load_file(folder / "model.safetensors")["decoder.lm_heads.0.weight"] for folder in (out, earlier))
    )


def test_what_cannot_be_exported_is_said(run_folder: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy)
    (copy / "config.json").unlink()
    for source in (copy, copy / "checkpoint-2"):
        assert main(["export", str(source), "--merge", str(tmp_path / "out")]) == 2
        assert "--model OUT" in capsys.readouterr().err
    path = copy / "checkpoint-2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert main(["export", str(copy / "checkpoint-2"), "--model", str(tmp_path / "out")]) == 2
    assert "is not a valid checkpoint" in capsys.readouterr().err
    assert main(["export", str(copy), "--model", str(tmp_path / "out")]) == 0
