"""Requests to a run of another process: whole, read once, answered, and never carried out by another launch."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS

from songgen.runtime.control import requests
from songgen.runtime.control.commands import Command
from songgen.runtime.control.requests import (
    CONTROL_FOLDER,
    Answer,
    NoAnswer,
    RequestFolder,
    RunEnded,
    remove_requests,
    send,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "WAIT_SECONDS", "ALIVE_SECONDS"):
        monkeypatch.setattr(requests, name, 0.01)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RequestFolder]:
    """A run that takes requests when it is asked to."""
    with RequestFolder(tmp_path, "this launch") as source:
        yield source


def ask(folder: Path, text: str, *, timeout: float = SAFETY_SECONDS, is_alive: bool = True) -> Answer:
    return send(folder, text, timeout=timeout, is_alive=lambda: is_alive)


def in_thread(folder: Path, text: str) -> tuple[threading.Thread, list[Answer]]:
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(ask(folder, text)))
    thread.start()
    return thread, answers


def take(source: RequestFolder, count: int) -> list[Command]:
    """Take so many commands, as steps of a run do."""
    taken: list[Command] = []
    deadline = time.monotonic() + SAFETY_SECONDS
    while len(taken) < count:
        assert time.monotonic() < deadline
        taken += source.take()
        time.sleep(0.005)
    return taken


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / CONTROL_FOLDER))


def test_senders_do_not_meet_and_each_gets_its_own_answer(run: RequestFolder, tmp_path: Path) -> None:
    senders = [in_thread(tmp_path, f"sample {number}") for number in range(1, 9)]
    for command in take(run, len(senders)):
        command.answer(f"{command.argument} songs", is_done=command.argument != 3)
    for number, (thread, answers) in enumerate(senders, 1):
        thread.join(SAFETY_SECONDS)
        assert answers == [Answer(f"sample {number}: {number} songs", number != 3)]
    assert left(tmp_path) == [requests.LAUNCH_FILE] and not run.take()


def test_a_wrong_command_is_answered_without_the_run(run: RequestFolder, tmp_path: Path) -> None:
    thread, answers = in_thread(tmp_path, "svae")
    while not answers:
        assert not run.take() and thread.is_alive() | bool(answers)
        time.sleep(0.005)
    assert not answers[0].is_done and "did you mean save?" in answers[0].text
    thread.join()


def test_a_request_that_nobody_took_is_withdrawn(run: RequestFolder, tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="was withdrawn and is not carried out"):
        ask(tmp_path, "quit", timeout=0.05)
    time.sleep(0.02)
    assert not run.take() and left(tmp_path) == [requests.LAUNCH_FILE]


def test_a_request_that_is_being_carried_out_cannot_be_withdrawn(run: RequestFolder, tmp_path: Path) -> None:
    failures: list[str] = []

    def sender() -> None:
        try:
            ask(tmp_path, "export", timeout=0.3)
        except NoAnswer as error:
            failures.append(str(error))

    thread = threading.Thread(target=sender)
    thread.start()
    [command] = take(run, 1)
    thread.join(SAFETY_SECONDS)
    assert "it is still at it" in failures[0]
    command.answer("done, and nobody reads it")
    [answer] = [name for name in left(tmp_path) if name.startswith("answer-")]
    os.utime(tmp_path / CONTROL_FOLDER / answer, (0, 0))
    time.sleep(0.02)
    assert not run.take() and left(tmp_path) == [requests.LAUNCH_FILE]


def test_a_run_that_ends_answers_nothing(run: RequestFolder, tmp_path: Path) -> None:
    with pytest.raises(RunEnded, match="without an answer"):
        ask(tmp_path, "save", is_alive=False)
    assert left(tmp_path) == [requests.LAUNCH_FILE]


def test_a_run_that_is_starting_or_only_evaluates_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="still starting"):
        ask(tmp_path, "save", timeout=0.05)
    with pytest.raises(RunEnded, match="before it took commands"):
        ask(tmp_path, "save", is_alive=False)


def test_requests_of_an_earlier_launch_are_refused_or_removed(run: RequestFolder, tmp_path: Path) -> None:
    name = f"request-{time.time_ns():020d}-{'0' * 16}.json"
    stale = tmp_path / CONTROL_FOLDER / name
    content = json.dumps({"run_id": "another launch", "command": "quit", "sender": "a test", "schema_version": 1})
    stale.write_text(content)
    time.sleep(0.02)
    assert not run.take() and not stale.exists()
    answer = json.loads((tmp_path / CONTROL_FOLDER / name.replace("request", "answer")).read_text())
    assert not answer["is_done"] and "an earlier launch" in answer["text"]
    stale.write_text(content)
    remove_requests(tmp_path)
    assert not left(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[" * 9000, '{"run_id": 1, "command": 2, "sender": 3, "schema_version": 1}', "{}"]
)
def test_nonsense_is_answered_and_disturbs_nobody(run: RequestFolder, tmp_path: Path, content: str) -> None:
    (tmp_path / CONTROL_FOLDER / f"request-{'0' * 20}-{'0' * 16}.json").write_text(content)
    (tmp_path / CONTROL_FOLDER / "request-half.json.123.tmp").write_text("a sender was killed here")
    os.mkfifo(tmp_path / CONTROL_FOLDER / f"request-{'1' * 20}-{'0' * 16}.json")
    thread, answers = in_thread(tmp_path, "save")
    take(run, 1)[0].answer("saved")
    thread.join(SAFETY_SECONDS)
    assert answers == [Answer("save: saved", True)]


def test_a_sender_that_is_killed_leaves_a_command_that_is_carried_out_once(run: RequestFolder, tmp_path: Path) -> None:
    code = "import sys, pathlib; from songgen.runtime.control.requests import send\n"
    code += "send(pathlib.Path(sys.argv[1]), 'save', timeout=60, is_alive=lambda: True)"
    sender = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    deadline = time.monotonic() + SAFETY_SECONDS
    while not any(name.endswith(".json") and name.startswith("request-") for name in left(tmp_path)):
        assert sender.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    sender.kill()
    sender.wait(SAFETY_SECONDS)
    assert [command.text for command in take(run, 1)] == ["save"]
    time.sleep(0.02)
    assert not run.take()


def test_nothing_here_loads_torch() -> None:
    code = "import sys, songgen.cli.training.ctl, songgen.runtime.control.keyboard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=SAFETY_SECONDS, check=False).returncode == 0
