"""Access checks of a local page, as ASGI middleware around the whole application.

Every request is checked here before a route is looked up, so that a new page or route cannot forget a check, and a
caller without the token does not even learn which pages exist. A browser without it gets the login page.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from songgen.runtime.json_files import parse_json
from songgen.web.access import Access, is_same_origin
from songgen.web.answers import ProblemAnswer
from songgen.web.login import FORM_TYPE, LOGIN_PATH, LOGIN_POLICIES, MAX_LOGIN_BYTES, LoginPage, sent_token

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
"""Maximum size of the body of a request; the lyrics of a song take some thousand bytes."""

READING_METHODS = ("GET", "HEAD")
"""Methods that change nothing. Requests with any other method must come from the page itself and carry JSON, or a file
where a route takes one."""

JSON_TYPE = "application/json"
FILE_TYPE = "application/octet-stream"
"""Types of bodies. No form of another page can send them, and its scripts would have to ask first (CORS)."""

WRONG_SECONDS = 1.0
"""Time after which a wrong token at the login is answered. It slows down guessing; what protects is the length of the
token."""

MAX_WAITING = 16
"""Maximum number of answers to wrong tokens that wait at the same time; further tokens are not looked at meanwhile."""

DOCUMENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Policy that an answer may have instead of the common one: that of an HTML file with styles and pictures of its own,
which runs no script."""

COMMON_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every answer; the login page has its own policies. There is no CORS header: no other page may read
anything. The hash is that of an empty style element: the library of charts adds one and fills it rule by rule, which
scripts of the page may do anyway."""

CACHING = "no-store"
"""`Cache-Control` of answers without one of their own, which only a library with its version in the address has."""


class AccessGuard:
    """Passes requests with the right token, host and origin to an application, and refuses all others."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        cookie_name: str,
        file_limit: Callable[[Scope], int | None],
        answer_problem: ProblemAnswer,
    ) -> None:
        """Wrap an application.

        Args:
            app: application; its endpoints find the JSON object that was sent in `request.state.body`.
            access: what a request must show.
            cookie_name: name of the cookie that holds the token.
            file_limit: returns the maximum size of the file that a request may carry, which its endpoint reads; None
                for a request that carries JSON.
            answer_problem: returns the answer to a request that is refused.
        """
        self._app = app
        self._access = access
        self._cookie_name = cookie_name
        self._file_limit = file_limit
        self._answer_problem = answer_problem
        self._num_waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        assert scope["type"] == "http", "the server is started without web sockets and lifespan events"
        request = Request(scope, receive)
        answer = _Answer(request, send)
        try:
            response = await self._check(request)
        except HTTPException as problem:
            response = self._answer_problem(request, problem)
        except ClientDisconnect:
            return  # the body never arrived, and there is no one left to answer
        except Exception:
            logger.exception("the access checks failed")
            raise
        if isinstance(response, LoginPage):
            answer.policies = LOGIN_POLICIES
        try:
            await (response or self._app)(scope, receive, answer.send)
        except Exception:
            # Starlette raises the failure of a page again after it was logged and answered. If the answer was not
            # finished, the server has to close the connection, so that half of it is not taken for the whole.
            if not answer.is_complete:
                raise

    async def _check(self, request: Request) -> Response | None:
        """Return None for a request that the application may answer, or the answer to the first visit.

        Raises:
            HTTPException: if the request is refused.
        """
        hosts = request.headers.getlist("host")
        if not self._access.knows_host(hosts):
            raise HTTPException(403, "this page is not known by the name that was used for it")
        path = _raw_path(request)
        if not path.startswith("/"):
            raise HTTPException(400, "the address must begin with a slash")
        if request.method == "GET" and path == "/" and "token" in request.query_params:
            return await self._let_in(request, request.query_params["token"])
        if request.method == "POST" and path == LOGIN_PATH:
            _require_own_origin(request)
            _check_body(request, FORM_TYPE, MAX_LOGIN_BYTES)
            return await self._let_in(request, await sent_token(request))
        is_script = self._access.has_bearer(request.headers.get("authorization"))
        if not is_script and not self._access.has_cookie(request.headers.getlist("cookie"), self._cookie_name):
            return _answer_stranger(request, path)
        if request.method not in READING_METHODS:
            # A browser always names the page that sends; a script need not, and shows the token itself.
            if not is_script or "origin" in request.headers:
                _require_own_origin(request)
            max_bytes = self._file_limit(request.scope)
            if max_bytes is None:
                _check_body(request, JSON_TYPE, MAX_BODY_BYTES)
                request.state.body = await _read_json(request)
            else:
                _check_body(request, FILE_TYPE, max_bytes)
                request.state.carries_file = True  # the server allows it more time
        return None

    async def _let_in(self, request: Request, token: str) -> Response:
        """Move the token into a cookie and out of the address, which browsers keep in their history and show."""
        if self._num_waiting >= MAX_WAITING:
            return LoginPage(request, "busy", 429)
        if not self._access.is_token(token):
            self._num_waiting += 1
            try:
                await asyncio.sleep(WRONG_SECONDS)
            finally:
                self._num_waiting -= 1
            return LoginPage(request, "wrong")
        cookie = f"{self._cookie_name}={self._access.token}; HttpOnly; SameSite=Strict; Path=/"
        return Response(status_code=303, headers={"Location": "/", "Set-Cookie": cookie})


