"""Arrow files of a data set: mapped into memory, checked, and read as numpy views without copies."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from songgen.data.schema import (
    COMPANION_FILES,
    NUM_FRAMES_COLUMN,
    OPTIONAL_COLUMNS,
    SPLITS_FILE,
    DatasetInfo,
    ShardInfo,
    arrow_schema,
    target_column,
)
from songgen.runtime.files import file_sha256


class BatchView:
    """Arrow record batch, whose columns become numpy views when they are first read."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        """Read nothing yet."""
        self.num_rows: int = batch.num_rows
        self._batch = batch
        self._names = frozenset(batch.schema.names)
        self._lists: dict[str, tuple[NDArray[np.int32], NDArray[Any]]] = {}
        self._texts: dict[str, tuple[NDArray[np.int32], memoryview]] = {}
        self._values: dict[str, NDArray[Any]] = {}

    def has(self, name: str) -> bool:
        """Return whether the shard has this column."""
        return name in self._names

    def list_column(self, name: str) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Return (offsets, values) of a list column: row i is `values[offsets[i]:offsets[i + 1]]`."""
        if name not in self._lists:
            column = self._batch.column(name)
            self._lists[name] = (column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=True))
        return self._lists[name]

    def value_column(self, name: str) -> NDArray[Any]:
        """Return a column of numbers (null becomes NaN)."""
        if name not in self._values:
            self._values[name] = self._batch.column(name).to_numpy(zero_copy_only=False)
        return self._values[name]

    def list_value(self, name: str, row: int) -> NDArray[Any]:
        """Return one row of a list column, without a copy."""
        offsets, values = self.list_column(name)
        return values[offsets[row] : offsets[row + 1]]

    def list_lengths(self, name: str) -> NDArray[np.int32]:
        """Return the length of each row's list."""
        return np.diff(self.list_column(name)[0])

    def text(self, name: str, row: int) -> str:
        """Return one row of a text column; null becomes empty."""
        if name not in self._texts:
            # An Arrow text column is [null mask, row + 1 offsets, UTF-8 bytes of all rows]; a slice of the bytes is a
            # row.
            _, offsets, characters = self._batch.column(name).buffers()
            places = np.frombuffer(offsets, dtype=np.int32, count=self.num_rows + 1)
            self._texts[name] = (places, memoryview(characters or b""))
        places, content = self._texts[name]
        return str(content[places[row] : places[row + 1]], "utf-8")


def map_batches(path: Path) -> list[pa.RecordBatch]:
    """Map an Arrow stream file; its record batches are views of the file."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return list(reader)


def missing_companions(folder: Path, split: str) -> list[str]:
    """Return the missing files next to a split's shards; none if the folder is not made for `datasets`."""
    if not (folder / SPLITS_FILE).is_file():
        return []
    return [f"{split}/{name}" for name in COMPANION_FILES if not (folder / split / name).is_file()]


def content_problem(path: Path, sha256: str) -> str:
    """Return a problem if a file's content does not match the hash recorded when it was written; empty if it does.

    Raises:
        OSError: if it cannot be read.
    """
    return "" if file_sha256(path) == sha256 else "its content is not what was written (another hash)"


def shard_problem(folder: Path, shard: ShardInfo, info: DatasetInfo, *, verify_hash: bool = False) -> str:
    """Return what is wrong with a shard; empty if it can be used."""
    path = folder / shard.file
    if not path.is_file():
        return "the file is missing"
    if verify_hash and (problem := content_problem(path, shard.sha256)):
        return problem
    try:
        batches = map_batches(path)
    except (pa.ArrowException, OSError, EOFError) as error:
        return f"the file is cut short or damaged ({error})"
    rows = sum(batch.num_rows for batch in batches)
    if rows != shard.rows:
        return f"it holds {rows} clips, {shard.rows} were written"
    expected = arrow_schema(info.tracks, info.target_kind)
    for batch in batches:
        wrong = [
            column.name
            for column in expected
            if not (_has_column(batch.schema, column) or _is_absent(batch.schema, column))
        ]
        if wrong:
            return f"columns are missing or of another type: {', '.join(wrong)}"
        view = BatchView(batch)
        cells = view.value_column(NUM_FRAMES_COLUMN) * info.frame_size
        for track in info.tracks:
            lengths = view.list_lengths(target_column(track, info.target_kind))
            if bad := int(((lengths != cells) & (lengths != 0)).sum()):
                return f"{bad} clips have {info.target_kind} of track {track!r} that do not fit their number of frames"
    return ""


def _is_absent(schema: pa.Schema, column: pa.Field) -> bool:
    """Return whether an optional column is missing in a schema."""
    return column.name in OPTIONAL_COLUMNS and column.name not in schema.names


def _has_column(schema: pa.Schema, column: pa.Field) -> bool:
    """Return whether a schema has a column of this name and type."""
    place = schema.get_field_index(column.name)
    return bool(place >= 0 and schema.field(place).type.equals(column.type))
