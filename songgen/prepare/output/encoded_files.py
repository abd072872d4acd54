"""Audio files in the format of the data set, encoded once and kept in the work folder under the hash of their source.

A data set is written again after every correction. Its files are links to the files here, so that they remain the same
files, and tokenizing finds them unchanged.
"""

from pathlib import Path

from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.engine.store import MISSING, ContentHashes

ENCODED_FOLDER = "encoded"
"""In the work folder: the encoded files."""


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

    def file(self, source: str) -> Path:
        """Return the encoded form of a file that a record names.

        Raises:
            AudioRejected: If the source is missing or damaged.
        """
        digest = self._hashes.sha256(source)
        path = self._folder / f"{digest}.{self._format}"
        if digest == MISSING or not path.is_file():
            samples, rate = read_audio(self._work.path(source))
            self._folder.mkdir(exist_ok=True)
            write_audio(path, samples, rate)
        self._used.add(path.name)
        return path

    def close(self, *, remove_others: bool) -> None:
        """Close the list of hashes; with `remove_others`, delete the files that were not used."""
        self._hashes.close()
        if not remove_others or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in self._used:
                path.unlink()
