"""Files that are sent to the page: stored whole or not at all, only in the folder of uploads, by the page itself."""

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from local_pages import Answer, Client, serving_page

from songgen.ui import uploads
from songgen.ui.uploads import clean_name
from songgen.ui.workspace import UPLOADS_FOLDER, Workspace
from songgen.web.access import LOOPBACK

CONTENT = bytes(range(256)) * 5_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder.resolve()


@pytest.fixture
def client(root: Path) -> Iterator[Client]:
    with serving_page(Workspace(root)) as client:
        yield client


def send(client: Client, folder: str, name: str, content: bytes = CONTENT, query: str = "", **headers: str) -> Answer:
    given = {"Content-Type": "application/octet-stream"} | {
        key.replace("_", "-"): text for key, text in headers.items()
    }
    return client.send(
        "POST", f"/api/uploads/{quote(folder, safe='')}/{quote(name, safe='')}{query}", content, headers=given
    )


def stored(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_file_is_stored_under_its_name_also_in_folders(client: Client, root: Path) -> None:
    answer = send(client, "mine", "album 1/sóng.mp3")
    assert (answer.status, answer.json) == (
        200,
        {
            "path": "datasets/uploads/mine/album 1/sóng.mp3",
            "folder": "datasets/uploads/mine",
            "bytes": len(CONTENT),
        },
    )
    assert stored(root) == ["datasets/uploads/mine/album 1/sóng.mp3"]
    assert (root / answer.json["path"]).read_bytes() == CONTENT


def test_the_same_file_again_is_the_same_and_another_of_its_name_is_kept_apart(client: Client, root: Path) -> None:
    first = send(client, "mine", "a.wav").json["path"]
    assert send(client, "mine", "a.wav").json["path"] == first
    refused = send(client, "mine", "a.wav", b"other")
    assert refused.status == 422 and "other content" in refused.json["error"]
    assert (root / first).read_bytes() == CONTENT
    assert send(client, "mine", "a.wav", b"other", "?rename=1").json["path"] == "datasets/uploads/mine/a-2.wav"
    assert len(stored(root)) == 2


HOSTILE = [
    ("mine", "../../../evil.wav"), ("..", "evil.wav"), ("../..", "evil.wav"), ("mine", "/etc/evil.wav"),
    ("mine", ".hidden.wav"), (".partial", "x.wav"), ("a/b", "c\\d.wav"), ("mine", "\x1b[2J\u202e.wav"),
    ("mine", "<img src=x onerror=alert(1)>.wav"), ("mine", "x" * 500 + ".wav"), ("mine", "no\xa0break.wav"),
]  # fmt: skip


def test_no_name_leaves_the_folder_or_hides(client: Client, root: Path) -> None:
    for number, (folder, name) in enumerate(HOSTILE):
        assert send(client, folder, name, bytes([number])).status in (200, 422), name
    assert len(stored(root)) > 5
    for path in stored(root.parent):
        assert path.startswith(f"workspace/{UPLOADS_FOLDER}/")
        assert not any(part.startswith(".") for part in Path(path).parts)
        assert path.isprintable() and not set(path) & set('<>:"|?*\\')


def test_only_songs_texts_and_manifests_are_taken(client: Client, root: Path) -> None:
    for name in ("evil.html", "evil.py", "model.pt", "noending", "evil.wav.sh", "evil.json.pkl"):
        assert send(client, "mine", name).status == 422, name
    assert stored(root) == []


def test_a_link_that_leads_out_is_refused(client: Client, root: Path, tmp_path: Path) -> None:
    (root / UPLOADS_FOLDER).mkdir(parents=True)
    (root / UPLOADS_FOLDER / "out").symlink_to(tmp_path)
    assert send(client, "out", "evil.wav").status == 422
    assert send(client, "out", "deeper/evil.wav").status == 422
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]


FOREIGN: list[tuple[dict[str, str], int]] = [
    ({"Content_Type": "text/plain"}, 415), ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
    ({"Content_Type": "application/json"}, 415), ({"Origin": "http://evil.example"}, 403),
    ({"Cookie": "songgen=no"}, 401), ({"Host": "evil.example"}, 403),
]  # fmt: skip


def test_foreign_pages_cannot_send_files(client: Client, root: Path) -> None:
    for headers, status in FOREIGN:
        assert send(client, "mine", "a.wav", b"x", **headers).status == status, headers
    assert stored(root) == []


def test_other_routes_still_take_json_only_and_of_small_size(client: Client) -> None:
    path, file = "/api/language", {"Content-Type": "application/octet-stream"}
    assert client.send("POST", path, b"{}", headers=file).status == 415
    too_long = {"Content-Length": str((1 << 20) + 1)}  # only announced: what is sent would be cut off
    assert client.send("POST", path, b"", headers=too_long).status == 413


def test_too_large_a_file_is_refused_before_it_is_sent(client: Client, root: Path) -> None:
    limit = client.get("/api/uploads").json["max_bytes"]
    assert send(client, "mine", "a.wav", b"", Content_Length=str(limit + 1)).status == 413
    assert send(client, "mine", "a.wav", b"", Content_Length="9" * 5000).status in (400, 413)
    assert stored(root) == []


