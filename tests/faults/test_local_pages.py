"""Requests to a local page that its user did not send."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from local_pages import Client, Notebook, serving

from songgen.web.access import LOOPBACK, make_access
from songgen.web.answers import PartialFileResponse
from songgen.web.application import PageRoute
from songgen.web.guard import MAX_BODY_BYTES
from songgen.web.server import MAX_HEADER_BYTES, STALL_SECONDS

pytestmark = pytest.mark.case(35)

TOKEN = "a-token-that-somebody-chose"
WRITE = {"text": "hello"}
SLOW_CLIENTS = 200


@pytest.fixture(scope="module")
def page() -> Iterator[tuple[Notebook, Client]]:
    """One server for all tests of this file."""
    notebook = Notebook()
    with serving(notebook.routes()) as client:
        yield notebook, client


@pytest.fixture
def notebook(page: tuple[Notebook, Client]) -> Notebook:
    page[0].written.clear()
    return page[0]


@pytest.fixture
def client(page: tuple[Notebook, Client]) -> Client:
    return page[1]


def conversation(client: Client, sent: bytes) -> bytes:
    """Send bytes over a connection of their own; return everything that is received until the server closes it."""
    received = b""
    with socket.create_connection((LOOPBACK, client.server.port), timeout=20) as connection:
        connection.sendall(sent)
        with suppress(ConnectionError):
            while block := connection.recv(1 << 16):
                received += block
    return received


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.01)


def test_the_page_answers_its_own_user(client: Client, notebook: Notebook) -> None:
    """Without this, every refusal below could be a server that refuses all."""
    assert client.get("/").status == 200
    assert client.post("/items/1", WRITE).json == {"count": 1} and notebook.written == [WRITE]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "10.0.0.7:{port}", ""]
)
def test_a_foreign_host_header_is_refused(client: Client, host: str) -> None:
    """A name of the attacker's that was made to lead here (DNS rebinding), token or not."""
    answer = client.get("/", Host=host.format(port=client.server.port))
    assert answer.status == 403 and b"Notes" not in answer.body


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        # As RFC 9112 (3.2) asks: such a request is not HTTP/1.1, and h11 refuses it before the page sees it.
        ("1.1", [], 400),
        ("1.1", ["{own}", "evil.example"], 400),
        ("1.1", ["evil.example", "{own}"], 400),
        ("1.0", [], 403),
        ("1.0", ["evil.example"], 403),
    ],
)
def test_a_request_has_one_host_header(client: Client, version: str, hosts: list[str], status: int) -> None:
    cookie = f"Cookie: {client.headers['Cookie']}\r\nConnection: close\r\n"
    lines = "".join(f"Host: {host.format(own=client.headers['Host'])}\r\n" for host in hosts)
    answer = conversation(client, f"GET / HTTP/{version}\r\n{lines}{cookie}\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status}".encode()) and b"Notes" not in answer


def test_an_address_outside_of_the_page_is_refused(client: Client) -> None:
    assert client.get("http://evil.example/").status == 400


@pytest.mark.parametrize("path", ["/", "/items/1", "/nothing", "/broken"])
def test_without_token_nothing_is_said(client: Client, path: str) -> None:
    """Not even which pages there are."""
    answers = [client.get(path, Cookie=None), client.get(path, Cookie=f"songgen-{client.server.port}=guess")]
    assert [answer.status for answer in answers] == [401, 401]
    assert answers[0].body == answers[1].body and b"Notes" not in answers[0].body


def test_a_wrong_token_in_the_address_sets_no_cookie(client: Client) -> None:
    answer = client.get("/?token=guess", Cookie=None)
    assert answer.status == 401 and "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/items/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/items/1/2",
    ],
)
def test_a_path_out_of_the_page_leads_nowhere(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 404 and b"root:" not in answer.body


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.1", "example.org"])
def test_an_open_address_without_a_chosen_token_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="choose a token"):
        make_access(host)


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "with spaces in it, sixteen", "x" * 16 + "\r\nSet-Cookie: a"])
def test_a_token_that_is_easy_to_guess_or_breaks_headers_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="at least 16 characters"):
        make_access("0.0.0.0", token)


def test_an_open_address_is_known_by_addresses_alone() -> None:
    """Names of others can be made to lead to it, addresses cannot."""
    with serving(Notebook().routes(), "0.0.0.0", TOKEN) as client:
        assert client.get("/").status == 200
        assert client.get("/", Host="192.168.0.17:9999").status == 200
        assert client.get("/", Host="evil.example").status == 403
        assert client.get("/", Cookie=None).status == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", "https://[bad", None])
def test_a_write_from_another_page_is_refused(client: Client, notebook: Notebook, origin: str | None) -> None:
    """The browser of a user who has the cookie sends it, but names the page that asks."""
    assert client.post("/items/1", WRITE, Origin=origin).status == 403
    assert not notebook.written


