"""Files of pretrained networks and tokenizers, given as a folder or as the id of a hub repository."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_BARE_HUB_ID = re.compile(r"[\w][\w.-]*")
"""Hub id without an owner, which the hub still accepts for its oldest models (`t5-small`)."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

_SNAPSHOTS, _BLOBS, _CACHED_REPOSITORY = "snapshots", "blobs", "models--"
"""Folders in the hub's cache: the files in `models--OWNER--NAME/snapshots/COMMIT` are links to `../../blobs/HASH`."""


FOREIGN_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)
"""Errors that transformers raises for files that are missing, damaged, or of another form than it expects."""


def local_folder(name: str | Path, base_folder: Path | None = None) -> Path | None:
    """Return the folder that a name means; None if there is none.

    Args:
        name: name of a folder, or something else, such as a hub id.
        base_folder: folder of a model or data set that contains the name. A relative name is then a folder in it, and
            neither one in the current folder nor one above, since folder and name may come from a stranger. Absolute
            names are those that the user gave: `songgen.runtime.model_folders.read_model_config` refuses them in files.
    """
    if base_folder is None:
        return Path(name) if Path(name).is_dir() else None
    candidate = Path(base_folder) / name
    leaves = ".." in Path(name).parts and not Path(name).is_absolute()
    return candidate if candidate.is_dir() and not leaves else None


def named_by_user(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec that the user gave, with the path of a local folder made absolute.

    It then means the same folder wherever the spec is used, also next to a model's folder.
    """
    given = {"path": spec} if isinstance(spec, str) else dict(spec)
    path = given.get("path")
    if isinstance(path, str) and path and Path(path).expanduser().is_dir():
        given["path"] = str(Path(path).expanduser().absolute())
    return given


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is in a folder after all links are followed.

    A folder of the hub's cache may link to the contents of its own repository there, and to nothing else.
    """
    real, root = path.resolve(), folder.resolve()
    blobs = _blobs_of(root)
    return real.is_relative_to(root) or (blobs is not None and real.is_relative_to(blobs))


def _blobs_of(root: Path) -> Path | None:
    """Return the folder of contents that belongs to a folder of the hub's cache; None for other folders."""
    for snapshots in root.parents:
        if snapshots.name == _SNAPSHOTS and snapshots.parent.name.startswith(_CACHED_REPOSITORY):
            blobs = snapshots.parent / _BLOBS
            return blobs if blobs.resolve() == blobs else None
    return None


def require_inside(path: Path, folder: Path) -> None:
    """Check that a path of a model folder does not lead out of it through a link.

    Raises:
        ValueError: if it does.
    """
    if not is_inside(path, folder):
        raise ValueError(
            f"{path} is a link out of the model folder {folder}, which must not reach other files; put a copy there "
            f"instead (cp -rL --remove-destination), or name the folder in the configuration of the run"
        )


def is_hub_id(name: str) -> bool:
    """Return whether a name is that of no folder here, and can be a hub id with an owner."""
    return local_folder(name) is None and _HUB_ID.fullmatch(name) is not None


def require_hub_id(name: str, base_folder: Path | None = None, *, bare: bool = False) -> str:
    """Return a name that is not a folder's, if it can be a hub id.

    Args:
        name: name that the user gave.
        base_folder: folder that was searched instead of the current one.
        bare: whether an id may lack its owner.

    Raises:
        ValueError: if it cannot be one; the message says where a folder was looked for.
    """
    if _HUB_ID.fullmatch(name) or (bare and _BARE_HUB_ID.fullmatch(name)):
        return name
    places = f"looked in {base_folder}" if base_folder else f"looked from {Path.cwd()}"
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
        base_folder: folder in which a relative name is looked for; None for the current folder.
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
        with _quiet_client() as options:
            return Path(
                snapshot_download(
                    repository, revision=revision, cache_dir=cache_dir, allow_patterns=list(patterns), **options
                )
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
            with _quiet_client() as options:
                return Path(hf_hub_download(repository, file, revision=revision, **options))
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
        with _quiet_client() as options:
            commit = Path(hf_hub_download(repository, file, revision=revision or "main", **options)).parent.name
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


@contextmanager
def _quiet_client() -> Iterator[dict[str, Any]]:
    """Yield the options of a download, with the client's warnings of each retry hidden: one error follows them.

    Where the hub's name cannot be resolved, only the cache is read: the client would retry for 20 seconds a file.
    """
    http_logger = logging.getLogger("huggingface_hub.utils._http")
    level = http_logger.level
    http_logger.setLevel(logging.ERROR)
    try:
        yield {} if _is_reachable() else {"local_files_only": True}
    finally:
        http_logger.setLevel(level)


def _is_reachable() -> bool:
    """Return whether the hub's name can be resolved, or a proxy would do that; no connection is opened."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE or host is None or getproxies():
        return True  # the client knows by itself that it is offline
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _refused(repository: str, revision: str | None, error: Exception) -> ValueError:
    """Return the error for a repository that cannot be downloaded."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ValueError(
        f"{repository!r} is not a folder here, and the hub does not hand it over (revision {revision or 'main'}): "
        "check the spelling, log in with `hf auth login` if it is private, or, without a network, give the folder of "
        f"a copy ({type(error).__name__}: {reason})"
    )
