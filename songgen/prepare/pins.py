"""Pins networks of the hub: the commit of a branch is looked up once and kept in the work folder.

A branch moves, with a new network or just a change of its README. Without pins, clips of one data set could come from
two networks without any record of it.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songgen.prepare.config import PrepareConfig
from songgen.prepare.sections import SECTIONS
from songgen.runtime.files import read_regular, write_text_atomic
from songgen.runtime.json_files import MAX_JSON_BYTES
from songgen.runtime.json_lines import seal, unseal
from songgen.runtime.pretrained import find_commit

logger = logging.getLogger(__name__)

PINS_FILE = "networks.json"
"""In the work folder: `ID@REVISION` as the configuration has it -> commit."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_commits(config: PrepareConfig) -> None:
    """Find commits of networks that the work folder does not have yet, and write them there (main process).

    A network that cannot be found is skipped; the step that needs it reports the problem.
    """
    path = config.work_folder / PINS_FILE
    known = _read(path)
    found = {}
    for _, model, revision in _networks(config):
        name = f"{model}@{revision}"
        if name not in known and name not in found and (commit := find_commit(model, revision)) is not None:
            logger.info("%s: commit %s, kept in %s", model, commit, path)
            found[name] = commit
    if found:
        write_text_atomic(path, seal(known | found) + "\n")


def pinned(config: PrepareConfig) -> PrepareConfig:
    """Return the configuration with the commits of the work folder as revisions."""
    known = _read(config.work_folder / PINS_FILE)
    changes: dict[str, dict[str, str]] = {}
    for (section, key), model, revision in _networks(config):
        if (commit := known.get(f"{model}@{revision}")) is not None:
            changes.setdefault(section, {})[key] = commit
    return dataclasses.replace(config, sections=config.sections.with_values(changes))


def _networks(config: PrepareConfig) -> list[tuple[tuple[str, str], str, str]]:
    """Return (section, key of the revision), id and revision of each network that may come from the hub."""
    found = []
    for section in SECTIONS.values():
        options = config.sections[section.name]
        for network in () if options is None else section.networks:
            model, revision = getattr(options, network.model), getattr(options, network.revision)
            is_of_hub = bool(model) and not Path(model).exists() and network.is_used(options)
            if is_of_hub and not _COMMIT.fullmatch(revision):
                found.append(((section.name, network.revision), model, revision))
    return found


def _read(path: Path) -> dict[str, str]:
    """Return the commits in the work folder.

    Raises:
        ValueError: If the file is damaged. Looking the commits up again could mix two networks in one data set.
    """
    if not path.is_file():
        return {}
    try:
        return unseal(read_regular(path, MAX_JSON_BYTES).strip(), _is_plain)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): restore it, or remove it, and the present commits of the networks are "
            "looked up and used"
        ) from error


def _is_plain(values: Mapping[str, Any]) -> bool:
    """Return whether an object has the form of earlier versions."""
    return all("@" in name and isinstance(commit, str) and _COMMIT.fullmatch(commit) for name, commit in values.items())
