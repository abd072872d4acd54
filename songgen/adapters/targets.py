"""Which layers get an adapter: words for the parts of a model, names of layers and parts, and regular expressions.

An entry is, in this order:

- a word of the model's family, such as `attention`: the linear layers of that part;
- the end of layers' names, such as `q_proj` or `layers.3.fc1`: these layers;
- consecutive parts of layers' names, such as `layers.0` or `self_attn`: the linear layers below them;
- a regular expression that matches whole names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from songgen.adapters.options import AdapterOptions

ADAPTABLE = (nn.Linear, nn.Embedding, nn.Conv1d)
"""Kinds of layers that can get an adapter (quantized layers are subclasses)."""

_PLAIN_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class TargetWords:
    """Words for parts of a family's models."""

    patterns: Mapping[str, str]
    """Word -> regular expression that matches the whole names of its layers."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Name of a layer in another program -> name of the layer with its purpose here, for messages."""


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

    def found(key: str, entries: Iterable[str], among: Collection[str] | None = None) -> dict[str, list[str]]:
        """Return the layers that each entry names."""
        matches = {}
        for entry in entries:
            try:
                named = [name for name, module in layers.items() if _matches(entry, name, module, words)]
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
        problems.append("target_modules: all of these layers are in modules_to_save, so that no adapter is left")
    ranks = found("rank_pattern", options.rank_pattern, adapted) if adapted else {}
    alphas = found("alpha_pattern", options.alpha_pattern, adapted) if adapted else {}
    if problems:
        raise ValueError(
            "the adapter cannot be attached:\n"
            + "\n".join(f"- {problem}" for problem in problems)
            + f"\nWords for parts of this model: {', '.join(words.patterns)}. Its layers: {', '.join(_kinds(layers))}."
        )
    return Targets(
        adapted=tuple(name for name in layers if name in adapted),
        saved=tuple(name for name in layers if name in saved),
        ranks={name: options.rank_pattern[entry] for entry, names in ranks.items() for name in names},
        alphas={name: options.alpha_pattern[entry] for entry, names in alphas.items() for name in names},
    )


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
