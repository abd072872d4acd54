"""Addresses of the review page. They are known without the page, which needs packages that take seconds to import."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from songgen.web.application import PageRoute

ADDRESSES = (
    ("/", "index", "GET"),
    ("/assets/{name}", "asset", "GET"),
    ("/api/clips", "listing", "GET"),
    ("/api/clips/{id}", "clip", "GET"),
    ("/api/clips/{id}", "save", "POST"),
    ("/api/clips/{id}/undo", "undo", "POST"),
    ("/api/clips/{id}/keep", "keep", "POST"),
    ("/api/clips/{id}/peaks/{track}", "peaks", "GET"),
    ("/audio/{id}/{track}", "audio", "GET"),
)
"""Path, method of `ReviewPage`, and HTTP method of every address. The page itself only uses relative ones."""


def review_routes(find: Callable[[Request], Any], prefix: str = "") -> list[PageRoute]:
    """Return every address of a page that is looked up for each request.

    Args:
        find: returns the `ReviewPage` of a request.
        prefix: beginning of the paths, which may have parameters.
    """

    def calling(name: str) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            response: Response = getattr(find(request), name)(request)
            return response

        return answer

    return [PageRoute(prefix + path, calling(name), methods=[method]) for path, name, method in ADDRESSES]
