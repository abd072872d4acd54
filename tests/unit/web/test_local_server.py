"""What the local server does for those who may talk to it."""

import http.client
import threading
from pathlib import Path

import pytest
from local_pages import Client, Notebook, serving

from songgen.web import (
    LOOPBACK,
    FileBody,
    HttpProblem,
    LocalServer,
    Request,
    Response,
    Route,
    json_response,
    make_access,
)
from songgen.web.messages import parse_range
from songgen.web.server import MAX_CONNECTIONS

CONTENT = bytes(range(256)) * 4


@pytest.fixture
def client(tmp_path: Path):
    (tmp_path / "song.wav").write_bytes(CONTENT)
    routes = [
        *Notebook().routes(),
        Route("GET", "/sound", lambda request: Response(FileBody(tmp_path / "song.wav"), "audio/wav")),
        Route("GET", "/gone", lambda request: Response(FileBody(tmp_path / "gone.wav"), "audio/wav")),
        Route("GET", "/folder", lambda request: Response(FileBody(tmp_path), "audio/wav")),
    ]
    with serving(routes) as client:
        yield client


def test_the_printed_address_lets_a_browser_in_once_and_forgets_the_token(client: Client) -> None:
    path = client.server.url.removeprefix(f"http://{LOOPBACK}:{client.server.port}")
    answer = client.get(path, Cookie=None)
    assert answer.status == 303 and answer.headers["Location"] == "/"
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "SameSite=Strict", "Path=/"}
    assert client.get("/", Cookie=f"other=1; {cookie}").status == 200


def test_every_start_has_a_token_of_its_own() -> None:
    tokens = {make_access().token for _ in range(20)}
    assert len(tokens) == 20 and all(len(token) >= 40 for token in tokens)


def test_servers_do_not_take_each_others_cookies(client: Client) -> None:
    """A browser sends the cookies of all ports of a machine."""
    with serving(Notebook().routes()) as other:
        assert client.get("/", Cookie=other.headers["Cookie"]).status == 401
        assert client.get("/", Cookie=f"{other.headers['Cookie']}; {client.headers['Cookie']}").status == 200


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:{port}", "127.0.0.1", "[::1]:{port}", "localhost:9999"])
def test_names_of_this_machine_are_known_also_through_a_forwarded_port(client: Client, name: str) -> None:
    host = name.format(port=client.server.port)
    assert client.get("/", Host=host).status == 200
    assert client.post("/items/1", {}, Host=host, Origin=f"http://{host}").status == 200


def test_a_script_shows_the_token_in_a_header(client: Client) -> None:
    token = client.server.url.partition("token=")[2]
    shown = {"Authorization": f"Bearer {token}", "Cookie": None}
    assert client.get("/", **shown).status == 200
    assert client.post("/items/1", {}, **shown, Origin=None).status == 200
    assert client.post("/items/1", {}, **shown, Origin="http://evil.example").status == 403
    assert client.get("/", Authorization="Bearer no", Cookie=None).status == 401


def test_ids_are_decoded_after_the_path_was_taken_apart(client: Client) -> None:
    answer = client.get("/items/a%2Fb%20%C3%A9?search=x%26y&page=2")
    assert answer.json == {"id": "a/b é", "query": {"search": "x&y", "page": "2"}}


def test_a_head_request_gets_no_body(client: Client) -> None:
    answer = client.send("HEAD", "/sound")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", str(len(CONTENT)))


@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [("bytes=0-", 0, 1024), ("bytes=10-19", 10, 20), ("bytes=1000-9999", 1000, 1024), ("bytes=-24", 1000, 1024),
     ("bytes=-5000", 0, 1024)],
)  # fmt: skip
def test_players_get_the_part_of_a_file_that_they_ask_for(client: Client, wanted: str, begin: int, end: int) -> None:
    answer = client.get("/sound", Range=wanted)
    assert (answer.status, answer.body) == (206, CONTENT[begin:end])
    assert answer.headers["Content-Range"] == f"bytes {begin}-{end - 1}/1024"
    assert answer.headers["Content-Length"] == str(end - begin)


@pytest.mark.parametrize("wanted", ["bytes=9-3", "bytes=a-b", "bytes=0-1,5-6", "pages=1-2", "bytes=-", "bytes=²-"])
def test_a_range_that_means_nothing_gets_the_whole_file(client: Client, wanted: str) -> None:
    answer = client.send("GET", "/sound", headers={"Range": wanted})
    assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (200, CONTENT, "bytes")


@pytest.mark.parametrize("wanted", ["bytes=1024-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(client: Client, wanted: str) -> None:
    answer = client.get("/sound", Range=wanted)
    assert answer.status == 416 and answer.headers["Content-Range"] == "bytes */1024"


def test_an_empty_file_has_no_range() -> None:
    with pytest.raises(HttpProblem):
        parse_range("bytes=0-", 0)


@pytest.mark.parametrize("path", ["/gone", "/folder"])
def test_a_file_that_is_gone_or_none_is_not_found(client: Client, path: str) -> None:
    assert client.get(path).status == 404


def test_one_connection_serves_many_requests(client: Client) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, client.server.port, timeout=20)
    sockets = set()
    for path in ("/", "/sound", "/items/1"):
        connection.request("GET", path, headers=client.headers)
        assert connection.getresponse().read()
        sockets.add(id(connection.sock))
    connection.close()
    assert len(sockets) == 1


def test_more_connections_than_there_is_room_for_are_hung_up_and_places_come_back(client: Client) -> None:
    connections = [http.client.HTTPConnection(LOOPBACK, client.server.port, timeout=20) for _ in range(MAX_CONNECTIONS)]
    for connection in connections:
        connection.request("GET", "/", headers=client.headers)
        assert connection.getresponse().read()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        client.get("/")
    for connection in connections:
        connection.close()
    for _ in range(100):
        try:
            status = client.get("/").status
            break
        except (ConnectionError, http.client.HTTPException):
            threading.Event().wait(0.05)
    assert status == 200


def test_a_slow_page_does_not_hold_up_another() -> None:
    release = threading.Event()

    def slow(request: Request) -> Response:
        release.wait(20)
        return json_response("slow")

    routes = [Route("GET", "/", lambda request: json_response("quick")), Route("GET", "/slow", slow)]
    with serving(routes) as client:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(client.get("/slow").json))
        thread.start()
        assert client.get("/").json == "quick" and not answers
        release.set()
        thread.join()
    assert answers == ["slow"]


def test_a_taken_port_is_an_error_with_a_way_out(client: Client) -> None:
    with pytest.raises(ValueError, match="--port"):
        LocalServer([], make_access(), client.server.port)
    with pytest.raises(ValueError, match="--port"):
        LocalServer([], make_access(), 99_999)


def test_it_listens_on_this_machine_alone(client: Client) -> None:
    assert client.server.url.startswith(f"http://{LOOPBACK}:")
    assert client.server._server.socket.getsockname()[0] == LOOPBACK
