"""A real browser without a window, driven over the WebDriver protocol (W3C) with the standard library alone."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from limits import SAFETY_SECONDS

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""Key under which the protocol hands out elements."""

KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Delete": "\ue017", "Tab": "\ue004", "ArrowRight": "\ue014"}
WAIT_SECONDS = float(SAFETY_SECONDS)

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


CONTROLS = {"button", "textbox", "searchbox", "combobox", "spinbutton", "radio", "checkbox", "slider", "progressbar",
            "link", "listbox", "tab", "switch"}  # fmt: skip
"""Roles of what a person uses."""

REQUIRED_VARIABLE = "SONGGEN_TESTS_NEED_BROWSER"
"""Environment variable that makes a missing browser a failure; .ci/run sets it where it has found or installed one."""


def _found(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


class BrowserError(Exception):
    """What the browser says went wrong."""


class Browser:
    """One window."""

    def __init__(self, address: str, capabilities: dict[str, Any]) -> None:
        self._address = address
        self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]

    def _call(self, method: str, path: str, values: dict[str, Any] | None = None) -> Any:
        data = None if method in ("GET", "DELETE") else json.dumps(values or {}).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise BrowserError(json.load(error)["value"]["message"]) from error

    def command(self, method: str, path: str, values: dict[str, Any] | None = None) -> Any:
        return self._call(method, f"/session/{self._session}{path}", values)

    def close(self) -> None:
        self._call("DELETE", f"/session/{self._session}")

    def open(self, address: str) -> None:
        self.command("POST", "/url", {"url": address})

    @property
    def address(self) -> str:
        return str(self.command("GET", "/url"))

    def reload(self) -> None:
        self.command("POST", "/refresh")

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a JavaScript function body; `arguments` are its arguments."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def call(self, module: str, function: str, *arguments: Any) -> Any:
        """What a function of a script of the page returns."""
        script = (
            "const [module, name, values, done] = arguments;"
            "import(module).then((found) => done(found[name](...values)), (error) => done(String(error)))"
        )
        return self.command("POST", "/execute/async", {"script": script, "args": [module, function, arguments]})

    def element(self, selector: str) -> str:
        """Id of the first element that a CSS selector finds."""
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def click(self, selector: str) -> None:
        self.command("POST", f"/element/{self.element(selector)}/click")

    def write(self, selector: str, text: str, *, clear: bool = False) -> None:
        """Type into an element, with real key events: behind what stands there, or in its place."""
        script = (
            "const [element, clear] = arguments; element.focus();"
            "if (clear) element.select();"
            "else if (element.type !== 'number') element.setSelectionRange(element.value.length, element.value.length)"
        )
        self.run(script, {ELEMENT: self.element(selector)}, clear)
        self.press_many(["Enter" if character == "\n" else character for character in text])

    def press(self, key: str) -> None:
        """Press and release a key wherever the focus is."""
        self.press_many([key])

    def press_many(self, keys: list[str]) -> None:
        """Press and release one key after the other."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def text(self, selector: str) -> str:
        return str(self.command("GET", f"/element/{self.element(selector)}/text"))

    def value(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).value", selector))

    def wait(self, condition: Callable[[], Any], what: str = "") -> Any:
        """The first value of a condition that counts as true."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {WAIT_SECONDS:g} s for {what or condition}"
            time.sleep(0.05)
        return value

    def find(self, script: str, *arguments: Any) -> str:
        """Id of the element that a JavaScript function body returns, as soon as it returns one."""
        return str(self.wait(lambda: self.run(script, *arguments), f"{script} {arguments}")[ELEMENT])

    def press_button(self, text: str, within: str = "body") -> None:
        """Click the visible button or link with a text, with the mouse."""
        found = self.find(
            "const kinds = ' :is(button, a, summary, [role=tab])';"
            "return [...document.querySelectorAll(arguments[1] + kinds)].find((element) =>"
            " element.checkVisibility() && !element.disabled && element.textContent.trim() === arguments[0]) ?? null",
            text, within,
        )  # fmt: skip
        self.run("arguments[0].scrollIntoView({block: 'center'})", {ELEMENT: found})
        self.command("POST", f"/element/{found}/click")

    def labelled(self, label: str, within: str = "body") -> str:
        """Id of the visible input with a label; without what is in mono type beside it, such as the name of a key."""
        return self.find(
            "const text = (label) => { const copy = label.cloneNode(true);"
            " for (const other of copy.querySelectorAll('input, select, textarea, .mono, code, small')) other.remove();"
            " return copy.textContent.trim().replace(/\\s+/g, ' '); };"
            "return [...document.querySelectorAll(arguments[1] + ' label')].filter((label) => label.checkVisibility()"
            " && text(label) === arguments[0]).map((label) => label.control).find(Boolean)"
            " ?? [...document.querySelectorAll(arguments[1] + ' [aria-label]')].find((input) => input.checkVisibility()"
            " && input.ariaLabel === arguments[0] && 'value' in input) ?? null",
            label, within,
        )  # fmt: skip

    def fill(self, label: str, value: str, within: str = "body") -> None:
        """Enter a value into the input with a label: typed, chosen from a list, or `on` and `off` for a check box."""
        element = {ELEMENT: self.labelled(label, within)}
        kind = self.run("arguments[0].scrollIntoView({block: 'center'}); return arguments[0].type", element)
        if kind in ("checkbox", "radio"):
            if self.run("return arguments[0].checked", element) != (value == "on"):
                self.command("POST", f"/element/{element[ELEMENT]}/click")
        elif kind.startswith("select"):
            self.run(
                "const [select, value] = arguments; const option = [...select.options].find((option) =>"
                " option.value === value || option.textContent.trim() === value);"
                "if (!option) throw new Error(`${value} is not in ${[...select.options].map((o) => o.value)}`);"
                "select.focus(); select.value = option.value;"
                "for (const name of ['input', 'change']) select.dispatchEvent(new Event(name, {bubbles: true}))",
                element, value,
            )  # fmt: skip
        else:
            self.run("arguments[0].focus(); arguments[0].select()", element)
            self.press_many([*(["Delete"] if not value else []), *value])

    def wait_for_text(self, text: str, selector: str = "body") -> None:
        """Wait until a visible element shows a text."""
        script = (
            "return [...document.querySelectorAll(arguments[1])]"
            ".some((element) => element.innerText.includes(arguments[0]))"
        )
        self.wait(lambda: self.run(script, text, selector), f"{text!r} in {selector}")

    def settle(self) -> None:
        """Wait until the page has loaded and asked for everything that it shows (after `watch`)."""
        script = (
            "return document.readyState === 'complete' && window.pendingRequests === 0"
            " && performance.now() - window.lastRequest > 120"
        )
        self.wait(lambda: self.run(script), "the page to come to rest")

    def watch(self) -> None:
        """Let every page that is opened from now on count its requests."""
        script = (
            "window.pendingRequests = 0; window.lastRequest = 0; const send = window.fetch;"
            "window.fetch = (...values) => { window.pendingRequests += 1; window.lastRequest = performance.now();"
            " return send(...values).finally(() => {"
            " window.pendingRequests -= 1; window.lastRequest = performance.now(); }); };"
        )
        self.devtools("Page.addScriptToEvaluateOnNewDocument", {"source": script})

    def language(self, code: str) -> None:
        """Choose the language of pages, as its own button does."""
        self.command("POST", "/cookie", {"cookie": {"name": "songgen-language", "value": code}})

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page itself, as on a device of that size."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def dark(self, is_dark: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self.command("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def unnamed(self) -> list[str]:
        """Controls without a name, as a screen reader would say it."""
        found = []
        for node in self.devtools("Accessibility.getFullAXTree", {})["nodes"]:
            has_name = node.get("name", {}).get("value", "").strip()
            if node["ignored"] or node["role"]["value"] not in CONTROLS or has_name:
                continue
            described = self.devtools("DOM.describeNode", {"backendNodeId": node["backendDOMNodeId"]})["node"]
            found.append(f"{described['nodeName'].lower()} {described.get('attributes')} has no name")
        return found

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.command("GET", "/screenshot")))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the last call: of scripts, of the content policy, of the network."""
        entries = self.command("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Open a browser for the length of the block; the test is skipped, with the reason, where there is none."""
    chromium, driver = _found(CHROMIUM), _found(("chromedriver", "chromium.chromedriver"))
    if not chromium or not driver:
        missing = "no browser: chromium and chromedriver (Debian: chromium, chromium-driver) are not installed"
        if os.environ.get(REQUIRED_VARIABLE):
            pytest.fail(missing)
        pytest.skip(missing)
    profile = tempfile.mkdtemp(prefix="songgen-browser-")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = _port_of(process)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio",
                   "--no-first-run", "--disable-background-networking", "--autoplay-policy=no-user-gesture-required",
                   "--window-size=1280,900", f"--user-data-dir={profile}"]  # fmt: skip
        browser = Browser(
            f"http://127.0.0.1:{port}",
            {
                "browserName": "chrome",
                "goog:chromeOptions": {"binary": chromium, "args": options},
                "goog:loggingPrefs": {"browser": "ALL"},
            },
        )
        try:
            yield browser
        finally:
            browser.close()
    finally:
        # The driver and its browsers: one that hangs would keep the pipe open, and the test session waiting.
        for running in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                running.kill()
        process.wait(SAFETY_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
        shutil.rmtree(profile, ignore_errors=True)


def _port_of(process: "subprocess.Popen[str]") -> int:
    """The port that the driver says it listens on."""
    assert process.stdout is not None
    said = []
    # A driver that says nothing is killed, which ends the loop.
    with killed_after(process, SAFETY_SECONDS):
        for line in process.stdout:
            said.append(line)
            if "started successfully on port" in line:
                return int(line.rstrip().rstrip(".").rsplit(" ", 1)[1])
    raise BrowserError(f"chromedriver ended: {''.join(said)}")


@contextmanager
def killed_after(process: "subprocess.Popen[str]", seconds: float) -> Iterator[None]:
    """Kill a process if the block takes longer."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
