"""Files that are sent to the page: their names, limits, and writing them as they arrive."""

import asyncio
import filecmp
import os
import secrets
import shutil
import threading
import time
import unicodedata
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from songgen.data.manifests.folders.song_texts import JSON_SUFFIXES, LYRICS_SUFFIXES, PLAIN_SUFFIX
from songgen.data.manifests.tables import TABLE_SUFFIXES
from songgen.data.sound.contents import AUDIO_SUFFIXES
from songgen.ui.workspace import UPLOADS_FOLDER, Workspace

MAX_UPLOAD_BYTES = 4 << 30
"""Maximum size of a file: the most that a WAV file holds, six hours of CD quality."""

RESERVED_BYTES = 1 << 30
"""Space that stays free on the disk."""

PARTIAL_FOLDER = ".partial"
"""Hidden folder, next to the uploads, of files that have not arrived completely."""

STALE_SECONDS = 3_600.0
"""Age after which a partial file is removed; a transfer without a byte for 30 s is cut off by the server."""

MAX_NAME_BYTES = 180
"""Maximum length of a name in UTF-8; file systems allow 255 bytes."""

MAX_DEPTH = 8
"""Maximum number of folders in a name."""

SUFFIXES = tuple(sorted({
    *AUDIO_SUFFIXES, *(Path(f"name{suffix}").suffix for suffix in (*LYRICS_SUFFIXES, *JSON_SUFFIXES, PLAIN_SUFFIX)),
    *TABLE_SUFFIXES,
}))  # fmt: skip
"""Extensions of files that are accepted: audio, texts next to songs, and manifests."""

UNSAFE = frozenset('<>:"|?*/\\')
"""Characters that are not allowed in names on every file system."""

_placing = threading.Lock()
_expected: dict[Path, int] = {}
"""Partial file -> number of bytes of it that have not arrived yet; they are kept free for it."""


def clean_name(name: str) -> str:
    """Return one name of a file or folder without characters that a file system or a terminal could trip over.

    Equal stems stay equal, so that texts still belong to their song.

    Raises:
        ValueError: if nothing is left of it.
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join(character if character.isprintable() and character not in UNSAFE else "_" for character in text)
    text = text.strip(" ").lstrip(".").rstrip(". ")
    stem, suffix = Path(text).stem, Path(text).suffix
    room = MAX_NAME_BYTES - len(suffix.encode())
    text = stem.encode()[: max(room, 0)].decode(errors="ignore") + suffix
    if not text or len(text.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{name!r} cannot be the name of a file; rename it and try again")
    return text


def upload_path(workspace: Workspace, folder: str, name: str) -> tuple[Path, Path]:
    """Return the folder of an upload and the path of a file in it; folders that it needs are created.

    Args:
        workspace: folders of the page.
        folder: name of a folder in `UPLOADS_FOLDER`.
        name: name in that folder, which may have folders of its own, separated by `/`.

    Raises:
        ValueError: if a name cannot be used, or is not that of a song, a text or a manifest.
    """
    parts = [clean_name(part) for part in name.split("/") if part not in ("", ".")]
    if not parts or len(parts) > MAX_DEPTH:
        raise ValueError(f"{name!r} cannot be the name of a file: at most {MAX_DEPTH} folders may be in it")
    if Path(parts[-1]).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{parts[-1]} is not a song, a text or a manifest; expected one of {', '.join(SUFFIXES)}")
    place = workspace.root / UPLOADS_FOLDER / clean_name(folder)
    target = place.joinpath(*parts)
    workspace.path(str(target.parent), "folder")  # a link may lead out of the folders
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{workspace.shown(target.parent)} cannot be created: {error.strerror}") from error
    return place, workspace.path(str(target), "name")


async def receive_file(
    workspace: Workspace, target: Path, size: int, chunks: AsyncIterator[bytes], *, rename: bool = False
) -> Path:
    """Write a file as it arrives; it has its name only once it is whole.

    Args:
        workspace: folders of the page.
        target: path of the file.
        size: number of bytes that were announced.
        chunks: content.
        rename: whether a file of this name with other content is kept and the new one gets a number, instead of an
            error.

    Returns:
        Path of the file, which may have been there before with the same content.

    Raises:
        ValueError: if the disk has not enough space, the content is incomplete, or the name is taken.
    """
    uploads = workspace.root / UPLOADS_FOLDER
    partial = uploads / PARTIAL_FOLDER / secrets.token_hex(8)
    try:
        await asyncio.to_thread(_prepare, partial, size)
        with partial.open("xb") as file:
            async for chunk in chunks:
                # In a thread, because a slow disk would hold up every other request.
                await asyncio.to_thread(file.write, chunk)
                _expected[partial] -= len(chunk)
            received = file.tell()
        if received != size:
            raise ValueError(f"{target.name}: {received} of {size} bytes have arrived; send it again")
        return await asyncio.to_thread(_place, workspace, partial, target, rename)
    except OSError as error:
        raise ValueError(f"{target.name} cannot be written: {error.strerror or error}") from error
    finally:
        _expected.pop(partial, None)
        partial.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Return how many bytes may still be uploaded to the file system of a folder, besides what is under way."""
    return max(0, shutil.disk_usage(folder).free - RESERVED_BYTES - sum([*_expected.values()]))


def _prepare(partial: Path, size: int) -> None:
    """Create the folder of partial files, remove those that a killed server has left, and keep room for a new one."""
    folder = partial.parent
    with _placing:
        _require_room(folder, size)
        _expected[partial] = size


def _require_room(folder: Path, size: int) -> None:
    """Check that a file has room on the disk, without what a killed server has left.

    Raises:
        ValueError: if it has not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # another upload has just ended
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
        room = free_bytes(folder)
    except OSError as error:
        raise ValueError(f"{UPLOADS_FOLDER} cannot be used: {error.strerror}") from error
    if size > room:
        raise ValueError(
            f"the disk has no room for {size / 1e6:.0f} MB: {room / 1e6:.0f} MB can be used; free some space first"
        )


def _place(workspace: Workspace, partial: Path, target: Path, rename: bool) -> Path:
    """Give a whole file its name, or another one; return the path of what has this content then."""
    number, free = 1, target
    while not _take_name(partial, free):
        if filecmp.cmp(partial, free, shallow=False):
            return free
        if not rename:
            raise ValueError(
                f"{workspace.shown(target)} exists with other content; choose another folder for the upload"
            )
        number += 1
        free = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return free


def _take_name(partial: Path, path: Path) -> bool:
    """Give a whole file its name; return whether it was free. The lock keeps two files from taking the same one.

    It is held for no longer: comparing two files of some gigabytes takes a while, and other uploads need it to begin.
    """
    with _placing:
        if path.exists():
            return False
        os.replace(partial, path)
        return True
