"""Audio in the form of the data set, encoded once: kept in the work folder by the hash of what it was made of.

A data set is written anew after every correction. Its files are links to those kept here, so that they stay the same
files, and preprocessing sees that they have not changed.
"""

from pathlib import Path

from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.engine.store import MISSING, ContentHashes

ENCODED_FOLDER = "encoded"
"""In the work folder."""


class EncodedFiles:
    """The encoded files of one work folder."""

    def __init__(self, work: WorkFolder, audio_format: str) -> None:
        """Name the folder.

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
        """Return the file that holds the same sound as a file that a record names.

        Raises:
            AudioRejected: the source is missing or damaged.
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
        """Close the list of hashes; `remove_others`: what nobody has asked for is gone afterwards."""
        self._hashes.close()
        if not remove_others or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in self._used:
                path.unlink()
