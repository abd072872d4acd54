"""Folders of the page: where commands run, where it writes, and which paths may be named in it."""

import re
import shutil
import threading
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from songgen.families.use.song_folder import SONGS_FOLDER as SONGS_FOLDER  # with the other folders of the page
from songgen.jobs.record import JOBS_FOLDER
from songgen.runtime.files import expand_home
from songgen.runtime.json_files import write_json

CONFIGS_FOLDER = Path("outputs") / "configs"
"""Folder of the configurations that the page saves."""

UPLOADS_FOLDER = Path("datasets") / "uploads"
"""Folder of the songs and voices that were uploaded, one folder for each upload."""

TRASH_FOLDER = Path("outputs") / ".trash"
"""Folder that deleted folders are moved to; `songgen list` does not look into hidden folders."""

_MAX_SHOWN = 300
"""Maximum number of characters of a path in a message."""

_MAX_NAME_BYTES = 200
"""Maximum number of bytes of a folder's name in the trash."""

TRASH_IS_LINK = "{0} is a link: remove it, so that emptying the trash cannot delete what it leads to"

MOVING = threading.Lock()
"""Held while something is moved into or out of the trash, or removed there: if two folders got the same new name, one
would be moved into the other."""

_NAME = re.compile(r"[^\W_][\w.-]{0,99}")
_SEPARATORS = re.compile(r"[+,]")


