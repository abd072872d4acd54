"""A browser, a workspace and its server, for all tests of the page that only look."""

from collections.abc import Iterator

import pytest
from browser import Browser, open_browser
from page_process import PageProcess, page_process
from ui_workspace import make_workspace

from songgen.ui.workspace import Workspace


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        browser.watch()
        yield browser


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("page") / "workspace", "一首安静的歌")


@pytest.fixture(scope="module")
def server(workspace: Workspace, browser: Browser) -> Iterator[PageProcess]:
    """Its server; the browser is let in."""
    with page_process(workspace.root) as server:
        browser.open(server.url)
        yield server
        browser.open("about:blank")
