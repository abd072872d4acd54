"""The parts of the page about models: the list, one folder, deleting and restoring, findings, new models."""

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from local_pages import Client, serving_page

from songgen.doctor.listing import NAMES
from songgen.jobs.record import create_job, find_jobs
from songgen.runtime.folder_lock import RUN_LOCK_FILE, locked
from songgen.ui.folders import trash
from songgen.ui.folders.facts import SOUNDS, Song, configurations_of, facts_of, songs_of
from songgen.ui.folders.library import FRESH_SECONDS, MAX_LINES, Item, Library, last_losses, searched_folders
from songgen.ui.parts import settings
from songgen.ui.parts.files import MEDIA_TYPES
from songgen.ui.parts.home import SHOWN, is_new, latest_songs, next_step
from songgen.ui.parts.models import (
    ADAPTER_RUN,
    KINDS,
    actions_of,
    comparison_values,
    detail_text,
    findings_of,
    kind_name,
)
from songgen.ui.training.runs import find_runs
from songgen.ui.translation import translator
from songgen.ui.workspace import TRASH_FOLDER, TRASH_IS_LINK, Workspace

ENGLISH, CHINESE = translator("en"), translator("zh")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def write_run(folder: Path, **config: Any) -> None:
    write(folder / "training_config.json", config)
    write(folder / "run_status.json", {"status": "finished", "run_id": "1", "rank": 0, "step": 6, "total_steps": 6,
                                       "exit_code": 0, "reason": None, "time": 1.0})  # fmt: skip


