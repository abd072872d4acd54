"""Audio files in the format of the data set, encoded once and kept in the work folder under the hash of their source.

A data set is written again after every correction. Its files are links to the files here, so that they remain the same
files, and tokenizing finds them unchanged.
"""

from pathlib import Path

from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.engine.store import MISSING, ContentHashes, LineFile
from songgen.runtime.json_lines import read_lines, set_damaged_aside, unseal

ENCODED_FOLDER = "encoded"
"""In the work folder: the encoded files."""

ENCODED_HASHES_FILE = "encoded.jsonl"
"""In the work folder: the hash of each encoded file as it was written."""


class EncodedFiles:
    """The encoded files of one work folder."""

    def __init__(self, work: WorkFolder, audio_format: str) -> None:
        """Keep the place of the files.

        Args:
            work: work folder.
            audio_format: `wav` or `flac`.
        """
        self._work = work
        self._format = audio_format
        self._folder = work.root / ENCODED_FOLDER
        self._hashes = ContentHashes(work)
        self._used: set[str] = set()
        list_file = work.root / ENCODED_HASHES_FILE
        set_damaged_aside(list_file, unseal, "these files are accepted as they are")
        self._written = {entry["file"]: entry["sha256"] for entry in read_lines(list_file, unseal).values}
        self._list = LineFile(list_file)

    def file(self, source: str) -> Path:
        """Return the encoded form of a file that a record names.

        Raises:
            AudioRejected: If the source is missing or damaged.
        """
        digest = self._hashes.sha256(source)
        name = f"{ENCODED_FOLDER}/{digest}.{self._format}"
        path = self._work.path(name)
        # A file without a recorded hash was written by an earlier version, or just before a kill.
        is_damaged = name in self._written and self._hashes.sha256(name) != self._written[name]
        if digest == MISSING or is_damaged or not path.is_file():
            samples, rate = read_audio(self._work.path(source))
            self._folder.mkdir(exist_ok=True)
            write_audio(path, samples, rate)
        if self._hashes.sha256(name) != self._written.get(name):
            self._written[name] = self._hashes.sha256(name)
            self._list.append({"file": name, "sha256": self._written[name]})
        self._used.add(path.name)
        return path

    def sha256(self, path: Path) -> str:
        """Return the hash of a file in the work folder as it was written; it is not read again."""
        return self._hashes.sha256(path.relative_to(self._work.root).as_posix())

    def is_same(self, path: Path, other: Path) -> bool:
        """Return whether two files are one, or have the same content."""
        return path.is_file() and (
            path.samefile(other) or self._hashes.sha256(str(path.absolute())) == self._hashes.sha256(str(other))
        )

    def close(self, *, remove_others: bool) -> None:
        """Close the list of hashes; with `remove_others`, delete the files that were not used."""
        self._hashes.close()
        self._list.close()
        if not remove_others or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in self._used:
                path.unlink()
