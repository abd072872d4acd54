"""Publishing of a data set folder from finished chunks: it appears as a whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from songgen.data.schema import (
    COMPANION_FILES,
    DATASET_FILE,
    REJECTED_FILE,
    REPORT_FILE,
    REPORT_TEXT_FILE,
    SPLITS_FILE,
    DatasetInfo,
    ShardInfo,
    arrow_schema,
)
from songgen.runtime.file_hashes import record_hashes
from songgen.runtime.files import exchange_folders, synchronize, write_text_atomic
from songgen.runtime.model_folders import copy_part, part_files
from songgen.tokenize.chunks import ChunkRecord
from songgen.tokenize.workspace import CODEC_FOLDER, replaced_folder, staging_folder

CHUNK_RECORDS_FILE = "chunks.jsonl"
"""Records of all chunks, so that a later run can reuse the shards of unchanged ones."""

PUBLISHED_FILES = (CHUNK_RECORDS_FILE, REPORT_FILE, REPORT_TEXT_FILE, REJECTED_FILE, SPLITS_FILE)
"""Files of a data set folder in addition to dataset.json."""


def link_or_copy(source: Path, target: Path) -> None:
    """Make a finished file available at a second path: as a hard link if possible, otherwise as a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(source, partial)
        partial.replace(target)


def with_splits(info: DatasetInfo, records: Iterator[ChunkRecord]) -> DatasetInfo:
    """Return the description with the shards of the chunks; a chunk without rows has none."""
    by_split: dict[str, list[ChunkRecord]] = {}
    for record in records:
        if record.rows:
            by_split.setdefault(record.split, []).append(replace(record, rejections=[]))
    splits = {}
    for split, made in by_split.items():
        names = [
            f"{split}/data-{index:05d}-of-{len(made):05d}-{record.sha256[:8]}.arrow"
            for index, record in enumerate(made)
        ]
        splits[split] = tuple(
            ShardInfo(name, record.rows, record.sha256, record.key) for name, record in zip(names, made, strict=True)
        )
    return replace(info, splits=splits)


def publish(
    output_folder: Path,
    work_folder: Path,
    info: DatasetInfo,
    records: Callable[[], Iterator[ChunkRecord]],
    shard_path: Callable[[ChunkRecord], Path],
    write_report: Callable[[Path], Any],
) -> None:
    """Assemble the data set in a staging folder and rename it.

    Args:
        output_folder: final folder; an existing data set in it is replaced.
        work_folder: work folder, with a copy of the codec if there is one.
        info: complete description.
        records: function that opens the records of all chunks, in order.
        shard_path: function that returns the path of a chunk's shard.
        write_report: function that writes the reports into a folder.
    """
    output_folder.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_folder(output_folder)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    shards = {shard.key: shard for split_shards in info.splits.values() for shard in split_shards}
    for split in info.splits:
        (staging / split).mkdir()
    with (staging / CHUNK_RECORDS_FILE).open("w", encoding="utf-8") as file:
        for record in records():
            file.write(record.to_json() + "\n")
            if record.rows:
                link_or_copy(shard_path(record), staging / shards[record.key].file)
    _write_hub_files(staging, info)
    if (codec := work_folder / CODEC_FOLDER).is_dir():
        copy_part(codec, staging / CODEC_FOLDER, codec)
        record_hashes(staging / CODEC_FOLDER, [path.name for path in part_files(staging / CODEC_FOLDER, staging)])
    write_report(staging)
    # dataset.json marks the folder as a data set, and is written after all that it describes; it and all other files
    # are flushed to the disk before the folder is renamed.
    write_text_atomic(staging / DATASET_FILE, info.to_json())
    record_hashes(staging, hashed_files(staging, info))
    sync_tree(staging)
    swap_folders(staging, output_folder)


def hashed_files(folder: Path, info: DatasetInfo) -> list[str]:
    """Return the files of a data set folder that its `file_hashes.json` lists: all but the shards."""
    companions = [f"{split}/{name}" for split in info.splits for name in COMPANION_FILES]
    codec = sorted(path.relative_to(folder).as_posix() for path in folder.glob(f"{CODEC_FOLDER}/*") if path.is_file())
    return [DATASET_FILE, *PUBLISHED_FILES, *companions, *codec]


def _write_hub_files(folder: Path, info: DatasetInfo) -> None:
    """Write files for `datasets.load_from_disk`: dataset_dict.json, and per split dataset_info.json and state.json."""
    from datasets import DatasetInfo as HubDatasetInfo
    from datasets import Features

    features = Features.from_arrow_schema(arrow_schema(info.tracks, info.target_kind, info.kept_columns))
    (folder / SPLITS_FILE).write_text(json.dumps({"splits": list(info.splits)}), encoding="utf-8")
    for split, shards in info.splits.items():
        fingerprint = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()[:16]
        state: dict[str, Any] = {
            "_data_files": [{"filename": Path(shard.file).name} for shard in shards],
            "_fingerprint": fingerprint,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        (folder / split / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        description = json.dumps(asdict(HubDatasetInfo(features=features)), indent=2)
        (folder / split / "dataset_info.json").write_text(description, encoding="utf-8")


def sync_tree(folder: Path) -> None:
    """Flush every file in a folder and its subfolders to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            synchronize(Path(parent) / name)
        synchronize(Path(parent))


def swap_folders(staging: Path, output_folder: Path) -> None:
    """Rename the new folder to its final name; readers of the old one keep the files that they have open.

    The replaced folder is removed by `remove_leftovers`.
    """
    if output_folder.exists() and not exchange_folders(staging, output_folder):
        replaced = replaced_folder(output_folder)
        shutil.rmtree(replaced, ignore_errors=True)
        output_folder.rename(replaced)
    if not output_folder.exists():
        staging.rename(output_folder)
    synchronize(output_folder.parent)
