"""The configuration of `songgen prepare`: nested JSON with one section for each step, checked before anything runs."""

import dataclasses
import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from songgen.config.checks import Problem
from songgen.config.keys import ConfigKey, keys_of, type_problem, unknown_key
from songgen.config.loading import read_layers, source_of, split_command_line
from songgen.config.recipes import PREPARING, find_recipe
from songgen.config.run_config import raise_problems
from songgen.config.types import PositiveInt, Probability, accepts, coerce, describe, parse_text
from songgen.prepare.sections import SECTIONS, Sections
from songgen.runtime.files import expand_home

PREPARE_CONFIG_FILE = "prepare.json"
"""In a prepared data set: the configuration that it was made with, which can be used again."""

OWN_KEYS = ("inputs", "output_dir", "import_settings")
"""Keys that `import_settings` does not import: inputs and outputs."""

KEYS_HINT = "`songgen prepare --help` lists all keys"


@dataclass(frozen=True)
class PrepareSettings:
    """Keys at the top level of the file."""

    inputs: list[str | dict[str, Any]] | str = field(default_factory=list)
    """Songs: folders, `metadata.jsonl`, LJSpeech lists, saved data sets, hub ids. An entry is a path, or a table with
    `name` and further keys (see below). A single path may be given without a list."""

    output_dir: str = ""
    """Folder of the data set to write. Intermediate results are kept in `<output_dir>.work`."""

    workers: PositiveInt = 1
    """Number of worker processes; 1 works in this process. Leave it at 1 under `accelerate launch`."""

    audio_roots: list[str] = field(default_factory=list)
    """Further folders that may contain audio files, in addition to a manifest's own; a path outside of them is
    refused."""

    max_bad_fraction: Probability = 0.5
    """Largest fraction of songs that cannot be read; above it, no data set is written, since a setting is probably
    wrong."""

    seed: int = 42
    """Seed of all random choices."""

    language: str = ""
    """Language of songs that give none, as a code such as `en` or a name; empty lets the recognizer detect it."""

    import_settings: str | None = None
    """A prepared data set, or the output folder of a training run on one, whose settings are used where this file gives
    none."""


@dataclass(frozen=True)
class InputOptions:
    """Keys of an entry of `inputs` that is a table."""

    name: str = ""
    """Folder, file or hub id."""

    method: Literal["auto", "json", "folder", "ljspeech", "hf"] = "auto"
    """Format: `folder` NAME.mp3 with text files next to it, `json` a manifest (JSON, CSV or Parquet), `ljspeech` lines
    of path|text, `hf` a saved data set or a hub id, `auto` decided by the name."""

    annotations: str | None = None
    """A manifest whose columns are merged in by id; its values take precedence."""

    config_name: str | None = None
    """Configuration of a hub data set."""

    split: str = "train"
    """Split of a saved or hub data set to read."""

    max_rows: PositiveInt | None = None
    """Number of rows to read, from the first. null: all."""

    columns: dict[str, str] = field(default_factory=dict)
    """Column names that differ from the default, for `id`, `caption`, `lyrics`, `language`, `audio`, `vocal`, `acc`,
    such as {"caption": "text"}."""

    use_for: Literal["train", "eval"] | None = None
    """Split of these songs. null: `split` decides."""


COLUMNS = ("id", "caption", "lyrics", "language", "audio", "vocal", "acc")
"""Keys that `columns` of an input may have."""


