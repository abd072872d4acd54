"""A hub on this machine: enough of its HTTP protocol for the real client to create, commit to and read a model."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from limits import SAFETY_SECONDS

TOKEN = "a-token-for-tests"
USER = "someone"
LFS_ENDINGS = (".safetensors", ".wav", ".model")


@dataclass
class Repository:
    """One model repository."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    lfs_files: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


@dataclass
class FakeHub:
    """What the server holds, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and user agent."""
    failing_path: str | None = None
    """Requests whose path holds this text get an error."""
    part_size: int = 2000
    """Larger objects are uploaded in parts of so many bytes."""
    url: str = ""
    before_request: Callable[[int], object] = lambda number: None
    """Called with the number of each request, before it is answered."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request after the other."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send bytes, or a value as JSON."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        """What was sent: of known length, or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def handle_any(self) -> None:
        """Find what a request is about."""
        path = unquote(urlsplit(self.path).path)
        data = self.body()
        self.hub.before_request(len(self.hub.requests))
        self.hub.requests.append((self.command, path, self.headers.get("User-Agent", "")))
        if self.hub.failing_path is not None and self.hub.failing_path in path:
            return self.answer({"error": "this server is told to fail"}, 403)
        if path.startswith("/storage/"):  # like the hub's storage, whose addresses are signed
            return self.storage(path, data)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "who are you?"}, 401)
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, path):
                return getattr(self, method)(data, **match.groupdict())
        return self.answer({"error": f"unknown path {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def who(self, data: bytes) -> None:
        self.answer({"name": USER, "type": "user"})

    def validate(self, data: bytes) -> None:
        text = json.loads(data)["content"]
        self.answer({"errors": [], "warnings": []} if text.startswith("---\n") else {"errors": [{"message": "no"}]})

    def create(self, data: bytes) -> None:
        wanted = json.loads(data)
        name = f"{wanted['organization'] or USER}/{wanted['name']}"
        exists = name in self.hub.repositories
        if not exists:
            self.hub.repositories[name] = Repository(private=wanted.get("visibility") == "private")
        self.answer({"url": f"{self.hub.url}/{name}"}, 409 if exists else 200)

    def info(self, data: bytes, name: str) -> None:
        if name not in self.hub.repositories:
            return self.answer({"error": "no such repository"}, 404, {"X-Error-Code": "RepoNotFound"})
        repository = self.hub.repositories[name]
        self.answer({"id": name, "sha": repository.commits[-1], "private": repository.private, "siblings": []})

    def preupload(self, data: bytes, name: str) -> None:
        modes = {True: "lfs", False: "regular"}
        files = [
            {"path": entry["path"], "uploadMode": modes[entry["path"].endswith(LFS_ENDINGS)], "shouldIgnore": False}
            for entry in json.loads(data)["files"]
        ]
        self.answer({"files": files})

    def batch(self, data: bytes, name: str) -> None:
        answers = []
        for entry in json.loads(data)["objects"]:
            oid, size = entry["oid"], entry["size"]
            address = f"{self.hub.url}/storage/{oid}"
            upload: dict[str, Any] = {"href": address}
            if size > self.hub.part_size:
                count = -(-size // self.hub.part_size)
                parts = {str(number): f"{address}/{number}" for number in range(1, count + 1)}
                upload["header"] = {"chunk_size": str(self.hub.part_size), **parts}
            answers.append(entry if oid in self.hub.objects else {**entry, "actions": {"upload": upload}})
        self.answer({"transfer": "basic", "objects": answers})

    def storage(self, path: str, data: bytes) -> None:
        _, _, oid, *number = path.split("/")
        if number:
            self.hub.parts.setdefault(oid, {})[int(number[0])] = data
            return self.answer({}, headers={"ETag": f'"{number[0]}"'})
        if self.command == "POST":
            data = b"".join(part for _, part in sorted(self.hub.parts.pop(oid).items()))
        if hashlib.sha256(data).hexdigest() != oid:
            return self.answer({"error": "content and hash differ"}, 400)
        self.hub.objects[oid] = data
        self.answer({})

    def commit(self, data: bytes, name: str) -> None:
        repository = self.hub.repositories[name]
        for line in data.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
                repository.lfs_files.add(value["path"])
        repository.commits.append(hashlib.sha1(data).hexdigest())
        revision = repository.commits[-1]
        self.answer({"commitUrl": f"{self.hub.url}/{name}/commit/{revision}", "commitOid": revision})

    def tree(self, data: bytes, name: str) -> None:
        repository = self.hub.repositories[name]
        entries = []
        for path, content in repository.files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            entry = {"type": "file", "path": path, "size": len(content), "oid": sha256[:40]}
            lfs = {"oid": sha256, "size": len(content), "pointerSize": 100}
            entries.append(entry | ({"lfs": lfs} if path in repository.lfs_files else {}))
        self.answer(entries)

    def resolve(self, data: bytes, name: str, file: str) -> None:
        repository = self.hub.repositories[name]
        content = repository.files[file]
        sha256 = hashlib.sha256(content).hexdigest()
        etag = sha256 if file in repository.lfs_files else sha256[:40]
        self.answer(content, headers={"X-Repo-Commit": repository.commits[-1], "ETag": f'"{etag}"'})


ROUTES = [
    (r"/api/whoami-v2", "who"),
    (r"/api/validate-yaml", "validate"),
    (r"/api/repos/create", "create"),
    (r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/[^/]+)?", "info"),
    (r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/main", "preupload"),
    (r"/api/models/(?P<name>[^/]+/[^/]+)/commit/main", "commit"),
    (r"/api/models/(?P<name>[^/]+/[^/]+)/tree/[^/]+", "tree"),
    (r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    (r"/(?P<name>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)", "resolve"),
]


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Serve on a free port for a while."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(SAFETY_SECONDS)
