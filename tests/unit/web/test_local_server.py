"""What the local server does for those who may talk to it."""

import http.client
import json
import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS
from local_pages import Client, Notebook, serving
from starlette.requests import Request
from starlette.responses import Response

from songgen.web.access import LOOPBACK, make_access
from songgen.web.answers import PartialFileResponse, existing_file, json_response
from songgen.web.application import PageRoute
from songgen.web.guard import COMMON_HEADERS, DOCUMENT_POLICY
from songgen.web.server import MAX_CONNECTIONS, LocalServer

CONTENT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One server for most tests of this file, with files that are fine and others that must not be sent."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "song.wav").write_bytes(CONTENT)
    (folder / "empty.wav").touch()
    (folder / "inside.wav").symlink_to("song.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "directory.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.wav"
    secret.write_bytes(b"secret")
    (folder / "outside.wav").symlink_to(secret)
    (folder / "elsewhere").symlink_to(secret.parent)

    def sound(request: Request) -> Response:
        path = existing_file(folder / request.path_params["name"], folder)
        return PartialFileResponse(path, media_type="audio/wav", stat_result=path.stat())

    with serving([*Notebook().routes(), PageRoute("/sounds/{name}", sound)]) as client:
        yield client


def test_json_has_no_numbers_that_browsers_do_not_read() -> None:
    values = {"a": [math.nan, (1.5, math.inf)], "b": {"c": -math.inf, "d": None, "e": "NaN"}}
    assert json.loads(json_response(values).body) == {"a": [None, [1.5, None]], "b": {"c": None, "d": None, "e": "NaN"}}


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
    answer = client.send("HEAD", "/sounds/song.wav")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", str(len(CONTENT)))


@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [("bytes=0-", 0, 1024), ("bytes=10-19", 10, 20), ("bytes=1000-9999", 1000, 1024), ("bytes=-24", 1000, 1024),
     ("bytes=-5000", 0, 1024)],
)  # fmt: skip
def test_players_get_the_part_of_a_file_that_they_ask_for(client: Client, wanted: str, begin: int, end: int) -> None:
    answer = client.get("/sounds/song.wav", Range=wanted)
    assert (answer.status, answer.body) == (206, CONTENT[begin:end])
    assert answer.headers["Content-Range"] == f"bytes {begin}-{end - 1}/1024"
    assert answer.headers["Content-Length"] == str(end - begin)


@pytest.mark.parametrize("wanted", ["bytes=9-3", "bytes=a-b", "bytes=0-1,5-6", "pages=1-2", "bytes=-", "bytes=²-"])
def test_a_range_that_means_nothing_gets_the_whole_file(client: Client, wanted: str) -> None:
    answer = client.send("GET", "/sounds/song.wav", headers={"Range": wanted})
    assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (200, CONTENT, "bytes")


