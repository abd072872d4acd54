"""A local page to send requests to, and a client that can be as rude as it likes."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from songgen.ui.page import page_server
from songgen.ui.workspace import Workspace
from songgen.web.access import LOOPBACK, make_access
from songgen.web.answers import json_response
from songgen.web.application import PageRoute
from songgen.web.server import LocalServer


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Message
    """Names in any case."""

    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Sends single requests to a server on this machine; by default those that its own page would send."""

    server: LocalServer
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        host = f"{LOOPBACK}:{self.server.port}"
        token = self.server.url.partition("token=")[2]
        own = {"Host": host, "Cookie": f"songgen-{self.server.port}={token}", "Origin": f"http://{host}"}
        self.headers = own | self.headers

    def send(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str | None] | None = None
    ) -> Answer:
        """Send a request; a header that is None is left out, a body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent: dict[str, str | None] = {**self.headers}
        if data is not None:
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        sent |= headers or {}
        connection = http.client.HTTPConnection(LOOPBACK, self.server.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(data)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str | None) -> Answer:
        """Send a GET request."""
        return self.send("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, body: Any, **headers: str | None) -> Answer:
        """Send a POST request."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("POST", path, body, headers=given)


@dataclass
class Notebook:
    """A page with a start page, items by id, and a list of what was written."""

    written: list[Any] = field(default_factory=list)

    def routes(self) -> list[PageRoute]:
        return [
            PageRoute("/", self.start),
            PageRoute("/items/{id}", self.item),
            PageRoute("/items/{id}", self.write, methods=["POST"]),
            PageRoute("/broken", self.broken),
        ]

    def start(self, request: Request) -> Response:
        return HTMLResponse("<!doctype html><title>Notes</title>")

    def item(self, request: Request) -> Response:
        return json_response({"id": request.path_params["id"], "query": dict(request.query_params)})

    def write(self, request: Request) -> Response:
        self.written.append(request.state.body)
        return json_response({"count": len(self.written)})

    def broken(self, request: Request) -> Response:
        raise RuntimeError("\x1b[2Jout of ink")


@contextmanager
def serving(routes: list[PageRoute], host: str = LOOPBACK, token: str | None = None) -> Iterator[Client]:
    """Serve routes on a free port for the length of the block."""
    with LocalServer(routes, make_access(host, token)).running() as server:
        yield Client(server)


@contextmanager
def serving_page(workspace: Workspace) -> Iterator[Client]:
    """Serve the page of a workspace, as `songgen ui` does, for the length of the block."""
    with page_server(workspace, make_access(LOOPBACK, None)).running() as server:
        yield Client(server)
