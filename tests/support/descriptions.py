"""An answer that keeps to the schema of descriptions, and a server that answers as it is told to."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from limits import SAFETY_SECONDS

from songgen.prepare.engine.record import JsonObject

ANALYSIS = {
    "genre": ["melodic techno", "electronic"],
    "instruments": ["synthesizer", "male vocal"],
    "tempo": "fast tempo",
    "mood": ["emotional", "driving", "atmospheric"],
}


def values(**changes: Any) -> JsonObject:
    """Values of a right answer, some of them changed."""
    return {
        "simplified": "melodic techno",
        "expanded": "progressive house, sidechained pads, male vocal",
        "descriptive": "A male voice floats over a rolling bass line that slowly opens up.",
        "synonyms": "club music, synth-driven",
        "use_cases": "night drives, club warm-up",
        "analysis": ANALYSIS,
        "lyrical_rap_check": False,
    } | changes


def answer(**changes: Any) -> str:
    """A right answer, some of it changed."""
    return json.dumps(values(**changes))


@dataclass(frozen=True)
class Reply:
    """What the server says to one request."""

    text: str = ""
    """Text of the model."""

    status: int = 200
    """Status; where it is an error, `text` is the error's message."""

    body: bytes | None = None
    """The whole body instead of a chat completion."""

    wait: float = 0.0
    """Seconds before it answers."""

    headers: tuple[tuple[str, str], ...] = ()
    """Headers, also in place of the right length."""

    choice: JsonObject = field(default_factory=dict)
    """Further values beside the message."""

    message: JsonObject = field(default_factory=dict)
    """Further values of the message."""


@dataclass
class FakeServer:
    """What a server was told, and what it was asked."""

    replies: Sequence[Reply]
    """One for each request in turn; the last one for all that follow."""

    url: str = ""
    requests: list[JsonObject] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Note a request and choose its reply."""
        with self.lock:
            self.paths.append(path)
            self.headers.append(headers)
            self.requests.append(json.loads(body) if body else {})
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            return self.replies[min(len(self.requests), len(self.replies)) - 1]

    def done(self) -> None:
        """Note that a request was answered."""
        with self.lock:
            self.at_once -= 1


@contextmanager
def fake_server(*replies: Reply) -> Iterator[FakeServer]:
    """Run a chat server on 127.0.0.1."""
    fake = FakeServer(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reply = fake.take(self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(reply.wait)
            fake.done()
            body = reply.body
            if body is None and reply.status != 200:
                body = json.dumps({"error": {"message": reply.text}}).encode()
            elif body is None:
                message = {"role": "assistant", "content": reply.text} | reply.message
                body = json.dumps({"choices": [{"message": message, **reply.choice}]}).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(body)), **dict(reply.headers)}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # the client has given up, as it should

        do_GET = do_POST

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(SAFETY_SECONDS)
