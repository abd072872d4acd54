"""Journal of a run: the commands that it has carried out, with the step after which each took effect.

A command is on the disk before its effect can be in a checkpoint. So a run that resumes from an earlier checkpoint
finds the later commands here and carries them out again at their steps, and another run that is given the journal does
what the first one was told to do by hand.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from songgen.runtime.control.commands import Action, Command, parse
from songgen.runtime.files import append_whole
from songgen.runtime.json_lines import Lines, read_lines, seal, unseal

JOURNAL_FILE = "journal.jsonl"

AUTO, NEVER = "auto", "never"
"""Values of the key `replay` that do not name a file."""


@dataclass(frozen=True)
class Entry:
    """Line of a journal."""

    step: int
    """Completed steps when the command took effect, or was scheduled."""
    command: str | None
    """Text of the command; None: the run resumed from this step, and dropped the lines before with a later step."""
    source: str
    """Source of the command."""
    replayed: bool = False
    """Whether the command comes from the journal of another run."""
    time: float = field(default_factory=time.time)
    """Time of the command, in seconds since 1970."""


@dataclass(frozen=True)
class Planned:
    """Command of a journal that is still to be carried out."""

    step: int
    """Completed steps after which it is due."""
    command: Command
    """The command."""
    is_journaled: bool
    """Whether it is in the run's own journal already."""


def read_entry(line: bytes) -> Entry:
    """Read a line of a journal.

    Raises:
        ValueError: if it is damaged.
        TypeError: if it has unknown keys.
    """
    return Entry(**unseal(line))


def journal_lines(path: Path) -> Lines[Entry]:
    """Read a journal, which may be missing.

    Raises:
        OSError: if it exists and cannot be read.
    """
    return read_lines(path, read_entry)


def in_effect(entries: Sequence[Entry]) -> list[Entry]:
    """Return the commands that were not dropped, in the order of their steps."""
    kept: list[Entry] = []
    for entry in entries:
        if entry.command is None:
            kept = [each for each in kept if each.step <= entry.step]
        else:
            kept.append(entry)
    return sorted(kept, key=lambda entry: entry.step)  # stable: those of one step stay in their order


def planned_commands(folder: Path, replay: str, step: int) -> list[Planned]:
    """Return the commands that a run carries out by itself after `step` completed steps.

    Args:
        folder: output folder of the run, with its own journal if there is one.
        replay: the configuration key: `auto` to carry out again what the own journal has after `step`; `never`; or the
            journal of another run, or its folder, whose commands are carried out in addition.
        step: completed steps.

    Raises:
        ValueError: if a journal is missing or damaged.
    """
    if replay == NEVER:
        return []
    own_path, other_path = folder / JOURNAL_FILE, Path(replay)
    entries = in_effect(_intact(own_path, f"remove them (their commands are then lost), or set replay to {NEVER}"))
    if replay == AUTO or other_path.resolve() in (own_path.resolve(), folder.resolve()):
        return [plan for entry in entries for plan in _planned(entry, is_journaled=True) if entry.step > step]
    if other_path.is_dir():
        other_path /= JOURNAL_FILE
    if not other_path.is_file():
        raise ValueError(f"replay: there is no journal {other_path}; it is {AUTO}, {NEVER} or the journal of a run")
    # What was replayed before a kill is in both journals.
    done = {(entry.step, entry.command) for entry in entries if entry.replayed}
    own = [(entry, True) for entry in entries if not entry.replayed]
    others = in_effect(_intact(other_path, "restore the file, or remove them and do without their commands"))
    plans = [plan for entry, known in own for plan in _planned(entry, is_journaled=known)]
    for entry in others:
        for plan in _planned(entry, is_journaled=False, is_own=False):
            plans.append(dataclasses.replace(plan, is_journaled=(plan.step, plan.command.text) in done))
    return sorted((plan for plan in plans if plan.step > step), key=lambda plan: plan.step)


def _intact(path: Path, fix: str) -> list[Entry]:
    """Return the lines of a journal.

    Raises:
        ValueError: if one is damaged: it holds a person's decision, which cannot be computed again.
    """
    try:
        return journal_lines(path).require_intact(fix)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _planned(entry: Entry, *, is_journaled: bool, is_own: bool = True) -> list[Planned]:
    """Return what a line asks for when it is carried out again.

    A stop of the past does not stop the run again, but its checkpoint is saved: a rollback after a loss spike may use
    it. One that the run itself has scheduled is still to come.

    Raises:
        ValueError: if a newer version wrote a command that this one does not know.
    """
    assert entry.command is not None
    command = parse(entry.command, f"journal, {entry.source}" if is_own else "replay")
    actions = [command.action]
    if command.at is None or not is_own:
        if command.action is Action.STOP:
            actions = [Action.SAVE]
        elif command.action is Action.EVALUATE_AND_STOP:
            actions = [Action.EVALUATE, Action.SAVE]
    return [Planned(entry.step, dataclasses.replace(command, action=action), is_journaled) for action in actions]


class Journal:
    """Journal of the run in a folder. Only the main process has it."""

    def __init__(self, folder: Path) -> None:
        """Write nothing yet."""
        self.path = folder / JOURNAL_FILE

    def begin(self) -> None:
        """Remove the last line if a kill has cut it off: its command was not carried out.

        Raises:
            OSError: if the file cannot be written.
        """
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    def drop_after(self, step: int) -> bool:
        """Drop the commands after a step, if there are any; the file keeps their lines.

        Raises:
            OSError: if the file cannot be read or written.
        """
        has_later = any(entry.step > step for entry in in_effect(journal_lines(self.path).values))
        if has_later:
            self.append([Entry(step, None, f"replay {NEVER}")])
        return has_later

    def append(self, entries: Sequence[Entry]) -> None:
        """Add lines; they are on the disk afterwards.

        Raises:
            OSError: if they cannot be written; then none of them is.
        """
        content = "".join(seal(dataclasses.asdict(entry)) + "\n" for entry in entries)
        append_whole(self.path, content.encode("ascii"), durable=True)
