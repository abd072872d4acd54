"""Keys of other programs: read as what they mean here, said, and refused where they mean nothing."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_flow import write_tiny_pipeline

from songgen.cli.main import DefaultsHelpFormatter, parse_words
from songgen.cli.run_arguments import split_off_launch
from songgen.cli.training.train import add_arguments, add_task_option
from songgen.config import RunConfig
from songgen.config.foreign.spellings import MODEL_FILE, REFUSED, SPELLINGS
from songgen.config.keys import all_keys
from songgen.config.loading import load_run_config
from songgen.families.foreign_keys import TOKEN_KEYS, refuse_keys
from songgen.runtime.model_folders import PIPELINE_FILE
from songgen.train.checkpoints.files import RUN_CONFIG_FILE

REQUIRED = ["--model_name_or_path", "m", "--output_dir", "o", "--save_to_disk", "d"]
TABLES = {"convert2hf_dataset.py": 3, "trainer.py": 21}
"""Program -> number of its flags; the page has a table for each."""


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
        (["--data_dir", "data"], {"train_dataset_name": "data", "preprocessing_only": True}),
        (["--output_name", "zh"], {"save_to_disk": "zh"}),
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
    line = said(caplog, words[0].removeprefix("--").partition("=")[0])
    assert "max_steps" in line or all(key in line for key in expected)


def said(caplog: pytest.LogCaptureFixture, flag: str) -> str:
    (line,) = [message for message in caplog.messages if message.startswith(f"{flag} ")]
    return line


def test_the_converter_s_command_line_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`python convert2hf_dataset.py` becomes `songgen tokenize --model_name_or_path MODEL`; the rest is the same."""
    words = ["--data_dir", "./data", "--repeat_count", "2000", "--output_name", "zh_lora_dataset"]
    with caplog.at_level(logging.INFO, "songgen.config.loading"):
        config = load(*words, required=REQUIRED[:2])
    assert (config.data.train_dataset_name, config.data.save_to_disk) == ("./data", "zh_lora_dataset")
    assert config.training.preprocessing_only and not config.ignored_keys
    assert "num_train_epochs 2000 for one epoch of there" in said(caplog, "repeat_count")
    with pytest.raises(ValueError, match="repeat_count: 0 must be 1 or more"):
        load("--repeat_count", "0")


TRAINER = """--num_nodes 1 --shift 3.0 --learning_rate 1e-4 --num_workers 8 --epochs -1 --max_steps 2000000
    --every_n_train_steps 2000 --dataset_path ./zh_lora_dataset --exp_name chinese_rap_lora --precision 32
    --accumulate_grad_batches 1 --devices 1 --logger_dir ./exps/logs/ --ckpt_path None --checkpoint_dir {model}
    --gradient_clip_val 0.5 --gradient_clip_algorithm norm --reload_dataloaders_every_n_epochs 1
    --every_plot_step 2000 --val_check_interval None --lora_config_path {lora}"""
"""All 21 flags of trainer.py with their defaults, except the two files."""


