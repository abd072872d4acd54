"""Keys of other programs: read as what they mean here, said, and refused where they mean nothing."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from songgen.cli.main import DefaultsHelpFormatter
from songgen.cli.run_arguments import split_off_launch
from songgen.cli.training.train import add_arguments, add_task_option
from songgen.config import RunConfig
from songgen.config.foreign.spellings import REFUSED, SPELLINGS
from songgen.config.keys import all_keys
from songgen.config.loading import load_run_config

REQUIRED = ["--model_name_or_path", "m", "--output_dir", "o", "--save_to_disk", "d"]
TABLE = re.compile(r"### The 21 flags of trainer.py\n(.*?)\n## ", re.DOTALL)


def load(*words: str, required: list[str] = REQUIRED) -> RunConfig:
    return load_run_config([*required, *words], description="")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epochs", "7"], {"num_train_epochs": 7.0}),
        (["--epochs", "-1", "--max_steps", "9"], {"max_steps": 9}),
        (["--num_workers=8"], {"dataloader_num_workers": 8}),
        (["--every_n_train_steps", "2000"], {"save_steps": 2000, "logging_steps": 2000}),
        (["--exp_name", "chinese_rap_lora"], {"wandb_run_name": "chinese_rap_lora"}),
        (["--precision", "32"], {"dtype": "float32"}),
        (["--precision", "bf16-mixed"], {"dtype": "bfloat16"}),
        (["--precision", "bf16-true"], {"dtype": "bfloat16", "weights_dtype": "bfloat16"}),
        (["--accumulate_grad_batches", "4"], {"gradient_accumulation_steps": 4}),
        (["--gradient_clip_val", "0.5"], {"max_grad_norm": 0.5}),
        (["--ckpt_path", "o/checkpoint-5"], {"resume": "o/checkpoint-5"}),
        (["--ckpt_path", "none"], {"resume": "never"}),
        (["--val_check_interval", "500"], {"do_eval": True, "eval_strategy": "steps", "eval_steps": 500}),
        (["--val_check_interval", "0.5"], {"do_eval": True, "eval_strategy": "epoch", "eval_epochs": 0.5}),
        (["--val_check_interval", "none"], {"eval_strategy": "no"}),
        (["--checkpoint_dir", "o", "--logger_dir", "o"], {"output_dir": "o"}),
        (["--dataset_path", "d"], {"save_to_disk": "d"}),
    ],
)
def test_a_flag_is_read_as_what_it_means_and_said(
    words: list[str], expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    clashing = {f"--{key}" for key in expected} & set(REQUIRED)
    kept = [word for flag, value in zip(REQUIRED[::2], REQUIRED[1::2], strict=True)
            for word in (flag, value) if flag not in clashing]  # fmt: skip
    with caplog.at_level(logging.INFO, "songgen.config.loading"):
        values = load(*words, required=kept).to_dict()
    assert {key: values[key] for key in expected} == expected
    flag = words[0].removeprefix("--").partition("=")[0]
    said = [message for message in caplog.messages if message.startswith(f"{flag} ")]
    assert len(said) == 1 and ("max_steps" in said[0] or all(key in said[0] for key in expected))


def test_half_precision_means_float16() -> None:
    required = dict(zip((word[2:] for word in REQUIRED[::2]), REQUIRED[1::2], strict=True))
    assert RunConfig.from_dict({**required, "precision": "16-mixed"}).training.dtype == "float16"
    assert RunConfig.from_dict({**required, "precision": 32}).training.dtype == "float32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "5", "--num_train_epochs", "6"], "--num_train_epochs: --epochs means the same here"),
        (
            ["--logger_dir", "a", "--checkpoint_dir", "b"],
            'output_dir "b" here, but logger_dir gives it another value',
        ),
        (["--epochs", "-1"], "epochs: -1 trains until max_steps, which is not given"),
        (["--epochs", "0"], "epochs: 0 must be positive"),
        (["--precision", "64"], "precision: 64 has no equivalent here"),
        (["--num_workers", "many"], 'num_workers: "many" is not valid, expected int'),
        (["--val_check_interval", "0"], "val_check_interval: 0 must be positive"),
        (["--epoch", "3"], "epoch: unknown key; did you mean epochs?"),
    ],
)
def test_what_has_no_equivalent_is_refused_with_the_reason(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(*words, required=REQUIRED[:2] + REQUIRED[4:] if "dir" in words[0] else REQUIRED)
    assert message in str(caught.value)


def test_a_spelling_in_a_stage_replaces_the_key_in_its_base(tmp_path: Path) -> None:
    base = {"num_train_epochs": 100, "precision": "bf16-mixed", "devices": 1}
    (tmp_path / "base.json").write_text(json.dumps({key: base[key] for key in ("num_train_epochs", "precision")}))
    (tmp_path / "stage.json").write_text(json.dumps({"base": "base.json", "epochs": 7, "dtype": "float32"}))
    config = load_run_config([str(tmp_path / "stage.json"), *REQUIRED], description="")
    assert (config.training.num_train_epochs, config.training.dtype) == (7, "float32")
    (tmp_path / "base.json").write_text(json.dumps(base))
    with pytest.raises(ValueError, match="devices: processes are an option of the launch"):
        load_run_config([str(tmp_path / "base.json"), *REQUIRED], description="")


@pytest.mark.parametrize(
    ("words", "processes", "machines"),
    [
        (["--devices", "8"], 8, None),
        (["--devices", "8", "--num_nodes", "2"], 16, 2),
        (["--devices", "1", "--num_nodes", "1"], 1, None),
        (["--devices", "2", "--num_processes", "2"], 2, None),
    ],
)
def test_devices_and_nodes_are_options_of_the_launch(
    words: list[str], processes: int, machines: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = train_parser()
    rest, options = split_off_launch(parser.parse_args(["a.json", "--epochs", "3", *words]), add_task_option)
    assert rest == ["a.json", "--epochs", "3"]
    assert (options.num_processes, options.num_machines) == (processes, machines)
    assert options.are_needed == (processes > 1)
    assert f"is read as --num_processes {processes}" in capsys.readouterr().err


def test_devices_that_contradict_the_processes_are_refused() -> None:
    for words in (["--devices", "2", "--num_processes", "3"], ["--devices", "0"]):
        with pytest.raises(ValueError, match="--devices"):
            split_off_launch(train_parser().parse_args(["a.json", *words]), add_task_option)


def train_parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(conflict_handler="resolve", formatter_class=DefaultsHelpFormatter)
    add_arguments(parser)
    return parser


def test_the_table_of_flags_is_what_the_program_does(repository_root: Path) -> None:
    page = (repository_root / "docs" / "coming_from.md").read_text(encoding="utf-8")
    found = TABLE.search(page)
    assert found is not None
    launch = {flag for action in train_parser()._actions for flag in action.option_strings}
    flags = []
    for line in found[1].splitlines():
        if not line.startswith("| `--"):
            continue
        there, here = line.strip("|").split(" | ")[:2]
        for flag in re.findall(r"--(\w+)", there):
            flags.append(flag)
            if flag in SPELLINGS:
                assert set(re.findall(r"`(\w+)`", SPELLINGS[flag].meaning)) <= set(re.findall(r"`(\w+)`", here)), flag
            elif f"--{flag}" in launch:
                assert here.startswith("launch option"), flag
            elif flag in REFUSED:
                assert here.startswith("refused: "), flag
            else:
                assert here.startswith("the same key" if flag in all_keys() else "not here"), flag
    assert len(flags) == len(set(flags)) == 21
    assert set(SPELLINGS) <= set(flags)
