import argparse
import json

import pytest
from training_fakes import tiny_config

from songgen.cli.data import tokenize
from songgen.cli.run_arguments import split_off_launch
from songgen.cli.training import train
from songgen.config import RunConfig
from songgen.tasks import DUAL_TRACK, MIXED


def split(module, *words):
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    module.add_arguments(parser)
    arguments = parser.parse_args(words)
    return *split_off_launch(arguments, *([train.add_task_option] if module is train else [])), arguments


@pytest.mark.parametrize("before", [True, False])
def test_launch_options_stand_anywhere_and_the_rest_is_the_run_s_in_its_order(before):
    launch = ["--num_processes", "2", "--task", "mixed", "--main_process_port=7"]
    run = ["--seed", "-1", "--freeze", '["decoder"]', "--do_eval", "--report_to=none"]
    given = [*launch, "a.json", *run] if before else ["a.json", *run[:3], *launch, *run[3:]]
    words, options, arguments = split(train, *given)
    assert words == ["a.json", *run]
    assert (options.num_processes, options.main_process_port, arguments.task) == (2, 7, "mixed")


def test_a_launch_file_may_be_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, options, _ = split(tokenize, "a.json", "--config_file", "ddp_8_gpus.yaml")
    assert options.config_file.is_file() and options.are_needed


def test_an_option_is_not_abbreviated_since_it_might_be_a_key():
    assert split(train, "a.json", "--num_proc", "2")[0] == ["a.json", "--num_proc", "2"]


def config_of(**model):
    return RunConfig.from_dict({"output_dir": "o", "save_to_disk": "d", **model})


@pytest.mark.parametrize(("layout", "task"), [("mixed", MIXED), ("interleaving_A_V", DUAL_TRACK)])
def test_the_task_follows_from_the_layout_of_the_configuration_or_else_of_the_model(tmp_path, layout, task):
    assert train.task_of(config_of(model_name_or_path="any", track_pattern=layout)) is task
    tiny_config(layout).save(tmp_path)
    assert train.task_of(config_of(model_name_or_path=str(tmp_path))) is task


def test_a_published_model_s_task_is_known_too(repository_root):
    folder = repository_root / "tests" / "parity" / "data" / "published_interleaving_A_V"
    assert "track_pattern" not in json.loads((folder / "config.json").read_text())
    assert train.task_of(config_of(model_name_or_path=str(folder))) is DUAL_TRACK
