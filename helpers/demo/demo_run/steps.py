"""Steps that run once: a command, its inputs, and a record of its result. Each run of one is a job of `songgen jobs`.

The key of a step is a digest of its command, its input files and the keys of the steps before it. A finished step with
the same key and the same source code of the program is reused. An interrupted step is run again without removing its
outputs, so that its command can resume. Otherwise, the outputs are removed first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from songgen.jobs.record import JOBS_FOLDER
from songgen.jobs.starting import run_in_foreground
from songgen.runtime.status import read_run_status

ORDER_FILE = "order.json"
"""Names of the steps in order, in the folder of records."""


@dataclass(frozen=True)
class Step:
    """One command of the demo."""

    name: str
    """Short name, also of the record."""
    title: str
    """Heading in the output and on the page."""
    command: tuple[str, ...]
    """Command as typed by a user, beginning with ``python``, ``songgen`` or ``accelerate launch``."""
    outputs: tuple[Path, ...]
    """Files and folders that exist when the step is done; the step owns them and may remove them."""
    inputs: tuple[Path, ...] = ()
    """Files whose contents affect the result."""
    cleans_up: bool = False
    """Whether the command itself removes outdated outputs, so that they are not removed before it runs."""


@dataclass(frozen=True)
class StepRecord:
    """Record of a step that was started."""

    name: str
    title: str
    command: str
    """Command as typed by a user."""
    key: str
    source: str
    """Digest of the program's source code."""
    finished: bool
    seconds: float
    """Wall-clock time of the step, including interrupted attempts."""


class StepFailed(Exception):
    """Raised if a command ends with an error; its output was shown."""


class StepRunner:
    """Runner of steps in order, which keeps a record of each.

    Args:
        root: Folder in which commands run, and to which paths are relative.
        folder: Folder of records.
        source: Digest of the program's source code.
        environment: Called before each step for its environment.
        ignore_source: Whether to reuse steps even if the source code has changed.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        source: str,
        environment: Callable[[], Mapping[str, str]] = lambda: os.environ,
        *,
        ignore_source: bool = False,
    ) -> None:
        self.root = root
        self.folder = folder
        self.records: list[StepRecord] = []
        self._source = source
        self._environment = environment
        self._ignore_source = ignore_source
        self._previous_key = ""

    def run(self, step: Step) -> StepRecord:
        """Run a step unless it is done.

        Raises:
            StepFailed: if the command fails or an output is missing.
            ValueError: if an input file is missing.
        """
        key = self._previous_key = self._key(step)
        number = len(self.records) + 1
        print(f"\n=== {number}. {step.title}\n{shown(step.command)}", flush=True)
        before = self._read_record(step)
        if before is not None and (before.key != key or not (self._ignore_source or before.source == self._source)):
            before = None
        if before is not None and before.finished and not self._missing(step) and not self._unfinished(step):
            print(f"    already done in {before.seconds:.1f} s, reused", flush=True)
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
            raise StepFailed(
                f"step {step.name!r} is not finished, run the command again to resume: {', '.join(unfinished)}"
            )
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
        """Run the command as a job of the repository, and show its output."""
        return run_in_foreground(
            self.root / JOBS_FOLDER,
            step.command,
            title=f"demo: {step.title}",
            cwd=self.root,
            subject=str(step.outputs[0]),
            environment=self._environment(),
        )

    def _missing(self, step: Step) -> list[str]:
        return [str(path) for path in step.outputs if not (self.root / path).exists()]

    def _unfinished(self, step: Step) -> list[str]:
        """Return unfinished training runs among the outputs; one that a signal stopped has exit code 0 too."""
        found = []
        for path in step.outputs:
            status = read_run_status(self.root / path)
            if status is not None and status.status != "finished":
                found.append(f"{path} ({status.status})")
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


def run_steps(runner: StepRunner, steps: Sequence[Step]) -> None:
    """Run steps in order, and print after each how long all took. An error or Ctrl-C ends the program."""
    start = time.monotonic()
    runner.folder.mkdir(parents=True, exist_ok=True)
    order = json.dumps([step.name for step in steps])
    (runner.folder / ORDER_FILE).write_text(order + "\n", encoding="utf-8")
    try:
        for step in steps:
            runner.run(step)
            print(f"    {time.monotonic() - start:.0f} s since the start", flush=True)
    except (StepFailed, ValueError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes from here", file=sys.stderr)
        sys.exit(130)


def shown(command: Sequence[str]) -> str:
    """Return a command as typed by a user."""
    return "$ " + shlex.join(command)


def digest_sources(folders: Iterable[Path]) -> str:
    """Return a digest of all Python files below some folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
