"""Files of pretrained networks and tokenizers, given as a folder or as the id of a hub repository."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_BARE_HUB_ID = re.compile(r"[\w][\w.-]*")
"""Hub id without an owner, which the hub still accepts for its oldest models (`t5-small`)."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


FOREIGN_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)
"""Errors that transformers raises for files that are missing, damaged, or of another form than it expects."""


def local_folder(name: str | Path, base_folder: Path | None = None) -> Path | None:
    """Return the folder that a name means, below `base_folder` or anywhere; None if there is none."""
    candidates = [Path(name)] if base_folder is None else [Path(base_folder) / name, Path(name)]
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def require_hub_id(name: str, base_folder: Path | None = None, *, bare: bool = False) -> str:
    """Return a name that is not a folder's, if it can be a hub id.

    Args:
        name: name that the user gave.
        base_folder: folder that was searched in addition to the current one.
        bare: whether an id may lack its owner.

    Raises:
        ValueError: if it cannot be one; the message says where a folder was looked for.
    """
    if _HUB_ID.fullmatch(name) or (bare and _BARE_HUB_ID.fullmatch(name)):
        return name
    places = f"looked in {base_folder} and {Path.cwd()}" if base_folder else f"looked from {Path.cwd()}"
    raise ValueError(f"there is no folder {name!r} ({places}); give a folder or a hub id, 'user/model'")


def find_folder(
    name: str | Path,
    *,
    patterns: Sequence[str],
    base_folder: Path | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    bare: bool = False,
) -> Path:
    """Return a folder with the files of a network; files of a hub repository are downloaded.

    Args:
        name: folder or hub id.
        patterns: patterns of the files to download from a hub repository.
        base_folder: folder in which `name` is looked for first.
        revision: branch, tag or commit of a hub repository.
        cache_dir: folder in which downloads are kept.
        bare: whether a hub id may lack its owner.

    Raises:
        ValueError: if neither a local folder nor the hub provides it.
    """
    if (folder := local_folder(name, base_folder)) is not None:
        return folder
    repository = require_hub_id(str(name), base_folder, bare=bare)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repository, revision=revision, cache_dir=cache_dir, allow_patterns=list(patterns))
        )
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        raise _refused(repository, revision, error) from error


def find_file(name: str | Path, files: Sequence[str], *, revision: str | None = None) -> Path:
    """Return the first of several files that a folder or a hub repository has; from a repository, it is downloaded.

    Args:
        name: folder or hub id.
        files: file names, the preferred one first.
        revision: branch, tag or commit of a hub repository.

    Raises:
        ValueError: if it has none of them, or there is neither such a folder nor such a repository.
    """
    listed = " or ".join(files)
    if (folder := local_folder(name)) is not None:
        found = next((folder / file for file in files if (folder / file).is_file()), None)
        if found is None:
            raise ValueError(f"no {listed} in the folder {folder}")
        return found
    repository = require_hub_id(str(name))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision))
        except (OSError, ValueError) as error:
            # A file that the repository lacks, or a hub that cannot be reached: the second error is a subclass of the
            # first.
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue
            raise _refused(repository, revision, error) from error
    raise ValueError(f"no {listed} in the hub repository {repository!r}")


def find_commit(repository: str, revision: str, file: str = "config.json") -> str | None:
    """Return the commit of a revision according to the hub or its cache; None if neither knows it.

    Args:
        repository: hub id.
        revision: branch, tag or commit; empty for the main branch.
        file: name of a file that the repository has.
    """
    from huggingface_hub import hf_hub_download

    try:
        # The cache has a folder for each commit. Offline, it knows a branch's commit as of the last download.
        commit = Path(hf_hub_download(repository, file, revision=revision or "main")).parent.name
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _refused(repository: str, revision: str | None, error: Exception) -> ValueError:
    """Return the error for a repository that cannot be downloaded."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ValueError(
        f"{repository!r} is not a folder here, and the hub does not hand it over (revision {revision or 'main'}): "
        "check the spelling, log in with `hf auth login` if it is private, or, without a network, give the folder of "
        f"a copy ({type(error).__name__}: {reason})"
    )
