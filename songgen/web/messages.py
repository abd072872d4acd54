"""What the server and the pages on it hand to each other: requests, responses, routes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

JSON_TYPE = "application/json; charset=utf-8"


class HttpProblem(Exception):
    """A request that is not answered as it wishes."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say why.

        Args:
            status: HTTP status code.
            message: for people.
            details: further entries of the JSON answer.
            headers: further headers of the answer.
        """
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})

    def response(self) -> "Response":
        """Return it as an answer."""
        answer = json_response({"error": self.message, **self.details}, self.status)
        return Response(answer.body, answer.content_type, answer.status, self.headers)


@dataclass(frozen=True)
class Request:
    """What a page's function gets to see of a request; who sent it was checked before."""

    parameters: Mapping[str, str]
    """Names in the route's pattern -> what stood in their places, decoded."""

    query: Mapping[str, str]
    """What stood behind the question mark."""

    body: Mapping[str, Any] = field(default_factory=dict)
    """JSON object that was sent; empty for reading requests."""


@dataclass(frozen=True)
class FileBody:
    """A file as the body of an answer; browsers may ask for parts of it."""

    path: Path
    """The page has chosen it: no part of it comes from a request."""


@dataclass(frozen=True)
class Response:
    """An answer."""

    body: bytes | FileBody
    """What is sent."""

    content_type: str
    """Kind of the body."""

    status: int = 200
    """HTTP status code."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers."""


@dataclass(frozen=True)
class Route:
    """A method and paths, and what answers them."""

    method: str
    """`GET` (which answers `HEAD` too) or `POST`."""

    pattern: str
    """Path; a part in braces takes anything that holds no plain slash, such as `/songs/{id}`."""

    answer: Callable[[Request], Response]
    """Called in a thread of its own for each request."""

    def match(self, path: str) -> dict[str, str] | None:
        """Return what stands in the places of the pattern's names; None for another path.

        Args:
            path: as it was sent. It is taken apart before its escapes are decoded, so that `%2F` parts nothing.
        """
        wanted, given = self.pattern.split("/"), path.split("/")
        if len(wanted) != len(given):
            return None
        found: dict[str, str] = {}
        for name, part in zip(wanted, given, strict=True):
            if name.startswith("{"):
                found[name.strip("{}")] = unquote(part)
            elif name != part:
                return None
        return found


def find_route(routes: Sequence[Route], method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Return the route of a request and what stands in the places of its names.

    Raises:
        HttpProblem: 404 if no route has the path, 405 if none has it with this method.
    """
    wanted = "GET" if method == "HEAD" else method
    matches = [(route, found) for route in routes if (found := route.match(path)) is not None]
    if not matches:
        raise HttpProblem(404, "there is no such page")
    for route, found in matches:
        if route.method == wanted:
            return route, found
    allowed = {route.method for route, _ in matches}
    allowed |= {"HEAD"} if "GET" in allowed else set()
    raise HttpProblem(405, f"{method} is not possible here", headers={"Allow": ", ".join(sorted(allowed))})


def json_response(values: Any, status: int = 200) -> Response:
    """Return JSON values as an answer (ASCII only, so that any text survives)."""
    return Response(json.dumps(values).encode("ascii"), JSON_TYPE, status)


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Read the JSON object that a request carries.

    Raises:
        HttpProblem: 400 if it is none.
    """
    try:
        values = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HttpProblem(400, "the body is no JSON") from error
    if not isinstance(values, dict):
        raise HttpProblem(400, "the body is no JSON object")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the bytes that a `Range` header asks for.

    Args:
        header: one range; what is malformed or asks for several is answered with the whole file, as HTTP allows.
        size: bytes of the file.

    Returns:
        First byte and the one behind the last; None for the whole file.

    Raises:
        HttpProblem: 416 if the range lies outside of the file.
    """
    unit, _, wanted = header.partition("=")
    first, dash, last = (part.strip() for part in wanted.partition("-"))
    is_plain = all(text == "" or (text.isascii() and text.isdigit()) for text in (first, last))
    if unit.strip().lower() != "bytes" or not dash or not is_plain or not (first or last):
        return None
    if first:
        begin, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < begin:
            return None
    else:
        begin, end = max(0, size - int(last)), size
    if begin >= end:
        raise HttpProblem(416, "the file has no such bytes", headers={"Content-Range": f"bytes */{size}"})
    return begin, end
