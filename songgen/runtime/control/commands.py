"""Commands to a run while it trains: values of one type, and the one parser of their texts.

A signal, a file, a line on the terminal and a request of `songgen ctl` all become a `Command`. Its text has one form,
in which it is exchanged between processes, journaled and kept in checkpoints.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MAX_TEXT = 200
"""Maximum length of a command's text."""

MAX_LEARNING_RATE = 1.0
"""Highest learning rate that a command sets: more is a forgotten minus sign in the exponent."""

AUTO, SHOW, CLEAR = "auto", "show", "clear"
"""Words that commands take as an argument."""

Argument = float | int | str | None
"""Argument of a command: a number, one of the words above, or None if there is none."""

Reply = Callable[[str, bool], None]
"""Function that tells the sender of a command what came of it, and whether it was carried out."""

_WORDS_FOR_AUTO = (AUTO, "reset")
_SCHEDULED = re.compile(r"\s*(\d{1,12})(?!\S)(.*)", re.DOTALL)
_COUNT = re.compile(r"\d{1,12}")


class Action(enum.Enum):
    """Action that a run can be asked for; the value is its name in texts."""

    STOP = "quit"
    SAVE = "save"
    LEARNING_RATE = "lr"
    LOSS_SCALE = "loss_scale"
    EVALUATE = "eval"
    EVALUATE_AND_STOP = "eval_quit"
    SAMPLE = "sample"
    EXPORT = "export"
    EVENT = "event"
    TIME = "time"
    STATUS = "status"
    HELP = "help"


@dataclass(frozen=True)
class Command:
    """Command to a run."""

    action: Action
    """Action to take."""
    source: str
    """Source of the command: name of a signal or a file, the terminal, or who sent a request."""
    argument: Argument = None
    """Argument of the command."""
    at: int | None = None
    """Number of completed steps after which the command is due (`COMMAND@STEP`); None for at once."""
    reply: Reply | None = field(default=None, compare=False, repr=False)
    """Function that tells the sender what came of it; None if nobody waits for an answer."""

    @property
    def text(self) -> str:
        """Text of the command, which `parse` reads as the same command."""
        words = [self.action.value]
        if self.action is Action.TIME and self.argument is not None:
            words.append("to")
        if self.argument is not None:
            words.append(str(self.argument))
        return " ".join(words) + ("" if self.at is None else f"@{self.at}")

    @property
    def is_question(self) -> bool:
        """Whether the command only asks for an answer; all others act on the run."""
        if self.action is Action.EVENT:
            return self.argument != CLEAR
        return self.action in _QUESTIONS or (self.action is Action.LEARNING_RATE and self.argument is None)

    def answer(self, text: str, *, is_done: bool = True) -> None:
        """Tell the sender what came of the command, and whether it was carried out."""
        if self.reply is not None:
            self.reply(f"{self.text}: {text}", is_done)


_QUESTIONS = (Action.TIME, Action.STATUS, Action.HELP)


@dataclass(frozen=True)
class _Form:
    """Form of a command."""

    usage: str
    """How the command is written."""
    meaning: str
    """What it does, one line."""
    read: Callable[[Sequence[str]], Argument]
    """Function that reads the argument from the words after the name, and raises a ValueError if they are wrong."""


def _nothing(words: Sequence[str]) -> Argument:
    if words:
        raise ValueError(f"takes no argument, got {' '.join(words)!r}")
    return None


def _number(words: Sequence[str]) -> float:
    if len(words) != 1:
        raise ValueError(f"takes one number, got {' '.join(words) or 'none'}")
    try:
        value = float(words[0])
    except ValueError:
        raise ValueError(f"{words[0]!r} is not a number") from None
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{words[0]} is not a positive number")
    return value


def _learning_rate(words: Sequence[str]) -> Argument:
    if not words:
        return None
    if len(words) == 1 and words[0].lower() in _WORDS_FOR_AUTO:
        return AUTO
    value = _number(words)
    if value > MAX_LEARNING_RATE:
        raise ValueError(f"{words[0]} is above {MAX_LEARNING_RATE:g}")
    return value


def _count(words: Sequence[str]) -> int:
    if len(words) != 1 or not _COUNT.fullmatch(words[0]) or int(words[0]) < 1:
        raise ValueError(f"takes a whole number from 1, got {' '.join(words) or 'none'}")
    return int(words[0])


def _songs(words: Sequence[str]) -> Argument:
    return _count(words) if words else None