def test_a_full_disk_is_a_message(client: Client, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "free_bytes", lambda folder: 10)
    answer = send(client, "mine", "a.wav")
    assert answer.status == 422 and "no room" in answer.json["error"]
    assert stored(root) == []


def test_uploads_at_the_same_time_do_not_promise_the_same_room(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = shutil.disk_usage(root)._replace(free=uploads.RESERVED_BYTES + 1000)
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda folder: disk)
    with begin(client, 600):
        wait_until(lambda: partial_files(root))
        assert client.get("/api/uploads").json["free_bytes"] == 400
        assert "no room" in send(client, "mine", "b.wav", b"x" * 600).json["error"]
        assert send(client, "mine", "c.wav", b"x" * 400).status == 200
    wait_until(lambda: not partial_files(root))
    assert send(client, "mine", "b.wav", b"x" * 600).status == 200


def begin(client: Client, length: int) -> socket.socket:
    """Send the head of an upload of some length."""
    connection = socket.create_connection((LOOPBACK, client.server.port), timeout=30)
    lines = [f"{name}: {value}" for name, value in client.headers.items()]
    lines += ["Content-Type: application/octet-stream", f"Content-Length: {length}"]
    connection.sendall("\r\n".join(["POST /api/uploads/mine/a.wav HTTP/1.1", *lines, "", ""]).encode())
    return connection


def partial_files(root: Path) -> list[Path]:
    return list((root / UPLOADS_FOLDER / uploads.PARTIAL_FOLDER).glob("*"))


def wait_until(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_interrupted_upload_leaves_nothing(client: Client, root: Path) -> None:
    with begin(client, 1_000_000) as connection:
        connection.sendall(b"x" * 1000)
        wait_until(lambda: partial_files(root))
    wait_until(lambda: not partial_files(root))
    assert stored(root) == []


def test_a_file_that_is_shorter_than_announced_is_not_stored(root: Path) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"abc"

    target = root / UPLOADS_FOLDER / "a.wav"
    with pytest.raises(ValueError, match="3 of 4 bytes"):
        asyncio.run(uploads.receive_file(Workspace(root), target, 4, content()))
    assert stored(root) == []


def test_a_slow_upload_is_not_cut_off_but_a_stuck_one_is(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("songgen.web.server.REQUEST_SECONDS", 0.5)
    monkeypatch.setattr("songgen.web.server.FILE_PAUSE_SECONDS", 2.5)
    with begin(client, 10) as slow, begin(client, 10) as stuck:
        for pause in (0.1, 0.8, 0.8, *[0.05] * 7):  # longer than any other request may take, in parts and as a whole
            time.sleep(pause)
            slow.sendall(b"x")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        assert stuck.recv(4096) == b""
    wait_until(lambda: not partial_files(root))
    assert stored(root) == ["datasets/uploads/mine/a.wav"]


def test_an_upload_is_not_cut_off_while_the_page_is_behind(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More arrives than is read before the page asks for it, so that reading is paused."""
    monkeypatch.setattr("songgen.web.server.REQUEST_SECONDS", 0.3)
    monkeypatch.setattr("songgen.web.server.FILE_PAUSE_SECONDS", 0.3)
    answers = []
    with uploads._placing:  # every upload begins with it
        thread = threading.Thread(target=lambda: answers.append(send(client, "mine", "a.wav", CONTENT * 8)))
        thread.start()
        time.sleep(1.0)
    thread.join(30)
    assert [answer.status for answer in answers] == [200]
    with begin(client, 10 << 20) as stuck:  # one that has been paused is watched again afterwards
        stuck.sendall(CONTENT * 2)
        assert stuck.recv(4096) == b""


def test_files_are_compared_without_keeping_other_uploads_from_beginning(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(client, "mine", "a.wav", b"one")
    held = []

    def compare(*paths: Path, shallow: bool) -> bool:
        held.append(uploads._placing.locked())
        return False

    monkeypatch.setattr(uploads.filecmp, "cmp", compare)
    assert send(client, "mine", "a.wav", b"two", "?rename=1").json["path"].endswith("a-2.wav")
    assert held == [False]


def test_two_files_of_one_name_at_once_are_both_kept(client: Client, root: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(4)]
    threads = [
        threading.Thread(target=send, args=(client, "mine", "a.wav", content, "?rename=1")) for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((root / path).read_bytes() for path in stored(root)) == contents


def test_what_a_killed_server_has_left_is_removed_by_the_next_upload(client: Client, root: Path) -> None:
    folder = root / UPLOADS_FOLDER / uploads.PARTIAL_FOLDER
    folder.mkdir(parents=True)
    for name, age in (("old", uploads.STALE_SECONDS + 60), ("young", 60.0)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    send(client, "mine", "a.wav")
    assert [path.name for path in folder.iterdir()] == ["young"]


def test_texts_stay_next_to_their_song() -> None:
    stem = "Ünïcode: what? " + "é" * 120
    names = [clean_name(stem + ending) for ending in (".mp3", ".lrc", ".txt")]
    assert len({Path(name).stem for name in names}) == 1
