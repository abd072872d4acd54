"""English texts of the program that the page shows, collected from its objects and, for messages, from its sources."""

import argparse
import ast
import importlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Formatter

from songgen.cli.main import COMMANDS
from songgen.config.adapter_arguments import LoraArguments
from songgen.config.keys import all_keys, keys_of
from songgen.data.reject_codes import REJECT_CODES
from songgen.data.sound.levels import FLAWS
from songgen.families.use.generating import option_groups
from songgen.prepare.config import InputOptions, PrepareSettings
from songgen.prepare.review.corrections import REVIEW_CODES
from songgen.prepare.sections import REFUSAL_CODES, SECTIONS
from songgen.prepare.timing.clip_plan import UNUSED_REASONS
from songgen.runtime.control.commands import FORMS, SCHEDULED

PACKAGE = Path(__file__).resolve().parents[2] / "songgen"

MESSAGE_SOURCES = (
    "planning/*.py",
    "doctor/*.py",
    "runtime/folder_owner.py",
    "runtime/file_hashes.py",
    "train/reporting/banner.py",
)
"""Modules whose messages the page shows, with the texts that these messages contain."""


def key_texts() -> set[str]:
    """Return the groups and helps of the keys of training configurations."""
    keys = list(all_keys().values())
    return {key.group for key in keys} | {key.help for key in (*keys, *keys_of("", LoraArguments))}


def prepare_texts() -> set[str]:
    """Return the helps of the keys of preparation, and why songs and clips are left out."""
    options = [PrepareSettings, InputOptions, *(section.options for section in SECTIONS.values())]
    codes = (*REFUSAL_CODES.values(), *REVIEW_CODES.values(), *FLAWS.values())
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
        texts |= {group.title for group in parser._action_groups if group.title not in standard}
    for group in option_groups():
        texts |= {group.title, *(text for option in group.options for text in (option.help, option.reason))}
    return texts - {""}


def message_templates() -> set[str]:
    """Return the templates of all messages, with `{0}`, `{1}`, ... for their values."""
    paths = sorted(path for pattern in MESSAGE_SOURCES for path in PACKAGE.glob(pattern))
    return {template for path in paths for template in templates_of(path.read_text(encoding="utf-8"))}


def templates_of(source: str) -> Iterator[str]:
    """Yield every text of a module that a person may read: what has words, is no docstring, and is no text for us."""
    tree = ast.parse(source)
    skipped = {id(node) for part in _not_messages(tree) for node in ast.walk(part)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in skipped or id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            yield from filter(_has_words, _joined(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from filter(_has_words, [_numbered(node.value)])


def _not_messages(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield docstrings, annotations, assertions, and the texts of errors."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node
        elif isinstance(node, ast.Assert | ast.Raise):
            yield node
        elif isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.returns


def _joined(node: ast.JoinedStr) -> Iterator[str]:
    """Yield the templates of an f-string: one for each choice between constants in it, such as a plural."""
    choices: list[list[str | None]] = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            choices.append([str(part.value)])
        elif isinstance(part, ast.FormattedValue):
            choices.append(list(_constants(part.value)) or [None])
    for chosen in itertools.product(*choices):
        numbers, text = itertools.count(), ""
        for piece in chosen:
            text += f"{{{next(numbers)}}}" if piece is None else piece.replace("{", "{{").replace("}", "}}")
        yield text


def _constants(value: ast.expr) -> Iterable[str]:
    """Return the values of a choice between two constants."""
    if isinstance(value, ast.IfExp):
        both = [each.value for each in (value.body, value.orelse) if isinstance(each, ast.Constant)]
        if len(both) == 2:
            return map(str, both)
    return ()


def _numbered(text: str) -> str:
    """Return a constant as a template; the fields of one that is given to `str.format` are numbered."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        return text.replace("{", "{{").replace("}", "}}")
    numbers = itertools.count()
    return "".join(literal + ("" if name is None else f"{{{next(numbers)}}}") for literal, name, *_ in parts)


def _has_words(template: str) -> bool:
    """Return whether a template says anything itself."""
    literals = [literal for literal, *_ in Formatter().parse(template)]
    return any(character.isalpha() for literal in literals for character in literal)
