"""Commands that the page starts: their forms, and the words of their command lines.

Only the commands listed here can be started, each with the options that it declares itself. Values are passed as words
of an argument list, never through a shell.
"""

import argparse
import importlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from songgen.families.use.song_folder import RESERVED_OPTIONS, read_song_request
from songgen.runtime.files import expand_home
from songgen.runtime.json_files import parse_json, read_json_object
from songgen.ui.configuring.files import require_values_inside
from songgen.ui.fields import Field, fields_of_parser
from songgen.ui.workspace import Workspace

STARTABLE = {
    "prepare": "songgen.cli.data.prepare",
    "tokenizer": "songgen.cli.data.tokenizer",
    "codec": "songgen.cli.data.codec",
    "init": "songgen.cli.models.init",
    "tokenize": "songgen.cli.data.tokenize",
    "try": "songgen.cli.training.tryout",
    "train": "songgen.cli.training.train",
    "generate": "songgen.cli.models.generate",
    "compare": "songgen.cli.models.compare",
    "plot": "songgen.cli.training.plot",
    "export": "songgen.cli.models.export",
    "doctor": "songgen.cli.doctor",
    "push": "songgen.cli.models.push",
}
"""Command -> module that declares its options."""

FREE_TEXTS = frozenset({"lyrics", "caption", "language", "license"})
"""Options that are never read as paths."""

MAX_WORD_BYTES = 100_000
"""Maximum number of bytes of one value in UTF-8; Linux allows 128 KiB in one word of a command line."""


@dataclass(frozen=True)
class CommandForm:
    """Options of a command, as fields of a form."""

    name: str
    """Name of the command."""

    fields: tuple[Field, ...]
    """Options and arguments."""

    @property
    def takes_keys(self) -> bool:
        """Whether keys of a configuration can be given after the configuration file."""
        return any(field.name == "config" for field in self.fields)


@cache
def command_form(name: str) -> CommandForm:
    """Return the form of a command.

    Raises:
        ValueError: if the page does not start this command.
    """
    return CommandForm(name, tuple(fields_of_parser(_parser(name))))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser(name: str) -> _Parser:
    """Return the parser of a command, which raises a `ValueError` where the command would end with a message.

    Raises:
        ValueError: if the page does not start this command.
    """
    if name not in STARTABLE:
        raise ValueError(f"{name} is not a command that the page starts")
    parser = _Parser(prog=f"songgen {name}", conflict_handler="resolve", add_help=False)
    importlib.import_module(STARTABLE[name]).add_arguments(parser)
    return parser


def require_parsable(words: Sequence[str]) -> None:
    """Check that a command accepts its words, such as numbers, before it is started or its values are stored.

    Raises:
        ValueError: if it does not; the message is that of the command.
    """
    _parser(words[1]).parse_args(words[2:])


def command_words(name: str, values: Mapping[str, Any], workspace: Workspace) -> list[str]:
    """Return the words of a command line, beginning with `songgen`.

    Args:
        name: name of the command.
        values: option -> value; None and empty texts are left out. `keys` may be a table of keys of the configuration.
        workspace: folders that paths must be in.

    Raises:
        ValueError: if an option does not exist, has a value of a wrong type, or names a path outside of the folders.
    """
    form = command_form(name)
    fields = {field.name: field for field in form.fields}
    unknown = sorted({*values} - {*fields} - ({"keys"} if form.takes_keys else set()))
    if unknown:
        raise ValueError(f"songgen {name} has no option {', '.join(unknown)}")
    options: list[str] = []
    arguments: list[str] = []
    for option, field in fields.items():
        for value in _texts(field, values.get(option)):
            if option not in FREE_TEXTS:
                # Of FOLDER:STRENGTH, as options for adapters have it, the folder as well.
                workspace.require_inside([value, value.rpartition(":")[0]], option)
            if not field.flag:
                arguments.append(_argument(option, value))
            elif field.kind == "switch":
                options.append(field.flag)
            else:
                options.append(f"{field.flag}={value}")
    keys = values.get("keys") or {}
    if not isinstance(keys, dict):
        raise ValueError("keys: a table of keys is expected")
    if form.takes_keys and values.get("config"):
        _require_config_inside(str(values["config"]), workspace)
    if name == "generate" and values.get("request"):
        _require_request_inside(workspace.existing_folder(str(values["request"]), "request"), workspace)
    return ["songgen", name, *options, *arguments, *_key_words(keys, workspace)]


