"""HTML files that only need files next to them: no scripts, no fonts, no network."""

from html import escape
from pathlib import Path
from urllib.parse import quote

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file: data:; media-src 'self' file: data:; "
    "form-action 'none'"
)
"""Content security policy of such a file: text of songs cannot make a browser load anything else."""

LOOK_FILE = Path(__file__).with_name("look.css")
"""Common look of pages with scripts: colours, inputs, buttons, badges, notices."""

BASE_STYLE = (Path(__file__).parent / "document.css").read_text(encoding="utf-8")
"""Common style: light and dark colours, fonts, tables, cards."""


def render_document(title: str, body: str, style: str = "") -> str:
    """Return an HTML document.

    Args:
        title: plain text.
        body: HTML.
        style: CSS, after the common one.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{BASE_STYLE}{style}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )


def section(anchor: str, title: str, content: str) -> str:
    """Return a section with a heading; the title is plain text, the content HTML."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def link(path: str) -> str:
    """Return a relative path as the value of an attribute."""
    return escape(quote(path))