def test_a_command_line_is_read_without_torch() -> None:
    code = "import sys, songgen.config.loading, songgen.cli.training.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_trainer_s_command_line_trains_a_flow_model(tmp_path: Path) -> None:
    model, lora = tmp_path / "pipeline", tmp_path / "lora.json"
    write_tiny_pipeline(model)
    lora.write_text(json.dumps({"r": 16, "lora_alpha": 32, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}))
    words = TRAINER.format(model=model, lora=lora).split()
    assert len([word for word in words if word.startswith("--")]) == 21
    run, options = split_off_launch(parse_words(train_parser(), words), add_task_option)
    assert not options.are_needed
    config = load_run_config(run, description="")
    values = config.to_dict()
    expected = {
        "model_name_or_path": str(model), "save_to_disk": "./zh_lora_dataset",
        "output_dir": "exps/logs/chinese_rap_lora",
        "wandb_run_name": "chinese_rap_lora", "shift": 3.0, "learning_rate": 1e-4, "dataloader_num_workers": 8,
        "max_steps": 2_000_000, "save_steps": 2000, "logging_steps": 2000, "dtype": "float32",
        "gradient_accumulation_steps": 1, "resume": "never", "max_grad_norm": 0.5, "gradient_clip_algorithm": "norm",
        "reload_dataloaders_every_n_epochs": 1, "every_plot_step": 2000, "eval_strategy": "no",
    }  # fmt: skip
    assert {key: values[key] for key in expected} == expected
    assert values["lora"]["r"] == 16 and not config.ignored_keys
    # What this model refuses are keys of other models: none of the 21 is one.
    refuse_keys(config, TOKEN_KEYS, "a flow model")


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["--exp_name", "a"], "exps/logs/a"),
        (["--exp_name", "a", "--logger_dir", "./logs/"], "logs/a"),
        (["--exp_name", "a", "--output_dir", "o"], "o"),
        (["--logger_dir", "./logs/"], "./logs/"),
    ],
)
def test_two_experiments_in_one_folder_of_logs_are_two_runs(words: list[str], folder: str, tmp_path: Path) -> None:
    required = [*REQUIRED[:2], *REQUIRED[4:]]
    assert load(*words, required=required).training.output_dir == folder
    (tmp_path / "a.json").write_text(json.dumps({"logger_dir": "./logs/", "exp_name": "of the file"}))
    config = load_run_config([str(tmp_path / "a.json"), *required, *words], description="")
    assert config.training.output_dir == ("logs/of the file" if words[0] == "--logger_dir" else folder.replace(
        "exps/logs", "logs"))  # fmt: skip


@pytest.mark.parametrize("name", ["/tmp/a", "../a", ""])
def test_an_experiment_is_a_folder_inside(name: str) -> None:
    with pytest.raises(ValueError, match="exp_name: .* must be one inside of it"):
        load("--exp_name", name, required=[*REQUIRED[:2], *REQUIRED[4:]])


def test_a_folder_of_models_is_not_written_to(tmp_path: Path) -> None:
    """`checkpoint_dir` is the base model in ACE-Step's program, and the output in its instructions."""
    assert MODEL_FILE == PIPELINE_FILE
    required = REQUIRED[4:]
    (tmp_path / "ace_step_transformer").mkdir()
    (tmp_path / "ace_step_transformer" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="checkpoint_dir: .* has models, but no model_index.json"):
        load("--checkpoint_dir", str(tmp_path), "--model_name_or_path", "m", required=required)
    (tmp_path / MODEL_FILE).write_text("{}")
    assert load("--checkpoint_dir", str(tmp_path), "--output_dir", "o",
                required=required).model.model_name_or_path == str(tmp_path)  # fmt: skip
    (tmp_path / RUN_CONFIG_FILE).write_text("{}")
    config = load("--checkpoint_dir", str(tmp_path), "--model_name_or_path", "m", required=required)
    assert config.training.output_dir == str(tmp_path)


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


def flag_cells(page: str, program: str, count: int) -> dict[str, str]:
    """Flag -> what the page says that it is here."""
    found = re.search(rf"### The \w+ flags of {program}\n(.*?)\n##+ ", page, re.DOTALL)
    assert found is not None, program
    rows = [re.split(r" ?\| ?", line.strip("|")) for line in found[1].splitlines() if line.startswith("| `--")]
    assert {len(row) for row in rows} == {5}
    cells = {flag: row[2] for row in rows for flag in re.findall(r"--(\w+)", row[0])}
    assert len(cells) == count == len(rows)
    return cells


def test_the_tables_of_flags_are_what_the_program_does(repository_root: Path) -> None:
    page = (repository_root / "docs" / "coming_from.md").read_text(encoding="utf-8")
    launch = {flag for action in train_parser()._actions for flag in action.option_strings}
    cells = {flag: cell for program, count in TABLES.items() for flag, cell in flag_cells(page, program, count).items()}
    for flag, here in cells.items():
        if flag in SPELLINGS:
            assert set(re.findall(r"`(\w+)`", SPELLINGS[flag].meaning)) <= set(re.findall(r"`(\w+)`", here)), flag
        elif f"--{flag}" in launch:
            assert here.startswith("launch option"), flag
        elif flag in REFUSED:
            assert here.startswith("refused: "), flag
        else:
            assert here.startswith("the same key" if flag in all_keys() else "not here"), flag
    assert set(SPELLINGS) <= set(cells)
