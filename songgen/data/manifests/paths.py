"""Audio paths of a manifest, which anyone may have written: only regular files inside allowed folders are opened."""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from songgen.data.manifests.clip import TrackPath, is_storable_text

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
"""How a URL begins, also one inside of others (`simplecache::http://...`); `Foo :: Bar.mp3` is a file."""


def resolve_track_path(given: str, base_folders: Sequence[Path], roots: Sequence[Path]) -> TrackPath:
    """Find the file that a manifest means, without opening anything.

    Args:
        given: path as the manifest has it, absolute or relative.
        base_folders: folders that a relative path may start from; the first where the file exists wins.
        roots: folders (with links followed) that the file must lie in once its own links are followed.

    Returns:
        The path with `resolved` set, or with the code and reason of the refusal.
    """
    if not given or not is_storable_text(given):
        return TrackPath(given, code="path_invalid", reason="the path is empty or holds characters that no path has")
    if _URL.match(given):
        return TrackPath(given, code="path_url", reason="the path is a URL; only files are read")
    refusal = TrackPath(given, code="path_outside_roots", reason="no folder to start from")
    for base in base_folders:
        refusal = _check(given, base / given, roots)
        if refusal.resolved:
            return refusal
    return refusal


def _check(given: str, path: Path, roots: Sequence[Path]) -> TrackPath:
    try:
        resolved = Path(os.path.realpath(path))
        if not any(resolved.is_relative_to(root) for root in roots):
            reason = "the file lies outside the manifest's folder; name its folder in audio_roots to allow it"
            return TrackPath(given, code="path_outside_roots", reason=reason)
        mode = resolved.stat().st_mode
    except FileNotFoundError:
        return TrackPath(given, code="file_missing", reason="there is no such file")
    except (OSError, ValueError) as error:
        return TrackPath(given, code="path_invalid", reason=f"the path cannot be followed: {error}")
    if not stat.S_ISREG(mode):
        return TrackPath(given, code="not_a_file", reason="the path does not lead to a regular file")
    return TrackPath(given, resolved=str(resolved))
