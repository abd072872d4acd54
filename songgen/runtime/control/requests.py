"""Requests to a run of another process on this machine: files in the folder `control` of the run.

A request is one file, written under a temporary name and renamed, so that it is whole when it can be seen. Its name is
unique: two senders do not meet. The main process of the run reads it and removes it; whoever removes the file has it,
so that a sender that gives up can withdraw a request that was not taken yet. What came of it is in an answer, a file of
the same form, which the sender removes. `launch.json` names the launch that takes requests. Each request names the
launch that it is meant for, and is refused by another one; what is left of an earlier launch is removed when a run
begins.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from songgen.runtime.control.commands import Action, Command, receive
from songgen.runtime.files import read_regular, remove_file, write_text_atomic
from songgen.runtime.folder_lock import RUN_LOCK_FILE
from songgen.runtime.folder_owner import read_owner
from songgen.runtime.json_files import parse_json_object, read_json_object
from songgen.runtime.records import Format

logger = logging.getLogger(__name__)

CONTROL_FOLDER = "control"
"""Folder of requests and answers in the output folder of a run."""

LAUNCH_FILE = "launch.json"
"""File that names the launch that takes requests."""

CTL = "songgen ctl"
"""Name of the command that sends requests."""

LOOK_SECONDS = 1.0
"""Seconds between two looks of a run for requests: the folder may be on a slow network disk."""

WAIT_SECONDS = 0.1
"""Seconds between two looks of a sender for an answer."""

ALIVE_SECONDS = 1.0
"""Seconds between two checks of a sender whether the run is alive."""

UNREAD_SECONDS = 3600.0
"""Seconds after which an answer that nobody has read is removed: its sender was killed."""

_MAX_BYTES = 64 * 1024
_MAX_LISTED = 50
_REQUEST_PREFIX, _ANSWER_PREFIX = "request-", "answer-"
_REQUEST_NAME = re.compile(_REQUEST_PREFIX + r"(\d{20}-[0-9a-f]{16})\.json")


@dataclass(frozen=True)
class Launch:
    """Launch of a run that takes requests."""

    run_id: str
    """Random name of the launch; see `songgen.runtime.status.RunStatus`."""
    schema_version: int = 1
    """Version of this record."""


@dataclass(frozen=True)
class Request:
    """Content of a request."""

    run_id: str
    """Random name of the launch that the request is meant for."""
    command: str
    """Text of the command."""
    sender: str
    """Program of the sender, with its process and machine."""
    schema_version: int = 1
    """Version of this record."""

    def __post_init__(self) -> None:
        """Check the types."""
        if not all(isinstance(value, str) for value in (self.run_id, self.command, self.sender)):
            raise TypeError("run_id, command and sender are texts")


@dataclass(frozen=True)
class Answer:
    """Content of an answer."""

    text: str
    """What came of the command."""
    is_done: bool
    """Whether it was carried out."""
    schema_version: int = 1
    """Version of this record."""


_FIX = "use the same version of songgen for the run and for `songgen ctl`"
_LAUNCH_FORMAT = Format(Launch, 1, _FIX)
_REQUEST_FORMAT = Format(Request, 1, _FIX)
_ANSWER_FORMAT = Format(Answer, 1, _FIX)


class NoAnswer(Exception):
    """A run gave no answer in time."""


class RunEnded(Exception):
    """The run ended before it answered."""


class RequestFolder:
    """Source of the commands that `songgen ctl` sends to this run. Only the main process of a run has it."""

    def __init__(self, run_folder: Path, run_id: str) -> None:
        """Read nothing yet.

        Args:
            run_folder: output folder of the run.
            run_id: random name of this launch.
        """
        self._folder = run_folder / CONTROL_FOLDER
        self._run_id = run_id
        self._looked_at = -LOOK_SECONDS

    def __enter__(self) -> RequestFolder:
        """Announce that this launch takes requests."""
        try:
            self._folder.mkdir(exist_ok=True)
            _write(self._folder / LAUNCH_FILE, Launch(self._run_id))
        except OSError as error:
            logger.warning("`songgen ctl` cannot be used: %s cannot be written to (%s)", self._folder, error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more requests; senders notice the end of the run by themselves."""
        remove_file(self._folder / LAUNCH_FILE)

    def take(self) -> list[Command]:
        """Return the commands that have arrived, at most once in `LOOK_SECONDS`; wrong ones are answered at once."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return []
        self._looked_at = now
        try:
            names = sorted(os.listdir(self._folder))
        except OSError:  # usually because nothing was ever sent
            return []
        taken = []
        for name in names:
            if (found := _REQUEST_NAME.fullmatch(name)) is not None:
                command = self._receive(self._folder / name, found[1])
                taken += [] if command is None else [command]
            elif name.startswith(_ANSWER_PREFIX):
                self._remove_unread(self._folder / name)
        return taken

    def _receive(self, path: Path, key: str) -> Command | None:
        """Take one request; None if it was withdrawn, or is answered already."""
        try:
            request, problem = _REQUEST_FORMAT.read(parse_json_object(read_regular(path, _MAX_BYTES)), path.name), ""
        except (OSError, ValueError) as error:
            request, problem = None, f"the request cannot be read ({error})"
        try:
            path.unlink()
        except OSError:  # withdrawn, or a folder of that name
            return None

        def reply(text: str, is_done: bool) -> None:
            self._reply(key, text, is_done)

        if request is not None and request.run_id != self._run_id:
            problem = "it was sent to an earlier launch of the run; send it again"
        if request is None or problem:
            reply(problem, False)
            return None
        return receive(request.command, request.sender, reply)

    def _reply(self, key: str, text: str, is_done: bool) -> None:
        """Write an answer; an error, such as a full disk, is only logged."""
        try:
            _write(self._folder / f"{_ANSWER_PREFIX}{key}.json", Answer(text, is_done))
        except OSError as error:
            logger.warning("the answer to a command could not be written to %s: %s", self._folder, error)

    def _remove_unread(self, path: Path) -> None:
        """Remove an old answer."""
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:  # its sender has just read it
            return
        if age > UNREAD_SECONDS:
            remove_file(path)


class EvaluationRequests(RequestFolder):
    """Requests to a run that only evaluates: it can be asked to stop, and answers everything else at once."""

    def take(self) -> list[Command]:
        """Return the stops that have arrived, at most once in `LOOK_SECONDS`."""
        stops = []
        for command in super().take():
            if command.action is Action.STOP and command.at is None:
                command.answer("the evaluation ends after the present batch or song")
                stops.append(command)
            else:
                text = "the run only evaluates, and trains nothing; possible: quit, status, help"
                command.answer(text, is_done=command.action is Action.STATUS)
        return stops


def remove_requests(run_folder: Path) -> None:
    """Remove what an earlier launch left unread; only the holder of the run's lock may call this."""
    folder = run_folder / CONTROL_FOLDER
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name == LAUNCH_FILE or name.startswith((_ANSWER_PREFIX, _REQUEST_PREFIX)):
            remove_file(folder / name)


