import os
import signal
import subprocess
import sys

import pytest

import songgen
from songgen.cli import main as front
from songgen.cli.main import COMMANDS, Command, main


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


def test_a_reader_that_leaves_early_is_no_error(repository_root):
    """As in `songgen doctor FOLDER | head`."""
    program = (
        "import sys, types; from songgen.cli import main as front; toy = types.ModuleType('toy')\n"
        "toy.add_arguments, toy.run = lambda parser: None, lambda arguments: print('findings') or 0\n"
        "sys.modules['toy'], front.COMMANDS['toy'] = toy, front.Command('toy', 'a toy')\n"
        "sys.exit(front.main(['toy']))"
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
