"""`songgen ui` in a process of its own, and requests to it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from browser import killed_after
from limits import SAFETY_SECONDS

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "token-of-the-tests-0123456789"


@dataclass
class PageProcess:
    """A server."""

    process: "subprocess.Popen[str]"
    port: int
    errors: Path
    """What it has printed to standard error."""

    @property
    def base(self) -> str:
        """Address of the page without anything behind it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Address that a browser opens first."""
        return f"{self.base}/?token={TOKEN}"

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and content of an answer."""
        request = urllib.request.Request(self.base + path, headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def post(self, path: str, values: Any) -> tuple[int, Any]:
        """Status and JSON of the answer to a JSON object."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, json.dumps(values).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def memory(self) -> int:
        """Bytes of memory that it occupies."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(SAFETY_SECONDS)


@contextmanager
def page_process(workspace: Path, port: int = 0) -> Iterator[PageProcess]:
    """Serve a workspace for the length of the block; what the page has started goes on after it."""
    errors = workspace.parent / f"{workspace.name}.errors"
    with errors.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "songgen.cli.main", "ui", str(workspace), "--port", str(port)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "SONGGEN_PAGE_TOKEN": TOKEN},
            stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        with killed_after(process, SAFETY_SECONDS):
            line = process.stdout.readline()
        found = re.search(r":(\d+)/\?token=", line)
        assert found, f"{line}{errors.read_text()}"
        yield PageProcess(process, int(found[1]), errors)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(SAFETY_SECONDS)
        process.stdout.close()