def make_workspace(root: Path) -> Workspace:
    """A base model, an adapter run that names it, a data set, and songs; all as small as their files can be."""
    outputs = root / "outputs"
    write(outputs / "base" / "config.json", {"model_type": "songgen", "track_pattern": "interleaving_A_V",
                                             "audio_codec": {"type": "dac"}})  # fmt: skip
    write(outputs / "base" / "model.safetensors", "x" * 100)
    write_run(outputs / "singer", model_name_or_path="outputs/base", save_to_disk="datasets/songs")
    adapter = {"base_model_name_or_path": "outputs/base", "peft_type": "LORA", "r": 16, "lora_alpha": 32}
    write(outputs / "singer" / "adapter_config.json", {**adapter, "target_modules": ["q", "v"]})
    write(outputs / "singer" / "metrics.jsonl", '{"step": 1, "train/loss": 5.0}\n{"step": 2, "train/loss": 4.0}\n'
                                                '{"step": 2, "eval/loss": 4.5}\n')  # fmt: skip
    write(outputs / "songs" / "one" / "a_vocal.wav", "v")
    write(outputs / "songs" / "one" / "a_acc.wav", "a")
    write(outputs / "songs" / "one" / "a_mix.wav", "m")
    write(outputs / "songs" / "one" / "<script>.wav", "b")
    write(root / "datasets" / "songs" / "dataset.json", {"tracks": ["mix"]})
    return Workspace(root)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path.resolve() / "project")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server for requests that change nothing, or must not."""
    with serving_page(make_workspace(tmp_path_factory.mktemp("shared").resolve() / "project")) as client:
        yield client


@pytest.fixture
def client(workspace: Workspace) -> Iterator[Client]:
    with serving_page(workspace) as client:
        yield client


def address(folder: str) -> str:
    return quote(folder, safe="")


def by_folder(library: Library) -> dict[str, Item]:
    return {item.folder: item for item in library.items()}


def test_the_list_says_what_everything_is_and_was_made_of(workspace: Workspace) -> None:
    items = by_folder(Library(workspace))
    assert set(items) == {"outputs/base", "outputs/singer", "datasets/songs"}
    singer = items["outputs/singer"]
    assert (singer.kind, singer.is_adapter, singer.has_model, singer.state) == ("run", True, True, "finished")
    assert (singer.base, singer.data) == ("outputs/base", "datasets/songs")
    assert (singer.loss, singer.held_out_loss) == (4.0, 4.5)
    assert items["outputs/base"].has_model and items["outputs/base"].size == 100


def test_a_list_is_used_again_until_something_is_deleted(workspace: Workspace) -> None:
    library = Library(workspace)
    assert len(library.items()) == 3
    shutil.rmtree(workspace.root / "outputs" / "base")
    assert len(library.items()) == 3, f"searched again within {FRESH_SECONDS} s"
    library.forget()
    assert len(library.items()) == 2


def test_links_out_of_the_folders_are_not_listed(workspace: Workspace, tmp_path: Path) -> None:
    shutil.copytree(workspace.root / "outputs" / "base", tmp_path / "elsewhere" / "secret")
    (workspace.root / "outputs" / "link").symlink_to(tmp_path / "elsewhere")
    assert set(by_folder(Library(workspace))) == {"outputs/base", "outputs/singer", "datasets/songs"}
    assert len(by_folder(Library(Workspace(workspace.root, ((tmp_path / "elsewhere").resolve(),))))) == 4


def test_in_a_folder_of_source_code_only_its_data_is_searched(workspace: Workspace) -> None:
    assert searched_folders(workspace) == [workspace.root]
    (workspace.root / "tests" / "run").mkdir(parents=True)
    (workspace.root / "tests" / "run" / "metrics.jsonl").touch()
    assert workspace.root / "tests" / "run" in find_runs(workspace)
    (workspace.root / "pyproject.toml").touch()
    assert searched_folders(workspace) == [workspace.root / "datasets", workspace.root / "outputs"]
    assert workspace.root / "tests" / "run" not in find_runs(workspace), "every part searches the same folders"
    (workspace.root / "models").symlink_to(workspace.root.parent)
    assert len(searched_folders(workspace)) == 2, "a link may lead out of the folders of the page"


def test_of_long_metrics_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = '{"step": 1, "train/loss": 9.0, "eval/loss": 8.0}\n'
    path.write_text(line * (2 * MAX_LINES) + '{"step": 2, "train/loss": 2.5}\n{"step": 3, "train/lo')
    assert last_losses(path) == {"train": 2.5, "eval": 8.0}
    path.write_text('{"eval/loss": 1.0}\n' + '{"train/loss": 2.0}\n' * MAX_LINES)
    assert last_losses(path) == {"train": 2.0}, "the first line is beyond the end that is read"
    path.write_text('{"train/loss": NaN}\n[1]\nnonsense "train/loss"\n')
    assert last_losses(path) == {}
    path.write_text('{"train/loss": 2.0, "train/unweighted_loss": 3.0}\n')
    assert last_losses(path) == {"train": 3.0}, "the loss that the run itself shows"
    path.unlink()
    os.mkfifo(path)
    assert last_losses(path) == {}, "a pipe must not hold up the list"


@pytest.mark.parametrize("name, values", [
    ("datasets/songs/dataset.json", {"tracks": 5}),
    ("outputs/singer/training_config.json", {"model_name_or_path": "x" * 5_000, "save_to_disk": "a\0b"}),
])  # fmt: skip
def test_damaged_files_of_one_folder_do_not_hide_the_others(workspace: Workspace, name: str, values: Any) -> None:
    write(workspace.root / name, values)
    assert set(by_folder(Library(workspace))) == {"outputs/base", "outputs/singer", "datasets/songs"}


def test_facts_of_models_and_adapters(workspace: Workspace) -> None:
    base, singer = (facts_of(workspace.root / "outputs" / name) for name in ("base", "singer"))
    assert (base.family, base.layout, base.task, base.codec) == ("songgen", "interleaving_A_V", "dual_track", "dac")
    assert (singer.method, singer.rank, singer.alpha, singer.targets) == ("LORA", 16, 32, "q, v")


def test_tracks_of_a_song_are_one_player(workspace: Workspace) -> None:
    folder = workspace.root / "outputs" / "songs"
    songs, more = songs_of(folder, workspace)
    tracks = (("vocal", "outputs/songs/one/a_vocal.wav"), ("acc", "outputs/songs/one/a_acc.wav"))
    assert songs[1] == Song("one/a", tracks) and songs[0].name == "one/<script>" and more == 0


@pytest.mark.parametrize("path", ["/models", "/models/new", "/settings", "/help", "/"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_pages_are_shown_in_both_languages(reader: Client, path: str, language: str) -> None:
    cookie = f"{reader.headers['Cookie']}; songgen-language={language}"
    answer = reader.get(path, Cookie=cookie)
    assert answer.status == 200
    shown = answer.body.decode().split("<main", 1)[1].replace("中文", "")  # the name of the language itself
    assert bool(re.search("[一-鿿]", shown)) == (language == "zh")
    assert '<h1><a href="/"' in answer.body.decode(), "the overview can be reached from everywhere"


def test_the_page_of_a_folder_has_its_facts_and_actions(reader: Client) -> None:
    html = reader.get(f"/models/{address('outputs/singer')}").body.decode()
    assert "LORA" in html and 'href="/listen?model=outputs%2Fsinger"' in html
    for action in ("doctor", "export", "compare", "push", "plot", "delete"):
        assert f'id="{action}"' in html
    assert "hf auth login" in html


def test_names_and_configurations_are_shown_as_text(client: Client, workspace: Workspace) -> None:
    evil = "<img src=x onerror=alert(1)>"
    write(
        workspace.root / "outputs" / "base" / "config.json",
        {"model_type": evil, "x": "</pre><script>alert(1)</script>"},
    )
    for folder in ("outputs/base", "outputs/songs"):
        html = client.get(f"/models/{address(folder)}").body.decode()
        assert evil not in html and "<script>alert" not in html and "one/<script>" not in html


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "outputs/nothing", "outputs/../../x", "\0", "~"])
def test_other_folders_are_refused(reader: Client, folder: str) -> None:
    name = address(folder)
    assert reader.get(f"/models/{name}").status == 404
    assert reader.get(f"/api/models/{name}/checkpoints").status == 422
    assert reader.post(f"/api/models/{name}/delete", {"name": Path(folder).name}).status == 422


def test_a_folder_is_deleted_by_its_name_and_restored(client: Client, workspace: Workspace) -> None:
    singer = workspace.root / "outputs" / "singer"
    delete = f"/api/models/{address('outputs/singer')}/delete"
    wrong = client.post(delete, {"name": "singers"})
    assert wrong.status == 422 and "singer" in wrong.json["error"] and singer.is_dir()
    assert client.post(delete, {"name": "singer"}).status == 200 and not singer.exists()
    (entry,) = client.get("/api/trash").json["items"]
    assert entry["folder"] == "outputs/singer" and entry["size"] > 100
    assert "outputs/singer" not in [item["folder"] for item in client.get("/api/models").json["items"]]
    write(singer / "new.txt", "in the way")
    taken = client.post(f"/api/trash/{address(entry['id'])}/restore", {})
    assert taken.status == 422 and "rename it first" in taken.json["error"]
    shutil.rmtree(singer)
    assert client.post(f"/api/trash/{address(entry['id'])}/restore", {}).json == {"folder": "outputs/singer"}
    assert (singer / "metrics.jsonl").is_file() and client.get("/api/trash").json["items"] == []


def test_the_trash_is_emptied_without_following_links(client: Client, workspace: Workspace, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "file"
    write(kept, "kept")
    (workspace.root / "outputs" / "singer" / "link").symlink_to(kept.parent)
    client.post(f"/api/models/{address('outputs/singer')}/delete", {"name": "singer"})
    assert client.post("/api/trash/empty", {}).json["freed"] > 100
    assert client.get("/api/trash").json["items"] == [] and kept.is_file()
    assert list((workspace.root / TRASH_FOLDER).iterdir()) == []


@pytest.mark.parametrize("trash_id", ["..", "../..", "20260101-000000-x/../../..", "jobs", "20260101-000000-nothing"])
def test_only_what_is_in_the_trash_is_restored(reader: Client, trash_id: str) -> None:
    assert reader.post(f"/api/trash/{address(trash_id)}/restore", {}).status == 422


def test_nothing_is_restored_outside_of_the_folders(workspace: Workspace, tmp_path: Path) -> None:
    place = workspace.move_to_trash(workspace.root / "outputs" / "singer")
    write(place.with_name(place.name + ".json"), {"folder": str(tmp_path / "outside")})
    with pytest.raises(ValueError, match="outside of the folders"):
        trash.restore(workspace, place.name)


def test_two_of_one_name_are_apart_in_the_trash(workspace: Workspace) -> None:
    places = set()
    for _ in range(2):
        write(workspace.root / "outputs" / "again" / "file", "x")
        places.add(workspace.move_to_trash(workspace.root / "outputs" / "again"))
    assert len(places) == 2 and all((place / "file").is_file() for place in places)


def test_two_at_the_same_moment_are_apart_in_the_trash(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one name for both, the second would be moved into the first, and be restored with it."""
    folders = [workspace.root / "outputs" / name / "again" for name in "ab"]
    for folder in folders:
        write(folder / "file", "x")
    move = shutil.move

    def slow(source: Path, target: Path) -> None:
        time.sleep(0.2)
        move(source, target)

    monkeypatch.setattr(shutil, "move", slow)
    with ThreadPoolExecutor() as pool:
        places = set(pool.map(workspace.move_to_trash, folders))
    assert len(places) == 2 and all([path.name for path in place.iterdir()] == ["file"] for place in places)


