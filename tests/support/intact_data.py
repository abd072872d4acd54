"""Data sets of which every byte is read."""

from pathlib import Path

from songgen.data.dataset import SongDataset
from songgen.data.schema import DatasetInfo
from songgen.data.shards import shard_problem


def open_intact(folder: Path, split: str) -> SongDataset:
    """Open a split; fails where a shard is not what was written."""
    info = DatasetInfo.read(folder)
    assert not [
        problem for shard in info.splits[split] if (problem := shard_problem(folder, shard, info, verify_hash=True))
    ]
    return SongDataset.open(folder, split)