@dataclass(frozen=True)
class PrepareConfig:
    """A checked configuration."""

    settings: PrepareSettings
    """Keys at the top level."""

    inputs: tuple[InputOptions, ...]
    """Inputs to read."""

    sections: Sections
    """Options of all sections."""

    sources: tuple[str, ...] = ()
    """Files that it was read from, starting with the base."""

    @property
    def output_folder(self) -> Path:
        """Path of the data set."""
        return Path(self.settings.output_dir).resolve()

    @property
    def work_folder(self) -> Path:
        """Path of the folder with intermediate results."""
        return self.output_folder.with_name(self.output_folder.name + ".work")

    def to_dict(self) -> dict[str, Any]:
        """Return all values for JSON, without seeds of sections that equal the run's seed."""
        values = dataclasses.asdict(self.settings)
        for name, options in self.sections.options.items():
            values[name] = None if options is None else dataclasses.asdict(options)
            if options is not None and values[name].get("seed") == self.settings.seed:
                del values[name]["seed"]  # so that another seed, given together with this file, applies to the section
        return values

    def meaning(self) -> dict[str, Any]:
        """Return all values that the result depends on: all except the number of workers and the devices."""
        values = self.to_dict()
        del values["workers"]
        for section in values.values():
            if isinstance(section, dict):
                section.pop("device", None)
        return values

    def save(self, path: Path) -> None:
        """Write the resolved configuration; it loads back to an equal one."""
        path.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_prepare_config(argv: Sequence[str]) -> PrepareConfig:
    """Read a configuration from a command line: ``CONFIG.json [--key value] [--section.key value] [--section null]``.

    Raises:
        ValueError: If there are unknown keys, wrong values or contradictions; lists all of them.
    """
    files, overrides, problems = split_command_line(argv)
    layers = read_layers(find_recipe(files[0], PREPARING)) if files else []
    sources = tuple(str(file) for file, _ in layers)
    given = [values for _, values in layers]
    for key, text in overrides:
        given.append(_override(key, text, problems))
    where = source_of(sources, overridden=bool(overrides))
    return config_of_layers(given, sources=sources, where=where, problems=problems)


def config_of_layers(
    given: Sequence[Mapping[str, Any]],
    *,
    sources: tuple[str, ...] = (),
    where: str = "the configuration",
    problems: Sequence[Problem] = (),
) -> PrepareConfig:
    """Build a configuration from layers of nested values, and from the settings that `import_settings` names.

    Args:
        given: values as in JSON files; later ones take precedence.
        sources: files that the values were read from.
        where: name of the source in messages.
        problems: problems that are known already.

    Raises:
        ValueError: If there are problems; lists all of them.
    """
    found, layers = list(problems), list(given)
    imported = next((values["import_settings"] for values in layers[::-1] if "import_settings" in values), None)
    if isinstance(imported, str):
        try:
            layers = [_imported(Path(imported).expanduser()), *layers]
        except ValueError as error:
            found.append(Problem(("import_settings",), f"import_settings: {error}"))
    return config_of_values(merge_layers(layers), sources=sources, where=where, problems=found)


def config_of_values(
    values: Mapping[str, Any],
    *,
    sources: tuple[str, ...] = (),
    where: str = "the configuration",
    problems: Sequence[Problem] = (),
) -> PrepareConfig:
    """Build a configuration from nested values.

    Args:
        values: values as in the JSON file.
        sources: files that the values were read from.
        where: name of the source in messages.
        problems: problems that are known already.

    Raises:
        ValueError: If there are problems; lists all of them.
    """
    found = list(problems)
    known = [*_keys(PrepareSettings), *SECTIONS]
    found += [unknown_key(name, known, KEYS_HINT) for name in values if name not in known]
    top = {name: value for name, value in values.items() if name in _keys(PrepareSettings)}
    if isinstance(top.get("inputs"), str):
        top["inputs"] = [top["inputs"]]
    settings = _build(PrepareSettings, "", top, found)
    seed = settings.seed if settings is not None else PrepareSettings.seed
    sections = {
        name: _section(name, values.get(name, section.is_on), seed, found) for name, section in SECTIONS.items()
    }
    if not found:
        found += _unmet_needs(sections)
    inputs = tuple(_inputs(top.get("inputs", []), found))
    if not top.get("output_dir"):
        found.append(Problem(("output_dir",), "output_dir: not given; name the folder of the data set to write"))
    if not top.get("inputs"):
        found.append(Problem(("inputs",), "inputs: not given; name the songs: a folder, a manifest, a data set"))
    raise_problems(found, where)
    return PrepareConfig(settings, inputs, Sections(sections), sources)


