"""Uploads: songs and voices that the browser sends to the workspace."""

import asyncio
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from songgen.ui.site import Site
from songgen.ui.uploads import MAX_UPLOAD_BYTES, SUFFIXES, free_bytes, receive_file, upload_path
from songgen.web.answers import json_response
from songgen.web.application import FileRoute, PageRoute

MAX_DRAINED_BYTES = 64 << 20
"""Most bytes of a refused file that are still read. A browser reads the answer only when all of the file is sent; if
the connection ends before, it shows an interruption in place of the reason."""


class UploadsPart:
    """The endpoints of uploads."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        return [
            PageRoute("/api/uploads", self._site.api(self.limits)),
            FileRoute("/api/uploads/{folder}/{name}", self.receive, MAX_UPLOAD_BYTES),
        ]

    def limits(self, request: Request) -> Response:
        """Return what can be uploaded, so that the page need not send a file that is refused."""
        free = free_bytes(self._site.workspace.root)
        return json_response({"max_bytes": MAX_UPLOAD_BYTES, "free_bytes": free, "suffixes": SUFFIXES})

    async def receive(self, request: Request) -> Response:
        """Store a file; `?rename=1` gives it another name if there is one of this name with other content."""
        workspace, names = self._site.workspace, request.path_params
        try:
            folder, target = await asyncio.to_thread(upload_path, workspace, names["folder"], names["name"])
            size = int(request.headers["content-length"])
            rename = request.query_params.get("rename") == "1"
            path = await receive_file(workspace, target, size, request.stream(), rename=rename)
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        except ValueError as error:
            await _drain(request)
            return json_response({"error": self._site.language(request).message(str(error))}, 422)
        return json_response({"path": workspace.shown(path), "folder": workspace.shown(folder), "bytes": size})


async def _drain(request: Request) -> None:
    """Read what is left of a file that is refused."""
    if int(request.headers["content-length"]) > MAX_DRAINED_BYTES:
        return
    with suppress(ClientDisconnect, RuntimeError):  # RuntimeError: the stream was consumed
        async for _ in request.stream():
            pass
