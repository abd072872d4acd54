"""Steps that run once: a command, what decides its result, and a record of when it was done.

A step's key is a digest of its command, its input files and the keys of the steps before it. A finished step with the
same key, run by the same source of the program, is reused. An interrupted one is started again on what it left, so that
commands which resume can do so. Otherwise what the step left is removed first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RUN_STATUS_FILE = "run_status.json"
"""How a training run stands, in its folder (`songgen.runtime.status`, which would load torch)."""


@dataclass(frozen=True)
class Step:
    """One command of the demo."""

    name: str
    """Short name; also of its record and its log."""
    title: str
    """Heading for people."""
    command: tuple[str, ...]
    """As a user types it; it begins with ``python`` or ``accelerate launch``."""
    outputs: tuple[Path, ...]
    """Files and folders that exist when the step is done. They belong to the step: it may remove them."""
    inputs: tuple[Path, ...] = ()
    """Files whose contents decide the result."""
    cleans_up: bool = False
    """Whether the command itself keeps what still fits and removes the rest; its outputs are then left to it."""


@dataclass(frozen=True)
class StepRecord:
    """What is known about a step that was started."""

    name: str
    title: str
    command: str
    """As a user types it."""
    key: str
    source: str
    """Digest of the program's source."""
    finished: bool
    seconds: float
    """Wall-clock time that the step took, all interrupted tries included."""


class StepFailed(Exception):
    """A command ended with an error; its output has been shown."""


class StepRunner:
    """Runs steps in order and remembers what is done."""

    def __init__(self, root: Path, folder: Path, source: str, *, ignore_source: bool = False) -> None:
        """Make a runner.

        Args:
            root: folder in which commands run and to which paths are relative.
            folder: where records and logs are kept.
            source: digest of the program whose commands are run.
            ignore_source: reuse steps although the program has changed since.
        """
        self.root = root
        self.folder = folder
        self.records: list[StepRecord] = []
        self._source = source
        self._ignore_source = ignore_source
        self._previous_key = ""

    def run(self, step: Step) -> StepRecord:
        """Run a step unless it is done.

        Raises:
            StepFailed: if the command fails or does not leave what it should.
            ValueError: if an input file is missing.
        """
        key = self._previous_key = self._key(step)
        number = len(self.records) + 1
        print(f"\n=== {number}. {step.title}\n{shown(step.command)}", flush=True)
        before = self._read_record(step)
        if before is not None and (before.key != key or not (self._ignore_source or before.source == self._source)):
            before = None
        if before is not None and before.finished and not self._missing(step) and not self._unfinished(step):
            print(f"    done before in {before.seconds:.1f} s, reused", flush=True)
            self.records.append(before)
            return before
        seconds = 0.0
        if before is not None and not before.finished:
            seconds = before.seconds
        elif not step.cleans_up:
            self._remove_outputs(step)
        record = StepRecord(step.name, step.title, shown(step.command), key, self._source, False, seconds)
        self._write_record(record)
        start = time.monotonic()
        try:
            code = self._execute(step)
        finally:
            record = dataclasses.replace(record, seconds=seconds + time.monotonic() - start)
            self._write_record(record)
        if code != 0:
            raise StepFailed(f"step {step.name!r} ended with exit status {code}: {shown(step.command)}")
        if missing := self._missing(step):
            raise StepFailed(f"step {step.name!r} did not write {', '.join(missing)}: {shown(step.command)}")
        if unfinished := self._unfinished(step):
            raise StepFailed(f"step {step.name!r} is not finished, start again to go on: {', '.join(unfinished)}")
        record = dataclasses.replace(record, finished=True)
        self._write_record(record)
        self.records.append(record)
        print(f"    done in {record.seconds:.1f} s", flush=True)
        return record

    def _key(self, step: Step) -> str:
        digest = hashlib.sha256(json.dumps([self._previous_key, step.name, step.command]).encode())
        for path in step.inputs:
            if not (self.root / path).is_file():
                raise ValueError(f"step {step.name!r} needs the file {path}, which does not exist")
            digest.update((self.root / path).read_bytes())
        return digest.hexdigest()

    def _execute(self, step: Step) -> int:
        """Run the command, showing its output and keeping it in a log."""
        log_path = self.folder / f"{step.name}.log"
        with (
            log_path.open("wb") as log,
            subprocess.Popen(
                executable_command(step.command), cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as process,
        ):
            assert process.stdout is not None
            try:
                while chunk := process.stdout.read1(65536):  # type: ignore[attr-defined]
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.flush()
                    log.write(chunk)
            except KeyboardInterrupt:
                # the terminal has interrupted the command as well; a training run saves before it ends
                sys.stdout.buffer.write(process.communicate()[0])
                raise
        return process.returncode

    def _missing(self, step: Step) -> list[str]:
        return [str(path) for path in step.outputs if not (self.root / path).exists()]

    def _unfinished(self, step: Step) -> list[str]:
        """Training runs among the outputs that are not done: one that a signal has stopped ends with 0 as well."""
        found = []
        for path in step.outputs:
            status_path = self.root / path / RUN_STATUS_FILE
            status = json.loads(status_path.read_text(encoding="utf-8"))["status"] if status_path.is_file() else None
            if status not in (None, "finished"):
                found.append(f"{path} ({status})")
        return found

    def _remove_outputs(self, step: Step) -> None:
        for path in step.outputs:
            output = self.root / path
            if output.is_dir():
                shutil.rmtree(output)
            else:
                output.unlink(missing_ok=True)

    def _record_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read_record(self, step: Step) -> StepRecord | None:
        path = self._record_path(step.name)
        return StepRecord(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def _write_record(self, record: StepRecord) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{record.name}.json.partial"
        temporary.write_text(json.dumps(dataclasses.asdict(record), indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._record_path(record.name))


def shown(command: Sequence[str]) -> str:
    """A command as a user types it."""
    return "$ " + shlex.join(command)


def executable_command(command: Sequence[str]) -> list[str]:
    """The same command, run by this Python, so that the virtual environment need not be activated.

    Raises:
        ValueError: if it begins with neither ``python`` nor ``accelerate launch``.
    """
    if command[0] == "python":
        return [sys.executable, *command[1:]]
    if tuple(command[:2]) == ("accelerate", "launch"):
        return [sys.executable, "-m", "accelerate.commands.launch", *command[2:]]
    raise ValueError(f"no such program in the demo: {shown(command)}")


def digest_sources(folders: Iterable[Path]) -> str:
    """Digest of all Python files below some folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
