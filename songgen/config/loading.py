"""Reading a configuration: strict JSON files, inheritance by `"base"`, and command-line overrides."""

import importlib.util
import json
import logging
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from songgen.config.checks import ConfigError, Problem
from songgen.config.foreign.ignored import ALIASES
from songgen.config.foreign.spellings import SPELLINGS, Use, experiment_folder, translate
from songgen.config.keys import GROUPS, all_keys
from songgen.config.recipes import TRAINING, find_recipe
from songgen.config.run_config import RunConfig, key_problem, raise_problems
from songgen.config.types import accepts, describe, parse_text
from songgen.runtime.files import expand_home, read_regular
from songgen.runtime.json_files import MAX_JSON_BYTES, parse_json
from songgen.runtime.processes.launcher import has_accelerator

logger = logging.getLogger(__name__)

BASE_KEY = "base"
"""Key of a JSON file that names the file from which it inherits values, relative to itself."""


def load_run_config(argv: Sequence[str], *, description: str, warn: bool = True) -> RunConfig:
    """Read the configuration of a launch from its command line: ``CONFIG.json [--key value ...]``.

    Args:
        argv: Arguments without the program's name. The file is a path or the name of a shipped recipe.
        description: Description of the program for ``--help``.
        warn: Whether to name keys without effect; False if the same command line is read again.

    Returns:
        The validated configuration; keys without effect are named once in a warning.

    Raises:
        ValueError: if files or command line have unknown keys, wrong values or contradictions; all are listed.
        SystemExit: after ``--help``.
    """
    if any(argument in ("--help", "-h") for argument in argv):
        print(help_text(description))
        raise SystemExit(0)
    uses: list[Use] = []
    overriding: list[Use] = []
    files, overrides, problems = _split_arguments(list(argv), overriding)
    values, chain = read_config_file(find_recipe(files[0], TRAINING), uses) if files else ({}, ())
    uses += overriding
    where = source_of(chain, overridden=bool(overrides))
    config = _resolved(values | overrides, chain, uses, problems, where)
    if warn:
        _warn_of_ignored(config)
        _say_spellings(uses)
    return config


def planned_config(path: Path, values: dict[str, Any]) -> RunConfig:
    """Return the configuration that a file would be read as, if it contained these values; nothing is written.

    Args:
        path: the file, from whose folder "base" is found.
        values: its content.

    Raises:
        ValueError: as `load_run_config` does.
    """
    uses: list[Use] = []
    merged, chain = read_config_file(path, uses, content=values)
    return _resolved(merged, chain, uses, [], source_of(chain, overridden=False))


def _resolved(
    values: dict[str, Any], chain: tuple[str, ...], uses: list[Use], problems: list[Problem], where: str
) -> RunConfig:
    """Return the configuration of merged values, with the output folder and the checks that depend on this machine.

    Raises:
        ConfigError: if there are problems, those given included.
    """
    problems += _name_output_folder(values, uses)
    try:
        config = RunConfig.from_dict(values, sources=chain)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems], where) from None
    if any(use.name == "epochs" and not use.keys for use in uses) and config.training.max_steps <= 0:
        message = "epochs: -1 trains until max_steps, which is not given; give one of them a positive value"
        problems.append(Problem(("epochs", "max_steps"), message))
    raise_problems(problems + _machine_problems(config), where)
    return config


def _name_output_folder(values: dict[str, Any], uses: list[Use]) -> list[Problem]:
    """Set the output folder of a run that another program would name by its experiment; return the problems."""
    try:
        use = experiment_folder(values, uses)
    except ValueError as error:
        return [Problem(("exp_name", "output_dir"), f"exp_name: {error}")]
    if use is not None:
        values |= use.keys
        uses[:] = [*(other for other in uses if other.name != use.name), use]
    return []


def source_of(files: Sequence[str], *, overridden: bool) -> str:
    """Return the name of a configuration's source in messages.

    Args:
        files: Files that were read, the most basic one first.
        overridden: Whether there are values from the command line too.
    """
    if not files:
        return "the command line"
    return " > ".join(files) + (" and the command line" if overridden else "")


