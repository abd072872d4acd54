"""English texts of the program that the page shows, collected from its objects and, for messages, from its sources."""

import argparse
import ast
import importlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Formatter

from songgen.cli.main import COMMANDS
from songgen.config.adapter_arguments import LoraArguments
from songgen.config.keys import all_keys, keys_of
from songgen.data.reject_codes import REJECT_CODES
from songgen.data.sound.levels import FLAWS, Flaw
from songgen.doctor.findings import Kind, Level
from songgen.doctor.listing import FAILED, FINISHED, NAMES, RUNNING, STOPPED, UNFINISHED
from songgen.families.use.generating import option_groups
from songgen.planning.findings import Severity
from songgen.prepare.config import InputOptions, PrepareSettings
from songgen.prepare.engine.section import RefusalCode
from songgen.prepare.review.corrections import REVIEW_CODES
from songgen.prepare.sections import REFUSAL_CODES, SECTIONS
from songgen.prepare.timing.clip_plan import UNUSED_REASONS
from songgen.runtime.control.commands import FORMS, SCHEDULED
from songgen.web.guard import COMMON_HEADERS, DOCUMENT_POLICY

PACKAGE = Path(__file__).resolve().parents[2] / "songgen"

MESSAGE_SOURCES = (
    "planning/*.py",
    "doctor/*.py",
    "families/costs.py",
    "families/*/costs.py",
    "families/flow/keys.py",
    "families/songs.py",
    "families/use/song_folder.py",
    "config/checks.py",
    "config/data_arguments.py",
    "config/keys.py",
    "config/loading.py",
    "config/lora.py",
    "config/run_config.py",
    "prepare/config.py",
    "data/batch_plan.py",
    "data/dataset.py",
    "data/loader.py",
    "data/shards.py",
    "jobs/*.py",
    "runtime/control/requests.py",
    "runtime/file_hashes.py",
    "runtime/folder_owner.py",
    "runtime/json_lines.py",
    "runtime/pretrained.py",
    "runtime/processes/heartbeat.py",
    "runtime/tensor_files.py",
    "train/checkpoints/files.py",
    "train/checkpoints/manager.py",
    "train/checkpoints/resume.py",
    "train/comparing/measure.py",
    "train/control/*.py",
    "train/final_model.py",
    "train/optimization/anomalies.py",
    "train/reporting/banner.py",
    "train/reporting/plots/panels.py",
    "train/reporting/run_state.py",
    "web/application.py",
    "web/guard.py",
)
"""Modules whose messages the page shows, with the texts that these messages contain."""

PAGE_SOURCES = ("ui/*.py", "ui/*/*.py", "runtime/control/commands.py")
"""Modules of the page itself, and of the commands that it lists: what is not in its other catalogs is a message."""

PAGE_TEXTS = Path(PACKAGE, "ui", "texts", "zh")
"""Folder with its catalogs."""

NOT_SHOWN = {
    "| key | value | reason |",
    "# Choices in {0}",
    "can't allocate memory",
    "not enough memory",
    "cuda out of memory",
    "gave no batch",
    "{0} {1}s",
    "; nothing to change",
    " or ",
    " and ",
    "  {0}  {1} (default {2})",
    "  --{0}  {1} (default {2})",
    " (on by default)",
    " (off by default)",
    "usage: CONFIG.json [--key value ...]   (lists and tables as JSON, --flag alone is true)",
    "keys of CONFIG.json, and on the command line as --key value:",
    "an entry of inputs may be a table:",
    "ValueError: ",
    "error: ",
    "songgen check: ",
    "songgen {0}",
    "songgen ctl",
    "{0} (process {1} on {2})",
    "journal, {0}",
    "replay {0}",
    "another process",
    "{0} after step {1}",
    "lr X",
    "sample [N]",
    "loss_scale X",
    "time [to N]",
    "event show|clear",
    "generate {0}",
    "only for {0}",
    "the page",
    "python {0} --out datasets/demo_songs",
    "{0}( and {1})?",
    "private, max-age=31536000, immutable",
    "{0}={1}; Path=/; SameSite=Strict; Max-Age=31536000",
    "{0}={1}; HttpOnly; SameSite=Strict; Path=/",
    DOCUMENT_POLICY,
    COMMON_HEADERS["Content-Security-Policy"],
}
"""Texts of these modules that are in files, are looked for in other texts, or are put together for a terminal."""

STATES = {FAILED, FINISHED, RUNNING, STOPPED, UNFINISHED}

FINDING_FUNCTIONS = {"ok", "warning", "error", "Term"}
"""Functions of which single words are names that a person reads, too."""


def key_texts() -> set[str]:
    """Return the groups and helps of the keys of training configurations."""
    keys = list(all_keys().values())
    return {key.group for key in keys} | {key.help for key in (*keys, *keys_of("", LoraArguments))}


def prepare_texts() -> set[str]:
    """Return the helps of the keys of preparation, and why songs and clips are left out."""
    options = [PrepareSettings, InputOptions, *(section.options for section in SECTIONS.values())]
    codes: list[RefusalCode | Flaw] = [*REFUSAL_CODES.values(), *REVIEW_CODES.values(), *FLAWS.values()]
    return {
        *(key.help for each in options for key in keys_of("", each)),
        *(section.summary for section in SECTIONS.values()),
        *(text for code in codes for text in (code.meaning, code.advice) if text),
        *(code.meaning for code in REJECT_CODES.values()),
        *UNUSED_REASONS.values(),
    }


