"""Caption and lyrics of the clips whose songs a run has sampled, from its data set."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from songgen.data.schema import EVAL_SPLIT, DatasetInfo
from songgen.runtime.status import RUN_CONFIG_FILE
from songgen.train.reporting.trackers import audio_file_name
from songgen.ui.workspace import Workspace

MAX_CHARACTERS = 5_000
"""Maximum number of characters of a text that is shown."""


def texts_of(workspace: Workspace, run: Path, names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return the texts of held-out clips by the names that their songs have.

    Nothing is returned for a data set outside of the folders of the page, or with other texts than the clips' own.
    """
    try:
        changed = (run / RUN_CONFIG_FILE).stat().st_mtime
        return _texts(workspace, run, names, changed)
    except (ValueError, OSError):
        return {}


@lru_cache(maxsize=64)
def _texts(workspace: Workspace, run: Path, names: tuple[str, ...], changed: float) -> dict[str, dict[str, str]]:
    """Read the texts once for each configuration.

    Raises:
        ValueError: if the configuration or a data set cannot be read.
        OSError: likewise.
    """
    import pyarrow as pa

    from songgen.data.shards import BatchView, map_batches
    from songgen.train.checkpoints.state import read_saved_config

    config = read_saved_config(run / RUN_CONFIG_FILE)
    if config.training.eval_random_texts:
        return {}
    found: dict[str, dict[str, str]] = {}
    wanted, chosen = set(names), config.data.eval_split_name
    held_out = {EVAL_SPLIT, *([chosen] if isinstance(chosen, str) else chosen)}
    for text in config.data.dataset_folders():
        folder = workspace.path(text)
        splits = DatasetInfo.read(folder).splits
        for shard in (shard for name, shards in splits.items() if name in held_out for shard in shards):
            try:
                views = [BatchView(batch) for batch in map_batches(folder / shard.file)]
            except (pa.ArrowException, EOFError):
                continue
            for view in views:
                for row in range(view.num_rows):
                    name = audio_file_name(view.text("id", row))
                    if name in wanted:
                        texts = {column: view.text(column, row)[:MAX_CHARACTERS] for column in ("caption", "lyrics")}
                        found.setdefault(name, texts)
                    if len(found) == len(wanted):
                        return found
    return found
