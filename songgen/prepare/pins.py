"""Networks of the hub stay those that a preparation began with: the commit behind a branch is found once and kept.

A branch moves, with a new network or with a line of its README alone. Without this, clips of one data set could come
from two networks, and nothing would say which.
"""

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

from songgen.prepare.config import PrepareConfig
from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import read_json_object
from songgen.runtime.pretrained import find_commit

logger = logging.getLogger(__name__)

PINS_FILE = "networks.json"
"""In the work folder: `ID@REVISION` as the configuration has it -> commit."""

PINNED = (("transcribe", "model", "revision"), ("transcribe", "agreement_model", "agreement_revision"),
          ("tag", "model", "revision"), ("score", "model", "revision"))  # fmt: skip
"""Section, key of the network's id, key of its revision: networks that transformers loads."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_commits(config: PrepareConfig) -> None:
    """Find the commits of networks that the work folder does not know yet, and write them there (main process).

    What the hub does not hand over is passed over: the step that wants it says what is wrong.
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
        write_text_atomic(path, json.dumps(known | found, indent=2) + "\n")


def pinned(config: PrepareConfig) -> PrepareConfig:
    """Return the configuration with the commits that the work folder knows as revisions."""
    known = _read(config.work_folder / PINS_FILE)
    changes: dict[str, dict[str, str]] = {}
    for (section, key), model, revision in _networks(config):
        if (commit := known.get(f"{model}@{revision}")) is not None:
            changes.setdefault(section, {})[key] = commit
    options = {name: dataclasses.replace(getattr(config.sections, name), **values) for name, values in changes.items()}
    return dataclasses.replace(config, sections=dataclasses.replace(config.sections, **options))


def _networks(config: PrepareConfig) -> list[tuple[tuple[str, str], str, str]]:
    """Return (section, key of the revision), id and revision of each network that may come from the hub."""
    found = []
    for section, model_key, revision_key in PINNED:
        options: Any = getattr(config.sections, section)
        if options is None or (section == "tag" and options.backend != "local"):
            continue
        model, revision = getattr(options, model_key), getattr(options, revision_key)
        if model and not Path(model).exists() and not _COMMIT.fullmatch(revision):
            found.append(((section, revision_key), model, revision))
    return found


def _read(path: Path) -> dict[str, str]:
    try:
        return read_json_object(path)
    except ValueError:
        return {}
