"""Which files the page sends to a player, and which it does not."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from local_pages import Client, serving_page

from songgen.ui.workspace import Workspace

SOUND = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace and a further folder, with files that are fine and others that must not be sent."""
    root, music = (tmp_path_factory.mktemp(name).resolve() for name in ("workspace", "music"))
    elsewhere = tmp_path_factory.mktemp("elsewhere").resolve()
    (root / "outputs").mkdir()
    for path in (root / "outputs" / "歌 #1?.wav", music / "song.mp3", elsewhere / "secret.wav", root / "chart.png"):
        path.write_bytes(SOUND)
    (root / "notes.txt").write_text("secret")
    (root / "page.html").write_text("<script>alert(1)</script>")
    (root / "text.wav").symlink_to("notes.txt")
    (root / "out.wav").symlink_to(elsewhere / "secret.wav")
    (root / "elsewhere").symlink_to(elsewhere)
    (root / "folder.wav").mkdir()
    os.mkfifo(root / "pipe.wav")
    return Workspace(root, (music,))


@pytest.fixture(scope="module")
def client(workspace: Workspace) -> Iterator[Client]:
    with serving_page(workspace) as client:
        yield client


def address(path: str | Path) -> str:
    return f"/files/{quote(str(path), safe='')}"


def test_sounds_and_pictures_of_every_folder_are_sent(client: Client, workspace: Workspace) -> None:
    answer = client.get(address("outputs/歌 #1?.wav"))
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, SOUND, "audio/wav")
    assert "Content-Disposition" not in answer.headers
    assert client.get(address(workspace.others[0] / "song.mp3")).headers["Content-Type"] == "audio/mpeg"
    assert client.get(address("chart.png")).headers["Content-Type"] == "image/png"


def test_a_part_of_a_file_is_sent(client: Client) -> None:
    answer = client.get(address("outputs/歌 #1?.wav"), Range="bytes=10-19")
    assert (answer.status, answer.body) == (206, SOUND[10:20])
    assert client.get(address("outputs/歌 #1?.wav"), Range="bytes=1024-").status == 416


def test_a_download_keeps_the_name(client: Client) -> None:
    disposition = client.get(f"{address('outputs/歌 #1?.wav')}?download=1").headers["Content-Disposition"]
    assert disposition == f"attachment; filename*=utf-8''{quote('歌 #1?.wav')}"


@pytest.mark.parametrize(
    "path",
    [
        "missing.wav", "notes.txt", "page.html", "text.wav", "out.wav", "elsewhere/secret.wav", "folder.wav",
        "pipe.wav", "../elsewhere0/secret.wav", "/etc/passwd", "~/x.wav", "a\0.wav", "outputs/../../x.wav", ".",
        "a" * 999,
    ],
)  # fmt: skip
def test_everything_else_is_not_there(client: Client, path: str) -> None:
    answer = client.get(address(path))
    assert (answer.status, answer.json) == (404, {"error": "there is no such file"})


def test_a_file_that_grows_while_it_is_sent_ends_where_it_was_announced(workspace: Workspace) -> None:
    """The stat of the file is taken first: here the answer believes that the file was shorter."""
    import anyio
    from starlette.types import Message

    from songgen.web.answers import PartialFileResponse

    path = workspace.root / "growing.wav"
    path.write_bytes(b"a" * 100_000)
    stat = path.stat()
    with path.open("ab") as file:
        file.write(b"b" * 300_000)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    scope = {"type": "http", "method": "GET", "headers": [], "asgi": {"spec_version": "2.4"}}
    answer = PartialFileResponse(path, media_type="audio/wav", stat_result=stat)
    anyio.run(answer, scope, receive, send)
    assert b"".join(message.get("body", b"") for message in sent) == b"a" * 100_000
    assert [message.get("more_body") for message in sent[1:]] == [True, False]


def test_a_new_name_differs_from_whole_names(tmp_path: Path) -> None:
    """`run-0.5` is not another ending of `run-0.7`."""
    for name in ("run-0.7", "song.json", "song-2.json", "run.v1", "run.v1-2"):
        (tmp_path / name).mkdir()
    names = {wanted: Workspace(tmp_path).new_name(Path(), wanted) for wanted in ("run-0.5", "song.json", "run.v1")}
    assert names == {"run-0.5": "run-0.5", "song.json": "song-3.json", "run.v1": "run.v1-3"}
