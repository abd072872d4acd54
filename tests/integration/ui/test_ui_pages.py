"""Every page of `songgen ui` in a real browser: names, focus, contrast, layout, language, console."""

import time
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from page_process import PageProcess
from ui_workspace import page_addresses

from songgen.ui.workspace import Workspace

pytestmark = pytest.mark.faults

CHECKS = (Path(__file__).parents[2] / "support" / "page_checks.js").read_text(encoding="utf-8")
WIDTHS = (1280, 420)
MAX_TABS = 600
DRAWING_SECONDS = 5.0


def check(browser: Browser, name: str) -> Any:
    return browser.run(f"{CHECKS}\nreturn {name}()")


@pytest.fixture(scope="module")
def addresses(server: PageProcess, workspace: Workspace) -> list[str]:
    """Addresses that show something, and one of what there is not."""
    shown = [address for address in page_addresses(workspace) if server.get(address)[0] == 200]
    assert len(shown) >= 3
    return [*shown, "/jobs/none"]


def opened(browser: Browser, server: PageProcess, address: str) -> None:
    browser.open(server.base + address)
    browser.settle()
    browser.run("for (const details of document.querySelectorAll('main details')) details.open = true")


def settled_layout(browser: Browser) -> list[str]:
    """Complaints about the layout that are still there when curves have been drawn in the new width."""
    end = time.monotonic() + DRAWING_SECONDS
    while (found := check(browser, "layout")) and time.monotonic() < end:
        time.sleep(0.2)
    return list(found)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_can_be_read_by_all(
    browser: Browser, server: PageProcess, addresses: list[str], language: str
) -> None:
    """Both widths, light and dark; all complaints are collected before the test fails."""
    complaints: list[str] = []

    def note(address: str, found: list[str]) -> None:
        complaints.extend(f"{address} ({language}): {text}" for text in found)

    browser.complaints()
    browser.language(language)
    for address in addresses:
        browser.resize(1280, 900)
        browser.dark(False)
        opened(browser, server, address)
        lang = {"en": "en", "zh": "zh-CN"}[language]
        if browser.run("return document.documentElement.lang") != lang:
            note(address, [f"lang is not {lang}"])
        note(address, check(browser, "structure"))
        note(address, browser.unnamed())
        if language != "en":
            note(address, check(browser, "english"))
        for width in WIDTHS:
            browser.resize(width, 900)
            note(address, [f"{width} px: {text}" for text in settled_layout(browser)])
        for is_dark in (False, True):
            browser.dark(is_dark)
            note(address, [f"{'dark' if is_dark else 'light'}: {text}" for text in check(browser, "contrast")])
        expected = f"{server.base}{address} - Failed to load resource"
        note(address, [text for text in browser.complaints() if not (address == "/jobs/none" and expected in text)])
    assert not complaints, "\n".join(sorted(set(complaints)))


def test_every_page_can_be_used_by_keys_alone(browser: Browser, server: PageProcess, addresses: list[str]) -> None:
    complaints = []
    browser.language("en")
    browser.resize(1280, 900)
    browser.dark(False)
    for address in addresses:
        opened(browser, server, address)
        count = check(browser, "watchFocus")
        for _ in range(0, min(count + 10, MAX_TABS), 20):
            browser.press_many(["Tab"] * 20)
        complaints += [f"{address}: {text}" for text in check(browser, "focusComplaints")]
    assert not complaints, "\n".join(complaints)
