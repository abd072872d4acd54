"""The server: checks every request, lets a page answer it, and sends the answer with headers that close the rest.

On the standard library, in threads: a page for one person needs no more, and brings no dependency that has to be
watched.
"""

import logging
import os
import socket
import socketserver
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import SplitResult, parse_qsl, urlsplit

from songgen.runtime.terminal import printable
from songgen.web.access import Access, is_same_origin
from songgen.web.messages import (
    FileBody,
    HttpProblem,
    Request,
    Response,
    Route,
    find_route,
    parse_json_object,
    parse_range,
)

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
"""Largest body of a request; the lyrics of a song take some thousand bytes."""

MAX_CONNECTIONS = 64
"""Connections at the same time; a browser opens six."""

IDLE_SECONDS = 30.0
"""A connection that says nothing for so long is closed."""

COPY_BYTES = 1 << 18

COMMON_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""In every answer. There is no header of CORS: no other page may read anything."""


class LocalServer:
    """Serves routes to whoever has the token."""

    def __init__(self, routes: Sequence[Route], access: Access, port: int = 0) -> None:
        """Listen; requests wait until `serve` is called.

        Args:
            routes: what there is. `/` must be among them.
            access: who may see it, and the address to listen on.
            port: TCP port; 0 takes a free one.

        Raises:
            ValueError: if the address cannot be used.
        """
        try:
            self._server = _Server(access, routes, port)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"{access.host}, port {port}: cannot be used ({error}); name another with --port, 0 takes a free one"
            ) from error
        self.port: int = self._server.server_address[1]
        self._access = access

    @property
    def url(self) -> str:
        """Address to open, with the token."""
        host = f"[{self._access.host}]" if ":" in self._access.host else self._access.host
        return f"http://{host}:{self.port}/?token={self._access.token}"

    def serve(self) -> None:
        """Answer requests until `close` is called from another thread, or a signal comes."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop listening."""
        self._server.server_close()

    @contextmanager
    def running(self) -> Iterator["LocalServer"]:
        """Serve in a thread for the length of the block."""
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self.close()


class _Server(ThreadingHTTPServer):
    """Threads for connections, a bounded number of them."""

    daemon_threads = True

    def __init__(self, access: Access, routes: Sequence[Route], port: int) -> None:
        if ":" in access.host:
            self.address_family = socket.AF_INET6
        self.access = access
        self.routes = routes
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((access.host, port), _Handler)
        # Cookies know no ports: two servers on one machine must not take each other's.
        self.cookie_name = f"songgen-{self.server_address[1]}"

    def server_bind(self) -> None:
        """Bind without asking the network for this machine's name, as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or hang up where there are too many."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer the requests of a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what went wrong with a connection; most often the browser has closed it."""
        logger.info("a connection broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer a request."""
        if self.command != "POST" and {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers}:
            self.close_connection = True  # a body that nobody reads must not be taken for the next request
        try:
            response = self._answer()
        except HttpProblem as problem:
            self.close_connection = True  # here too a body may be left
            response = problem.response()
        except Exception:
            logger.exception("a page failed")
            self.close_connection = True
            response = HttpProblem(500, "the page failed; the terminal that it was started in says why").response()
        self._send(response)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def _answer(self) -> Response:
        access = self.server.access
        hosts = self.headers.get_all("Host", [])
        if not access.knows_host(hosts):
            raise HttpProblem(403, "this page is not known under the name that was used for it")
        parts = self._parts()
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.path == "/" and "token" in query and self.command == "GET":
            return self._let_in(query["token"])
        is_script = access.has_bearer(self.headers.get("Authorization"))
        if not is_script and not access.has_cookie(self.headers.get_all("Cookie", []), self.server.cookie_name):
            raise HttpProblem(401, "the token is missing: open the address that the terminal shows")
        route, parameters = find_route(self.server.routes, self.command, parts.path)
        if route.method != "POST":
            return route.answer(Request(parameters, query))
        origin = self.headers.get("Origin")
        # A browser always names the page that sends; a script has none, and shows the token itself.
        if (origin is None and not is_script) or (origin is not None and not is_same_origin(origin, hosts[0])):
            raise HttpProblem(403, "the request comes from another page")
        return route.answer(Request(parameters, query, self._read_body()))

    def _parts(self) -> SplitResult:
        try:
            parts = urlsplit(self.path)
        except ValueError as error:
            raise HttpProblem(400, "the address cannot be read") from error
        if parts.scheme or parts.netloc or not parts.path.startswith("/"):
            raise HttpProblem(400, "the address must begin with a slash")
        return parts

    def _let_in(self, token: str) -> Response:
        """Put the token into a cookie, and take it out of the address, which browsers keep and show."""
        if not self.server.access.is_token(token):
            raise HttpProblem(401, "the token is wrong, perhaps of an earlier start: open the address of the terminal")
        cookie = f"{self.server.cookie_name}={self.server.access.token}; HttpOnly; SameSite=Strict; Path=/"
        return Response(b"", "text/plain", 303, {"Location": "/", "Set-Cookie": cookie})

    def _read_body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            raise HttpProblem(411, "the length of the body must be given")
        if len(length) > len(str(MAX_BODY_BYTES)) or int(length) > MAX_BODY_BYTES:
            raise HttpProblem(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        if self.headers.get_content_type() != "application/json":
            raise HttpProblem(415, "the body must be application/json")
        return parse_json_object(self.rfile.read(int(length)))

    def _send(self, response: Response) -> None:
        try:
            if isinstance(response.body, FileBody):
                self._send_file(response, response.body)
            else:
                self._send_head(response, len(response.body))
                if self.command != "HEAD":
                    self.wfile.write(response.body)
        except HttpProblem as problem:
            self._send(problem.response())
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # a player that has heard enough hangs up

    def _send_file(self, response: Response, body: FileBody) -> None:
        try:
            file = body.path.open("rb")
        except OSError as error:
            raise HttpProblem(404, "the file is gone") from error
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise HttpProblem(404, "this is no file")
            headers = {**response.headers, "Accept-Ranges": "bytes"}
            wanted = parse_range(self.headers.get("Range", ""), status.st_size)
            begin, end = wanted or (0, status.st_size)
            if wanted is not None:
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{status.st_size}"
            head = Response(b"", response.content_type, 206 if wanted else response.status, headers)
            self._send_head(head, end - begin)
            if self.command != "HEAD":
                self._copy(file, begin, end)

    def _copy(self, file: BinaryIO, begin: int, end: int) -> None:
        file.seek(begin)
        while begin < end and (block := file.read(min(COPY_BYTES, end - begin))):
            self.wfile.write(block)
            begin += len(block)
        if begin < end:
            self.close_connection = True  # the file became shorter; the browser sees that bytes are missing

    def _send_head(self, response: Response, length: int) -> None:
        self.send_response(response.status)
        for name, value in {**COMMON_HEADERS, **response.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what cannot be read as a request: the standard library calls this."""
        self.close_connection = True
        self._send(HttpProblem(int(code), message or "the request cannot be read").response())

    def version_string(self) -> str:
        """Return the name of the server, without versions that attackers could look up."""
        return "songgen"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Note a request without what stands behind the question mark, where the token may be."""
        path = getattr(self, "path", "").partition("?")[0]
        logger.info("%s", printable(f"{getattr(self, 'command', '')} {path} {int(code)}"))

    def log_message(self, format: str, *args: Any) -> None:
        """Note what the standard library says of a connection."""
        logger.info("%s", printable(format % args))