def help_text() -> str:
    """Return every key with its type, default and meaning."""
    lines = ["keys of CONFIG.json, and on the command line as --key value:", *_key_lines(PrepareSettings, "")]
    lines += ["", "an entry of inputs may be a table:", *_key_lines(InputOptions, "", is_flag=False)]
    for name, section in SECTIONS.items():
        state = "" if not section.can_be_off else f" ({'on' if section.is_on else 'off'} by default)"
        lines += ["", f"{name}: {section.summary}{state}"]
        lines += _key_lines(section.options, f"{name}.")
    return "\n".join(lines)


def _key_lines(options: type, prefix: str, *, is_flag: bool = True) -> Iterator[str]:
    for key in keys_of(prefix, options):
        written = f"{'--' if is_flag else ''}{prefix}{key.name}"
        yield f"  {written}  {describe(key.annotation)} (default {_json(key.default)})"
        yield from textwrap.wrap(key.help, width=100, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _json(value: Any) -> str:
    return json.dumps(value, default=repr)


def _keys(options: type) -> dict[str, ConfigKey]:
    return {key.name: key for key in keys_of("", options)}


def merge_layers(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge layers, of which later ones take precedence; a section is merged key by key, and any key switches it on."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            present = merged.get(name)
            if name in SECTIONS and isinstance(value, dict):
                merged[name] = {**(present if isinstance(present, dict) else {}), **value}
            elif name in SECTIONS and value is True:
                merged[name] = present if isinstance(present, dict) else {}
            else:
                merged[name] = value
    return merged


def _override(written: str, text: str | None, problems: list[Problem]) -> dict[str, Any]:
    """Return one override of the command line as a layer of values."""
    name, _, key = written.partition(".")
    if name in SECTIONS and not key:
        return {name: True if text is None else _section_text(name, text)}
    keys = _keys(SECTIONS[name].options) if name in SECTIONS else _keys(PrepareSettings)
    wanted = key if name in SECTIONS else written
    if wanted not in keys:
        # An unknown key of a section is reported with the others; a key of no section cannot be nested.
        return {name: {key: text}} if name in SECTIONS else {written: text}
    annotation = keys[wanted].annotation
    value: Any = text
    if text is None:
        if not accepts(annotation, bool):
            problems.append(Problem((written,), f"--{written}: needs a value, expected {describe(annotation)}"))
            return {}
        value = True
    else:
        try:
            value = parse_text(text, annotation)
        except ValueError:
            pass  # the check of all values reports the problem
    return {name: {key: value}} if name in SECTIONS else {wanted: value}


def _section_text(name: str, text: str) -> Any:
    """Parse a value given for a section itself: a table, a switch, or the value of its main key."""
    try:
        return parse_text(text, dict[str, Any] | bool | None)
    except ValueError:
        main_key = SECTIONS[name].main_key
        if not main_key:
            return text
    annotation = _keys(SECTIONS[name].options)[main_key].annotation
    return {main_key: text.split(",") if accepts(annotation, tuple) else text}


def _section(name: str, value: Any, seed: int, problems: list[Problem]) -> Any:
    """Return the options of a section, with the run's seed as default; None if it is off or has problems."""
    section = SECTIONS[name]
    if value is None or value is False:
        if not section.can_be_off:
            problems.append(Problem((name,), f"{name}: cannot be switched off; remove the key"))
        return None
    if value is True:
        value = {}
    if not isinstance(value, dict):
        message = f"{name}: {_json(value)} is not valid, expected a table of keys, or null to switch the step off"
        problems.append(Problem((name,), message))
        return None
    seeds = {"seed": seed} if "seed" in _keys(section.options) else {}
    return _build(section.options, f"{name}.", {**seeds, **value}, problems)


def _build(options: type, prefix: str, values: Mapping[str, Any], problems: list[Problem]) -> Any:
    """Return an options object, or None after adding all problems of the values."""
    keys = _keys(options)
    found = [_with_prefix(unknown_key(name, list(keys), KEYS_HINT), prefix) for name in values if name not in keys]
    checks = (type_problem(keys[name], f"{prefix}{name}", values[name]) for name in values if name in keys)
    found += [problem for problem in checks if problem]
    required = [field.name for field in dataclasses.fields(options) if _is_required(field)]
    for name in required:
        if name not in values:
            message = f"{prefix}{name}: not given; {keys[name].help}"
            found.append(Problem((f"{prefix}{name}",), message))
    problems += found
    if found:
        return None
    try:
        return options(**{name: coerce(value, keys[name].annotation) for name, value in values.items()})
    except ValueError as error:
        problems.append(Problem((prefix,), f"{prefix}{error}"))
        return None


def _unmet_needs(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the limits of the filter that no step provides measurements for: they would let every clip pass."""
    options = sections["filter"]
    for needed, limit in ({} if options is None else options.needs()).items():
        name, _, key = needed.partition(".")
        section = sections.get(name)
        if (section is not None and key and not getattr(section, key)) or (section is None and not key):
            wanted = f"set {needed}" if key else f"switch {name} on"
            message = f"filter.{limit}: its value is not measured; {wanted}, or remove this limit"
            yield Problem((f"filter.{limit}", needed), message)


def _is_required(field_: "dataclasses.Field[Any]") -> bool:
    return field_.default is dataclasses.MISSING and field_.default_factory is dataclasses.MISSING


def _with_prefix(problem: Problem, prefix: str) -> Problem:
    """Return a problem of a section's key with the full name of the key."""
    return Problem(tuple(f"{prefix}{key}" for key in problem.keys), f"{prefix}{problem.message}")


def _inputs(entries: Any, problems: list[Problem]) -> Iterator[InputOptions]:
    for number, entry in enumerate(entries if isinstance(entries, list) else [], 1):
        prefix = f"inputs {number}: "
        if isinstance(entry, str):
            yield InputOptions(name=expand_home(entry))
        elif isinstance(entry, dict):
            options = _build(InputOptions, prefix, entry, problems)
            if options is None:
                continue
            problems += [
                _with_prefix(unknown_key(name, COLUMNS, f"columns are {', '.join(COLUMNS)}"), f"{prefix}columns.")
                for name in options.columns
                if name not in COLUMNS
            ]
            if not options.name:
                problems.append(Problem(("inputs",), f"{prefix}name: not given; name a folder, a file or a hub id"))
            yield options


def _imported(folder: Path) -> dict[str, Any]:
    """Return the settings that a data set in a folder was prepared with.

    Raises:
        ValueError: If there are none.
    """
    for place in _places_of_settings(folder):
        if (place / PREPARE_CONFIG_FILE).is_file():
            (_, values), *_ = read_layers(place / PREPARE_CONFIG_FILE)
            return {name: value for name, value in values.items() if name not in OWN_KEYS}
    raise ValueError(
        f"there is no {PREPARE_CONFIG_FILE} in {folder}, nor in the data sets that a training run there has read"
    )


def _places_of_settings(folder: Path) -> Iterator[Path]:
    """Yield the folder and, if it is that of a run, the prepared data sets that its tokens may come from."""
    yield folder
    from songgen.train.checkpoints.files import RUN_CONFIG_FILE

    config = folder / RUN_CONFIG_FILE
    if config.is_file():
        (_, values), *_ = read_layers(config)
        named = values.get("save_to_disk") or []
        for name in [named] if isinstance(named, str) else named:
            yield Path(name)
            yield Path(os.path.normpath(str(name).removesuffix("_tokens")))
