"""Whether the data sets of a run hold what preprocessing wrote: once, before anything is trained on them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from songgen.config import DataArguments
from songgen.data.dataset import SongDataset
from songgen.train.agreement import from_main

logger = logging.getLogger(__name__)


def require_intact_data(data: DataArguments, splits: Sequence[str], rank: int) -> None:
    """Compare every shard with the hash that was noted when it was written. Every process must call this.

    Args:
        data: folders of the data sets, and whether to do it (`verify_data_hashes`).
        splits: the splits that are used.
        rank: of this process; only rank 0 reads.

    Raises:
        ValueError: on every process, naming all damaged shards of the first data set that has any.
    """
    if not data.verify_data_hashes:
        return

    def verify() -> float:
        start = time.monotonic()
        for folder in data.dataset_folders():
            for split in dict.fromkeys(splits):
                SongDataset.open(folder, split, verify_hashes=True)
        return time.monotonic() - start

    seconds = from_main(rank, verify)
    logger.info("data sets verified in %.1f s", seconds)