@pytest.mark.parametrize("wanted", ["bytes=1024-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(client: Client, wanted: str) -> None:
    answer = client.get("/sounds/song.wav", Range=wanted)
    assert answer.status == 416 and answer.headers["Content-Range"] == "bytes */1024"


def test_an_empty_file_has_no_range(client: Client) -> None:
    assert client.get("/sounds/empty.wav", Range="bytes=0-").status == 416
    assert client.get("/sounds/empty.wav").status == 200


@pytest.mark.parametrize("wanted", ["bytes={}-", "bytes=0-{}", "bytes=-{}"])
def test_thousands_of_digits_in_a_range_do_no_harm(client: Client, wanted: str) -> None:
    """Python refuses to read a number of more than 4,300 digits."""
    answer = client.get("/sounds/song.wav", Range=wanted.format("9" * 5000))
    assert (answer.status, answer.body) == (200, CONTENT)


def test_several_ranges_get_the_whole_file(client: Client) -> None:
    many = ",".join(f"{begin}-{begin}" for begin in range(0, 1000, 2))
    answer = client.get("/sounds/song.wav", Range=f"bytes={many}")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, CONTENT, "audio/wav")


@pytest.mark.parametrize(
    "name",
    ["gone.wav", "directory.wav", "pipe.wav", "loop.wav", "outside.wav", "..%2Fsecret.wav", "elsewhere%2Fsecret.wav",
     "%2Fetc%2Fpasswd", "%00", "x" * 300],
)  # fmt: skip
def test_only_regular_files_of_the_folder_are_sent(client: Client, name: str) -> None:
    """A pipe is refused without opening it, which would block."""
    answer = client.get(f"/sounds/{name}")
    assert answer.status == 404 and b"secret" not in answer.body


def test_a_link_inside_of_the_folder_is_followed(client: Client) -> None:
    assert client.get("/sounds/inside.wav").body == CONTENT


def test_a_file_that_became_shorter_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(CONTENT)
    status = song.stat()
    song.write_bytes(CONTENT[:100])
    routes = [PageRoute("/song", lambda request: PartialFileResponse(song, stat_result=status))]
    with serving(routes) as client, pytest.raises((http.client.IncompleteRead, ConnectionError)):
        client.get("/song")


def test_one_connection_serves_many_requests(client: Client) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, client.server.port, timeout=20)
    sockets = set()
    for path in ("/", "/sounds/song.wav", "/items/1"):
        connection.request("GET", path, headers=client.headers)
        assert connection.getresponse().read()
        sockets.add(id(connection.sock))
    connection.close()
    assert len(sockets) == 1


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: ", b"GET /"])
def test_connections_that_wait_for_a_request_do_not_keep_others_out(client: Client, begun: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 40):
            slow = stack.enter_context(socket.create_connection((LOOPBACK, client.server.port), timeout=60))
            slow.sendall(begun)
        for _ in range(10):
            assert client.get("/").status == 200
        assert len(client.server._server.server_state.connections) <= MAX_CONNECTIONS


def test_more_answers_than_there_is_room_for_are_hung_up_and_places_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("songgen.web.server.MAX_CONNECTIONS", 2)
    release, begun = threading.Event(), threading.Semaphore(0)

    def slow(request: Request) -> Response:
        begun.release()
        release.wait(60)
        return json_response("slow")

    with serving([PageRoute("/", lambda request: json_response("quick")), PageRoute("/slow", slow)]) as client:
        threads = [threading.Thread(target=client.get, args=("/slow",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=60)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            client.get("/")
        release.set()
        for thread in threads:
            thread.join()
        assert client.get("/").json == "quick"


def test_a_slow_page_does_not_hold_up_another() -> None:
    release = threading.Event()

    def slow(request: Request) -> Response:
        release.wait(20)
        return json_response("slow")

    routes = [PageRoute("/", lambda request: json_response("quick")), PageRoute("/slow", slow)]
    with serving(routes) as client:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(client.get("/slow").json))
        thread.start()
        assert client.get("/").json == "quick" and not answers
        release.set()
        thread.join(SAFETY_SECONDS)
    assert answers == ["slow"]


def test_an_answer_can_only_have_one_other_policy_which_is_stricter_about_scripts() -> None:
    def answering(policy: str) -> PageRoute:
        headers = {"Content-Security-Policy": policy}
        return PageRoute(f"/{len(policy)}", lambda request: json_response({}, headers=headers))

    loose = "default-src *"
    with serving([answering(loose), answering(DOCUMENT_POLICY)]) as client:
        answers = [client.get(f"/{len(policy)}") for policy in (loose, DOCUMENT_POLICY)]
    seen = [answer.headers.get_all("Content-Security-Policy") for answer in answers]
    assert seen == [[COMMON_HEADERS["Content-Security-Policy"]], [DOCUMENT_POLICY]]


def test_a_taken_port_is_an_error_with_a_way_out(client: Client) -> None:
    with pytest.raises(ValueError, match="--port"):
        LocalServer([], make_access(), client.server.port)
    with pytest.raises(ValueError, match="--port"):
        LocalServer([], make_access(), 99_999)


def test_it_listens_on_this_machine_alone(client: Client) -> None:
    assert client.server.url.startswith(f"http://{LOOPBACK}:")
    assert client.server._socket.getsockname()[0] == LOOPBACK
