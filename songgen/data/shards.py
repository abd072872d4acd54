"""Arrow files of a data set: mapped into memory, checked, and read as numpy views without copies."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from songgen.data.schema import (
    CAPTION_IDS_COLUMN,
    CODES,
    COMPANION_FILES,
    DURATION_COLUMN,
    LATENTS,
    LYRICS_IDS_COLUMN,
    NUM_FRAMES_COLUMN,
    OPTIONAL_COLUMNS,
    SPLITS_FILE,
    VARIANT_IDS_COLUMN,
    VARIANT_LENGTHS_COLUMN,
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
    """Map an Arrow stream file; its record batches are views of the file, whose offsets stay inside of it.

    An offset beyond the values of its column would read memory of other data, or crash. The lengths of the buffers are
    compared by Arrow, which takes a constant time for each column, and the offsets here, so that nothing but them is
    read. Values are checked by `value_problem`.

    Raises:
        pa.ArrowException, OSError, EOFError, ValueError: if the file is cut short or damaged.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        batches = list(reader)
    for batch in batches:
        batch.validate()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if not _has_valid_offsets(column):
                raise pa.ArrowInvalid(f"column {name!r} has offsets that are not in order")
    return batches


def _has_valid_offsets(column: pa.Array) -> bool:
    """Return whether each row of a column of lists or texts is a part of its values; the buffers have valid lengths."""
    if len(column) == 0:
        return True
    if pa.types.is_list(column.type):
        offsets, end = column.offsets.to_numpy(), len(column.values)
        if not _has_valid_offsets(column.values):
            return False
    elif pa.types.is_string(column.type):
        _, buffer, characters = column.buffers()
        offsets = np.frombuffer(buffer, dtype=np.int32, count=len(column) + 1)
        end = 0 if characters is None else characters.size
    else:
        return True
    return bool(offsets[0] >= 0 and offsets[-1] <= end and (np.diff(offsets) >= 0).all())


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
    """Return what is wrong with a shard; empty if it can be used.

    Args:
        folder: folder of the data set.
        shard: the shard.
        info: description of the data set.
        verify_hash: whether to read the whole shard: to compare its hash, and to check its values.
    """
    path = folder / shard.file
    if not path.is_file():
        return "the file is missing"
    if verify_hash and (problem := content_problem(path, shard.sha256)):
        return problem
    try:
        batches = map_batches(path)
        if verify_hash:
            for batch in batches:
                batch.validate(full=True)  # also texts that are not UTF-8
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:  # ValueError: names that are not UTF-8
        return f"the file is cut short or damaged ({error})"
    rows = sum(batch.num_rows for batch in batches)
    if rows != shard.rows:
        return f"it holds {rows} clips, {shard.rows} were written"
    for batch in batches:
        problem = _form_problem(batch, info)
        if not problem and verify_hash:
            problem = _target_problem(BatchView(batch), info) or _row_problem(batch)
        if problem:
            return problem
    return ""


def _form_problem(batch: pa.RecordBatch, info: DatasetInfo) -> str:
    """Return what is wrong with the columns of a batch and the lengths of its rows; values are not read."""
    expected = arrow_schema(info.tracks, info.target_kind, info.kept_columns)
    wrong = [
        column.name
        for column in expected
        if not (_has_column(batch.schema, column) or _is_absent(batch.schema, column))
    ]
    if wrong:
        return f"columns are missing or of another type: {', '.join(wrong)}"
    lists = [column.name for column in expected if pa.types.is_list(column.type) and column.name in batch.schema.names]
    if missing := [name for name in lists if batch.column(name).values.null_count]:
        return f"columns have missing values: {', '.join(missing)}"
    view = BatchView(batch)
    cells = view.value_column(NUM_FRAMES_COLUMN) * info.frame_size
    for track in info.tracks:
        lengths = view.list_lengths(target_column(track, info.target_kind))
        if bad := int(((lengths != cells) & (lengths != 0)).sum()):
            return f"{bad} clips have {info.target_kind} of track {track!r} that do not fit their number of frames"
    return ""


def _target_problem(view: BatchView, info: DatasetInfo) -> str:
    """Return what is wrong with the targets of a batch of the right form; empty if training can use them.

    A hash only shows that a file is what somebody wrote. A code beyond the codebook would be trained as if it were a
    special token, without any error.
    """
    for track in info.tracks:
        column = target_column(track, info.target_kind)
        values = view.list_column(column)[1]
        if not len(values):
            continue
        if info.target_kind == CODES and not (0 <= int(values.min()) and int(values.max()) < info.codebook_size):
            limits = f"{int(values.min())} to {int(values.max())}, the codebooks have {info.codebook_size}"
            return f"codes of track {track!r} are outside of the codebooks ({limits})"
        if info.target_kind == LATENTS and not np.isfinite(values).all():
            return f"latents of track {track!r} are not finite"
    return ""


def _row_problem(batch: pa.RecordBatch) -> str:
    """Return what is wrong with the other numbers of a batch of the right form."""
    view = BatchView(batch)
    for name in (NUM_FRAMES_COLUMN, DURATION_COLUMN):
        values = view.value_column(name)
        if batch.column(name).null_count or not np.isfinite(values).all() or (len(values) and values.min() < 0):
            return f"{name} is missing or negative in some clips"
    ids = [name for name in (CAPTION_IDS_COLUMN, LYRICS_IDS_COLUMN, VARIANT_IDS_COLUMN) if view.has(name)]
    if negative := [name for name in ids if (view.list_column(name)[1] < 0).any()]:
        return f"{', '.join(negative)} hold negative ids"
    if view.has(VARIANT_LENGTHS_COLUMN):
        offsets, lengths = view.list_column(VARIANT_LENGTHS_COLUMN)
        sums = np.diff(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[offsets])
        if (lengths < 0).any() or (sums != view.list_lengths(VARIANT_IDS_COLUMN)).any():
            return f"{VARIANT_LENGTHS_COLUMN} do not fit {VARIANT_IDS_COLUMN}"
    return ""


def _is_absent(schema: pa.Schema, column: pa.Field) -> bool:
    """Return whether an optional column is missing in a schema."""
    return column.name in OPTIONAL_COLUMNS and column.name not in schema.names


def _has_column(schema: pa.Schema, column: pa.Field) -> bool:
    """Return whether a schema has a column of this name and type."""
    place = schema.get_field_index(column.name)
    return bool(place >= 0 and schema.field(place).type.equals(column.type))
