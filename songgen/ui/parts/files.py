"""Sounds and pictures of the workspace, for players and reports on the page."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from songgen.ui.folders.facts import SOUND_TYPES
from songgen.ui.site import Site
from songgen.web.answers import PartialFileResponse, existing_file
from songgen.web.application import PageRoute

MEDIA_TYPES = SOUND_TYPES | {".png": "image/png"}
"""Ending of a file that may be sent -> its type. None of them can run a script."""


class FilesPart:
    """The address of files: `/files/PATH`, with slashes in the path escaped."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        return [PageRoute("/files/{path}", self.file)]

    def file(self, request: Request) -> Response:
        """Return a file or a range of it; `?download=1` lets the browser save it.

        Raises:
            HTTPException: 404 if there is none, it is outside of the folders, or its type is not sent.
        """
        workspace = self._site.workspace
        try:
            path = workspace.path(request.path_params["path"])
        except ValueError as error:
            raise HTTPException(404, "there is no such file") from error
        # The ending of the real file counts: a link `song.wav` must not send something else.
        media_type = MEDIA_TYPES.get(path.suffix.lower())
        if media_type is None:
            raise HTTPException(404, "there is no such file")
        folder = next(folder for folder in workspace.folders if path.is_relative_to(folder))
        real = existing_file(path, folder)
        name = real.name if "download" in request.query_params else None
        return PartialFileResponse(real, media_type=media_type, filename=name, stat_result=real.stat())
