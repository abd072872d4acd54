"""Lookup by row id in a temporary SQLite table, so that memory does not grow with the corpus."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


class RowIndex:
    """Texts by row id in a private temporary database on disk."""

    def __init__(self) -> None:
        # An empty name makes SQLite use a temporary file: it spills to disk and is deleted with the connection.
        self._connection = sqlite3.connect("")
        self._connection.execute("CREATE TABLE rows (id TEXT PRIMARY KEY, place TEXT, content TEXT, used INTEGER)")

    def add(self, row_id: str, place: str, content: str = "") -> tuple[str, str] | None:
        """Add a row; if the id exists, keep the existing row and return its (place, content), otherwise None."""
        try:
            self._connection.execute("INSERT INTO rows VALUES (?, ?, ?, 0)", (row_id, place, content))
        except sqlite3.IntegrityError:
            found = self._connection.execute("SELECT place, content FROM rows WHERE id = ?", (row_id,)).fetchone()
            return str(found[0]), str(found[1])
        return None

    def take(self, row_id: str) -> str | None:
        """Return the content of a row and mark the row as used; None if there is no such row."""
        found = self._connection.execute("SELECT content FROM rows WHERE id = ?", (row_id,)).fetchone()
        if found is None:
            return None
        self._connection.execute("UPDATE rows SET used = 1 WHERE id = ?", (row_id,))
        return str(found[0])

    def num_unused(self) -> int:
        """Return the number of rows that `take` never returned."""
        return int(self._connection.execute("SELECT COUNT(*) FROM rows WHERE used = 0").fetchone()[0])

    def close(self) -> None:
        """Delete the database."""
        self._connection.close()


@contextmanager
def open_row_index() -> Iterator[RowIndex]:
    """Open an empty index that is deleted at the end of the block."""
    index = RowIndex()
    try:
        yield index
    finally:
        index.close()
