"""The commands that `songgen prepare` names at its end can be run as they are."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from songgen.cli.data.prepare import next_commands
from songgen.cli.main import COMMANDS
from songgen.config.loading import load_run_config
from songgen.config.recipes import TRAINING, find_recipe
from songgen.prepare.config import PrepareConfig, load_prepare_config


def prepared(folder: Path, **values: Any) -> PrepareConfig:
    """A data set with a `data.json` of these values."""
    out = folder / "my songs"
    out.mkdir()
    (out / "metadata.jsonl").write_text("")
    defaults = {"model_name_or_path": "./outputs/untrained-mixed_pro", "save_to_disk": f"{out}_tokens"}
    (out / "data.json").write_text(json.dumps({**defaults, **values}))
    return load_prepare_config(["--inputs", str(folder / "songs"), "--output_dir", str(out)])


def test_without_a_model_all_commands_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in next_commands(prepared(tmp_path))]
    assert [command[:2] for command in commands] == [
        ["songgen", name] for name in ("tokenizer", "init", "tokenize", "train")
    ]
    assert all(command[1] in COMMANDS for command in commands)
    assert commands[0][2:4] == ["--manifest", str(tmp_path / "my songs" / "metadata.jsonl")]
    assert commands[1][2:] == ["./outputs/untrained-mixed_pro", "--tokenizers", commands[0][-1]]
    assert commands[2][2:] == [str(tmp_path / "my songs" / "data.json")]
    assert commands[3][-2:] == ["--dtype", "float32"] or "--dtype" not in commands[3]


def test_a_model_that_exists_is_not_made_again(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    commands = next_commands(prepared(tmp_path, model_name_or_path=str(model)))
    assert [line.split()[1] for line in commands] == ["tokenize", "train"]
    hub = prepared(tmp_path / "other", model_name_or_path="org/model") if (tmp_path / "other").mkdir() is None else None
    assert hub is not None and [line.split()[1] for line in next_commands(hub)] == ["tokenize", "train"]


@pytest.mark.parametrize("has_eval", [False, True])
@pytest.mark.parametrize("has_vocal", [False, True])
def test_the_training_command_fits_the_data(tmp_path: Path, has_eval: bool, has_vocal: bool) -> None:
    values = {"eval_dataset_name": "x"} if has_eval else {}
    values |= {"ref_voice_column_name": "vocal_abspath"} if has_vocal else {}
    *_, line = next_commands(prepared(tmp_path, **values))
    _, _, recipe, *options = shlex.split(line)
    config = load_run_config([str(find_recipe(recipe, TRAINING)), *options], description="test")
    assert config.training.do_eval is has_eval and config.training.add_vocal_loss is has_vocal
    assert config.data.save_to_disk == f"{tmp_path / 'my songs'}_tokens"