class _Answer:
    """Wrapper of the answer to one request, which adds the common headers and logs the request."""

    def __init__(self, request: Request, send: Send) -> None:
        self._request = request
        self._send = send
        self.policies: dict[str, str] = {}
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            is_document = headers.get("Content-Security-Policy") == DOCUMENT_POLICY
            headers.update(COMMON_HEADERS | self.policies)
            if is_document:
                headers["Content-Security-Policy"] = DOCUMENT_POLICY
            headers.setdefault("Cache-Control", CACHING)
            if message["status"] >= 400 or self._has_unread_body():
                headers["Connection"] = "close"  # what is left of a body must not be taken for the next request
            # The query is left out, since it may hold the token. The path is still escaped, so it is printable.
            logger.info("%s %s %d", self._request.method, _raw_path(self._request), message["status"])
        await self._send(message)  # raises if the body is shorter than was announced
        self.is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    def _has_unread_body(self) -> bool:
        headers = self._request.headers
        return self._request.method in READING_METHODS and (
            "content-length" in headers or "transfer-encoding" in headers
        )


def _answer_stranger(request: Request, path: str) -> Response:
    """Return the answer to a request without the token: for a browser, the login page or the way to it.

    It depends on the path in nothing but its being the first one, so it does not show which pages exist.

    Raises:
        HTTPException: 401 if it is the request of a script.
    """
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(401, "the token is missing: open the address that the terminal shows")
    return LoginPage(request) if path == "/" else Response(status_code=303, headers={"Location": "/"})


def _require_own_origin(request: Request) -> None:
    """Check that a request was sent by a page of this server.

    Raises:
        HTTPException: if it was not, or does not say so.
    """
    origin = request.headers.get("origin")
    if origin is None or not is_same_origin(origin, request.headers["host"]):
        raise HTTPException(403, "the request comes from another page")


def _raw_path(request: Request) -> str:
    """Return the path as it was sent, with its escapes; HTTP allows nothing but ASCII there."""
    path: bytes = request.scope["raw_path"]
    return path.decode("ascii")


def _check_body(request: Request, media_type: str, max_bytes: int) -> None:
    """Check size and type of the body that a request announces.

    Raises:
        HTTPException: if its length is not given or too large, or if it has another type.
    """
    length = request.headers.get("content-length", "")
    if "transfer-encoding" in request.headers or not (length.isascii() and length.isdigit()):
        raise HTTPException(411, "the length of the body must be given")
    # Digits first: `int` raises for thousands of them.
    if len(length) > len(str(max_bytes)) or int(length) > max_bytes:
        raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
        raise HTTPException(415, f"the body must be {media_type}")


async def _read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request carries.

    Raises:
        HTTPException: if it is not a JSON object.
    """
    try:
        values = parse_json(await request.body())
    except ValueError as error:
        raise HTTPException(400, "the body is not JSON") from error
    if not isinstance(values, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return values
