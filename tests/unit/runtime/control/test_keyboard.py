"""What is typed reaches the run that is in the foreground of its terminal, and nothing else is disturbed."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS
from terminals import Terminal

from songgen.runtime.control.keyboard import Keyboard, is_in_foreground

LISTEN = """
import os, sys, time
from songgen.runtime.control.keyboard import Keyboard

def listen(seconds):
    with Keyboard(lambda text: print("said:", text, flush=True)) as keyboard:
        print("ready", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for command in keyboard.take():
                print("took:", command.text, flush=True)
                if command.text == "quit":
                    return
            time.sleep(0.01)
"""
BACKGROUND = (
    LISTEN
    + """
import select
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)  # a job in the background, as `songgen train CONFIG &`
    {own_session}
    listen(1)
    print("the job has ended", flush=True)
    os._exit(0)
select.select([0], [], [])  # the shell, which is busy for a moment when something is typed
time.sleep(0.3)
line = sys.stdin.readline() if select.select([0], [], [], 0)[0] else "nothing"
print("the shell read:", line.strip(), flush=True)
_, status = os.waitpid(pid, os.WUNTRACED)
print("stopped" if os.WIFSTOPPED(status) else "never stopped", flush=True)
"""
)
LAUNCHED = (
    LISTEN
    + """
pid = os.fork()  # as torchrun starts its processes: in a session of their own
if pid == 0:
    os.setsid()
    listen(60)
    os._exit(0)
os.waitpid(pid, 0)
"""
)


def start(code: str) -> Terminal:
    terminal = Terminal([sys.executable, "-u", "-c", code], os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    terminal.wait_for("ready")
    return terminal


@pytest.mark.parametrize("code", [LISTEN + "listen(60)", LAUNCHED])
def test_the_foreground_hears_whole_lines_and_answers_wrong_ones_at_once(code: str) -> None:
    terminal = start(code)
    terminal.wait_for("said: commands can be typed")
    terminal.ask("svae", "said: there is no command 'svae'; did you mean save?")
    terminal.press(b"sav")
    time.sleep(0.1)
    assert "took: save" not in terminal.ask("", "sav")
    terminal.press(b"\x04\x04")  # Ctrl-D ends nothing
    assert terminal.ask("e\x7f\x7f\x7f\x7f save", "took: save").count("took: ") == 1
    terminal.ask("quit", "took: quit")
    assert terminal.wait() == 0


@pytest.mark.parametrize("own_session", ["pass", "os.setsid()"])
def test_a_job_in_the_background_leaves_the_input_to_the_shell_and_is_not_stopped(own_session: str) -> None:
    """With a session of its own it could read the terminal unhindered: it must not."""
    code = BACKGROUND.replace("{own_session}", "pass" if own_session == "pass" else SESSION)
    terminal = start(code)
    terminal.ask("quit", "the shell read: quit")
    terminal.wait_for("never stopped")
    assert terminal.wait() == 0 and "took" not in terminal.shown and "can be typed" not in terminal.shown


SESSION = """
    worker = os.fork()  # the job is a launcher, whose process has a session of its own
    if worker:
        os.waitpid(worker, 0)
        os._exit(0)
    os.setsid()
"""


@pytest.mark.parametrize("kind", ["null", "pipe", "closed", "file"])
def test_without_a_terminal_nothing_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("quit\n")
    redirect = {"null": "< /dev/null", "closed": "<&-", "file": f"< {tmp_path / 'input'}", "pipe": ""}[kind]
    code = LISTEN + "listen(0.3)\nprint('left:', sys.stdin.readline() if sys.stdin else None)"
    done = subprocess.run(
        ["sh", "-c", f'nohup {sys.executable} -c "$CODE" {redirect}'],
        input="quit\n" if kind == "pipe" else "",
        env=os.environ | {"CODE": code, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SAFETY_SECONDS,
        check=False,
    )
    expected = "quit" if kind in ("pipe", "file") else ("None" if kind == "closed" else "")
    assert done.returncode == 0 and f"left: {expected}".strip() in done.stdout, done
    assert "took" not in done.stdout and "said" not in done.stdout


def test_a_terminal_of_another_session_is_not_ours() -> None:
    ours, theirs = pty.openpty()
    try:
        assert not is_in_foreground(theirs)
        said: list[str] = []
        with Keyboard(said.append, theirs) as keyboard:
            os.write(ours, b"quit\n")
            time.sleep(0.1)
            assert not keyboard.take() and not said
    finally:
        os.close(ours)
        os.close(theirs)
