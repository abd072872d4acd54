"""Data sets that grow while a run reads them: which of their rows a run has, and whether these are unchanged.

A data set has grown if its first rows are those that it had before. So a run knows its rows by their number in each
folder and one hash, and can open the same rows of a data set that has become larger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from songgen.data.dataset import HASHING_THREADS
from songgen.data.schema import (
    CAPTION_IDS_COLUMN,
    ID_COLUMN,
    LANGUAGE_COLUMN,
    LYRICS_IDS_COLUMN,
    NUM_FRAMES_COLUMN,
    VARIANT_IDS_COLUMN,
    VARIANT_LENGTHS_COLUMN,
    VOICE_COLUMN,
    DatasetInfo,
    energy_column,
    target_column,
)
from songgen.data.shards import BatchView, map_batches

ROWS_KEY, HASH_KEY = "rows", "rows_sha256"
"""Keys of `KnownRows` in the signature of a run's data."""

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class KnownRows:
    """First rows of each data set folder, as a run has read them."""

    counts: tuple[int, ...]
    """Number of rows of the split in each folder."""
    sha256: str
    """Hash of the rows; see `RowHashes`."""

    def to_plan(self) -> dict[str, Any]:
        """Return the entries in the signature of a run's data."""
        return {ROWS_KEY: list(self.counts), HASH_KEY: self.sha256}

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any]) -> Self | None:
        """Return the rows in a run's signature; None if it has none."""
        return cls(tuple(plan[ROWS_KEY]), plan[HASH_KEY]) if HASH_KEY in plan else None


class RowHashes:
    """Hashes of rows, kept for each shard, so that a data set that has grown is read where it is new."""

    def __init__(self, folders: Sequence[str], split: str) -> None:
        """Read nothing yet.

        Args:
            folders: data set folders, in their order.
            split: split of the rows.
        """
        self.folders = [Path(folder) for folder in folders]
        self.split = split
        self._of_shard: dict[str, bytes] = {}

    def all_rows(self) -> KnownRows:
        """Return all rows that the folders have now.

        Raises:
            ValueError: if a data set cannot be read.
        """
        hashes = self._read()
        return _known([len(rows) // _DIGEST_BYTES for rows in hashes], hashes)

    def require(self, known: KnownRows) -> None:
        """Check that the folders begin with rows that are known.

        Raises:
            ValueError: if rows are missing or have changed.
        """
        hashes = self._read()
        present = [len(rows) // _DIGEST_BYTES for rows in hashes]
        # A folder may be added behind the others.
        counts = [*known.counts, *[0] * (len(hashes) - len(known.counts))]
        if len(known.counts) > len(hashes) or any(count > there for count, there in zip(counts, present, strict=True)):
            raise ValueError(
                f"the data sets of save_to_disk have become smaller: {list(known.counts)} rows then, {present} now"
            )
        if _known(counts, hashes).sha256 != known.sha256:
            raise ValueError(
                f"the first rows of save_to_disk ({' + '.join(map(str, known.counts))}) are not those that the run was "
                "trained with; a data set may grow by further rows at its end, and all others must stay as they are"
            )

    def _read(self) -> list[bytes]:
        """Return the hashes of the rows of each folder, one after the other."""
        infos = [DatasetInfo.read(folder) for folder in self.folders]
        for folder, info in zip(self.folders, infos, strict=True):
            new = [shard for shard in info.splits.get(self.split, ()) if shard.sha256 not in self._of_shard]
            with ThreadPoolExecutor(HASHING_THREADS) as pool:
                try:
                    read = list(pool.map(lambda shard, at=folder, of=info: _row_hashes(at / shard.file, of), new))
                except (OSError, ValueError) as error:
                    raise ValueError(f"the data set {folder} cannot be read: {error}") from error
            self._of_shard |= {shard.sha256: rows for shard, rows in zip(new, read, strict=True)}
        return [b"".join(self._of_shard[shard.sha256] for shard in info.splits.get(self.split, ())) for info in infos]


def _known(counts: Sequence[int], hashes: Sequence[bytes]) -> KnownRows:
    digest = hashlib.sha256()
    for count, rows in zip(counts, hashes, strict=True):
        digest.update(rows[: count * _DIGEST_BYTES])
    return KnownRows(tuple(counts), digest.hexdigest())


def _row_hashes(path: Path, info: DatasetInfo) -> bytes:
    """Return the hash of each row of a shard: of everything that training reads, with one exception.

    Of the reference voice only the length: it is many times as large as all the rest, and comes from the same file as
    the targets of the vocal track.
    """
    hashes = bytearray()
    for batch in map_batches(path):
        view = BatchView(batch)
        for row in range(view.num_rows):
            digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            for part in _parts(view, row, info):
                digest.update(len(part).to_bytes(8, "little") + part)
            hashes += digest.digest()
    return bytes(hashes)


def _parts(view: BatchView, row: int, info: DatasetInfo) -> Iterator[bytes]:
    for name in (ID_COLUMN, LANGUAGE_COLUMN, *info.kept_columns):
        yield view.text(name, row).encode()
    for name in (CAPTION_IDS_COLUMN, LYRICS_IDS_COLUMN, VARIANT_IDS_COLUMN, VARIANT_LENGTHS_COLUMN):
        yield view.list_value(name, row).tobytes() if view.has(name) else b""
    voice = len(view.list_value(VOICE_COLUMN, row))
    yield np.array([view.value_column(NUM_FRAMES_COLUMN)[row], voice], dtype=np.int64).tobytes()
    for track in info.tracks:
        yield view.list_value(target_column(track, info.target_kind), row).tobytes()
        yield np.float32(view.value_column(energy_column(track))[row]).tobytes()
