"""Frame of the page: templates, language of a request, and the form of answers and problems."""

import json
import mimetypes
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from songgen import __version__
from songgen.ui.help_texts import help_of, segments
from songgen.ui.translation import LANGUAGES, Translator, translator
from songgen.ui.workspace import Workspace
from songgen.web.answers import json_response, problem_response
from songgen.web.application import PageRoute
from songgen.web.document import LOOK_FILE
from songgen.web.language import language_of

Endpoint = Callable[[Request], Response]


class FieldProblem(ValueError):
    """A problem that one field of the page solves; the page goes to it."""

    def __init__(self, message: str, field: str) -> None:
        """Keep the id of the field."""
        super().__init__(message)
        self.field = field


PAGE_STATUSES = (404, 405, 500)
"""Statuses of problems that a person who follows a link may meet. The access checks answer with others."""


class Part(Protocol):
    """A part of the page."""

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""


PARTS = (
    ("/data", "Data"),
    ("/configure", "Configure"),
    ("/train", "Train"),
    ("/listen", "Listen"),
    ("/models", "Models"),
    ("/settings", "Settings"),
)
"""Address and name of each part of the page, in the order of the work."""

MAX_DIGITS = 15
"""Maximum number of digits of a number in an address."""

_FOLDER = Path(__file__).parent


class Site:
    """What all parts of the page share."""

    def __init__(self, workspace: Workspace) -> None:
        """Open the templates."""
        self.workspace = workspace
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["component"] = component
        self._templates.filters["codes"] = codes
        self._templates.globals["help_of"] = help_of

    def language(self, request: Request) -> Translator:
        """Return the texts in the language of a request."""
        return texts_of(request)

    def render(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        """Return a page.

        Args:
            request: request that is answered.
            template: name of the file in `templates`.
            status: HTTP status.
            values: values of the template.
        """
        texts = self.language(request)
        html = self._templates.get_template(template).render(
            t=texts,
            language=texts.language,
            languages=LANGUAGES,
            script_texts=texts.scripts(),
            parts=PARTS,
            path=request.url.path,
            version=__version__,
            workspace=self.workspace,
            **values,
        )
        return HTMLResponse(html.encode("utf-8", "replace"), status)

    def page(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that answers with HTML: a `ValueError` or `OSError` becomes a page with its text."""

        def show(request: Request, error: ValueError | OSError) -> Response:
            return self.render(request, "problem.html", status=404, problem=problem_of(error))

        return _answering(endpoint, show)

    def api(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that answers with JSON: a `ValueError` or `OSError` becomes its text, with status 422."""

        def tell(request: Request, error: ValueError | OSError) -> Response:
            answer = {"error": self.language(request).message(problem_of(error))}
            return json_response(answer | ({"field": error.field} if isinstance(error, FieldProblem) else {}), 422)

        return _answering(endpoint, tell)

    def answer_problem(self, request: Request, problem: HTTPException) -> Response:
        """Return the answer to a request that is refused or fails: a page for a person, else JSON with the text."""
        is_person = "text/html" in request.headers.get("accept", "")
        if is_person and request.method == "GET" and problem.status_code in PAGE_STATUSES:
            page = self.render(request, "problem.html", status=problem.status_code, problem=problem.detail)
            page.headers.update(problem.headers or {})
            return page
        text = self.language(request).message(problem.detail)
        return problem_response(request, HTTPException(problem.status_code, text, problem.headers))


def _answering(endpoint: Endpoint, answer_problem: Callable[[Request, ValueError | OSError], Response]) -> Endpoint:
    """Return an endpoint whose problems that a user can solve are answered by a function."""

    @wraps(endpoint)
    def answer(request: Request) -> Response:
        try:
            return endpoint(request)
        except (ValueError, OSError) as error:
            return answer_problem(request, error)

    return answer


def problem_of(error: ValueError | OSError) -> str:
    """Return the message of a problem; of files also what to do: a folder may disappear while it is read."""
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.filename or 'a file'} cannot be used: {error.strerror or error}; load the page again"


def component(text: object) -> str:
    """Return a text as one part of an address: slashes are encoded, so that a path can be one."""
    return quote(str(text), safe="")


def codes(text: str) -> Markup:
    """Return a text as HTML in which what is in backticks is code; all of it is escaped."""
    html = (("<code>{}</code>" if part["is_code"] else "{}", part["text"]) for part in segments(text))
    return Markup("").join(Markup(form).format(text) for form, text in html)


def texts_of(request: Request) -> Translator:
    """Return the texts in the language that was chosen, or else in the one that the browser prefers."""
    return translator(language_of(request, LANGUAGES))


def body_of(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request carries; the access checks have read it."""
    body: dict[str, Any] = request.state.body
    return body


def table_of(request: Request, name: str) -> dict[str, Any]:
    """Return a table of the JSON object that a request carries; an empty one if it is not there.

    Raises:
        ValueError: if it is not a table.
    """
    value = body_of(request).get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name}: a table of options is expected")
    return value


def text_of(request: Request, name: str, default: str = "") -> str:
    """Return a text of the JSON object that a request carries.

    Raises:
        ValueError: if it is not a text.
    """
    return text_in(body_of(request), name, default)


def text_in(values: Mapping[str, Any], name: str, default: str = "") -> str:
    """Return a text of a JSON object.

    Raises:
        ValueError: if it is not a text.
    """
    value = values.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name}: a text is expected")
    return value


def number_of(request: Request, name: str, default: str = "") -> int:
    """Return a whole number of the query of a request.

    Raises:
        ValueError: if it is not a number from 0.
    """
    text = request.query_params.get(name, default)
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise ValueError(f"{name}: a whole number is expected")
    return int(text)


def asset(name: str) -> Response:
    """Return a style, script or picture of the page.

    Raises:
        HTTPException: 404 if there is none of this name.
    """
    files = [LOOK_FILE, *(_FOLDER / "assets").iterdir()]
    path = next((path for path in files if path.name == name and path.is_file()), None)
    if path is None:
        raise HTTPException(404, "there is no such file")
    return Response(path.read_bytes(), media_type=mimetypes.guess_type(name)[0] or "application/octet-stream")


def as_json(value: Any) -> str:
    """Return a value as indented JSON, as it is written into a file."""
    return json.dumps(value, indent=2, ensure_ascii=False)
