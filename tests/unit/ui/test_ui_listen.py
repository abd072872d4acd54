"""Listen: requests for songs, the list of songs, and what is refused."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from complete_model import write_complete_model
from local_pages import Answer, Client, serving_page

from songgen.cli.main import main
from songgen.families.use.generating import option_groups
from songgen.families.use.song_folder import SONG_LOCK_FILE, SONG_STATUS_FILE
from songgen.jobs.record import JOBS_FOLDER, Job, JobView
from songgen.lyrics import SECTION_TAGS
from songgen.runtime.folder_lock import locked
from songgen.runtime.status import Progress, RunStatus, StatusFile
from songgen.ui import songs as songs_module
from songgen.ui.workspace import SONGS_FOLDER, TRASH_FOLDER, Workspace

VALUES = {"caption": "calm folk", "lyrics": "[verse]\nla la", "seconds": 0.5, "device": "cpu"}
HOSTILE = "<script>alert(1)</script>\"'; rm -rf / `x` $(y) {{ 7*7 }} --seed=9\n\u202e\u2028</script>"


class Jobs:
    """Takes the place of the job runner: notes what would be started, and answers for it."""

    def __init__(self) -> None:
        self.started: list[tuple[list[str], str]] = []
        self.views: list[JobView] = []

    def start(self, jobs_folder: Path, words: list[str], *, title: str, cwd: Path, subject: str) -> None:
        assert (jobs_folder, title) == (cwd / JOBS_FOLDER, f"generate {subject}")
        self.started.append((words, subject))

    def add(self, subject: str, state: Any, reason: str = "", created: float = 1.0) -> None:
        job = Job(
            f"20261128-171530-generate-{len(self.views):04x}", "t", ("songgen", "generate"), "/", created, subject
        )
        status = None if state == "running" else RunStatus(
            "failed" if state == "lost" else state, "id", reason=reason or None
        )  # fmt: skip
        # The one before has ended by now: a folder has one job that runs.
        self.views = [view for view in self.views if view.job.subject != subject or not view.is_active]
        self.views.insert(0, JobView(job, Path(), state, status))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_complete_model(tmp_path_factory.mktemp("model"), "interleaving_A_V")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The workspace, with something next to it that must not be reached."""
    place = tmp_path_factory.mktemp("place").resolve() / "workspace"
    shutil.copytree(model, place / "models" / "tiny")
    (place.parent / "secret.wav").touch()
    return place


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[tuple[Client, Jobs]]:
    """One server for all tests of this file."""
    jobs = Jobs()
    with pytest.MonkeyPatch.context() as monkeypatch, serving_page(Workspace(place)) as client:
        monkeypatch.setattr(songs_module, "start_job", jobs.start)
        monkeypatch.setattr(songs_module, "find_jobs", lambda folder: jobs.views)
        yield client, jobs


