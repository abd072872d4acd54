import argparse
import importlib
import os
import signal
import subprocess
import sys

import pytest

import songgen
from songgen.cli import main as front
from songgen.cli.main import COMMANDS, Command, main, parse_words
from songgen.cli.run_arguments import split_off_launch


def test_version_and_help(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"songgen {songgen.__version__}\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name in shown and command.summary in shown


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["--no-such-option"]])
def test_a_wrong_command_line_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert "usage: songgen" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_shows_its_options_and_defaults(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: songgen {name}" in shown and "default: None" not in shown


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("train", ["--num_processes N", "--task {mixed,dual_track}", "mixed_pro/step1.json", "  --learning_rate  "]),
        ("tokenize", ["--config_file FILE", "data_musiccaps.json", "  --max_duration_in_seconds  "]),
        ("prepare", ["offline.json", "  --segment.max_seconds  "]),
        ("init", ["(default: published)", "(default: mixed_pro)", "google/flan-t5-large", "(default: 0)"]),
        ("tokenizer", ["(default: 2048)"]),
        ("codec", ["(default: 16000)", "(default: 1024)", "(default: 0)"]),
    ],
)
def test_help_shows_keys_and_defaults(name, parts, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert not [part for part in parts if part not in shown]


@pytest.mark.parametrize("name", ["train", "tokenize", "prepare", "try"])
def test_help_after_the_configuration_is_help_too(name, capsys):
    try:
        assert main([name, "any.json", "--help"]) == 0
    except SystemExit as done:
        assert done.code == 0
    assert "--seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "gone.json"], "gone.json"),
        (["train", "mixed_pro/step1.json", "--lerning_rate", "1"], "did you mean learning_rate"),
        (["train", "mixed_pro/step1.json", "--num_processes", "0"], "--num_processes is 0"),
        (["train", "mixed_pro/step1.json", "--config_file", "gone.yaml"], "gone.yaml"),
        (["train", "mixed_pro/step1.json", "--track_pattern", "null", "--model_name_or_path", "./gone"], "./gone"),
        (["tokenize", "gone.json", "--num_processes", "2"], "gone.json"),
        (["tokenize", "data_musiccaps.json", "--max_bad_fraction", "2"], "max_bad_fraction"),
        (["init", "out", "--preset", "small", "--audio_model", "gone"], "gone"),
        (["try", "gone.json"], "gone.json"),
        (["try", "mixed_pro/step1.json", "--steps", "0"], "--steps at least 10"),
        (["tokenizer", "--manifest", "gone.jsonl", "--out", "out"], "gone.jsonl"),
        (["codec", "--manifest", "gone.jsonl", "--out", "out"], "gone.jsonl"),
        (["codec", "--manifest", "gone.jsonl", "--out", "out", "--num_mels", "0"], "num_mels"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"songgen {arguments[0]}: error: ") and message in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--task", "--num_processes", "--main_process_port"])
def test_a_wrong_option_after_the_configuration_is_a_usage_error(option, capsys):
    with pytest.raises(SystemExit) as done:
        main(["train", "mixed_pro/step1.json", option, "nonsense"])
    assert done.value.code == 2 and option in capsys.readouterr().err


def test_a_command_gets_the_words_behind_it_and_its_code_is_returned(monkeypatch):
    class Module:
        @staticmethod
        def add_arguments(parser):
            parser.add_argument("--number", type=int)
            parser.add_argument("--version", action="store_true")

        @staticmethod
        def run(arguments):
            assert arguments.version
            return arguments.number

    monkeypatch.setitem(COMMANDS, "toy", Command("toy_module", "a toy"))
    monkeypatch.setitem(sys.modules, "toy_module", Module)
    assert main(["toy", "--number", "7", "--version"]) == 7


@pytest.mark.parametrize(("error", "code"), [(ValueError("the way out"), 2), (KeyboardInterrupt(), 130)])
def test_what_the_user_can_solve_has_no_traceback(monkeypatch, capsys, error, code):
    class Module:
        @staticmethod
        def add_arguments(parser):
            pass

        @staticmethod
        def run(arguments):
            raise error

    monkeypatch.setitem(COMMANDS, "toy", Command("toy_module", "a toy"))
    monkeypatch.setitem(sys.modules, "toy_module", Module)
    assert main(["toy"]) == code
    shown = capsys.readouterr().err
    assert shown.startswith("songgen toy: ") and "Traceback" not in shown


@pytest.mark.parametrize("arguments", [["toy"], ["tokenize", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(repository_root, arguments):
    """As in `songgen doctor FOLDER | head`."""
    program = (
        "import sys, types; from songgen.cli import main as front; toy = types.ModuleType('toy')\n"
        "toy.add_arguments, toy.run = lambda parser: None, lambda arguments: print('findings') or 0\n"
        "sys.modules['toy'], front.COMMANDS['toy'] = toy, front.Command('toy', 'a toy')\n"
        f"sys.exit(front.main({arguments}))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository_root, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_the_front_door_opens_without_loading_torch():
    code = "import sys, songgen.cli.main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert front.__doc__


def test_the_home_folder_is_expanded_in_every_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert front._with_home("--out=~/x.wav") == f"--out={tmp_path}/x.wav"
    assert front._with_home("~/x") == f"{tmp_path}/x" and front._with_home("~") == str(tmp_path)
    assert [front._with_home(word) for word in ("a~/b", "--a=b~/c", "~user", "--~/x")] == [
        "a~/b", "--a=b~/c", "~user", "--~/x"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--dataset_path", "d", "--devices", "2", "--do_eval"], ["--dataset_path", "d", "--do_eval"]),
        (["--num_processes", "2", "--seed", "3", "a.json"], ["--seed", "3", "a.json"]),
        (["--seed=3", "--do_eval"], ["--seed=3", "--do_eval"]),
        (["a.json", "--seed", "3"], ["a.json", "--seed", "3"]),
        ([], []),
    ],
)
@pytest.mark.parametrize("name", ["train", "tokenize", "check"])
def test_a_run_may_be_given_by_keys_alone(name, words, expected):
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    importlib.import_module(COMMANDS[name].module).add_arguments(parser)
    assert split_off_launch(parse_words(parser, words))[0] == expected


def test_a_key_in_place_of_a_required_file_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as done:
        main(["try", "--learning_rate", "1e-4"])
    assert done.value.code == 2 and "--learning_rate" in capsys.readouterr().err
    assert main(["check", "--fix", "--seed", "3"]) == 2
    assert "--fix writes into CONFIG, and none is given" in capsys.readouterr().err