def test_the_longest_names_are_deleted_and_restored(workspace: Workspace) -> None:
    folder = workspace.root / "outputs" / ("歌" * 85)
    write(folder / "file", "x")
    assert trash.restore(workspace, workspace.move_to_trash(folder).name) == folder and (folder / "file").is_file()


def test_a_trash_that_is_a_link_is_neither_filled_nor_emptied(client: Client, workspace: Workspace) -> None:
    (workspace.root / TRASH_FOLDER).symlink_to(workspace.root / "datasets")
    delete = f"/api/models/{address('outputs/singer')}/delete"
    for answer in (client.post("/api/trash/empty", {}), client.post(delete, {"name": "singer"})):
        assert answer.status == 422 and "outputs/.trash is a link" in answer.json["error"]
    assert (workspace.root / "datasets/songs").is_dir() and (workspace.root / "outputs/singer").is_dir()
    message = TRASH_IS_LINK.format(TRASH_FOLDER)
    assert CHINESE.message(message) != message


def reasons(workspace: Workspace, folder: str, items: list[Item] | None = None) -> list[str]:
    found = Library(workspace).items() if items is None else items
    return list(trash.uses(workspace, workspace.root / folder, found, find_jobs(workspace.jobs)))


def test_the_base_of_an_adapter_is_not_deleted(client: Client, workspace: Workspace) -> None:
    assert reasons(workspace, "outputs/singer") == []
    (reason,) = reasons(workspace, "outputs/base")
    assert reason == trash.IS_BASE.format("outputs/base", "outputs/singer")
    answer = client.post(f"/api/models/{address('outputs/base')}/delete", {"name": "base"})
    assert answer.status == 422 and answer.json["error"] == reason
    assert reasons(workspace, "outputs") == [], "with all that needs it, it may go"
    client.post(f"/api/models/{address('outputs/singer')}/delete", {"name": "singer"})
    assert client.post(f"/api/models/{address('outputs/base')}/delete", {"name": "base"}).status == 200


