"""The page of a workspace in a real browser, with its server in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import Browser, open_browser

from songgen.ui.page import page_server
from songgen.ui.workspace import Workspace
from songgen.web.access import make_access


@contextmanager
def page_in_browser(root: Path) -> Iterator[Browser]:
    """Serve the page of a workspace and open it, for the length of the block."""
    server = page_server(Workspace(root), make_access("127.0.0.1", None))
    with server.running(), open_browser() as browser:
        browser.open(server.url)
        yield browser


def asynchronous(browser: Browser, script: str) -> Any:
    """What a script hands to its last argument, a function."""
    return browser.command("POST", "/execute/async", {"script": script, "args": []})


def go(browser: Browser, path: str) -> None:
    """Open an address of the page, whatever was entered before."""
    browser.run("window.onbeforeunload = null; location.href = arguments[0]", path)
    browser.wait(lambda: browser.run("return location.pathname") == path, path)
    browser.wait(lambda: browser.run("return document.readyState") == "complete", path)