def read_config_file(
    path: str | os.PathLike[str], uses: list[Use] | None = None, *, content: dict[str, Any] | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Read a JSON file and the files that it is based on.

    Args:
        path: File to read.
        uses: Receives the keys of other programs that were read.
        content: Content to take for the file's own, which is then not read.

    Returns:
        The flat values, in which a file overrides its base, and the chain of files, the most basic one first.

    Raises:
        ValueError: if a file is missing, is not one JSON object or repeats a key, or if the bases form a circle.
    """
    layers = read_layers(path, content=content)
    merged: dict[str, Any] = {}
    for file, values in layers:
        merged.update(_real_names(values, file, uses if uses is not None else []))
    return merged, tuple(str(file) for file, _ in layers)


def read_layers(
    path: str | os.PathLike[str], *, content: dict[str, Any] | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """Read a JSON file and the files that it is based on, without merging them.

    Args:
        path: File to read.
        content: Content to take for the file's own, which is then not read.

    Returns:
        File and values of each, the most basic one first, without "base".

    Raises:
        ValueError: if a file is missing, is not one JSON object or repeats a key, or if the bases form a circle.
    """
    layers: list[tuple[Path, dict[str, Any]]] = []
    following: Path | None = Path(path).expanduser()
    while following is not None:
        if following.resolve() in [file.resolve() for file, _ in layers]:
            circle = " > ".join(str(file) for file in [*(file for file, _ in layers), following])
            raise ValueError(f'{path}: the "base" files form a circle ({circle}); remove one "base"')
        if content is not None and not layers:
            values = dict(content)
        else:
            values = _read_json(following, required_by=layers[-1][0] if layers else None)
        base = values.pop(BASE_KEY, None)
        base = expand_home(base) if isinstance(base, str) else base
        if base is not None and not isinstance(base, str):
            raise ValueError(f'{following}: "base" is {json.dumps(base)}, expected the path of one JSON file')
        layers.append((following, values))
        following = None if base is None else Path(os.path.normpath(following.parent / base))
    return layers[::-1]


def help_text(description: str) -> str:
    """Return the text of ``--help``: usage, and every key with type, default and meaning."""
    usage = "usage: CONFIG.json [--key value ...]   (lists and tables as JSON, --flag alone is true)"
    return "\n".join([description, "", usage, keys_text()])


def keys_text() -> str:
    """Return every key with its type, default and meaning, by group."""
    lines: list[str] = []
    for group in (*GROUPS, "ignored"):
        lines += ["", f"{group}:" if group != "ignored" else "accepted without effect:"]
        for key in all_keys().values():
            if key.group == group:
                lines.append(f"  --{key.name}  {describe(key.annotation)} (default {json.dumps(key.default)})")
                lines += textwrap.wrap(key.help, width=100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _read_json(path: Path, required_by: Path | None) -> dict[str, Any]:
    try:
        content = read_regular(path, MAX_JSON_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = f' (the "base" of {required_by})' if required_by else ""
        raise ValueError(f"{path}{reason}: cannot be read as a text file: {error}") from error
    try:
        values = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected one JSON object of key to value, found {type(values).__name__}")
    return values


def _real_names(values: dict[str, Any], path: Path, uses: list[Use]) -> dict[str, Any]:
    """Rename the aliases of one file, so that an alias in a file overrides the real name in its base."""
    values, used, problems = translate(values)
    raise_problems(problems, str(path))
    uses += used
    for alias, real in ALIASES.items():
        if alias in values and real in values:
            raise ValueError(f"{path}: {alias} is another name of {real}, and both are given; remove one")
    return {ALIASES.get(name, name): value for name, value in values.items()}


def _split_arguments(argv: list[str], uses: list[Use]) -> tuple[list[str], dict[str, Any], list[Problem]]:
    """Return the configuration file (none or one), the overrides, and their problems."""
    files, written, problems = split_command_line(argv)
    foreign = {key: _foreign_value(key, text) for key, text in written if key in SPELLINGS}
    overrides, used, found = translate(foreign)
    uses += used
    problems += found
    for key, text in written:
        if key in foreign:
            continue
        real = ALIASES.get(key, key)
        if real in overrides and (use := next((use for use in used if real in use.keys), None)):
            problems.append(Problem((real,), f"--{key}: --{use.name} means the same here; remove one"))
            continue
        problem = _override_problem(real, text, overrides)
        if problem:
            problems.append(problem)
    return files, overrides, problems


def _foreign_value(name: str, text: str | None) -> Any:
    """Return the value of another program's key on the command line; what is not of its type is reported later."""
    try:
        return parse_text(text or "", SPELLINGS[name].annotation)
    except ValueError:
        return text


def split_command_line(
    argv: Sequence[str],
) -> tuple[list[str], list[tuple[str, str | None]], list[Problem]]:
    """Split ``FILE --key value --key=value --flag``.

    Returns:
        The file (none or one), key and text of each override (None for a flag without a value), and problems.
    """
    files: list[str] = []
    overrides: list[tuple[str, str | None]] = []
    position = 0
    while position < len(argv):
        argument = argv[position]
        position += 1
        if not argument.startswith("--"):
            files.append(argument)
            continue
        written, equals, text = argument[2:].partition("=")
        given: str | None = text if equals else None
        if given is None and position < len(argv) and not argv[position].startswith("--"):
            given = argv[position]
            position += 1
        overrides.append((written.replace("-", "_"), given))
    problems = []
    if len(files) > 1:
        surplus = " ".join(files[1:])
        message = f"{surplus}: unexpected after {files[0]}; there is one file, and all other arguments are --key value"
        problems.append(Problem((), message))
    return files[:1], overrides, problems


def _override_problem(name: str, text: str | None, overrides: dict[str, Any]) -> Problem | None:
    """Parse one override into `overrides`, or return its problem."""
    problem = key_problem(name, text)
    if problem:
        return problem
    key = all_keys().get(name)
    if key is None:
        return None
    if text is None:
        if not accepts(key.annotation, bool):
            return Problem((name,), f"--{name}: needs a value, expected {describe(key.annotation)}")
        overrides[name] = True
        return None
    try:
        overrides[name] = parse_text(text, key.annotation)
    except ValueError:
        overrides[name] = text  # Reported by the validation of all values, together with the file's problems.
    return None


def _machine_problems(config: RunConfig) -> list[Problem]:
    """Return the settings that this machine does not support."""
    training = config.training
    if training.preprocessing_only:
        return []
    problems = []
    if training.dtype == "float16" and not has_accelerator():
        message = 'dtype: "float16" does not train on a CPU; use "bfloat16" or "float32"'
        problems.append(Problem(("dtype",), message))
    lora = config.adapter.lora_arguments()
    if lora is not None and importlib.util.find_spec("peft") is None:
        message = 'lora: adapters need peft; run `pip install -c constraints.txt -e ".[adapters]"`'
        problems.append(Problem(("lora",), message))
    if lora is not None and lora.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        message = (
            f'lora.quantization: "{lora.quantization}" needs bitsandbytes; run `pip install -c constraints.txt -e '
            '".[8bit]"`, or use "none"'
        )
        problems.append(Problem(("lora",), message))
    if training.optimizer == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        message = (
            'optimizer: "adamw_8bit" needs bitsandbytes; run `pip install -c constraints.txt -e ".[8bit]"`, '
            'or use "adamw"'
        )
        problems.append(Problem(("optimizer",), message))
    return problems


def _say_spellings(uses: Sequence[Use]) -> None:
    """Log what the keys of other programs were read as, once and on one process."""
    if os.environ.get("RANK", "0") == "0":
        for use in uses:
            logger.info("%s", use)


def _warn_of_ignored(config: RunConfig) -> None:
    """Log a warning with the keys without effect, once and on one process."""
    if config.ignored_keys and os.environ.get("RANK", "0") == "0":
        names = [f"{name} ({all_keys()[name].help})" for name in config.ignored_keys]
        logger.warning("keys without effect: %s", " ".join(names))
