"""The page that asks for the token: what a browser without one gets instead of a local page.

It needs no file and no script, so that nothing else has to be readable without the token.
"""

import base64
import hashlib
from html import escape
from pathlib import Path
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from songgen.web.language import language_of

LOGIN_PATH = "/login"
"""Address that the form is sent to."""

FORM_TYPE = "application/x-www-form-urlencoded"
"""Type of the body of a form."""

MAX_LOGIN_BYTES = 4096
"""Maximum size of the form; a token has at most 200 characters."""

TEXTS = {
    "en": {
        "title": "Log in",
        "explanation": "Enter the token of this page. It is in the address shown in the terminal, after “token=”. If "
        "you chose your own, it is in SONGGEN_PAGE_TOKEN or the file given with --token_file.",
        "label": "Token",
        "button": "Open the page",
        "wrong": "This is not the token of this page. It may be of an earlier start: look in the terminal again.",
        "busy": "Too many wrong tokens were sent just now. Wait some seconds and try again.",
    },
    "zh": {
        "title": "登录",
        "explanation": "请输入此页面的令牌。它在终端显示的地址中，位于“token=”之后。"
        "如果令牌是自己设定的，它在 SONGGEN_PAGE_TOKEN 中，或在用 --token_file 指定的文件中。",
        "label": "令牌",
        "button": "打开页面",
        "wrong": "这不是此页面的令牌。它可能属于之前的一次启动：请再看一次终端。",
        "busy": "刚才收到了太多错误的令牌。请等几秒钟再试。",
    },
}
"""Texts of the page by language."""

STYLE = (Path(__file__).parent / "login.css").read_text(encoding="utf-8")

LOGIN_POLICIES = {
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
    # With `no-referrer`, browsers send `Origin: null` with a form, which could come from any page.
    "Referrer-Policy": "same-origin",
}
"""Headers of this page that are not those of all others."""


class LoginPage(HTMLResponse):
    """The page with the form."""

    def __init__(self, request: Request, problem: str = "", status: int = 401) -> None:
        """Write the page in the language of a request.

        Args:
            request: request that is answered.
            problem: key of a text in `TEXTS` that says why the last token was not accepted.
            status: HTTP status.
        """
        language = language_of(request, TEXTS)
        super().__init__(_html(language, problem), status)


def _html(language: str, problem: str) -> str:
    """Return the page in a language."""
    texts = {name: escape(text) for name, text in TEXTS[language].items()}
    notice = f'<p id="problem" role="alert">{texts[problem]}</p>\n' if problem else ""
    return (
        f'<!doctype html>\n<html lang="{"zh-CN" if language == "zh" else language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{texts['title']} · songgen</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>songgen</h1>\n<h2>{texts['title']}</h2>\n{notice}"
        f'<form method="post" action="{LOGIN_PATH}">\n<label for="token">{texts["label"]}</label>\n'
        '<input id="token" name="token" type="password" autocomplete="current-password" required maxlength="200" '
        'autofocus aria-describedby="token-help">\n'
        f'<p id="token-help">{texts["explanation"]}</p>\n<button>{texts["button"]}</button>\n</form>\n'
        "</main>\n</body>\n</html>\n"
    )


async def sent_token(request: Request) -> str:
    """Return the token that the form carries; an empty text if it carries none.

    Raises:
        HTTPException: if it is not a form.
    """
    try:
        fields = parse_qs((await request.body()).decode("ascii"), max_num_fields=4)
    except ValueError as error:
        raise HTTPException(400, "this is not a form") from error
    return fields.get("token", [""])[0].strip()