def command_values(words: Sequence[str]) -> dict[str, Any]:
    """Return the values that `command_words` makes a command line of.

    Args:
        words: command line, beginning with `songgen`.

    Raises:
        ValueError: if the page does not start this command.
    """
    form = command_form(words[1] if len(words) > 1 else "")
    by_flag = {field.flag: field for field in form.fields if field.flag}
    values: dict[str, Any] = {}
    rest = list(words[2:])
    while rest and rest[0].partition("=")[0] in by_flag:
        flag, is_given, value = rest.pop(0).partition("=")
        field = by_flag[flag]
        if field.kind == "list":
            values.setdefault(field.name, []).append(value)
        else:
            values[field.name] = value if is_given else True
    for field in form.fields:
        if not field.flag and rest and not rest[0].startswith("--"):
            values[field.name] = rest.pop(0)
    if form.takes_keys and rest:
        pairs = (word.removeprefix("--").partition("=") for word in rest)
        values["keys"] = {key: text for key, _, text in pairs}
    return values


def command_text(words: Sequence[str]) -> str:
    """Return a command as it can be pasted into a terminal."""
    return shlex.join(words)


def _texts(field: Field, value: Any) -> list[str]:
    """Return the texts of a value on a command line: none, one, or several for an option that can be repeated.

    Raises:
        ValueError: if the value does not fit the option.
    """
    if value is None or value == "" or value is False or value == []:
        return []
    if field.kind == "switch":
        if value is not True:
            raise ValueError(f"{field.name}: true or false is expected")
        return [""]
    items = value if isinstance(value, list) and field.kind == "list" else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise ValueError(f"{field.name}: a text or a number is expected")
        if isinstance(item, str) and "\0" in item:
            raise ValueError(f"{field.name}: the character NUL cannot be in a text")
        if isinstance(item, str):
            _require_short(field.name, item)
    if field.choices and items[0] not in field.choices:
        raise ValueError(f"{field.name}: one of {', '.join(map(str, field.choices))} is expected")
    return [str(item) for item in items]


def _argument(name: str, value: str) -> str:
    """Return the value of an argument without an option.

    Raises:
        ValueError: if a command would take it for an option.
    """
    if value.startswith("-"):
        raise ValueError(f"{name}: {value} begins with a hyphen; write ./{value}")
    return value


def _key_words(keys: Mapping[str, Any], workspace: Workspace) -> list[str]:
    """Return the words that override keys of a configuration.

    Raises:
        ValueError: if a name is not one of a key, or a value names a path outside of the folders.
    """
    words: list[str] = []
    for name, value in keys.items():
        if not name.replace(".", "_").isidentifier():
            raise ValueError(f"keys: {name} is not a name of a key")
        workspace.require_inside([value, _as_read(value)], name)
        # One word, so that a value that begins with hyphens is not taken for another key.
        text = value if isinstance(value, str) else json.dumps(value)
        _require_short(name, text)
        words.append(f"--{name}={text}")
    return words


def _require_short(name: str, text: str) -> None:
    """Check that a text fits into one word of a command line.

    Raises:
        ValueError: if it does not.
    """
    if len(text.encode("utf-8", "replace")) > MAX_WORD_BYTES:
        raise ValueError(f"{name}: the text is too long (at most {MAX_WORD_BYTES // 1000} kB in UTF-8)")


def _as_read(value: Any) -> Any:
    """Return a value as the command reads it: a text may be a list or a table in JSON."""
    try:
        return parse_json(value) if isinstance(value, str) and value.lstrip().startswith(("[", "{", '"')) else value
    except ValueError:
        return value


def _require_config_inside(name: str, workspace: Workspace) -> None:
    """Check the paths in a configuration file: it may have been written by others, or uploaded.

    Raises:
        ValueError: if a path is outside of the folders, or the file cannot be read.
    """
    if workspace.path(name, "config").is_file():  # otherwise a shipped one, or the command says what is wrong
        path = workspace.root / expand_home(name)
        require_values_inside(workspace, path, read_json_object(path))


def _require_request_inside(folder: Path, workspace: Workspace) -> None:
    """Check the options in the request of a folder of songs, which may have been written by others.

    Raises:
        ValueError: if there is no request, or it has an option that cannot be given on the page.
    """
    request = read_song_request(folder)
    for take in request.takes:
        own = {"model": take.model, "adapter": list(take.adapter), "out": take.name + request.ending}
        if reserved := sorted(RESERVED_OPTIONS & {*request.options}):
            raise ValueError(f"{folder.name}: the options of a request cannot have {', '.join(reserved)}")
        command_words("generate", {**request.options, **own}, workspace)