def is_active(run_folder: Path) -> bool:
    """Return whether a run uses a folder; one on another machine, which cannot be asked, counts as active.

    Raises:
        ValueError: if the folder does not exist.
    """
    if not run_folder.is_dir():
        raise ValueError(f"there is no folder {run_folder}; name the output_dir of a run")
    try:
        owner = read_owner(run_folder / RUN_LOCK_FILE)
    except ValueError:  # the run is just starting, or the file is damaged
        return False
    return owner is not None and owner.may_hold


def pending_requests(run_folder: Path) -> list[str]:
    """Return the texts of the commands that wait for the run in a folder, the oldest first."""
    folder = run_folder / CONTROL_FOLDER
    try:
        names = sorted(name for name in os.listdir(folder) if _REQUEST_NAME.fullmatch(name))
    except OSError:
        return []
    found = []
    for name in names[:_MAX_LISTED]:
        with suppress(OSError, ValueError):  # taken in the meantime
            found.append(_REQUEST_FORMAT.read(parse_json_object(read_regular(folder / name, _MAX_BYTES)), name).command)
    return found


def send(run_folder: Path, command: str, *, timeout: float, is_alive: Callable[[], bool], program: str = CTL) -> Answer:
    """Send a command to the run in a folder and wait for the answer.

    Args:
        run_folder: output folder of the run.
        command: text of the command.
        timeout: seconds to wait, also for a run that is starting.
        is_alive: function that returns whether a run uses the folder.
        program: name of the program that sends it, for the journal of the run.

    Raises:
        NoAnswer: if there is no answer in time; the message says whether the command may still be carried out.
        RunEnded: if the run ended before it answered.
        OSError: if the request cannot be written.
    """
    deadline = time.monotonic() + timeout
    run_id = _launch(run_folder, deadline, is_alive)
    folder = run_folder / CONTROL_FOLDER
    key = f"{time.time_ns():020d}-{secrets.token_hex(8)}"
    request, answer = folder / f"{_REQUEST_PREFIX}{key}.json", folder / f"{_ANSWER_PREFIX}{key}.json"
    sender = f"{program} (process {os.getpid()} on {socket.gethostname()})"
    _write(request, Request(run_id, command, sender))
    checked = time.monotonic()
    try:
        while True:
            has_ended = False
            if time.monotonic() - checked >= ALIVE_SECONDS:
                has_ended, checked = not is_alive(), time.monotonic()
            if answer.exists():  # after the check: an answer may be the last thing that the run wrote
                return _read_answer(answer)
            if has_ended:
                raise RunEnded("the run has ended without an answer")
            if time.monotonic() > deadline:
                raise NoAnswer(_given_up(request, timeout))
            time.sleep(WAIT_SECONDS)
    finally:  # also after Ctrl-C: nobody would read the answer
        remove_file(request)


