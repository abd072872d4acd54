"""Atomic writing of Arrow shards: a reader sees a whole file or none."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from songgen.runtime.files import file_sha256, remove_file, synchronize

FLUSH_ROWS = 64
"""Number of rows of a record batch; it limits the memory of the writer, and of a reader of whole batches."""


class ShardWriter:
    """Writer of one shard. Rows may be added in any order (length-sorted batches) and are stored by their position.

    Rows are kept in a temporary file next to the shard, not in memory. Used as a context manager, it leaves no file
    after an error.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Open a shard.

        Args:
            path: file to write; it appears only when `finish` has written all of it.
            schema: columns of the shard.
        """
        self.path = path
        self.schema = schema
        self._spill_path = path.with_name(f"{path.name}.{os.getpid()}.spill.tmp")
        self._partial_path = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._positions: list[int] = []
        self._spill: pa.ipc.RecordBatchFileWriter | None = pa.ipc.new_file(str(self._spill_path), schema)

    def __enter__(self) -> "ShardWriter":
        """Return this object."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove temporary files."""
        if self._spill is not None:
            with suppress(OSError):  # a full disk fails here again, which must not hide the first error
                self._spill.close()
            self._spill = None
        remove_file(self._spill_path)
        remove_file(self._partial_path)

    @property
    def num_rows(self) -> int:
        """Number of rows added so far."""
        return len(self._positions)

    def add(self, position: int, row: Mapping[str, Any]) -> None:
        """Add one row; list columns may be numpy arrays."""
        assert self._spill is not None, "the shard is finished"
        arrays = [pa.array([row[field.name]], type=field.type) for field in self.schema]
        self._spill.write_batch(pa.record_batch(arrays, schema=self.schema))
        self._positions.append(position)

    def finish(self) -> str:
        """Write the shard, rename it to its final name, and return its SHA-256."""
        assert self._spill is not None, "the shard is finished"
        self._spill.close()
        self._spill = None
        order = sorted(range(self.num_rows), key=self._positions.__getitem__)
        with pa.memory_map(str(self._spill_path)) as spilled, self._partial_path.open("wb") as file:
            self._write_sorted(pa.ipc.open_file(spilled), order, file)
            file.flush()
            os.fsync(file.fileno())
        sha256 = file_sha256(self._partial_path)
        self._partial_path.replace(self.path)
        synchronize(self.path.parent)
        return sha256

    def _write_sorted(self, rows: pa.ipc.RecordBatchFileReader, order: Sequence[int], file: Any) -> None:
        with pa.ipc.new_stream(file, self.schema) as stream:
            for start in range(0, len(order), FLUSH_ROWS):
                table = pa.Table.from_batches([rows.get_batch(i) for i in order[start : start + FLUSH_ROWS]])
                for batch in table.combine_chunks().to_batches():
                    stream.write_batch(batch)
