"""The page of `songgen ui`: all its addresses, and the server that answers them."""

from starlette.requests import Request
from starlette.responses import Response

from songgen.ui.folders.library import Library
from songgen.ui.parts.configure import ConfigurePart
from songgen.ui.parts.data import DataPart
from songgen.ui.parts.files import FilesPart
from songgen.ui.parts.help import HelpPart
from songgen.ui.parts.home import HomePart
from songgen.ui.parts.jobs import JobsPart
from songgen.ui.parts.listen import ListenPart
from songgen.ui.parts.models import ModelsPart
from songgen.ui.parts.prepare import PreparePart
from songgen.ui.parts.review import ReviewPart
from songgen.ui.parts.settings import SettingsPart
from songgen.ui.parts.tokenize import TokenizePart
from songgen.ui.parts.train import TrainPart
from songgen.ui.parts.uploads import UploadsPart
from songgen.ui.site import Part, Site, asset
from songgen.ui.workspace import Workspace
from songgen.web.access import Access
from songgen.web.application import PageRoute
from songgen.web.server import LocalServer


def page_server(workspace: Workspace, access: Access, port: int = 0) -> LocalServer:
    """Return a server of the page of a workspace; `LocalServer` has the arguments.

    Raises:
        ValueError: if the address cannot be used.
    """
    site = Site(workspace)
    return LocalServer(page_routes(site), access, port, site.answer_problem)


def page_routes(site: Site) -> list[PageRoute]:
    """Return every address of the page."""
    library = Library(site.workspace)
    parts: list[Part] = [
        HomePart(site, library),
        DataPart(site),
        PreparePart(site),
        TokenizePart(site),
        ReviewPart(site),
        ConfigurePart(site),
        TrainPart(site),
        JobsPart(site),
        FilesPart(site),
        UploadsPart(site),
        ListenPart(site),
        ModelsPart(site, library),
        SettingsPart(site),
        HelpPart(site),
    ]
    own = [PageRoute("/assets/{name}", _asset), PageRoute("/favicon.ico", _icon)]
    return [*own, *(route for part in parts for route in part.routes())]


def _asset(request: Request) -> Response:
    return asset(request.path_params["name"])


def _icon(request: Request) -> Response:
    """Return the picture that browsers ask for if a document names none, as the report of a data set."""
    return asset("icon.svg")
