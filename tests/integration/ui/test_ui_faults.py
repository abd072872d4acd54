"""What the page does when something ends: its server, a job, the browser, a folder; and with very long runs."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from browser import Browser, open_browser
from page_process import PageProcess, page_process
from ui_workspace import make_workspace, write_run

from songgen.jobs.record import find_jobs
from songgen.ui.workspace import Workspace

LINES = 100_000
REFRESHES = 100
FIRST_SECONDS = 3.0
"""Limit of the first answers of a server, a fifth of a second where nothing else runs; 0.8 s with new curves."""
MAX_GROWTH = 24 << 20
"""Bytes that the server may grow by in so many refreshes; one copy of the metrics is as large."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("page") / "workspace")


@pytest.fixture(scope="module")
def server(workspace: Workspace, browser: Browser) -> Iterator[PageProcess]:
    with page_process(workspace.root) as server:
        browser.open(server.url)
        browser.language("en")
        yield server
        browser.open("about:blank")


def start_job(server: PageProcess) -> str:
    """Start a command that takes some seconds, and return the id of its job."""
    status, answer = server.post("/api/jobs", {"command": "doctor", "values": {"folder": "outputs/model"}})
    assert status == 200, answer
    return str(answer["job"]["id"])


def shown_state(browser: Browser) -> str:
    return browser.text("[data-job] [data-part=state]")


def lines_of(browser: Browser) -> str:
    return str(browser.run("return document.querySelector('[data-part=log]').textContent"))


def ended(server: PageProcess, job: str) -> Any:
    state = json.loads(server.get(f"/api/jobs/{job}")[1])["job"]
    return state if not state["is_active"] else None


def test_two_browsers_show_the_same_lines(browser: Browser, server: PageProcess) -> None:
    """And neither takes them from the other."""
    job = start_job(server)
    browser.open(f"{server.base}/jobs/{job}")
    with open_browser() as other:
        other.watch()
        other.open(server.url)
        other.language("en")
        other.open(f"{server.base}/jobs/{job}")
        browser.wait(lambda: ended(server, job), "the end of the job")
        browser.wait(lambda: shown_state(browser) == shown_state(other) != "running", "the same state")
        browser.wait(lambda: lines_of(browser) == lines_of(other) != "", "the same lines")
        assert "model" in lines_of(browser)


def test_a_closed_browser_and_a_killed_server_stop_nothing(
    browser: Browser, workspace: Workspace, tmp_path: Path
) -> None:
    """The page says that nothing answers, and goes on by itself when a server answers again at the same port."""
    with page_process(workspace.root) as first:
        browser.open(first.url)
        job = start_job(first)
        browser.open(f"{first.base}/jobs/{job}")
        browser.wait(lambda: shown_state(browser) != "…", "the state")
        [supervised] = [view for view in find_jobs(workspace.jobs) if view.job.id == job]
        first.kill()
        hidden = "return document.querySelector('#connection').hidden"
        browser.wait(lambda: not browser.run(hidden), "the notice that the server does not answer")
        with page_process(workspace.root, first.port) as second:
            browser.wait(lambda: browser.run(hidden), "the end of the notice, without a reload")
            browser.wait(lambda: shown_state(browser) in ("finished", "failed"), "the end of the job")
            assert ended(second, job)["state"] == shown_state(browser)
    assert supervised.state == "running"


def test_a_killed_job_is_shown_as_lost(browser: Browser, server: PageProcess) -> None:
    job = start_job(server)
    browser.open(f"{server.base}/jobs/{job}")
    for process in psutil.process_iter(["cmdline"]):
        if any(job in word for word in process.info["cmdline"] or ()):
            process.send_signal(signal.SIGKILL)
    browser.wait(lambda: shown_state(browser) == "lost", "the state lost")
    assert browser.run("return document.querySelector('[data-action=stop]').hidden")


def test_a_folder_that_disappears_is_said(browser: Browser, server: PageProcess, workspace: Workspace) -> None:
    write_run(workspace.root / "outputs" / "short_lived")
    address = f"{server.base}/models/{quote('outputs/short_lived', safe='')}"
    browser.complaints()
    browser.open(address)
    browser.settle()
    shutil.rmtree(workspace.root / "outputs" / "short_lived")
    browser.reload()
    browser.wait_for_text("moved or deleted")
    browser.press_button("See what there is")
    browser.wait(lambda: browser.address == f"{server.base}/models", "the list")
    assert "Traceback" not in server.errors.read_text()


def test_a_wrong_token_is_asked_for_again_and_never_stays_in_the_address(browser: Browser, server: PageProcess) -> None:
    browser.command("DELETE", "/cookie")
    browser.open(f"{server.base}/jobs")
    assert browser.address == f"{server.base}/"
    browser.write("#token", "wrong-wrong-wrong-wrong")
    browser.press("Enter")
    browser.wait_for_text("not the token")
    browser.write("#token", server.url.partition("token=")[2])
    browser.press_button("Open the page")
    browser.wait(lambda: browser.run("return document.querySelector('nav.parts') !== null"), "the page")
    assert "token" not in browser.address
    assert browser.run("return document.cookie") in ("", "songgen-language=en"), "scripts do not see the token"
    browser.complaints()


def test_a_hundred_thousand_lines_of_metrics(workspace: Workspace) -> None:
    """Every answer about such a run comes within a second, the first ones of a server too; and it does not grow."""
    write_run(workspace.root / "outputs" / "long", steps=LINES)
    folder = quote("outputs/long", safe="")
    state = f"/api/train/runs/{folder}"
    paths = [f"/train/run/{folder}", state, f"{state}/results", f"{state}/console", "/train"]
    with page_process(workspace.root) as server:
        first = {path: time_of(lambda path=path: server.get(path)[0]) for path in paths}
        asked: dict[str, Any] = {"folder": "outputs/long"}
        while not asked.get("is_whole"):
            first["curves"] = max(time_of(lambda: read_more(server, asked)), first.get("curves", 0.0))
        assert asked["lines"] == LINES
        assert max(first.values()) < FIRST_SECONDS, first
        # Loads torch the first time, whatever is in the folder.
        paths.append(f"/models/{folder}")
        assert server.get(paths[-1])[0] == 200
        later = {path: min(time_of(lambda path=path: server.get(path)[0]) for _ in range(3)) for path in paths}
        later["curves"] = min(time_of(lambda: read_more(server, {"folder": "outputs/long"})) for _ in range(3))
        later["what is new in curves"] = min(time_of(lambda: read_more(server, asked)) for _ in range(3))
        assert max(later.values()) < 1, later
        before = server.memory()
        for _ in range(REFRESHES):
            for path in paths[:4]:
                assert server.get(path)[0] == 200
            read_more(server, {"folder": "outputs/long"})
        growth = server.memory() - before
        assert growth < MAX_GROWTH, f"{growth / 2**20:.0f} MiB"


def time_of(answer: Callable[[], int]) -> float:
    begin = time.monotonic()
    assert answer() == 200
    return time.monotonic() - begin


def read_more(server: PageProcess, asked: dict[str, Any]) -> int:
    """Ask for the curves as a browser does that has what is in `asked`, and note what it has then."""
    run = {name: asked[name] for name in ("folder", "key", "lines") if name in asked}
    status, answer = server.post("/api/train/curves", {"runs": [run], "layout": ""})
    [part] = answer["runs"].values()
    asked.update(key=part["key"], lines=part["lines"], is_whole=not part["more"])
    return status
