"""Whether the data sets of a run hold what preprocessing wrote, before anything is trained on them."""

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
from songgen.data.shards import content_problem
from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import read_json_object
from songgen.runtime.processes.agreement import from_main, gather_lists

logger = logging.getLogger(__name__)

VERIFIED_FILE = "verified_data.json"
"""In the output folder: path of each shard that was found intact -> size, time of change, hash."""

ROUND_BYTES = 16 * 1024**3
"""What the processes read together before they hear of each other: waiting for the slowest must not time out."""

_GIGABYTE = 1e9


@dataclass(frozen=True)
class _Shard:
    """One file that is to be read."""

    folder: str
    """Of its data set."""
    file: str
    """Path below the folder."""
    size: int
    """Bytes."""
    changed_ns: int
    """When it was changed, nanoseconds since 1970."""
    sha256: str
    """Hash that was noted when it was written."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.folder, self.file)

    @property
    def evidence(self) -> list[Any]:
        """What is remembered of it once it was found intact; it is read again when any of this differs."""
        return [self.size, self.changed_ns, self.sha256]


def require_intact_data(
    folders: Sequence[str], splits: Sequence[str], output_dir: Path, *, rank: int, world_size: int
) -> None:
    """Compare every shard with the hash that was noted when it was written. Every process must call this.

    The processes share the work, so all of them must see the same files. Shards that an earlier start of this run
    found intact, and that were not changed since, are not read again.

    Args:
        folders: of the data sets.
        splits: the splits that are used.
        output_dir: of the run; remembers what was found intact.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ValueError: on every process, naming all damaged shards.
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
        # Otherwise a newer data set has taken the place of the one that was read.
    logger.info("data sets verified in %.1f s", time.monotonic() - start)


def _unverified(folders: Sequence[str], splits: Sequence[str], output_dir: Path) -> list[_Shard]:
    """The shards of which the output folder does not say that they are intact.

    Raises:
        ValueError: a shard is missing or cannot be opened; all of its data set are named.
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
    """Read shards, each process its share, and say what is wrong with them; those that are intact are remembered."""
    problems: dict[_Shard, str] = {}
    read, total = 0, sum(shard.size for shard in shards)
    for together in _rounds(shards):
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            own = list(pool.map(_problem, together[rank::world_size]))
        shares = gather_lists(own)
        found = {shard: shares[place % world_size][place // world_size] for place, shard in enumerate(together)}
        problems |= {shard: problem for shard, problem in found.items() if problem}
        if rank == 0:
            _remember(output_dir, [shard for shard, problem in found.items() if not problem])
        read += sum(shard.size for shard in together)
        logger.info("data sets: %.1f of %.1f GB verified", read / _GIGABYTE, total / _GIGABYTE)
    return problems


def _rounds(shards: Sequence[_Shard]) -> Iterator[list[_Shard]]:
    """Parts of about `ROUND_BYTES`, the same on every process."""
    before, numbered = 0, []
    for shard in shards:
        numbered.append((before // ROUND_BYTES, shard))
        before += shard.size
    for _, part in groupby(numbered, key=lambda entry: entry[0]):
        yield [shard for _, shard in part]


def _problem(shard: _Shard) -> str:
    """What is wrong with a shard's content; empty when nothing is."""
    try:
        return content_problem(shard.path, shard.sha256)
    except OSError as error:
        return f"it cannot be read ({error})"


def _message(problems: dict[_Shard, str]) -> str:
    """What is damaged, by data set, and the way out."""
    lines = []
    for folder in dict.fromkeys(shard.folder for shard in problems):
        lines.append(f"the data set {folder} is damaged:")
        lines += [f"- {shard.file}: {problem}" for shard, problem in problems.items() if shard.folder == folder]
    return "\n".join([*lines, REBUILD_HINT])


def _remembered(output_dir: Path) -> dict[str, Any]:
    """What `_remember` wrote; nothing where it is missing or damaged."""
    try:
        return read_json_object(output_dir / VERIFIED_FILE)
    except ValueError:
        return {}


def _remember(output_dir: Path, shards: Sequence[_Shard]) -> None:
    """Note that shards are intact; where that cannot be written, they are read again next time."""
    known = _remembered(output_dir) | {str(shard.path.resolve()): shard.evidence for shard in shards}
    try:
        write_text_atomic(output_dir / VERIFIED_FILE, json.dumps(known, indent=1) + "\n")
    except OSError as error:
        logger.warning("%s could not be written: %s", output_dir / VERIFIED_FILE, error)