def _launch(run_folder: Path, deadline: float, is_alive: Callable[[], bool]) -> str:
    """Return the name of the launch that takes requests, once it does.

    Raises:
        NoAnswer: if it does not until the deadline.
        RunEnded: if the run ends before.
    """
    path = run_folder / CONTROL_FOLDER / LAUNCH_FILE
    while True:
        with suppress(ValueError):
            return _LAUNCH_FORMAT.read(read_json_object(path, max_bytes=_MAX_BYTES), path.name).run_id
        if not is_alive():
            raise RunEnded("the run ended before it took commands")
        if time.monotonic() > deadline:
            raise NoAnswer("the run takes no commands: it is still starting, or is of an older version")
        time.sleep(WAIT_SECONDS)


def _write(path: Path, content: Launch | Request | Answer) -> None:
    """Write a record whole.

    Raises:
        OSError: if it cannot be written.
    """
    write_text_atomic(path, json.dumps(dataclasses.asdict(content)) + "\n", durable=False)


def _given_up(request: Path, timeout: float) -> str:
    """Withdraw a request, and return what that means."""
    try:
        request.unlink()
    except FileNotFoundError:
        return (
            f"the run has taken the command, but did not finish it within {timeout:g} s; it is still at it, and its "
            "log says when it is done"
        )
    return (
        f"the run did not take the command within {timeout:g} s (it may be starting, or in a long step); the command "
        "was withdrawn and is not carried out. Try again with a longer --timeout"
    )


def _read_answer(path: Path) -> Answer:
    """Read an answer and remove it.

    Raises:
        NoAnswer: if it cannot be read.
    """
    try:
        return _ANSWER_FORMAT.read(parse_json_object(read_regular(path, _MAX_BYTES)), path.name)
    except (OSError, ValueError) as error:
        raise NoAnswer(f"the answer of the run cannot be read: {error}") from error
    finally:
        remove_file(path)
