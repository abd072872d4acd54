"""Which layers get an adapter: words for the parts of a model, names of layers and parts, and regular expressions.

An entry is, in this order:

- a word of the model's family, such as `attention`: the linear layers of that part;
- the end of layers' names, such as `q_proj` or `layers.3.fc1`: these layers;
- consecutive parts of layers' names, such as `layers.0` or `self_attn`: the linear layers below them;
- a regular expression that matches whole names.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from songgen.adapters.options import AdapterOptions

ADAPTABLE = (nn.Linear, nn.Embedding, nn.Conv1d)
"""Kinds of layers that can get an adapter (quantized layers are subclasses)."""

_PLAIN_NAME = re.compile(r"[\w.-]+")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetWords:
    """Words for parts of a family's models."""

    patterns: Mapping[str, str]
    """Word -> regular expression that matches the whole names of its layers."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Name of a layer in another program -> name of the layer with its purpose here, for messages."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Part of a layer's name in another program -> the same part here, or nothing; used in entries that match no layer
    as they are."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Entry of other programs or families without a counterpart -> why. It is left out, with a warning."""

    def own_name(self, entry: str) -> str:
        """Return an entry in the names that are used here."""
        parts = (self.renamed.get(part, part) for part in entry.split("."))
        return ".".join(part for part in parts if part)


@dataclass(frozen=True)
class Targets:
    """Layers by their full names, in the order of the model."""

    adapted: tuple[str, ...]
    """Layers that get an adapter."""
    saved: tuple[str, ...]
    """Layers that are trained whole."""
    ranks: Mapping[str, int]
    """Adapted layer -> its rank, if it is not the general one."""
    alphas: Mapping[str, int]
    """Adapted layer -> its alpha, if it is not the general one."""


def find_targets(
    model: nn.Module, options: AdapterOptions, words: TargetWords, is_frozen: Callable[[str], bool]
) -> Targets:
    """Find the layers that options name.

    Args:
        model: base model without adapters.
        options: options of the adapter.
        words: words of the model's family.
        is_frozen: whether a layer, by its name, stays as it is: an adapter is not attached to it.

    Raises:
        ValueError: if an entry matches no layer, or only frozen ones; the message lists all problems, and what exists.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, ADAPTABLE)}
    problems: list[str] = []
    left_out = _left_out(options, layers, words)

    def found(key: str, entries: Iterable[str], among: Collection[str] | None = None) -> dict[str, list[str]]:
        """Return the layers that each entry names."""
        matches = {}
        for entry in (entry for entry in entries if entry not in left_out):
            try:
                named = _named(entry, layers, words) or _named(words.own_name(entry), layers, words)
            except re.error as error:
                problems.append(f"{key}: {entry!r} is neither a name nor a regular expression ({error})")
                continue
            trained = [name for name in named if not is_frozen(name)]
            matches[entry] = [name for name in trained if among is None or name in among]
            if not named:
                problems.append(f"{key}: {entry!r} matches no layer of this model{_hint(entry, layers, words)}")
            elif not trained:
                problems.append(
                    f"{key}: {entry!r} matches only layers that are frozen or that no loss reaches, such as "
                    f"{named[0]}; remove it, or do not freeze them"
                )
            elif not matches[entry]:
                problems.append(f"{key}: {entry!r} matches no layer that gets an adapter, only {named[0]} or the like")
        return matches

    saved = _union(found("modules_to_save", options.modules_to_save))
    adapted = _union(found("target_modules", options.targets)) - saved
    if not adapted and not problems:
        nothing_left = ["target_modules: all of these layers are in modules_to_save, so that no adapter is left"]
        problems += list(left_out.values()) or nothing_left
    ranks = found("rank_pattern", options.rank_pattern, adapted) if adapted else {}
    alphas = found("alpha_pattern", options.alpha_pattern, adapted) if adapted else {}
    if problems:
        raise ValueError(
            "the adapter cannot be attached:\n"
            + "\n".join(f"- {problem}" for problem in problems)
            + f"\nWords for parts of this model: {', '.join(words.patterns)}. Its layers: {', '.join(_kinds(layers))}."
        )
    for reason in left_out.values():
        logger.warning("left out of the adapter: %s", reason)
    return Targets(
        adapted=tuple(name for name in layers if name in adapted),
        saved=tuple(name for name in layers if name in saved),
        ranks={name: options.rank_pattern[entry] for entry, names in ranks.items() for name in names},
        alphas={name: options.alpha_pattern[entry] for entry, names in alphas.items() for name in names},
    )


def _left_out(options: AdapterOptions, layers: Mapping[str, nn.Module], words: TargetWords) -> dict[str, str]:
    """Return the entries that have no counterpart in the model and can be done without -> what to say about each."""
    keys = (options.targets, options.modules_to_save, options.rank_pattern, options.alpha_pattern)
    lost = [entry for entries in keys for entry in entries if entry in words.left_out]
    return {
        entry: f"{entry!r} has no layer in this model: {words.left_out[entry]}"
        for entry in lost
        if not _named(entry, layers, words)
    }


def _named(entry: str, layers: Mapping[str, nn.Module], words: TargetWords) -> list[str]:
    """Return the layers that an entry names.

    Raises:
        re.error: if it is not a valid regular expression.
    """
    return [name for name, module in layers.items() if _matches(entry, name, module, words)]


def _matches(entry: str, name: str, module: nn.Module, words: TargetWords) -> bool:
    """Return whether an entry names a layer.

    Raises:
        re.error: if it is not a valid regular expression.
    """
    if entry in words.patterns:
        return isinstance(module, nn.Linear) and re.fullmatch(words.patterns[entry], name) is not None
    if not _PLAIN_NAME.fullmatch(entry):
        return re.fullmatch(entry, name) is not None
    if f".{name}".endswith(f".{entry}"):
        return True
    return isinstance(module, nn.Linear) and f".{entry}." in f".{name}"


def _union(matches: Mapping[str, Iterable[str]]) -> set[str]:
    return {name for names in matches.values() for name in names}


def _hint(entry: str, layers: Mapping[str, nn.Module], words: TargetWords) -> str:
    """Return a suggestion for an entry that matches nothing."""
    if entry in words.elsewhere:
        return f"; its purpose here has {words.elsewhere[entry]}"
    near = difflib.get_close_matches(entry, [*words.patterns, *_kinds(layers)], n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _kinds(layers: Mapping[str, nn.Module]) -> list[str]:
    """Return the last names of layers, each once; a layer with a number in a list has the name of the list."""
    last = (next(part for part in reversed(name.split(".")) if not part.isdigit()) for name in layers)
    return list(dict.fromkeys(last))
