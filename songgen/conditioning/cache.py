"""A content-addressed cache of features: in memory, and in a folder where one is given."""

import contextlib
import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_KEY = "cache_key"
_SUFFIX = ".safetensors"


class FeatureCache:
    """Features under a key of encoder and content; the least recently used go first.

    A file holds its own key, so that a file that was renamed or damaged counts as absent. Several processes may share
    a folder: files appear whole (written aside, then renamed), and one that another process removed is a miss.
    """

    def __init__(
        self, max_bytes: int, *, folder: str | Path | None = None, max_folder_bytes: int = 10 * 1024**3
    ) -> None:
        """Make an empty cache, or one that holds what its folder holds.

        Args:
            max_bytes: limit of what is kept in memory; 0 keeps nothing there.
            folder: where features are kept beyond the process (None: nowhere).
            max_folder_bytes: limit of the folder.

        Raises:
            ValueError: for a negative limit, or if the folder cannot be made.
        """
        if max_bytes < 0 or max_folder_bytes < 0:
            raise ValueError(f"limits of a feature cache cannot be negative: {max_bytes}, {max_folder_bytes}")
        self.max_bytes = max_bytes
        self.max_folder_bytes = max_folder_bytes
        self.folder = None if folder is None else Path(folder)
        self.num_bytes = 0
        self.hits = 0
        self.misses = 0
        self._items: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._folder_bytes = 0
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"the feature cache cannot use the folder {folder}: {error}") from error
            self._folder_bytes = sum(size for _, size, _ in self._files())

    @staticmethod
    def key(encoder_fingerprint: str, content: bytes) -> str:
        """Return the key of a content (SHA-256 over the encoder's fingerprint and the content)."""
        return hashlib.sha256(encoder_fingerprint.encode() + b"\0" + content).hexdigest()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return copies of the features under a key (on the CPU), or None."""
        if key in self._items:
            self._items.move_to_end(key)
            found: dict[str, Tensor] | None = self._items[key]
        else:
            found = self._read(key)
            if found is not None:
                self._remember(key, found)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        return {name: tensor.clone() for name, tensor in found.items()}

    def put(self, key: str, features: Mapping[str, Tensor]) -> None:
        """Keep copies of features under a key. A folder that cannot be written to is no error: memory remains."""
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in features.items()}
        self._remember(key, copies)
        if self.folder is not None and _num_bytes(copies) <= self.max_folder_bytes:
            with contextlib.suppress(OSError):
                self._write(key, copies)

    def _remember(self, key: str, features: dict[str, Tensor]) -> None:
        if (known := self._items.pop(key, None)) is not None:
            self.num_bytes -= _num_bytes(known)
        size = _num_bytes(features)
        if size > self.max_bytes:
            return
        self._items[key] = features
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, oldest = self._items.popitem(last=False)
            self.num_bytes -= _num_bytes(oldest)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def _read(self, key: str) -> dict[str, Tensor] | None:
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as opened:
                if (opened.metadata() or {}).get(_KEY) != key:
                    return None
                features = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        return features

    def _write(self, key: str, features: dict[str, Tensor]) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_size if path.exists() else 0
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(descriptor)
        try:
            save_file(features, temporary, metadata={_KEY: key})
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._folder_bytes += path.stat().st_size - before
        if self._folder_bytes > self.max_folder_bytes:
            self._shrink()

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return (time of last use, bytes, path) of every file, the least recently used first."""
        assert self.folder is not None
        found = []
        for path in self.folder.glob(f"??/*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def _shrink(self) -> None:
        """Measure the folder again, as others may write there too, and remove what is over the limit."""
        files = self._files()
        self._folder_bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._folder_bytes <= self.max_folder_bytes:
                break
            path.unlink(missing_ok=True)
            self._folder_bytes -= size


def _num_bytes(features: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in features.values())
