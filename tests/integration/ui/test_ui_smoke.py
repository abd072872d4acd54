"""Every page opens in a real browser; test_ui_pages.py looks at them in all widths, colours and languages."""

import re

from browser import Browser
from page_process import PageProcess
from ui_workspace import page_addresses

from songgen.ui.workspace import Workspace


def test_every_page_opens_without_a_complaint(browser: Browser, server: PageProcess, workspace: Workspace) -> None:
    shown = [address for address in page_addresses(workspace) if server.get(address)[0] == 200]
    # One folder and one job are enough.
    addresses = {re.sub(r"/[^/]*(%2F|\d{4})[^/]*$", "/…", address): address for address in reversed(shown)}.values()
    assert len(addresses) > 10
    browser.complaints()
    browser.language("en")
    browser.resize(1280, 900)
    complaints = []
    for address in addresses:
        browser.open(server.base + address)
        browser.settle()
        if not browser.run("return document.querySelector('main h2')?.textContent.trim()"):
            complaints.append(f"{address}: no heading")
        complaints += [f"{address}: {text}" for text in [*browser.unnamed(), *browser.complaints()]]
    assert not complaints, "\n".join(complaints)
    assert "Traceback" not in server.errors.read_text()
