"""Files larger than the page accepts: refused as soon as they are announced, whatever is sent after that."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_process import TOKEN, PageProcess, page_process

from songgen.ui.uploads import MAX_UPLOAD_BYTES
from songgen.ui.workspace import UPLOADS_FOLDER
from songgen.web.guard import MAX_BODY_BYTES

pytestmark = [pytest.mark.case(35), pytest.mark.faults]

SENT_BYTES = 256 << 20
MAX_GROWTH = 32 << 20
"""Bytes that the server may grow by, and write, meanwhile."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page") / "workspace"
    root.mkdir()
    return root


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[PageProcess]:
    with page_process(workspace) as server:
        yield server


def flood(server: PageProcess, path: str, kind: str, length: str) -> tuple[bytes, int]:
    """Announce a body, and send much whatever the server says; the first line of the answer, and the bytes sent."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: {kind}\r\n{length}\r\n\r\n"
    )
    block, sent = bytes(1 << 20), 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(4096) if length != "Content-Length: 10" else b""
        try:
            while sent < SENT_BYTES:
                connection.sendall(block)
                sent += len(block)
            answer = answer or connection.recv(4096)
        except OSError:  # the server has closed the connection
            pass
    return answer.partition(b"\r\n")[0], sent


@pytest.mark.parametrize(
    ("path", "kind", "length", "status"),
    [
        ("/api/uploads/mine/a.wav", "application/octet-stream", f"Content-Length: {MAX_UPLOAD_BYTES + 1}", b"413"),
        ("/api/uploads/mine/a.wav", "application/octet-stream", f"Content-Length: {'9' * 19}", b"413"),
        ("/api/uploads/mine/a.wav", "application/octet-stream", "Transfer-Encoding: chunked", b"411"),
        ("/api/jobs", "application/json", f"Content-Length: {MAX_BODY_BYTES + 1}", b"413"),
        ("/api/jobs", "application/json", "Transfer-Encoding: chunked", b"411"),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_read(
    server: PageProcess, workspace: Path, path: str, kind: str, length: str, status: bytes
) -> None:
    before = server.memory()
    answer, sent = flood(server, path, kind, length)
    assert status in answer, answer
    assert sent < SENT_BYTES, "the server goes on reading"
    assert server.memory() - before < MAX_GROWTH
    assert not (workspace / UPLOADS_FOLDER).exists(), "nothing was written"
    assert server.get("/api/uploads")[0] == 200


def test_more_than_was_announced_is_not_written(server: PageProcess, workspace: Path) -> None:
    before = server.memory()
    flood(server, "/api/uploads/more/a.wav", "application/octet-stream", "Content-Length: 10")
    assert server.memory() - before < MAX_GROWTH
    written = [path.stat().st_size for path in (workspace / UPLOADS_FOLDER).rglob("*") if path.is_file()]
    assert sum(written) <= 10
    assert server.get("/api/uploads")[0] == 200
