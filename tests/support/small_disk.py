"""A disk of a few megabytes for a test: a tmpfs in a mount namespace of a child process."""

import ctypes
import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import FORK
from limits import SAFETY_SECONDS

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
NO_NAMESPACES = 77
"""Exit code of a child that may not mount anything."""


def on_small_disk(folder: Path, megabytes: int, check: Callable[[], None]) -> None:
    """Call something in a child process that finds a small disk at `folder`; the disk is gone afterwards.

    The test is skipped where a user may not have namespaces of its own.
    """

    def run() -> None:
        try:
            _mount(folder, megabytes)
        except PermissionError:
            os._exit(NO_NAMESPACES)
        try:
            check()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    folder.mkdir(parents=True)
    child = FORK.Process(target=run)
    child.start()
    child.join(SAFETY_SECONDS)
    if child.exitcode == NO_NAMESPACES:
        pytest.skip("user namespaces are off on this machine, so no small disk can be made")
    assert child.exitcode == 0, "see what the child printed"


def fill(disk: Path, leaving: int) -> None:
    """Take all room of a disk but some bytes."""
    space = os.statvfs(disk)
    size = space.f_bavail * space.f_frsize - leaving
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def empty(disk: Path) -> None:
    """Give the room back."""
    (disk / "filler").unlink(missing_ok=True)


def _mount(folder: Path, megabytes: int) -> None:
    """Mount a tmpfs that this process and its children alone can see.

    Raises:
        PermissionError: namespaces are off.
    """
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()

    def call(function: str, *arguments: object) -> None:
        if getattr(library, function)(*arguments) != 0:
            number = ctypes.get_errno()
            raise PermissionError(number, f"{function}: {errno.errorcode.get(number)}")

    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    call("mount", b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={megabytes}m".encode())
