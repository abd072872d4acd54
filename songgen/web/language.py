"""Language of a page: chosen in it, or else the one that the browser prefers."""

from collections.abc import Collection

from starlette.requests import Request

LANGUAGE_COOKIE = "songgen-language"
"""Cookie with the language that was chosen; all pages of this machine share it."""


def language_of(request: Request, languages: Collection[str]) -> str:
    """Return the language in which a request is answered; English if the browser prefers none of those there are.

    Args:
        request: the request.
        languages: codes of the languages that there are.
    """
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    if chosen in languages:
        return chosen
    wanted = request.headers.get("accept-language", "").split(",")
    codes = (entry.split(";")[0].strip().lower().split("-")[0] for entry in wanted)
    return next((code for code in codes if code in languages), "en")