def _time(words: Sequence[str]) -> Argument:
    if not words:
        return None
    if words[0].lower() != "to":
        raise ValueError(f"takes nothing or 'to STEP', got {' '.join(words)!r}")
    return _count(words[1:])


def _event(words: Sequence[str]) -> Argument:
    word = words[0].lower() if words else SHOW
    if len(words) > 1 or word not in (SHOW, CLEAR):
        raise ValueError(f"takes {SHOW} or {CLEAR}, got {' '.join(words)!r}")
    return word


FORMS: dict[Action, _Form] = {
    Action.SAVE: _Form("save", "save a checkpoint", _nothing),
    Action.STOP: _Form("quit", "save a checkpoint and the model, and end", _nothing),
    Action.LEARNING_RATE: _Form(
        "lr X",
        "learning rate of the next step, which the schedule scales from there; lr auto: as configured; lr: show it",
        _learning_rate,
    ),
    Action.EVALUATE: _Form("eval", "evaluate now", _nothing),
    Action.EVALUATE_AND_STOP: _Form("eval_quit", "evaluate, then as quit", _nothing),
    Action.SAMPLE: _Form("sample [N]", "generate N songs of the evaluation set now", _songs),
    Action.EXPORT: _Form("export", "write the model of this step to exports/step-N in the run's folder", _nothing),
    Action.LOSS_SCALE: _Form("loss_scale X", "loss scale of the next step (dtype float16)", _number),
    Action.TIME: _Form("time [to N]", "speed and remaining time, or when step N is due", _time),
    Action.EVENT: _Form("event show|clear", "show or cancel what is scheduled with COMMAND@STEP", _event),
    Action.STATUS: _Form("status", "step, learning rate, speed and what is scheduled", _nothing),
    Action.HELP: _Form("help", "this list", _nothing),
}  # fmt: skip
"""Forms of all commands, in the order in which they are listed."""

ALIASES = {"stop": Action.STOP.value, "exit": Action.STOP.value}
"""Other names of commands."""

_NAMES = [action.value for action in FORMS]
SCHEDULED = ("COMMAND@STEP", "carry a command out after that step, such as lr 1e-5@2000 or save@500")
"""How a command is scheduled, and what that does."""


def help_text() -> str:
    """Return the list of all commands."""
    rows = [(form.usage, form.meaning) for form in FORMS.values()]
    rows.append(SCHEDULED)
    width = max(len(usage) for usage, _ in rows)
    return "\n".join(f"{usage:<{width}}  {meaning}" for usage, meaning in rows)


def parse(text: str, source: str, reply: Reply | None = None) -> Command:
    """Read a command.

    Args:
        text: text of the command, such as "lr 5e-5" or "save@500".
        source: source of the command.
        reply: function that tells the sender what came of it.

    Raises:
        ValueError: if it is not a command; the message says what is possible.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"a command has at most {MAX_TEXT} characters")
    head, mark, tail = text.partition("@")
    at = None
    if mark:
        found = _SCHEDULED.fullmatch(tail)
        if found is None:
            raise ValueError(f"{text.strip()!r}: after @ comes the number of a step, as in save@500")
        at, head = int(found[1]), head + found[2]
    words = head.split()
    if not words:
        raise ValueError(f"there is no command; possible: {', '.join(_NAMES)}")
    name = ALIASES.get(words[0].lower(), words[0].lower())
    if name not in _NAMES:
        near = difflib.get_close_matches(name, [*_NAMES, *ALIASES], n=1)
        end = f"; did you mean {near[0]}?" if near else "."
        raise ValueError(f"there is no command {words[0]!r}{end} Possible: {', '.join(_NAMES)}")
    action = Action(name)
    try:
        command = Command(action, source, FORMS[action].read(words[1:]), at, reply)
    except ValueError as error:
        form = FORMS[action]
        raise ValueError(f"{name}: {error}; expected {form.usage} ({form.meaning})") from None
    if at is not None and command.is_question:
        raise ValueError(f"{text.strip()!r}: only commands that act on the run can be scheduled")
    return command


def receive(text: str, source: str, reply: Reply) -> Command | None:
    """Read a command that has just arrived. A wrong one and a call for help are answered at once.

    Returns:
        The command for the run; None if it was answered.
    """
    try:
        command = parse(text, source, reply)
    except ValueError as error:
        reply(str(error), False)
        return None
    if command.action is Action.HELP:
        reply(help_text(), True)
        return None
    return command
