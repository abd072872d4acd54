"""Check before training that data sets hold what tokenizing wrote."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from songgen.data.dataset import HASHING_THREADS, REBUILD_HINT, SongDataset
from songgen.data.schema import DatasetInfo, ShardInfo
from songgen.data.shards import shard_problem
from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import read_json_object
from songgen.runtime.processes.agreement import from_main, gather_lists

logger = logging.getLogger(__name__)

VERIFIED_FILE = "verified_data.json"
"""File in the output folder: path of each intact shard -> size, modification time, hash."""

ROUND_BYTES = 16 * 1024**3
"""Bytes that the processes read together between two exchanges, so that waiting for the slowest does not time out."""

_GIGABYTE = 1e9


@dataclass(frozen=True)
class _Shard:
    """Shard to be read."""

    folder: str
    """Folder of the data set."""
    file: str
    """Path in the folder."""
    size: int
    """Size in bytes."""
    changed_ns: int
    """Modification time, in nanoseconds since 1970."""
    sha256: str
    """SHA-256 recorded when the shard was written."""

    @property
    def path(self) -> Path:
        """Path of the shard."""
        return Path(self.folder, self.file)

    @property
    def evidence(self) -> list[Any]:
        """Values recorded for an intact shard; it is read again if any of them differs."""
        return [self.size, self.changed_ns, self.sha256]


def require_intact_data(
    folders: Sequence[str], splits: Sequence[str], output_dir: Path, *, rank: int, world_size: int
) -> None:
    """Compare every shard with the hash recorded when it was written, and check its values.

    Every process must call this.

    The processes share the work, so all of them must see the same files. Shards that an earlier launch of this run
    found intact, and that have not changed since, are not read again.

    Args:
        folders: folders of the data sets.
        splits: splits that are used.
        output_dir: output folder of the run, in which intact shards are recorded.
        rank: rank of this process.
        world_size: number of processes.

    Raises:
        ValueError: if shards are damaged, on every process; the message names all of them.
    """

    def unverified() -> list[_Shard]:
        values = from_main(rank, lambda: [astuple(shard) for shard in _unverified(folders, splits, output_dir)])
        return [_Shard(*entries) for entries in values]

    start = time.monotonic()
    shards = unverified()
    while problems := _problems(shards, output_dir, rank, world_size):
        shards = unverified()
        if not problems.keys().isdisjoint(shards):
            raise ValueError(_message(problems))
        # Otherwise the data set was replaced by a newer one while it was read.
    logger.info("data sets verified in %.1f s", time.monotonic() - start)


def _unverified(folders: Sequence[str], splits: Sequence[str], output_dir: Path) -> list[_Shard]:
    """Return the shards that are not recorded as intact in the output folder.

    Raises:
        ValueError: if shards are missing or cannot be opened; the message names all of a data set.
    """
    known = _remembered(output_dir)
    shards = []
    for folder in folders:
        for split in dict.fromkeys(splits):
            for info in SongDataset.open(folder, split).info.splits[split]:
                facts = Path(folder, info.file).stat()
                shards.append(_Shard(folder, info.file, facts.st_size, facts.st_mtime_ns, info.sha256))
    return [shard for shard in shards if known.get(str(shard.path.resolve())) != shard.evidence]


def _problems(shards: Sequence[_Shard], output_dir: Path, rank: int, world_size: int) -> dict[_Shard, str]:
    """Read shards, each process its share, and return their problems; intact shards are recorded."""
    problems: dict[_Shard, str] = {}
    infos = {folder: DatasetInfo.read(folder) for folder in {shard.folder for shard in shards}}
    read, total = 0, sum(shard.size for shard in shards)
    for together in _rounds(shards):
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            mine = together[rank::world_size]
            own = list(pool.map(_problem, mine, [infos[shard.folder] for shard in mine]))
        shares = gather_lists(own)
        # Process r read shards r, r + world_size, ...: shard number n is entry n // world_size of process n %
        # world_size.
        found = {shard: shares[place % world_size][place // world_size] for place, shard in enumerate(together)}
        problems |= {shard: problem for shard, problem in found.items() if problem}
        if rank == 0:
            _remember(output_dir, [shard for shard, problem in found.items() if not problem])
        read += sum(shard.size for shard in together)
        logger.info("data sets: %.1f of %.1f GB verified", read / _GIGABYTE, total / _GIGABYTE)
    return problems


def _rounds(shards: Sequence[_Shard]) -> Iterator[list[_Shard]]:
    """Yield groups of shards of about `ROUND_BYTES`, the same on every process."""
    before, numbered = 0, []
    for shard in shards:
        numbered.append((before // ROUND_BYTES, shard))
        before += shard.size
    for _, part in groupby(numbered, key=lambda entry: entry[0]):
        yield [shard for _, shard in part]


def _problem(shard: _Shard, info: DatasetInfo) -> str:
    """Return what is wrong with a shard's content; empty if nothing is."""
    rows = next((entry.rows for entries in info.splits.values() for entry in entries if entry.file == shard.file), None)
    if rows is None:
        return "the data set was replaced"
    try:
        return shard_problem(Path(shard.folder), ShardInfo(shard.file, rows, shard.sha256), info, verify_hash=True)
    except OSError as error:
        return f"it cannot be read ({error})"


def _message(problems: dict[_Shard, str]) -> str:
    """Return a message on damaged shards by data set, with a suggested fix."""
    lines = []
    for folder in dict.fromkeys(shard.folder for shard in problems):
        lines.append(f"the data set {folder} is damaged:")
        lines += [f"- {shard.file}: {problem}" for shard, problem in problems.items() if shard.folder == folder]
    return "\n".join([*lines, REBUILD_HINT])


def _remembered(output_dir: Path) -> dict[str, Any]:
    """Return the records of `_remember`; empty if the file is missing or damaged."""
    try:
        return read_json_object(output_dir / VERIFIED_FILE)
    except ValueError:
        return {}


def _remember(output_dir: Path, shards: Sequence[_Shard]) -> None:
    """Record intact shards; if the file cannot be written, they are read again next time."""
    known = _remembered(output_dir) | {str(shard.path.resolve()): shard.evidence for shard in shards}
    try:
        write_text_atomic(output_dir / VERIFIED_FILE, json.dumps(known, indent=1) + "\n")
    except OSError as error:
        logger.warning("%s could not be written: %s", output_dir / VERIFIED_FILE, error)