@dataclass(frozen=True)
class Workspace:
    """The folder of a project, and further folders that may be used from it."""

    root: Path
    """Folder in which commands run; relative paths begin there. A real path without links."""

    others: tuple[Path, ...] = ()
    """Real paths of further folders that may be named in the page."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that paths may be in."""
        return (self.root, *self.others)

    @property
    def jobs(self) -> Path:
        """Folder of the jobs."""
        return self.root / JOBS_FOLDER

    def path(self, text: str, what: str = "path") -> Path:
        """Return the real path that a text names, which need not exist.

        Args:
            text: path, absolute or relative to the root.
            what: name of the field, for the message.

        Raises:
            ValueError: if the path is empty, not a path, or not in one of the folders. Links are followed first.
        """
        if not text or "\0" in text:
            raise ValueError(f"{what}: a path is needed")
        try:
            real = (self.root / expand_home(text)).resolve()
        except (OSError, RuntimeError, UnicodeError) as error:
            raise ValueError(f"{what}: {_short(text)} cannot be a path: {error}") from error
        if not self.has(real):
            raise ValueError(
                f"{what}: {_short(text)} is outside of the folders of this page; start it with --folder to add another "
                "one"
            )
        # Only now, so that the answer does not show what there is elsewhere.
        try:
            real.stat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:  # a name that is too long, a loop of links, a folder that may not be entered
            raise ValueError(f"{what}: {_short(text)} cannot be read: {error.strerror}") from error
        return real

    def existing_folder(self, text: str, what: str = "folder") -> Path:
        """Return the real path of a folder that exists.

        Raises:
            ValueError: if it does not exist or is outside of the folders.
        """
        path = self.path(text, what)
        if not path.is_dir():
            raise ValueError(f"{what}: there is no folder {_short(text)}; it may have been moved or deleted")
        return path

    def require_inside(self, value: Any, what: str) -> None:
        """Check every text in a JSON value that is or could be a path: it must be in one of the folders.

        A text counts as a path if it begins with `/` or `~/`, has a `..` in it, names something that exists, or leads
        out of the folders by a link. All others, such as the id of a model on the hub, are left to the command. Some
        keys are lists in one text, so what is between `+` or `,` is checked, too.

        Raises:
            ValueError: if a path is outside.
        """
        if isinstance(value, dict):
            for name, item in value.items():
                self.require_inside(item, f"{what}.{name}")
        elif isinstance(value, list | tuple):
            for item in value:
                self.require_inside(item, what)
        elif isinstance(value, str):
            texts = dict.fromkeys((value, *map(str.strip, _SEPARATORS.split(value))))
            for text in filter(self._may_be_path, texts):
                self.path(text, what)

    def _may_be_path(self, text: str) -> bool:
        if not text:
            return False
        if "\0" in text or text.startswith(("/", "~")) or ".." in re.split(r"[/\\]", text):
            return True
        place = self.root / text
        try:
            return place.exists() or not self.has(place.resolve())  # what is new may be behind a link
        except RuntimeError:  # a loop of links
            return True
        except (OSError, UnicodeError):  # too long, or no name of a file: a text
            return False

    def has(self, real: Path) -> bool:
        """Return whether a real path is in one of the folders."""
        return any(real.is_relative_to(folder) for folder in self.folders)

    def shown(self, path: Path) -> str:
        """Return a path as it is written in commands: relative to the root if it is in there."""
        real = path.resolve()
        return str(real.relative_to(self.root)) if real.is_relative_to(self.root) else str(real)

    def new_name(self, folder: Path, wanted: str) -> str:
        """Return a path, relative to the root, of something new in a folder: the name, or the name with a number."""
        name = wanted if _NAME.fullmatch(wanted) else f"new-{time.strftime('%Y%m%d-%H%M%S')}"
        taken = {path.name for path in (self.root / folder).glob("*")}
        stem = name.removesuffix(".json")
        names = (_numbered(stem, number) + name[len(stem) :] for number in count(1))
        return str(folder / next(new for new in names if new not in taken))

    def move_to_trash(self, path: Path) -> Path:
        """Move a folder or file of the workspace to the trash folder, and return its new path.

        Raises:
            ValueError: if it is one of the folders themselves, or cannot be moved.
        """
        real = path.resolve()
        if real in self.folders or any(folder.is_relative_to(real) for folder in self.folders):
            raise ValueError(f"{self.shown(path)} is a folder of the page itself, and is not deleted")
        # Shorter, because numbers and endings are added to it; file systems allow 255 bytes.
        short = real.name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
        stem, trash = f"{time.strftime('%Y%m%d-%H%M%S')}-{short}", self.trash()
        with MOVING:
            places = (trash / _numbered(stem, number) for number in count(1))
            # The record of a folder `a` has the name that a file `a.json` has in the trash: both must be free.
            target = next(place for place in places if not (place.exists() or origin_file(place).exists()))
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                # The size is recorded, because the page asks for it every few seconds, and nothing in it changes.
                origin = {"folder": self.shown(real), "time": time.time(), "size": size_of(real)}
                write_json(origin_file(target), origin)
                shutil.move(real, target)
            except OSError as error:
                if not target.exists():
                    origin_file(target).unlink(missing_ok=True)
                raise ValueError(f"{self.shown(path)} could not be moved to {self.shown(target)}: {error}") from error
        return target

    def trash(self) -> Path:
        """Return the trash folder, which need not exist.

        Raises:
            ValueError: if it is a link, since emptying the trash would delete what the link leads to, or is outside of
                the folders of the page.
        """
        if (self.root / TRASH_FOLDER).is_symlink():
            raise ValueError(TRASH_IS_LINK.format(TRASH_FOLDER))
        self.path(str(TRASH_FOLDER), "trash")
        return self.root / TRASH_FOLDER


def origin_file(trashed: Path) -> Path:
    """Return the file that records where something in the trash was, when it was moved there, and its size."""
    return trashed.with_name(f"{trashed.name}.json")


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes; links are not followed."""
    total, places = 0, [path]
    while places:
        place = places.pop()
        try:
            if place.is_dir() and not place.is_symlink():
                places += place.iterdir()
            else:
                total += place.lstat().st_size
        except OSError:  # removed meanwhile
            continue
    return total


def _short(text: str) -> str:
    """Return a path for a message, which may be of any length."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}-{number}"
