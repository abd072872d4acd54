"""The page of `songgen ui`: all its addresses."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from songgen.ui.parts.files import FilesPart
from songgen.ui.parts.jobs import JobsPart
from songgen.ui.parts.settings import SettingsPart
from songgen.ui.parts.train import TrainPart
from songgen.ui.parts.uploads import UploadsPart
from songgen.ui.site import Part, Site, asset
from songgen.ui.workspace import Workspace
from songgen.web.application import PageRoute


def page_routes(workspace: Workspace) -> list[PageRoute]:
    """Return every address of the page of a workspace."""
    site = Site(workspace)
    parts: list[Part] = [JobsPart(site), SettingsPart(site), TrainPart(site), FilesPart(site), UploadsPart(site)]
    return [
        PageRoute("/", _home),
        PageRoute("/assets/{name}", _asset),
        *(route for part in parts for route in part.routes()),
    ]


def _home(request: Request) -> Response:
    return RedirectResponse("/data", 303)


def _asset(request: Request) -> Response:
    return asset(request.path_params["name"])