def test_what_a_process_holds_is_not_deleted(workspace: Workspace) -> None:
    with locked(workspace.root / "outputs" / "singer", RUN_LOCK_FILE):
        (reason,) = reasons(workspace, "outputs/singer")
        assert f"process {os.getpid()} on {socket.gethostname()}" in reason
    with locked(workspace.root / "datasets" / "songs.work", "lock.json"):
        assert len(reasons(workspace, "datasets/songs")) == 1, "it is being tokenized"
    assert reasons(workspace, "datasets/songs") == []


def test_what_a_run_reads_or_a_job_works_on_is_not_deleted(workspace: Workspace) -> None:
    running = [replace(item, state="running") for item in Library(workspace).items() if item.kind == "run"]
    (reason,) = reasons(workspace, "datasets/songs", running)
    assert reason == trash.IS_READ.format("datasets/songs", "outputs/singer")
    command = ("songgen", "doctor", "outputs/singer")
    create_job(workspace.jobs, command, title="doctor", cwd=workspace.root, subject="outputs/singer")
    (reason,) = reasons(workspace, "outputs/singer")
    assert "doctor" in reason
    command = ("songgen", "generate", "--adapter=outputs/voice:0.5", "--caption=outputs", "outputs/base")
    create_job(workspace.jobs, command, title="generate", cwd=workspace.root, subject="outputs/songs/new")
    for folder, count in (("outputs/voice", 1), ("outputs/base", 2), ("datasets/songs", 0)):
        assert len(reasons(workspace, folder)) == count, "the job reads it; an adapter needs the base as well"


