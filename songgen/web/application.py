"""Builds an application from routes: Starlette, with paths split before they are decoded, behind access checks."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from songgen.web.access import Access
from songgen.web.answers import ProblemAnswer, problem_response
from songgen.web.guard import AccessGuard

logger = logging.getLogger(__name__)

FAILED = "the page failed; the terminal that it was started in says why"
"""Text of the answer if there is a defect in the program."""


class PageRoute(Route):
    """A route whose path is split before it is decoded, so that `%2F` in an id does not separate anything.

    Endpoints are plain functions: Starlette calls them in threads, so they may read and write files.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the route has the path of a request, and the decoded parameters in it."""
        match, found = super().matches({**scope, "path": scope["raw_path"].decode("ascii")})
        if match is not Match.NONE:
            found["path_params"] = {name: unquote(value) for name, value in found["path_params"].items()}
        return match, found


class FileRoute(PageRoute):
    """A route to which the page sends a whole file with POST, as `application/octet-stream`.

    The body is not read before the endpoint, a coroutine, reads `request.stream()`.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], max_bytes: int) -> None:
        """Keep the limit.

        Args:
            path: path of the address.
            endpoint: coroutine function that reads the file and answers.
            max_bytes: maximum size of the file.
        """
        super().__init__(path, endpoint, methods=["POST"])
        self.max_bytes = max_bytes


def make_app(
    routes: Sequence[PageRoute], access: Access, cookie_name: str, answer_problem: ProblemAnswer = problem_response
) -> ASGIApp:
    """Return the application that serves routes to whoever has the token.

    Args:
        routes: the pages. `/` must be one of them.
        access: what a request must show.
        cookie_name: name of the cookie that holds the token.
        answer_problem: returns the answer to a request that is refused or fails.
    """

    async def answer(request: Request, problem: HTTPException) -> Response:
        if problem.status_code == 405:
            problem = _not_allowed(request)
        elif problem.detail == HTTPStatus.NOT_FOUND.phrase:  # the router's own words
            problem = HTTPException(404, "there is no page at this address")
        return answer_problem(request, problem)

    async def answer_failure(request: Request, error: Exception) -> Response:
        logger.error("a page failed", exc_info=error)
        return answer_problem(request, HTTPException(500, FAILED))

    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: answer, Exception: answer_failure},  # type: ignore[dict-item]
    )
    app.router.redirect_slashes = False
    file_routes = [route for route in routes if isinstance(route, FileRoute)]

    def file_limit(scope: Scope) -> int | None:
        return next((route.max_bytes for route in file_routes if route.matches(scope)[0] is Match.FULL), None)

    return AccessGuard(app, access, cookie_name, file_limit, answer_problem)


def _not_allowed(request: Request) -> HTTPException:
    # Starlette names the methods of the first route with this path; another one may have more.
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    allowed = {method for route in matching for method in route.methods}
    return HTTPException(405, f"{request.method} is not possible here", {"Allow": ", ".join(sorted(allowed))})
