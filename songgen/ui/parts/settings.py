"""Settings: the language of the page, its folders, what is installed, and help."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from songgen.ui.folders.trash import trashed
from songgen.ui.installed import extras, versions
from songgen.ui.site import Site, text_of
from songgen.ui.translation import LANGUAGES
from songgen.ui.workspace import TRASH_FOLDER, Workspace
from songgen.web.answers import json_response
from songgen.web.application import PageRoute
from songgen.web.language import LANGUAGE_COOKIE

MAX_ENTRIES = 500
"""Maximum number of files and folders that are listed for choosing; a path can also be typed."""


class SettingsPart:
    """The endpoints of the settings, and of choosing files and folders."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        return [
            PageRoute("/settings", self._site.page(self.index)),
            PageRoute("/api/language", self._site.api(self.choose_language), methods=["POST"]),
            PageRoute("/api/folders", self._site.api(self.folder)),
            PageRoute("/api/machine", self._site.api(self.machine)),
        ]

    def index(self, request: Request) -> Response:
        """Return the page."""
        workspace = self._site.workspace
        disks = [(folder, shutil.disk_usage(folder)) for folder in workspace.folders if folder.is_dir()]
        return self._site.render(
            request,
            "settings.html",
            disks=disks,
            port=port_of(request),
            host=socket.gethostname(),
            versions=versions(),
            extras=extras(),
            jobs_folder=workspace.shown(workspace.jobs),
            trash_folder=TRASH_FOLDER.as_posix(),
            trash_size=trash_size(workspace),
        )

    def machine(self, request: Request) -> Response:
        """Return GPUs, cores and main memory; it imports torch, so the page asks for it when it is shown."""
        from songgen.planning.machine import this_machine

        found = this_machine()
        values: dict[str, Any] = {
            "devices": [{"name": device.name, "total": device.total, "free": device.free} for device in found.devices],
            "cores": found.cores,
            "memory": found.memory,
            "free_memory": found.free_memory,
        }
        return json_response(values)

    def choose_language(self, request: Request) -> Response:
        """Set the language of this browser: `{"language": CODE}`."""
        language = text_of(request, "language")
        if language not in LANGUAGES:
            raise ValueError(f"language: one of {', '.join(LANGUAGES)} is expected")
        cookie = f"{LANGUAGE_COOKIE}={language}; Path=/; SameSite=Strict; Max-Age=31536000"
        return json_response({}, headers={"Set-Cookie": cookie})

    def folder(self, request: Request) -> Response:
        """Return what is in a folder, for choosing: `?path=PATH`; without it the folders of the page."""
        workspace = self._site.workspace
        text = request.query_params.get("path", "")
        if not text:
            entries = [
                {"name": str(path), "path": workspace.shown(path), "is_folder": True} for path in workspace.folders
            ]
            return json_response({"path": "", "parent": None, "entries": entries, "more": 0})
        folder = workspace.existing_folder(text)
        shown = Path(workspace.shown(folder))
        with os.scandir(folder) as found:
            listed = [(not entry.is_dir(), entry.name) for entry in found if not entry.name.startswith(".")]
        listed.sort(key=lambda entry: (entry[0], entry[1].casefold()))
        entries = [
            {"name": name, "path": (shown / name).as_posix(), "is_folder": not is_file}
            for is_file, name in listed[:MAX_ENTRIES]
        ]
        parent = "" if folder in workspace.folders else workspace.shown(folder.parent)
        more = len(listed) - len(entries)
        return json_response({"path": str(shown), "parent": parent, "entries": entries, "more": more})


def trash_size(workspace: Workspace) -> int:
    """Return the size of what is in the trash, in bytes; 0 for a trash that is a link, which Models says."""
    try:
        return sum(entry.size for entry in trashed(workspace))
    except ValueError:
        return 0


def port_of(request: Request) -> int | None:
    """Return the port that the server listens on; that of the address may be one that is forwarded."""
    server = request.scope.get("server")
    return server[1] if server else request.url.port
