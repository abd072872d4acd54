"""Limits on the sizes in configurations of networks, checked before anything is allocated.

A configuration with a billion layers would keep the program busy for hours, and one with a hidden size of a billion
would take all memory before the weights show that it is wrong. The limits are about ten times the sizes of the largest
published networks of these kinds.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from songgen.runtime.json_files import read_json_object

CONFIG_FILE = "config.json"

LIMITS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"(layers?|blocks)$"), 1_000),
    (re.compile(r"(heads|codebooks|quantizers)$"), 4_096),
    (re.compile(r"(vocab_size|vocabulary_size|codebook_size|embeddings|positions|buckets)$"), 1 << 24),
    (re.compile(r"(size|width|dim|units|channels|filters|mels|length|d_model|d_ff|d_kv)$"), 1 << 18),
)
"""Ending of a key -> largest number of it; the first that fits applies."""

_NO_SIZES = re.compile(r"(.*_)?(chunk|max|min|loss|sample|step)_(length|size)")
"""Keys with such endings that do not give the size of weights, such as `max_length` of generation."""


def require_sane_sizes(config: Mapping[str, Any], where: str) -> None:
    """Check the sizes in a configuration of a network.

    Args:
        config: configuration, at most as deeply nested as `songgen.runtime.json_files` reads.
        where: its name in messages.

    Raises:
        ValueError: if a number of layers, heads, codes or channels is beyond what any network has.
    """
    problems = [f"{key} is {value:,}, the limit is {limit:,}" for key, value, limit in _beyond(config, "")]
    if problems:
        raise ValueError(f"{where} has sizes that no network has, so it is damaged or not trustworthy: {problems[0]}")


def require_sane_folder(name: str) -> None:
    """Check the sizes in `config.json` of a folder; nothing is checked if `name` is the id of a hub repository.

    Raises:
        ValueError: as in `require_sane_sizes`, or if the file is not a JSON object.
    """
    path = Path(name) / CONFIG_FILE
    if path.is_file():
        require_sane_sizes(read_json_object(path), str(path))


def _beyond(value: Any, key: str) -> Iterator[tuple[str, int, int]]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _beyond(entry, str(name))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _beyond(entry, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        limit = _limit(key)
        if limit is not None and abs(value) > limit:
            yield key, value, limit


def _limit(key: str) -> int | None:
    if _NO_SIZES.fullmatch(key):
        return None
    return next((limit for pattern, limit in LIMITS if pattern.search(key)), None)