@pytest.fixture
def root(place: Path) -> Iterator[Path]:
    """The workspace, without songs before and after the test."""
    yield place
    if (place / SONGS_FOLDER).is_symlink():
        (place / SONGS_FOLDER).unlink()
    for folder in (place / "outputs", place / "runs", place.parent / "outside"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def jobs(served: tuple[Client, Jobs]) -> Jobs:
    served[1].started.clear()
    served[1].views.clear()
    return served[1]


@pytest.fixture
def client(served: tuple[Client, Jobs], root: Path, jobs: Jobs) -> Client:
    return served[0]


def body(*models: str, ending: str = ".wav", **values: Any) -> dict[str, Any]:
    takes = [{"model": model, "adapter": []} for model in models or ("models/tiny",)]
    return {"values": VALUES | values, "takes": takes, "ending": ending}


def created(client: Client, request: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = client.post("/api/songs", body() if request is None else request)
    assert answer.status == 200, answer.json
    song: dict[str, Any] = answer.json["song"]
    return song


def problem(answer: Answer) -> str:
    assert answer.status == 422
    error: str = answer.json["error"]
    return error


def test_a_request_is_stored_and_generates_what_its_commands_generate(
    client: Client, root: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = body("models/tiny", "models/tiny", lyrics=HOSTILE, temperature=0.9, stream=True)
    song = created(client, request)
    seed = song["options"]["seed"]
    assert song["options"] == {"seconds": 0.5, "device": "cpu", "temperature": 0.9, "stream": True, "seed": seed}
    assert (song["caption"], song["lyrics"], song["state"]) == ("calm folk", HOSTILE, "unfinished")
    assert jobs.started == [(["songgen", "generate", f"--request={song['folder']}"], song["folder"])]
    monkeypatch.chdir(root)  # as `songgen ui` does
    assert main(jobs.started[0][0][1:]) == 0
    song = client.get(f"/api/songs/{song['name']}").json["song"]
    assert (song["state"], song["is_active"]) == ("finished", False)
    assert [file["path"].removeprefix(f"{song['folder']}/") for file in song["files"]] == [
        f"{take}{track}.wav" for take in "ab" for track in ("", ".acc", ".vocal")
    ]
    sound = client.get(f"/files/{quote(song['files'][0]['path'], safe='')}")
    assert sound.status == 200 and len(sound.body) == song["files"][0]["bytes"] > 44
    preview = client.post("/api/listen/preview", body(seed=seed, lyrics="la", temperature=0.9, stream=True)).json
    assert preview["text"] == (
        "songgen generate --model=models/tiny --out=song.wav '--caption=calm folk' --lyrics=la --seconds=0.5 "
        f"--seed={seed} --device=cpu --temperature=0.9 --stream"
    )


def test_the_seed_is_that_of_the_form_or_another_one_each_time(client: Client) -> None:
    assert created(client, body(seed=0))["options"]["seed"] == 0
    seeds = {created(client)["options"]["seed"] for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= seed < 2**31 for seed in seeds)


def test_songs_are_listed_newest_first_and_searched(client: Client, root: Path) -> None:
    names = [created(client, body(caption=text))["name"] for text in ("One", "Zwei", "三首歌")]
    listed = client.get("/api/songs").json
    assert ([song["name"] for song in listed["songs"]], listed["total"]) == (names[::-1], 3)
    searched = {"zwei": [names[1]], "首": [names[2]], "TINY": names[::-1], "x" * 50: []}
    for search, expected in searched.items():
        found = client.get(f"/api/songs?search={quote(search)}").json
        assert ([song["name"] for song in found["songs"]], found["total"]) == (expected, len(expected))
    assert [song["name"] for song in client.get("/api/songs?offset=2").json["songs"]] == [names[0]]
    assert problem(client.get("/api/songs?offset=-1")) == "offset: a whole number is expected"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": "", "lyrics": " "}, "a caption or lyrics are needed"),
        ({"seconds": "long"}, "invalid float value"),
        ({"seed": 1.5}, "invalid int value"),
        ({"device": ["cpu"]}, "device: a text or a number is expected"),
        ({"dtype": "int4"}, "dtype: one of"),
        ({"colour": "red"}, "no option colour"),
        ({"out": "/etc/x"}, "out: not an option of a song"),
        ({"request": "."}, "request: not an option of a song"),
        ({"lyrics_file": "/etc/passwd"}, "lyrics_file: not an option of a song"),
        ({"voice": "../secret.wav"}, "outside of the folders"),
        ({"voice": "/etc/passwd"}, "outside of the folders"),
        ({"source": "~/x.wav"}, "outside of the folders"),
        ({"caption_tokenizer": "../../x"}, "outside of the folders"),
        ({"lyrics": "a\udc80"}, "is half of one"),
        ({"lyrics": "x" * 100_001}, "too long"),
        ({"caption": "a\0b"}, "NUL"),
        ({"caption": {"a": 1}}, "caption: a text or a number is expected"),
        ({"caption": 5}, "caption: a text is expected"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_started(
    client: Client, root: Path, jobs: Jobs, change: dict[str, Any], message: str
) -> None:
    assert message in problem(client.post("/api/songs", body(**change)))
    assert jobs.started == [] and client.get("/api/songs").json["total"] == 0


@pytest.mark.parametrize(
    ("takes", "message"),
    [
        ([], "models are expected"),
        ([{"model": "models/tiny"}] * 3, "models are expected"),
        (["models/tiny"], "an object with a model"),
        ([{"model": " "}], "choose a model"),
        ([{"model": 7}], "choose a model"),
        ([{"model": "/etc"}], "outside of the folders"),
        ([{"model": "models/tiny", "adapter": ["../a:0.5"]}], "outside of the folders"),
        ([{"model": "models/tiny", "adapter": "a"}], "adapter: a list"),
        ([{"model": "models/tiny", "adapter": [["a"]]}], "adapter: a list"),
    ],
)
def test_wrong_models_are_refused(client: Client, jobs: Jobs, takes: list[Any], message: str) -> None:
    assert message in problem(client.post("/api/songs", {"values": VALUES, "takes": takes}))
    assert jobs.started == []


@pytest.mark.parametrize("ending", [".exe", "../x.wav", "", 7])
def test_other_formats_are_refused(client: Client, ending: Any) -> None:
    assert client.post("/api/songs", {**body(), "ending": ending}).status == 422


NO_SONGS = ("..", ".", "missing", "../jobs", "/etc", "a/../..", ".trash", "linked", "empty", "a\0")


@pytest.mark.parametrize("name", NO_SONGS)
def test_other_folders_are_no_songs(client: Client, root: Path, name: str) -> None:
    created(client)
    (root / SONGS_FOLDER / "empty").mkdir()
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "request.json").write_text("{}")
    (root / SONGS_FOLDER / "linked").symlink_to(outside)
    address = f"/api/songs/{quote(name, safe='')}"
    assert "there is no song" in problem(client.get(address))
    assert "there is no song" in problem(client.post(f"{address}/delete", {}))
    assert "there is no song" in problem(client.post(f"{address}/start", {}))
    assert client.get("/api/songs").json["total"] == 1 and outside.is_dir()


def test_states_of_a_song(client: Client, root: Path, jobs: Jobs) -> None:
    song = created(client)
    folder, address = song["folder"], f"/api/songs/{song['name']}"

    def state() -> tuple[str, str, bool]:
        found = client.get(address).json["song"]
        return found["state"], found["reason"], found["is_active"]

    jobs.add(folder, "running")
    assert state() == ("running", "", True)
    assert "are being generated" in problem(client.post(f"{address}/start", {}))
    assert "stop that first" in problem(client.post(f"{address}/delete", {}))
    jobs.add(folder, "failed", "it ended with code 1")  # before the command wrote a status
    assert state() == ("failed", "it ended with code 1", False)
    status = StatusFile(root / folder, SONG_STATUS_FILE, "run")
    status.write("running")
    jobs.add(folder, "lost")
    assert state() == ("lost", "", False)
    status.write("failed", reason="ValueError: nothing <b>here</b>")
    jobs.add(folder, "failed")
    assert state() == ("failed", "nothing <b>here</b>", False)
    client.post(f"{address}/start", {})
    assert len(jobs.started) == 2 and jobs.started[0] == jobs.started[1]
    status.write("running", progress=Progress("generating a", 3, 9, "step"))
    jobs.add(folder, "running")
    assert client.get(address).json["song"]["progress"]["done"] == 3
    jobs.add(folder, "running", created=time.time() + 1)
    assert client.get(address).json["song"]["progress"] is None, "the status is of an earlier try"
    status.write("stopped", reason="a signal")
    jobs.add(folder, "stopped")
    assert state() == ("stopped", "", False)


def test_songs_that_are_generated_in_a_terminal_run(client: Client, root: Path, jobs: Jobs) -> None:
    song = created(client)
    folder, address = root / song["folder"], f"/api/songs/{song['name']}"
    jobs.add(song["folder"], "finished")  # an earlier try, by the page
    with locked(folder, SONG_LOCK_FILE):
        StatusFile(folder, SONG_STATUS_FILE, "run").write("running", progress=Progress("generating a", 3, 9, "step"))
        found = client.get(address).json["song"]
        assert (found["state"], found["is_active"], found["can_be_stopped"]) == ("running", True, False)
        assert found["progress"]["done"] == 3
        assert "are being generated" in problem(client.post(f"{address}/start", {}))
        assert "stop that first" in problem(client.post(f"{address}/delete", {})) and folder.is_dir()
    assert client.get(address).json["song"]["state"] == "lost", "it was killed"
    jobs.add(song["folder"], "running")
    assert client.get(address).json["song"]["can_be_stopped"]


def test_songs_that_have_not_changed_are_not_read_again(
    client: Client, root: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs, read = [created(client, body(caption=text)) for text in ("One", "Zwei")], []
    monkeypatch.setattr(songs_module, "TICK_NANOSECONDS", -(10**10))
    real = songs_module.read_song_request
    monkeypatch.setattr(songs_module, "read_song_request", lambda folder: (read.append(folder.name), real(folder))[1])
    for expected in (2, 2):  # the first reads both
        assert client.get("/api/songs").json["total"] == 2 and len(read) == expected
    folder = root / songs[0]["folder"]
    (folder / "caption.txt").write_text("Other")  # in place, as an editor does
    os.utime(folder / "caption.txt", (1.0, 1.0))
    assert client.get("/api/songs?search=other").json["total"] == 1 and len(read) == 3
    jobs.add(songs[1]["folder"], "running")
    for size in (1, 2):
        (root / songs[1]["folder"] / "a.wav").write_bytes(bytes(size))
        shown = {song["name"]: song["files"] for song in client.get("/api/songs").json["songs"]}
        assert shown[songs[1]["name"]][0]["bytes"] == size, "a file that grows"


def test_a_deleted_song_is_in_the_trash(client: Client, root: Path) -> None:
    song = created(client)
    assert client.post(f"/api/songs/{song['name']}/delete", {}).status == 200
    assert client.get("/api/songs").json["total"] == 0
    (kept,) = (path for path in (root / TRASH_FOLDER).iterdir() if path.is_dir())  # next to a record of its place
    assert json.loads((kept / "request.json").read_text())["options"]["seed"] == song["options"]["seed"]


def test_a_damaged_song_is_shown_with_the_reason(client: Client, root: Path) -> None:
    song = created(client)
    (root / song["folder"] / "request.json").write_text('{"schema_version": 9}')
    (shown,) = client.get("/api/songs").json["songs"]
    assert "update songgen" in shown["problem"] and shown["name"] == song["name"]
    assert client.post(f"/api/songs/{song['name']}/delete", {}).status == 200


HOSTILE_REQUESTS = [
    {"created": float("nan")},
    {"created": "now"},
    {"options": 5},
    {"takes": [{"name": "a", "model": 5}]},
    {"takes": [{"name": "a", "model": "m", "adapter": [{}]}]},
    {"takes": [{"name": "a", "model": "m", "adapter": "abc"}]},
]


@pytest.mark.parametrize("change", HOSTILE_REQUESTS)
def test_a_request_of_another_form_does_not_hide_the_others(client: Client, root: Path, change: dict[str, Any]) -> None:
    song, other = created(client), created(client)
    file = root / other["folder"] / "request.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    shown = {each["name"]: each["problem"] for each in client.get("/api/songs?search=").json["songs"]}
    assert shown[song["name"]] == "" and "request.json" in shown[other["name"]]


@pytest.mark.parametrize("change", [{"reason": 5}, {"started": "x"}, {"status": ["a"]}, {"progress": {"phase": 1}}])
def test_a_status_of_another_form_is_left_out(client: Client, root: Path, jobs: Jobs, change: dict[str, Any]) -> None:
    song = created(client)
    status = {"status": "failed", "run_id": "x", "time": 1.0, "schema_version": 1}
    (root / song["folder"] / SONG_STATUS_FILE).write_text(json.dumps(status | change))
    for _ in range(2):
        assert client.get("/api/songs").json["songs"][0]["state"] in ("unfinished", "running")
        jobs.add(song["folder"], "running")


def test_a_folder_that_disappears_while_it_is_read_is_a_message(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = created(client)

    def gone(self: Any, *arguments: Any) -> Any:
        return os.stat(root / "gone")

    monkeypatch.setattr(songs_module.Songs, "find", gone)
    message = "gone cannot be used: No such file or directory; load the page again"
    assert problem(client.get("/api/songs")).endswith(message)
    monkeypatch.undo()
    monkeypatch.setattr(songs_module, "song_files", gone)
    (shown,) = client.get("/api/songs").json["songs"]
    assert shown["name"] == song["name"] and "gone" in shown["problem"]


def test_files_of_a_song_that_lead_elsewhere_are_neither_shown_nor_overwritten(
    client: Client, root: Path, jobs: Jobs
) -> None:
    song = created(client)
    secret = root.parent / "secret.txt"
    secret.write_text("secret")
    for name in ("caption.txt", "a.wav", ".song.lock"):
        file = root / song["folder"] / name
        file.unlink(missing_ok=True)
        file.symlink_to(secret)
        (shown,) = client.get("/api/songs").json["songs"]
        assert "is a link" in shown["problem"] and "secret" not in json.dumps(shown)
        assert "is a link" in problem(client.post(f"/api/songs/{song['name']}/start", {}))
        file.unlink()
    assert len(jobs.started) == 1 and secret.read_text() == "secret"


def test_two_browsers_start_a_song_once(client: Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    song = created(client)

    def start(*arguments: Any, subject: str, **options: Any) -> None:
        time.sleep(0.2)  # the other request comes meanwhile
        jobs.add(subject, "running", created=time.time())

    monkeypatch.setattr(songs_module, "start_job", start)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: client.post(f"/api/songs/{song['name']}/start", {}).status, range(2)))
    assert sorted(answers) == [200, 422] and len(jobs.views) == 1


def test_a_folder_of_songs_that_leads_elsewhere_is_refused(client: Client, root: Path, jobs: Jobs) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "outputs").mkdir()
    (root / SONGS_FOLDER).symlink_to(outside)
    assert "outside of the folders" in problem(client.post("/api/songs", body()))
    assert "outside of the folders" in problem(client.get("/api/songs"))
    assert list(outside.iterdir()) == [] and jobs.started == []


def test_models_and_the_options_of_their_family(client: Client, root: Path) -> None:
    checkpoint = root / "runs" / "r" / "checkpoint-8"
    assert client.get("/api/listen/models").json == {
        "models": [{"path": "models/tiny", "kind": "model", "is_adapter": False}]
    }
    tokens = option_groups()[0].title
    assert client.get("/api/listen/family?model=models%2Ftiny").json == {"group": tokens}
    for name in ("org/model", "", quote(str(checkpoint), safe=""), "models"):
        assert client.get(f"/api/listen/family?model={name}").json == {"group": None}
    assert "outside" in problem(client.get("/api/listen/family?model=%2Fetc"))


def test_a_checkpoint_that_is_removed_while_it_is_listed_does_not_hide_the_others(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "runs" / "checkpoint-8").mkdir(parents=True)
    (root / "runs" / "metrics.jsonl").touch()
    gone = root / "runs" / "checkpoint-9"
    monkeypatch.setattr(
        "songgen.train.checkpoints.folders.checkpoint_folders", lambda run: [gone, run / "checkpoint-8"]
    )
    listed = [model["path"] for model in client.get("/api/listen/models").json["models"]]
    assert {"models/tiny", "runs/checkpoint-8"} <= {*listed}


def test_a_checkpoint_of_a_whole_model_takes_two_commands(client: Client, root: Path) -> None:
    checkpoint = root / "runs" / "checkpoint-8"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").touch()
    text = client.post("/api/listen/preview", body("models/tiny", "runs/checkpoint-8", seed=1)).json["text"]
    assert [line.split(" '")[0] for line in text.splitlines() if line.startswith("songgen")] == [
        "songgen generate --model=models/tiny --out=a.wav", "songgen export --model=model-b runs/checkpoint-8",
        "songgen generate --model=model-b --out=b.wav",
    ]  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_a_field_for_every_option(client: Client, language: str) -> None:
    page = client.get("/listen", Cookie=f"{client.headers['Cookie']}; songgen-language={language}").body.decode()
    options = ["caption", "lyrics", "language", "voice", "seconds", "num_songs", "guidance", "seed", "device", "dtype"]
    for name in (*options, "any_base", *(name for group in option_groups() for name in group.names)):
        assert f'id="field-{name}"' in page and (f'for="field-{name}"' in page or 'class="switch"' in page)
    assert all(f'data-tag="{tag}"' in page for tag in SECTION_TAGS)
    assert os.sep + "etc" not in page
