"""Features on disk, kept from one run to the next and shared by all processes.

A file holds the features of many contents and is named by the hash of its bytes. So it is either complete or not there,
is verified whenever it is read, and two processes that write at once cannot disturb each other. Files are never
changed, only added, and the least recently used ones are removed once all together exceed a limit.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from songgen.runtime.files import file_sha256, remove_file
from songgen.runtime.tensor_files import opened_tensors

SUFFIX = ".safetensors"

MAX_BYTES = 4 * 1024**3
"""Most bytes that all files below a folder may take."""

FILE_BYTES = 64 * 1024**2
"""Size of features written to the disk at once, which is the most that a kill can lose."""

LEFTOVER_SECONDS = 24 * 3600
"""Age from which a temporary file is taken to be left by a process that was killed."""

logger = logging.getLogger(__name__)


def default_folder() -> Path | None:
    """Return the user's own cache folder for features; None where the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "songgen" / "features"
    except RuntimeError:
        return None


class FeatureStore:
    """Tensors by key, below one folder of all that were computed alike."""

    def __init__(self, folder: Path, computed_by: str, *, max_bytes: int = MAX_BYTES) -> None:
        """Open a store; nothing is read or written yet.

        Args:
            folder: of all stores.
            computed_by: names what computes the features: encoder, device, versions. Stores of others are separate.
            max_bytes: most bytes below `folder`.
        """
        self.root = folder
        self.folder = folder / hashlib.sha256(computed_by.encode()).hexdigest()[:32]
        self.max_bytes = max_bytes

    def read(self, keys: Collection[str]) -> dict[str, Tensor]:
        """Return what is stored under some of the keys; a damaged file is removed, with a warning."""
        wanted, found = set(keys), {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                with opened_tensors(path) as opened:
                    listed = wanted.intersection(opened.keys())
                if not listed:
                    continue
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != path.stem:
                    raise ValueError(f"{path} is not what was written")
                tensors = safetensors.torch.load(content)
                os.utime(path)  # used now: the last to be removed
            except (ValueError, OSError, SafetensorError) as error:
                self._set_aside(path, error)
                continue
            found.update({key: tensors[key] for key in listed})
            wanted -= listed
        return found

    def find(self, keys: Collection[str]) -> dict[str, Path]:
        """Return the files that hold some of the keys, verified now; a damaged file is removed, with a warning.

        Single features can then be read by `read_one`, as often as they are needed.
        """
        wanted, found = set(keys), dict[str, Path]()
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                with opened_tensors(path) as opened:
                    listed = wanted.intersection(opened.keys())
                if not listed:
                    continue
                if file_sha256(path) != path.stem:
                    raise ValueError(f"{path} is not what was written")
                os.utime(path)
            except (ValueError, OSError, SafetensorError) as error:
                self._set_aside(path, error)
                continue
            found.update(dict.fromkeys(listed, path))
            wanted -= listed
        return found

    def write(self, features: Mapping[str, Tensor]) -> None:
        """Store features in one new file, and remove old files where there is no room.

        Raises:
            OSError: if the file cannot be written; nothing of it is left.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{uuid.uuid4().hex}.tmp"
        try:
            safetensors.torch.save_file(dict(features), temporary)
            # Not synchronized with the disk: after a power cut, the name tells that the content is another one.
            path = temporary.replace(self.folder / f"{file_sha256(temporary)}{SUFFIX}")
        except SafetensorError as error:
            raise OSError(str(error)) from error
        finally:
            remove_file(temporary)
        self._make_room(path)

    def _set_aside(self, path: Path, error: Exception) -> None:
        """Remove a damaged file, unless another process has removed it already, to make room."""
        if path.exists():
            logger.warning("stored features are damaged and will be computed again: %s", error)
            path.unlink(missing_ok=True)

    def _make_room(self, newest: Path) -> None:
        """Remove the files that were not used for the longest time, other stores' included, until the limit holds."""
        files = []
        for path in self.root.glob("*/*"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == ".tmp" and time.time() - state.st_mtime > LEFTOVER_SECONDS:
                path.unlink(missing_ok=True)
            elif path.suffix == SUFFIX and path != newest:
                files.append((state.st_mtime, state.st_size, path))
        room = self.max_bytes - newest.stat().st_size - sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if room >= 0:
                return
            path.unlink(missing_ok=True)
            room += size


def read_one(path: Path, key: str) -> Tensor | None:
    """Return one feature of a file that `FeatureStore.find` has verified; None if the file is gone."""
    try:
        with opened_tensors(path) as opened:
            return opened.get_tensor(key)
    except (ValueError, OSError, SafetensorError):
        return None


class FeatureWriter:
    """Writes features to a store as they are computed, many to a file. A context manager: its end writes the rest.

    If the disk is full or read-only, nothing more is stored.
    """

    def __init__(self, store: FeatureStore, what: str) -> None:
        """Write nothing yet; `what` names the features in the warning."""
        self._store, self._what = store, what
        self._pending: dict[str, Tensor] = {}
        self._size, self._is_writable = 0, True

    def __enter__(self) -> FeatureWriter:
        """Return this object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the rest, unless computing failed."""
        if error is None:
            self._write()

    def add(self, key: str, features: Tensor) -> None:
        """Store features under a key."""
        if not self._is_writable:
            return
        self._pending[key] = features.cpu().contiguous()
        self._size += features.nbytes
        if self._size >= FILE_BYTES:
            self._write()

    def _write(self) -> None:
        try:
            if self._pending:
                self._store.write(self._pending)
        except OSError as error:
            logger.warning(
                "features of %s cannot be stored in %s (%s): they are not kept", self._what, self._store.root, error
            )
            self._is_writable = False
        self._pending, self._size = {}, 0