def test_the_chooser_lists_folders_first_and_a_limited_number(
    client: Client, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.wav", "A.wav", ".hidden", "c.wav"):
        write(workspace.root / "outputs" / "songs" / name, "x")
    (workspace.root / "outputs" / "songs" / "z").mkdir()
    monkeypatch.setattr(settings, "MAX_ENTRIES", 4)
    found = client.get(f"/api/folders?path={address('outputs/songs')}").json
    assert [entry["name"] for entry in found["entries"]] == ["one", "z", "A.wav", "b.wav"] and found["more"] == 1
    assert found["entries"][2] == {"name": "A.wav", "path": "outputs/songs/A.wav", "is_folder": False}
    assert (found["path"], found["parent"]) == ("outputs/songs", "outputs")
    top = client.get("/api/folders?path=.").json
    assert [entry["path"] for entry in top["entries"]] == ["datasets", "outputs"] and top["parent"] == ""


def test_configurations_behind_links_are_not_shown(workspace: Workspace, tmp_path: Path) -> None:
    base, secret = workspace.root / "outputs" / "base", tmp_path / "secret.json"
    write(secret, {"password": "x"})
    (base / "prepare.json").symlink_to(secret)
    os.mkfifo(base / "run_status.json")
    assert list(configurations_of(base, workspace)) == ["config.json"]


def test_a_folder_of_songs_that_disappears_does_not_break_the_start(workspace: Workspace) -> None:
    (workspace.root / "outputs" / "songs" / "gone").symlink_to("nothing")
    assert [songs["name"] for songs in latest_songs(workspace)] == ["one"]


@pytest.mark.parametrize("folder", ["outputs", "datasets", "outputs/jobs", "outputs/.trash", "code", "."])
def test_folders_of_the_page_and_of_others_are_not_deleted(workspace: Workspace, folder: str) -> None:
    for name in ("outputs/jobs", "outputs/.trash", "code"):
        (workspace.root / name).mkdir(exist_ok=True)
    path = (workspace.root / folder).resolve()
    with pytest.raises(ValueError, match="is not deleted here"):
        trash.delete(workspace, path, path.name, Library(workspace).items(), [])
    assert path.is_dir()


def test_every_problem_of_the_trash_is_translated() -> None:
    constants = {name: value for name, value in vars(trash).items() if name.isupper()}
    problems = [value for value in constants.values() if isinstance(value, str) and " " in value]
    assert len(problems) >= 8
    for problem in problems:
        shown = problem.format("outputs/x", "outputs/y")
        assert CHINESE.message(shown) != shown and ENGLISH.message(shown) == shown


def test_findings_are_read_from_the_output_and_translated() -> None:
    finding = {
        "level": "error",
        "where": "model.safetensors",
        "what": "there is nothing of this name in the trash",
        "way_out": "",
    }
    text = "a warning {\n" + json.dumps({"fine": False, "findings": [finding]}, indent=2) + "\nanother one\n"
    found = findings_of(text, CHINESE)
    assert not found["is_fine"] and found["findings"][0]["level"] == "error"
    assert found["findings"][0]["what"] == CHINESE.message(finding["what"]) != finding["what"]
    with pytest.raises(ValueError, match="no such folder"):
        findings_of("songgen doctor: no such folder", ENGLISH)


def test_a_damaged_comparison_is_not_shown() -> None:
    good = {"without": {"loss": 2.0}, "with": {"loss": 1.0}, "clips": 3,
            "songs": [{"id": "a", "files": {"with": {"mix": "1.wav"}}}, "nonsense"]}  # fmt: skip
    assert comparison_values(good)["songs"] == [
        {"id": "a", "sides": [{"side": "with", "track": "mix", "file": "1.wav"}]}
    ]
    for damaged in ({}, {**good, "with": 1}, {**good, "without": {"loss": None}}):
        assert comparison_values(damaged) == {}
    odd = {**good, "songs": [{"id": "a", "files": {"with": [1]}}, {"files": 2}], "warnings": 3}
    assert comparison_values(odd)["songs"] == [{"id": "a", "sides": []}] and comparison_values(odd)["warnings"] == []
    assert comparison_values({**good, "songs": 5})["songs"] == []


def test_details_of_runs_are_translated() -> None:
    assert detail_text("step 3 of 10", ENGLISH) == "step 3 of 10"
    assert detail_text("step 3 of 10", CHINESE) == "第 3 步，共 10 步"
    assert detail_text("step 3 of 10, killed", ENGLISH) == "step 3 of 10, killed"
    assert detail_text("", CHINESE) == ""


def test_every_kind_of_an_entry_has_a_name() -> None:
    assert {*NAMES.values()} == KINDS.keys()
    assert all(CHINESE(name) != name for name in (*KINDS.values(), ADAPTER_RUN))
    run = Item("x", "run", "finished", "", 0.0)
    assert [kind_name(each, ENGLISH) for each in (run, replace(run, is_adapter=True))] == [KINDS["run"], ADAPTER_RUN]


def test_actions_fit_the_kind() -> None:
    plain = Item("x", "run", "finished", "", 0.0)
    assert actions_of(None) == frozenset()
    assert "export" not in actions_of(plain) and "export" in actions_of(replace(plain, checkpoints=1))
    assert {"export", "compare", "push", "listen"} <= actions_of(replace(plain, is_adapter=True, has_model=True))
    assert "push" not in actions_of(replace(plain, kind="checkpoint", is_adapter=True, has_model=True))
    assert actions_of(replace(plain, kind="tokens")) == {"doctor", "data"}


def test_the_next_step_follows_the_order_of_the_work() -> None:
    songs, tokens, run = (Item(kind, kind, "finished", "", 0.0) for kind in ("songs", "tokens", "run"))
    model = replace(songs, kind="model", has_model=True)
    steps = [[], [songs], [songs, model], [tokens, model], [replace(run, state="running"), tokens],
             [replace(run, state="failed"), tokens], [replace(run, has_model=True), tokens]]  # fmt: skip
    assert [next_step(items)["step"] for items in steps] == [
        "songs", "model", "tokenize", "configure", "watch", "resume", "listen",
    ]  # fmt: skip


def test_a_new_workspace_gets_the_four_steps(tmp_path: Path) -> None:
    assert is_new(tmp_path)
    (tmp_path / "outputs" / "jobs").mkdir(parents=True)
    (tmp_path / "outputs" / ".trash").mkdir()
    assert is_new(tmp_path)
    with serving_page(Workspace(tmp_path.resolve())) as client:
        assert b'class="steps"' in client.get("/").body
    (tmp_path / "datasets" / "songs").mkdir(parents=True)
    assert not is_new(tmp_path)


def test_the_demo_is_offered_where_it_was_made(client: Client, workspace: Workspace) -> None:
    assert b"outputs%2Fdemo" not in client.get("/").body
    (workspace.root / "outputs" / "demo" / "generated").mkdir(parents=True)
    assert b"/models/outputs%2Fdemo%2Fgenerated" in client.get("/").body


def test_a_list_of_checkpoints_unfolds(client: Client, workspace: Workspace) -> None:
    for name in ("checkpoint-5", "checkpoint-10", "other"):
        (workspace.root / "outputs" / "singer" / name).mkdir()
    items = {item["folder"]: item for item in client.get("/api/models").json["items"]}
    assert items["outputs/singer"]["checkpoints"] == 2
    answer = client.get(f"/api/models/{address('outputs/singer')}/checkpoints").json["items"]
    assert {item["folder"] for item in answer} == {"outputs/singer/checkpoint-5", "outputs/singer/checkpoint-10"}
    assert {item["kind"] for item in answer} == {"checkpoint"}


def test_the_latest_songs_are_those_with_a_sound(workspace: Workspace, tmp_path: Path) -> None:
    songs = workspace.root / "outputs" / "songs"
    os.utime(songs / "one", (1.0, 1.0))
    for number in range(SHOWN + 1):
        write(songs / f"failed-{number}" / "request.json", {})
    write(tmp_path / "outside" / "a.wav", "x")
    (songs / "link").symlink_to(tmp_path / "outside")
    assert [song["name"] for song in latest_songs(workspace)] == ["one"]
    (songs / "one" / "lyrics.txt").write_text("\nsunny day\nla la")
    os.utime(songs / "one", (1.0, 1.0))
    assert [song["name"] for song in latest_songs(workspace)] == ["sunny day"]
    for number in range(SHOWN):
        write(songs / f"song-{number}" / "a.wav", "x")
    assert len(latest_songs(workspace)) == SHOWN and "sunny day" not in [
        song["name"] for song in latest_songs(workspace)
    ]


def test_a_folder_that_cannot_be_read_does_not_hide_the_songs_of_others(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = workspace.root / "outputs" / "songs"
    (songs / "closed").mkdir()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [song.name for song in songs_of(songs, workspace)[0]] == ["one/<script>", "one/a"]


def test_every_sound_with_a_player_is_sent() -> None:
    assert MEDIA_TYPES.keys() > SOUNDS and ".aac" in SOUNDS


def test_folders_next_to_each_other_are_listed_in_linear_time(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each used to list the folder above: with 2,000 songs and 200 runs, a page that asks every 5 s took 10 s."""
    calls: list[str] = []
    for name in ("scandir", "listdir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, real=real: (calls.append(str(path)), real(path))[1])
    outputs = workspace.root / "outputs"
    for number in range(20):
        (outputs / "songs" / f"song-{number}").mkdir()
        (outputs / f"other-{number}").mkdir()
    Library(workspace).items()
    assert calls.count(str(outputs)) < 10 and len(calls) < 200
    assert not [path for path in calls if path.startswith(f"{outputs}/songs/")], "there is nothing to list"
