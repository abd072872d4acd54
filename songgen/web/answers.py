"""Answers of local pages: JSON, problems as JSON, and files of which browsers may request parts."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

ProblemAnswer = Callable[[Request, HTTPException], Response]
"""Function that returns the answer to a request that is refused or fails. It must show nothing that needs the token."""

AUDIO_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".aiff": "audio/aiff",
    ".aif": "audio/aiff",
}
"""Ending of an audio file -> its media type."""

_RANGE = re.compile(r"\s*bytes\s*=\s*(?:(\d{1,18})\s*-\s*(\d{0,18})|-\s*\d{1,18})\s*", re.ASCII | re.IGNORECASE)
"""A single range: `bytes=FIRST-LAST`, `bytes=FIRST-` or the suffix `bytes=-COUNT`. The number of digits is limited,
because `int` raises for texts of more than 4,300."""


def json_response(values: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON values as an answer.

    It is ASCII only: lyrics may hold half of a surrogate pair, which has no UTF-8 (`JSONResponse` would fail). Numbers
    that are not finite become null: files of runs may hold them, and browsers read no JSON with them.
    """
    try:
        text = json.dumps(values, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(values))
    return Response(text.encode("ascii"), status, headers, "application/json")


def _finite(value: Any) -> Any:
    """Return a JSON value with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def problem_response(request: Request, problem: HTTPException) -> Response:
    """Return a problem as an answer: its text is the entry `error` of a JSON object."""
    return json_response({"error": problem.detail}, problem.status_code, problem.headers)


def existing_file(path: Path, folder: Path) -> Path:
    """Return the real path of a file, without opening it: opening a pipe would block.

    Args:
        path: the file; links in it are followed as long as they stay in the folder.
        folder: folder that the file must be in.

    Raises:
        HTTPException: 404 if the file does not exist, cannot be read, is not a regular file, or is a link that leads
            out of the folder.
    """
    try:
        real = path.resolve(strict=True)
        is_served = real.is_file() and os.access(real, os.R_OK) and real.is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a NUL in the name
        is_served = False
    if not is_served:
        raise HTTPException(404, "there is no such file")
    return real


class PartialFileResponse(FileResponse):
    """A file, or the single range of it that was requested.

    Starlette answers a malformed range or another unit with 400, and several ranges with a multipart body. Players
    need neither: as RFC 9110 (14.2) allows, such a header is ignored and the whole file is sent.

    A file that grows while it is sent, such as a song that is being generated, is cut at the length that was announced.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        ranges = Headers(scope=scope).getlist("range")
        if ranges and not (len(ranges) == 1 and _is_single_range(ranges[0])):
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}
        await super().__call__(scope, receive, _Capped(send))


class _Capped:
    """Sender that leaves out what exceeds the announced length of a body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._left = 0
        self._is_over = False

    async def __call__(self, message: Message) -> None:
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            self._left = int(MutableHeaders(raw=message["headers"])["content-length"])
        else:
            body = message.get("body", b"")[: self._left]
            self._left -= len(body)
            self._is_over = not (message.get("more_body", False) and self._left)
            message = {**message, "body": body, "more_body": not self._is_over}
        await self._send(message)


def _is_single_range(header: str) -> bool:
    match = _RANGE.fullmatch(header)
    return match is not None and not (match[2] and int(match[2]) < int(match[1]))
