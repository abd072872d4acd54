"""The start page: the four steps for a new user, or else what runs, the latest songs and the next step."""

from itertools import islice
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from songgen.families.use.song_folder import read_song_texts
from songgen.ui.folders.facts import SOUNDS
from songgen.ui.folders.library import Item, Library
from songgen.ui.parts.models import detail_text
from songgen.ui.site import Site
from songgen.ui.workspace import SONGS_FOLDER, Workspace
from songgen.web.answers import json_response
from songgen.web.application import PageRoute

DEMO_FOLDER = Path("outputs") / "demo"
"""Folder that `make demo` writes."""

DEMO_SONGS = DEMO_FOLDER / "generated"

SHOWN = 5
"""Number of runs and songs on the start page."""

MAX_TITLE = 90
"""Maximum number of characters of the title of a song."""


class HomePart:
    """The endpoints of the start page."""

    def __init__(self, site: Site, library: Library) -> None:
        """Remember the site, and the list of everything that there is."""
        self._site = site
        self._library = library

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        return [
            PageRoute("/", self._site.page(self.index)),
            PageRoute("/api/overview", self._site.api(self.overview)),
        ]

    def index(self, request: Request) -> Response:
        """Return the start page."""
        root = self._site.workspace.root
        return self._site.render(
            request,
            "home.html",
            is_new=is_new(root),
            demo=DEMO_FOLDER.as_posix() if (root / DEMO_FOLDER).is_dir() else "",
            demo_songs=DEMO_SONGS.as_posix() if (root / DEMO_SONGS).is_dir() else "",
        )

    def overview(self, request: Request) -> Response:
        """Return the latest runs and songs, and the next step."""
        items = self._library.items()
        texts = self._site.language(request)
        runs = [item for item in items if item.kind == "run"]
        shown = [
            {"folder": run.folder, "state": run.state, "detail": detail_text(run.detail, texts)} for run in runs[:SHOWN]
        ]
        songs = latest_songs(self._site.workspace)
        return json_response({"runs": shown, "songs": songs, "next": next_step(items)})


def is_new(root: Path) -> bool:
    """Return whether a workspace has no data and no outputs yet; nothing is imported for it."""
    places = (root / "datasets", root / "outputs")
    return not any(
        path.is_dir() and not path.name.startswith(".") and path.name != "jobs"
        for place in places
        if place.is_dir()
        for path in place.iterdir()
    )


def next_step(items: list[Item]) -> dict[str, str]:
    """Return what comes next in the order of the work: its name, and the folder that it is about."""
    newest = {kind: item for kind in ("songs", "tokens", "run") for item in reversed(items) if item.kind == kind}
    models = [item for item in items if item.has_model]
    if "run" in newest and newest["run"].state == "running":
        return {"step": "watch", "folder": newest["run"].folder}
    if "run" in newest and newest["run"].has_model:
        return {"step": "listen", "folder": newest["run"].folder}
    if "run" in newest and newest["run"].state in ("stopped", "failed", "unfinished"):
        return {"step": "resume", "folder": newest["run"].folder}
    if "tokens" in newest and models:
        return {"step": "configure", "folder": newest["tokens"].folder}
    if "songs" in newest or "tokens" in newest:
        found = newest.get("songs") or newest["tokens"]
        return {"step": "tokenize" if models else "model", "folder": found.folder}
    return {"step": "songs", "folder": ""}


def latest_songs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return the newest folders of generated songs; tries without a sound are left out."""
    place = workspace.root / SONGS_FOLDER
    folders = [(changed, path) for path in place.iterdir() if (changed := _changed(path))] if place.is_dir() else []
    found = (
        {"folder": workspace.shown(folder), "name": _title(folder), "time": changed}
        for changed, folder in sorted(folders, reverse=True)
        if any(path.suffix.lower() in SOUNDS for path in folder.glob("*"))
    )
    return list(islice(found, SHOWN))


def _title(folder: Path) -> str:
    """Return the first line of the caption, or else of the lyrics, of a song; its folder's name if it has neither."""
    try:
        texts = read_song_texts(folder)
    except (ValueError, OSError):  # of somebody else
        return folder.name
    lines = [line for text in texts.values() for line in text.splitlines() if line.strip()]
    return lines[0][:MAX_TITLE] if lines else folder.name


def _changed(folder: Path) -> float:
    """Return the time of the last change of a folder; 0 for a file, a link, or one that was removed meanwhile."""
    try:
        return folder.stat().st_mtime if folder.is_dir() and not folder.is_symlink() else 0.0
    except OSError:
        return 0.0