def command_texts() -> set[str]:
    """Return summaries and helps of commands, and meanings of the commands to a run."""
    texts = {command.summary for command in COMMANDS.values()} | {SCHEDULED[1]}
    texts |= {form.meaning for form in FORMS.values()}
    for command in COMMANDS.values():
        parser = argparse.ArgumentParser(conflict_handler="resolve")
        standard = {group.title for group in parser._action_groups}
        importlib.import_module(command.module).add_arguments(parser)
        texts |= {action.help for action in parser._actions if action.help} | {parser.description or ""}
        texts |= {group.title or "" for group in parser._action_groups if group.title not in standard}
    for group in option_groups():
        texts |= {group.title, *(text for option in group.options for text in (option.help, option.reason))}
    return texts - {""}


def message_templates() -> set[str]:
    """Return the templates of all messages, with `{0}`, `{1}`, ... for their values."""
    found = _templates_in(MESSAGE_SOURCES) | (_templates_in(PAGE_SOURCES) - _texts_of_other_catalogs())
    words = {str(word) for kind in (Kind, Level, Severity) for word in kind} | set(NAMES.values()) | STATES
    return (found | words) - NOT_SHOWN


def _templates_in(patterns: Iterable[str]) -> set[str]:
    paths = sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
    assert paths
    return {template for path in paths for template in templates_of(path.read_text(encoding="utf-8"))}


def _texts_of_other_catalogs() -> set[str]:
    """Return the labels and sentences of the page, whose catalogs are written next to them."""
    paths = [path for path in PAGE_TEXTS.glob("*.json") if path.name != "messages.json"]
    return {english for path in paths for english in json.loads(path.read_text(encoding="utf-8"))}


def templates_of(source: str) -> Iterator[str]:
    """Yield every text of a module that a person may read: what has words, is no docstring, and no name of a file."""
    tree = ast.parse(source)
    skipped = {id(node) for part in _not_messages(tree) for node in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield from filter(_is_read, (_numbered(line) for text in _joined(node) for line in text.split("\n")))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from filter(_is_read, map(_numbered, node.value.split("\n")))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from filter(str.isalpha, _names_given_to(node, node.func.id))


def _not_messages(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield docstrings, annotations, assertions and log messages, and the parts of f-strings."""
    for node in ast.walk(tree):
        match node:
            case ast.Assert() | ast.Expr(value=ast.Constant()):
                yield node
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"))):
                yield node
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=ast.expr() as annotation):
                yield annotation
            case ast.FunctionDef(returns=ast.expr() as returns):
                yield returns
            case ast.JoinedStr(values=parts):
                yield from _not_messages_in(parts)


def _not_messages_in(parts: Iterable[ast.expr]) -> Iterator[ast.AST]:
    """Yield the literals of an f-string, its format specifications, and the constants that are chosen from."""
    for part in parts:
        if isinstance(part, ast.FormattedValue):
            yield from [] if part.format_spec is None else [part.format_spec]
            yield from [part.value] if _constants(part.value) else []
        else:
            yield part


def _names_given_to(call: ast.Call, function: str) -> Iterator[str]:
    """Yield the single words that a call gives to a function of findings, and the parts of memory in `BatchCosts`."""
    if function in FINDING_FUNCTIONS:
        yield from _strings(call.args)
    elif function == "BatchCosts":
        yield from _strings(key for node in ast.walk(call) if isinstance(node, ast.Dict) for key in node.keys)


def _strings(nodes: Iterable[ast.AST | None]) -> Iterator[str]:
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _joined(node: ast.JoinedStr) -> Iterator[str]:
    """Yield the templates of an f-string: one for each choice between constants in it, such as a plural."""
    choices: list[list[str | None]] = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            choices.append([str(part.value)])
        elif isinstance(part, ast.FormattedValue):
            choices.append([*_constants(part.value)] or [None])
    for chosen in itertools.product(*choices):
        numbers, text = itertools.count(), ""
        for piece in chosen:
            text += f"{{{next(numbers)}}}" if piece is None else _escaped(piece)
        yield text


def _constants(value: ast.expr) -> list[str]:
    """Return the values of a choice between two constants; none for other values."""
    if not isinstance(value, ast.IfExp):
        return []
    both = [*_strings([value.body, value.orelse])]
    return both if len(both) == 2 else []


def _numbered(text: str) -> str:
    """Return a text as a template, with its fields numbered: a constant may be given to `str.format`."""
    try:
        parts = list(Formatter().parse(text))
        is_template = all(name is None or not name or name.isalnum() for _, name, *_ in parts)
    except ValueError:
        is_template = False
    if not is_template:
        return _escaped(text)
    numbers = itertools.count()
    return "".join(_escaped(literal) + ("" if name is None else f"{{{next(numbers)}}}") for literal, name, *_ in parts)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _is_read(template: str) -> bool:
    """Return whether a template has words, and is not for `time.strftime` or a regular expression."""
    text = "".join(literal for literal, *_ in Formatter().parse(template))
    return " " in text and any(map(str.isalpha, text)) and "%" not in text and "\\" not in text