def test_a_form_of_another_page_cannot_write(client: Client, notebook: Notebook) -> None:
    """Forms send no JSON, and what looks like one is not read."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        assert client.post("/items/1", WRITE, Content_Type=kind).status == 415
    assert not notebook.written


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/", "GET, HEAD"), ("DELETE", "/items/1", "GET, HEAD, POST"), ("PUT", "/items/1", "GET, HEAD, POST")],
)
def test_a_wrong_method_is_refused(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client.send(method, path, WRITE)
    assert answer.status == 405 and answer.headers["Allow"] == allowed


def test_no_other_page_may_ask_what_is_allowed(client: Client) -> None:
    """The question that a browser asks before it lets another page send JSON."""
    asked = {"Access-Control-Request-Method": "POST", "Origin": "http://evil.example", "Cookie": None}
    answer = client.send("OPTIONS", "/items/1", headers=asked)
    assert answer.status == 401
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_body_that_is_too_large_is_not_read(client: Client, notebook: Notebook) -> None:
    headers = {"Content-Length": str(MAX_BODY_BYTES + 1), "Content-Type": "application/json"}
    assert client.send("POST", "/items/1", headers=headers).status == 413
    assert client.send("POST", "/items/1", headers={**headers, "Content-Length": "9" * 20}).status == 413
    # More digits than any length has are refused by h11 as malformed.
    assert client.send("POST", "/items/1", headers={**headers, "Content-Length": "9" * 5000}).status == 400
    assert client.send("POST", "/items/1", headers={**headers, "Content-Length": None}).status == 411
    assert not notebook.written


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"x": NaN}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(client: Client, notebook: Notebook, body: bytes) -> None:
    assert client.post("/items/1", body).status == 400
    assert not notebook.written


def test_a_refused_body_is_not_taken_for_a_request(client: Client, notebook: Notebook) -> None:
    """What comes behind a refusal on the same connection could carry anything."""
    host, cookie = client.headers["Host"], client.headers["Cookie"]
    body = f"POST /items/1 HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nOrigin: http://{host}\r\n"
    body += "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    for first in ("POST /items/1", "GET /items/1"):
        request = f"{first} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        assert conversation(client, request.encode()).count(b"HTTP/1.1 ") == 1
    assert not notebook.written


@pytest.mark.parametrize("path", ["/", "/nothing", "/broken"])
def test_every_answer_closes_the_page_to_others(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store" and "Server" not in headers
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_logs_hold_neither_token_nor_control_characters(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    token = client.server.url.partition("token=")[2]
    with caplog.at_level(logging.INFO, logger="songgen"):
        client.get(f"/?token={token}", Cookie=None)
        client.get("/%1b[2Jred%07")
        raw = conversation(client, b"GET /\x1b[2Jred\x07 HTTP/1.1\r\nHost: \x1b[31m\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 400")
    lines = [record.getMessage() for record in caplog.records]
    assert "GET / 303" in lines and any("red" in line for line in lines)
    assert token not in caplog.text and not any("\x1b" in line or "\x07" in line for line in lines)


def test_a_page_that_fails_tells_the_terminal_alone(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.get("/broken")
    assert answer.status == 500 and b"ink" not in answer.body
    assert "out of ink" in caplog.text


def test_headers_without_end_are_refused(client: Client) -> None:
    sent = f"GET / HTTP/1.1\r\nHost: {client.headers['Host']}\r\nX-Long: ".encode() + b"x" * 2 * MAX_HEADER_BYTES
    assert conversation(client, sent).startswith(b"HTTP/1.1 400")


def test_many_slow_clients_do_not_hold_the_page(client: Client) -> None:
    """Each has sent half of a request and keeps the server waiting for the rest."""
    with ExitStack() as stack:
        for _ in range(SLOW_CLIENTS):
            slow = stack.enter_context(socket.create_connection((LOOPBACK, client.server.port), timeout=20))
            slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert client.get("/").status == 200
        assert client.post("/items/1", WRITE).status == 200


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param("", id="nothing"),
        pytest.param("GET / HTTP/1.1\r\nHost: ", id="half of a header"),
        pytest.param("{own}\r\nContent-Length: 9\r\n\r\n{{", id="half of a body"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first request", "second request"])
def test_a_request_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch, begun: str, is_first: bool) -> None:
    monkeypatch.setattr("songgen.web.server.REQUEST_SECONDS", 0.3)
    with serving(Notebook().routes()) as client:
        headers = "".join(f"\r\n{name}: {value}" for name, value in client.headers.items())
        begun = begun.format(own=f"POST /items/1 HTTP/1.1{headers}\r\nContent-Type: application/json")
        before = "" if is_first else f"GET / HTTP/1.1{headers}\r\n\r\n"
        assert conversation(client, (before + begun).encode()).count(b"HTTP/1.1 ") == (0 if is_first else 1)


def test_a_request_that_arrives_byte_by_byte_gets_no_longer_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("songgen.web.server.REQUEST_SECONDS", 0.3)
    end = time.monotonic() + 20
    with serving(Notebook().routes()) as client, pytest.raises(ConnectionError):
        with socket.create_connection((LOOPBACK, client.server.port), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
            while time.monotonic() < end:
                connection.sendall(b"x")
                time.sleep(0.02)


@pytest.fixture
def song(tmp_path: Path) -> PageRoute:
    """A file that is larger than all buffers between server and client."""
    path = tmp_path / "song.wav"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return PageRoute("/song", lambda request: PartialFileResponse(path, stat_result=path.stat()))


@contextmanager
def stalled(client: Client) -> Iterator[socket.socket]:
    """A client that asks for the song and reads the beginning of the answer only."""
    with socket.create_connection((LOOPBACK, client.server.port), timeout=20) as connection:
        headers = "".join(f"{name}: {value}\r\n" for name, value in client.headers.items())
        connection.sendall(f"GET /song HTTP/1.1\r\n{headers}\r\n".encode())
        assert connection.recv(1 << 10).startswith(b"HTTP/1.1 200")
        yield connection


def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch, song: PageRoute) -> None:
    monkeypatch.setattr("songgen.web.server.STALL_SECONDS", 0.3)
    with serving([song]) as client, stalled(client):
        wait_until(lambda: not client.server._server.server_state.connections, "end of the connection")


def test_a_client_that_does_not_read_does_not_keep_the_server_from_stopping(
    song: PageRoute, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        with serving([song]) as client:
            stack.enter_context(stalled(client))
            begin = time.monotonic()
        assert time.monotonic() - begin < STALL_SECONDS / 2
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
