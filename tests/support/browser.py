"""A real browser without a window, driven over the WebDriver protocol (W3C) with the standard library alone."""

import base64
import json
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

KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Tab": "\ue004", "ArrowRight": "\ue014"}
WAIT_SECONDS = float(SAFETY_SECONDS)

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


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
        self._strike(["Enter" if character == "\n" else character for character in text])

    def press(self, key: str) -> None:
        """Press and release a key wherever the focus is."""
        self._strike([key])

    def _strike(self, keys: list[str]) -> None:
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

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page itself, as on a device of that size."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def dark(self, is_dark: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self.command("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

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
        pytest.skip("no browser: chromium and chromedriver (Debian: chromium, chromium-driver) are not installed")
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
