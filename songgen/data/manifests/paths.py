"""Audio paths of a manifest, which may not be trusted: only regular files in allowed folders are opened."""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from songgen.data.manifests.clip import TrackPath, is_storable_text

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
"""Start of a URL, including chained ones (`simplecache::http://...`); `Foo :: Bar.mp3` is a file."""

_WINDOWS = re.compile(r"[a-zA-Z]:[\\/]|\\\\")
"""Start of an absolute path of Windows."""


def resolve_track_path(given: str, base_folders: Sequence[Path], roots: Sequence[Path]) -> TrackPath:
    """Resolve a path of a manifest, without opening the file.

    Args:
        given: Path as given in the manifest, absolute or relative.
        base_folders: Folders to which a relative path may be relative; the first one in which the file exists is used.
        roots: Allowed folders (links resolved), one of which must contain the file after its links are resolved.

    Returns:
        The path, with either `resolved` or the code and reason of the refusal.
    """
    if not given or not is_storable_text(given):
        return TrackPath(
            given, code="path_invalid", reason="the path is empty or contains characters that are not allowed in paths"
        )
    if _URL.match(given):
        return TrackPath(given, code="path_url", reason="the path is a URL; only files are read")
    refusals = []
    for base in base_folders:
        for spelling in _spellings(given):
            found = _check(given, base / spelling, roots)
            if found.resolved:
                return found
            refusals.append(found)
    # A file that is there but is refused says more than one that is missing elsewhere.
    refusal = next((found for found in refusals if found.code != "file_missing"), refusals[0])
    if _WINDOWS.match(given):
        reason = f"{refusal.reason}; it is a path of Windows: write it relative to the manifest"
        refusal = replace(refusal, reason=reason)
    return refusal


def _spellings(given: str) -> Iterator[str]:
    """Yield a path as given, then as other systems write it: with slashes, with composed or decomposed letters."""
    yield given
    if given.startswith("~/"):
        yield os.path.expanduser(given)
    others: dict[str, None] = {}
    for path in (given, given.strip().replace("\\", "/")):
        for form in ("NFC", "NFD"):
            others[unicodedata.normalize(form, path)] = None
    yield from (path for path in others if path and path != given)


def _check(given: str, path: Path, roots: Sequence[Path]) -> TrackPath:
    try:
        resolved = Path(os.path.realpath(path))
        if not any(resolved.is_relative_to(root) for root in roots):
            reason = "the file is outside the manifest's folder; add its folder to audio_roots to allow it"
            return TrackPath(given, code="path_outside_roots", reason=reason)
        mode = resolved.stat().st_mode
    except FileNotFoundError:
        return TrackPath(given, code="file_missing", reason="there is no such file")
    except (OSError, ValueError) as error:
        return TrackPath(given, code="path_invalid", reason=f"the path cannot be resolved: {error}")
    if not stat.S_ISREG(mode):
        return TrackPath(given, code="not_a_file", reason="the path is not a regular file")
    return TrackPath(given, resolved=str(resolved))
