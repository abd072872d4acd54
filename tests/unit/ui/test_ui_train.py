"""Train on the page: what it says of runs, their curves and commands, also of one that really trains."""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from forked import Fork, fork_run
from launching import make_world, write_config
from limits import SAFETY_SECONDS
from local_pages import Client, serving_page
from run_folders import write_run

from songgen.jobs.record import JOB_STATUS_FILE, LOG_FILE, JobView, create_job, read_job
from songgen.runtime.control import requests
from songgen.runtime.folder_lock import RUN_LOCK_FILE, locked
from songgen.runtime.status import Diagnosis, Remedy, RunStatus, StatusFile
from songgen.train.reporting.console import CONSOLE_FILE
from songgen.train.reporting.progress_file import PROGRESS_FILE
from songgen.train.reporting.trackers import METRICS_FILE, samples_folder
from songgen.ui.parts import jobs, train
from songgen.ui.training import run_commands, runs, starting
from songgen.ui.workspace import Workspace


def api(folder: str, rest: str = "") -> str:
    return f"/api/train/runs/{quote(folder, safe='')}{rest}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a tiny model and data set, and a saved configuration."""
    root = tmp_path_factory.mktemp("workspace").resolve()
    make_world(root / "datasets" / "tiny", num_train=4, num_evaluation=2)
    (root / "outputs" / "configs").mkdir(parents=True)
    return Workspace(root)


@pytest.fixture(scope="module")
def client(workspace: Workspace) -> Iterator[Client]:
    before = Path.cwd()
    os.chdir(workspace.root)  # as `songgen ui` does
    with serving_page(workspace) as found:
        yield found
    os.chdir(before)


def curves(client: Client, *given: dict[str, Any], layout: str = "") -> dict[str, Any]:
    answer = client.post("/api/train/curves", {"runs": list(given), "layout": layout})
    assert answer.status == 200, answer.json
    found: dict[str, Any] = answer.json
    return found


def test_the_list_has_every_run_and_nothing_else(client: Client, workspace: Workspace) -> None:
    assert "Nothing has been trained here yet" in client.get("/train").body.decode()
    write_run(workspace.root / "outputs" / "list" / "deep" / "one")
    (workspace.root / "outputs" / "link").symlink_to(workspace.root / "outputs" / "list")
    rows = {row["folder"]: row for row in client.get("/api/train/runs").json["runs"]}
    row = rows["outputs/list/deep/one"]
    assert (row["state"], row["step"], row["loss"]) == ("finished", 30, pytest.approx(5 / 30))
    assert not any("link" in folder or "tiny" in folder for folder in rows)
    shutil.rmtree(workspace.root / "outputs" / "list")
    assert "outputs/list/deep/one" not in client.get("/api/train/runs").body.decode()


def test_curves_come_in_parts_with_their_panels(client: Client, workspace: Workspace) -> None:
    first = write_run(workspace.root / "outputs" / "first")
    write_run(workspace.root / "outputs" / "second", lines=12)
    answer = curves(client, {"folder": "outputs/first"}, {"folder": "outputs/second"})
    assert {panel["key"] for panel in answer["panels"]} == {"loss", "accuracy", "learning_rate"}
    loss = next(panel for panel in answer["panels"] if panel["key"] == "loss")
    assert [line["run"] for line in loss["lines"]] == ["outputs/first", "outputs/second"] * 2
    assert [line["metric"] for line in loss["lines"]] == ["train/loss"] * 2 + ["eval/loss"] * 2
    assert "VALL-E" in loss["guides"][0]["label"] and len({line["color"] for line in loss["lines"]}) == 2
    part = answer["runs"]["outputs/first"]
    assert part["curves"]["train/loss"]["values"][0] == 5.0 and len(part["axes"]["epoch"]["values"]) == 30

    with (first / METRICS_FILE).open("a") as file:
        file.write(json.dumps({"step": 31, "epoch": 3.1, "time": 1e9, "train/loss": 0.5}) + "\n")
    seen = {"folder": "outputs/first", "key": part["key"], "lines": part["lines"]}
    again = curves(client, seen, layout=answer["layout"])
    assert again["runs"]["outputs/first"]["curves"] == {
        "train/loss": {"from": 30, "last": [31.0, 0.5], "steps": [31.0], "values": [0.5]}
    }
    assert again["panels"] is not None, "of one run only"
    assert curves(client, seen, layout=again["layout"])["panels"] is None
    zoomed = client.post(
        "/api/train/zoom", {"runs": [{"folder": "outputs/first", "metrics": ["train/loss"]}], "first": 3, "last": 5}
    ).json
    assert zoomed["runs"]["outputs/first"]["train/loss"]["steps"] == [3.0, 4.0, 5.0]


def test_panels_and_causes_are_in_the_language_of_the_page(client: Client, workspace: Workspace) -> None:
    remedies = [
        Remedy(
            "smaller updates; resume with allow_config_changes true", {"learning_rate": 3e-5}, {"learning_rate": 1e-4}
        )
    ]
    diagnosis = Diagnosis("NOT A NUMBER: loss or gradients were not finite", ["metrics.jsonl"], remedies)
    write_run(workspace.root / "outputs" / "nan", status="failed", exit_code=4, reason="NaN", diagnosis=diagnosis)
    english = client.get(api("outputs/nan")).json
    assert english["state"] == "failed" and english["diagnosis"]["title"].startswith("NOT A NUMBER")
    assert english["diagnosis"]["remedies"][0]["changes"] == {"learning_rate": 3e-5}
    cookie = f"{client.headers['Cookie']}; songgen-language=zh"
    chinese = client.get(api("outputs/nan"), Cookie=cookie).json["diagnosis"]
    assert chinese["title"].startswith("不是数字") and "更新" in chinese["remedies"][0]["effect"]
    body = {"runs": [{"folder": "outputs/nan"}], "layout": ""}
    panels = client.post("/api/train/curves", body, Cookie=cookie).json["panels"]
    assert all(re.search("[\u4e00-\u9fff]", panel["title"]) for panel in panels)
    page = client.get(f"/train/run/{quote('outputs/nan', safe='')}", Cookie=cookie).body.decode()
    assert "发送给训练的命令" in page and "Commands to the run" not in page


def test_a_run_that_was_killed_is_told_from_one_that_runs(
    client: Client, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(workspace.root / "outputs" / "killed", status="running", step=None, exit_code=None)
    found = client.get(api("outputs/killed")).json
    assert found["state"] == "failed" and found["is_killed"] and not found["is_disk_full"]
    monkeypatch.setattr(runs, "LITTLE_SPACE", 1 << 62)
    assert client.get(api("outputs/killed")).json["is_disk_full"]
    refused = client.post(api("outputs/killed", "/commands"), {"text": "save"})
    assert refused.status == 422 and "no run is active" in refused.json["error"]


@pytest.mark.parametrize("name, value", [("reason", 5), ("started", "x"), ("time", [1])])
def test_a_status_with_values_of_other_types_is_shown(
    client: Client, workspace: Workspace, name: str, value: Any
) -> None:
    folder = write_run(workspace.root / "outputs" / "foreign", status="running")
    (folder / PROGRESS_FILE).write_text(json.dumps({"step": 1, "total_steps": 2, name: value}))
    status = json.loads((folder / "run_status.json").read_text())
    (folder / "run_status.json").write_text(json.dumps(status | {name: value}))
    with locked(folder, RUN_LOCK_FILE):
        assert client.get(api("outputs/foreign")).status == 200 and client.get("/api/train/runs").status == 200
    shutil.rmtree(folder)


def test_the_console_is_that_of_the_latest_launch(client: Client, workspace: Workspace) -> None:
    started = time.time() + 60
    folder = write_run(workspace.root / "outputs" / "both", started=started)
    (folder / CONSOLE_FILE).write_text("of the terminal\n")
    job = create_job(
        workspace.jobs, ["songgen", "train", "x.json"], title="train", cwd=workspace.root, subject="outputs/both"
    )
    StatusFile(job, JOB_STATUS_FILE, "x").put(RunStatus("finished", "x", exit_code=0))
    (job / LOG_FILE).write_text("of the job\n")
    address = api("outputs/both", "/console")
    try:
        assert client.get(address).json["lines"] == ["of the terminal"]
        os.utime(job / LOG_FILE, (started + 1, started + 1))
        assert client.get(address).json == {"lines": ["of the job"], "job": job.name}
    finally:
        shutil.rmtree(job)
        shutil.rmtree(folder)


def test_a_folder_that_disappears_is_said_and_a_new_one_is_found(client: Client, workspace: Workspace) -> None:
    folder = write_run(workspace.root / "outputs" / "moving")
    key = curves(client, {"folder": "outputs/moving"})["runs"]["outputs/moving"]["key"]
    folder.rename(workspace.root / "outputs" / "moved")
    state = client.get(api("outputs/moving")).json
    assert (state["is_there"], state["job"]) == (False, None)
    gone = curves(client, {"folder": "outputs/moving", "key": key, "lines": 30})["runs"]["outputs/moving"]
    assert gone["curves"] == {} and gone["key"] != key
    assert client.get(api("outputs/moving", "/results")).json == {"checkpoints": [], "samplings": []}
    assert client.get(api("outputs/moving", "/console")).json == {"lines": [], "job": None}
    assert client.get("/train/run/outputs%2Fmoving").status == 404
    assert client.get("/train/run/outputs%2Fmoved").status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/train/curves", {"runs": [{"folder": "/etc"}], "layout": ""}),
        ("/api/train/curves", {"runs": [{"folder": "outputs/../../x"}], "layout": ""}),
        ("/api/train/curves", {"runs": [], "layout": ""}),
        ("/api/train/curves", {"runs": [{"folder": "a"}] * 9, "layout": ""}),
        ("/api/train/curves", {"runs": [{"folder": 5}], "layout": ""}),
        ("/api/train/curves", {"runs": [{"folder": "a", "lines": "x"}], "layout": ""}),
        ("/api/train/zoom", {"runs": [{"folder": "/etc", "metrics": []}], "first": 0, "last": 1}),
        ("/api/train/zoom", {"runs": [{"folder": "a", "metrics": "x"}], "first": 0, "last": 1}),
        ("/api/train/zoom", {"runs": [{"folder": "a", "metrics": []}], "first": 1e300, "last": 1}),
        ("/api/train/plan", {"values": {"config": "/etc/passwd"}}),
        ("/api/train/plan", {"values": {"config": "outputs/configs/none.json"}}),
        ("/api/train/plan", {"values": {"config": "demo/mixed_step1.json", "keys": {"output_dir": "/tmp/x"}}}),
        ("/api/train/check", {"values": {"config": "/etc/passwd"}}),
        ("/api/train/runs/..%2F..%2Fetc/commands", {"text": "save"}),
    ],
)
def test_what_is_outside_or_of_a_wrong_form_is_refused(client: Client, path: str, body: dict[str, Any]) -> None:
    answer = client.post(path, body)
    assert answer.status == 422 and answer.json["error"]


def test_hostile_names_stay_texts(client: Client, workspace: Workspace) -> None:
    name = '<img src=x onerror="alert(1)">\'"&'
    folder = write_run(workspace.root / "outputs" / name.replace("/", ""))
    hostile = {"step": 40, "epoch": 4.0, "time": 1.0, f"eval/{name}/loss": 1.0, "eval/b/loss": 2.0, "__proto__": 1.0}
    with (folder / METRICS_FILE).open("a") as file:
        file.write(json.dumps(hostile) + "\n")
    page = client.get(f"/train/run/{quote(f'outputs/{folder.name}', safe='')}").body.decode()
    assert "<img" not in page and "&lt;img" in page
    assert "<img" not in client.get("/train").body.decode()
    answer = curves(client, {"folder": f"outputs/{folder.name}"})
    tracks = next(panel for panel in answer["panels"] if panel["key"] == "loss_by_track")
    assert name in [line["name"] for line in tracks["lines"]]


def test_songs_of_samplings_have_files_and_no_links(client: Client, workspace: Workspace) -> None:
    folder = write_run(workspace.root / "outputs" / "sung")
    for step, kind in ((0, "original"), (10, "generated"), (20, "generated")):
        path = samples_folder(folder, step) / f"song_{kind}_mix.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.zeros(800), 16_000)
    (samples_folder(folder, 20) / "stolen_generated_mix.wav").symlink_to("/etc/passwd")
    samplings = client.get(api("outputs/sung", "/results")).json["samplings"]
    assert samplings == [{"step": 20, "files": 1}, {"step": 10, "files": 1}]
    (song,) = client.get(api("outputs/sung", "/songs?step=20")).json["songs"]
    assert [track["label"] for track in song["tracks"]] == ["target, mix", "generated, mix"]
    sound = client.get(f"/files/{quote(song['tracks'][1]['path'], safe='')}")
    assert sound.status == 200 and sound.headers["Content-Type"] == "audio/wav"
    assert client.get(api("outputs/sung", "/songs?step=5")).json["songs"] == []
    assert client.get(api("outputs/sung", "/songs?step=../0")).status == 422
    for step in range(30, 70):
        path = samples_folder(folder, step) / "song_generated_mix.wav"
        path.parent.mkdir()
        path.touch()
    assert len(client.get(api("outputs/sung", "/results")).json["samplings"]) == 42, "none is left out"


def test_the_library_of_charts_comes_from_its_package(client: Client) -> None:
    answer = client.get(train.charts_address())
    assert answer.status == 200 and len(answer.body) == train.charts_file().stat().st_size
    assert "immutable" in answer.headers["Cache-Control"]
    assert client.get("/library/plotly-0.0.0.min.js").status == 404
    assert client.get("/train").headers["Cache-Control"] == "no-store"


def test_the_style_that_the_library_would_add_is_prevented(client: Client, workspace: Workspace) -> None:
    """It adds each style element only if there is no element with its id."""
    script = train.charts_file().read_text(encoding="utf-8")
    styles = re.findall(r'\w+\.id="([0-9a-f]{64})",\w+\.textContent=', script)
    assert styles and sorted(set(styles)) == train.charts_style_ids()
    write_run(workspace.root / "outputs" / "styled")
    page = client.get("/train/run/outputs%2Fstyled")
    assert all(f'id="{name}"' in page.body.decode() for name in styles)
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy and "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='" in policy


@pytest.mark.parametrize(
    ("config", "evaluates"), [('{"do_eval": false}', False), ('{"do_eval": true}', True), ("{", True), (None, True)]
)
def test_a_run_without_held_out_clips_is_said_to_refuse_evaluations(
    client: Client, workspace: Workspace, tmp_path: Path, config: str | None, evaluates: bool
) -> None:
    """Only what is sure to be refused is not offered."""
    folder = write_run(workspace.root / "outputs" / tmp_path.name)
    if config is not None:
        (folder / "training_config.json").write_text(config)
    assert client.get(api(f"outputs/{tmp_path.name}")).json["evaluates"] is evaluates


def test_activities_are_those_of_the_heartbeats() -> None:
    """Only these are translated."""
    package = Path(runs.__file__).parents[2]
    code = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    assert set(re.findall(r'heartbeat\.beat\("([^"]+)"', code)) | {"starting"} <= set(runs.ACTIVITIES)


def test_what_a_start_would_do(client: Client, workspace: Workspace, tmp_path: Path) -> None:
    world = workspace.root / "datasets" / "tiny"
    config = write_config(world, output_dir=str(workspace.root / "outputs" / "planned"), max_steps=3)
    config = config.rename(workspace.root / "outputs" / "configs" / "planned.json")
    assert "outputs/configs/planned.json" in client.get("/train?config=outputs/configs/planned.json").body.decode()
    values = {"config": "outputs/configs/planned.json"}
    plan = client.post("/api/train/plan", {"values": values}).json
    batch = plan.pop("batch")
    assert plan == {"output_dir": "outputs/planned", "suggested": "outputs/planned-2", "holds": "nothing"}
    assert batch["processes"] == 1 and batch["clips"] == batch["size"] * batch["accumulation"]
    for launch, processes in (({"num_processes": 3}, 3), ({"config_file": "fsdp2_8_gpus.yaml"}, 8)):
        more = client.post("/api/train/plan", {"values": values | launch}).json["batch"]
        assert (more["processes"], more["clips"]) == (processes, processes * batch["clips"])
    frames = values | {"keys": {"max_frames_per_batch": 500}}
    assert client.post("/api/train/plan", {"values": frames}).json["batch"] is None
    folder = write_run(workspace.root / "outputs" / "planned", status="stopped")
    (folder / "checkpoint-30").mkdir()
    plan = client.post("/api/train/plan", {"values": values}).json
    assert (plan["holds"], plan["state"], plan["step"], plan["checkpoints"]) == ("run", "stopped", 30, 1)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert client.post("/api/train/plan", {"values": values}).json["holds"] == "other"
    keys = {"output_dir": "outputs/elsewhere"}
    assert client.post("/api/train/plan", {"values": values | {"keys": keys}}).json["output_dir"] == "outputs/elsewhere"


def test_the_check_is_that_of_the_command(
    client: Client, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options, its result with translated messages, and its problems."""
    started: list[list[str]] = []
    report = {
        "findings": [
            {
                "severity": "note",
                "key": "eval_split_name",
                "message": "2 held-out clips: their loss is mostly chance; hold out at least 4",
                "suggestion": {},
            }
        ]
    }

    class Done:
        returncode, stdout, stderr = 1, json.dumps(report).encode(), b""

    def run(command: list[str], **options: Any) -> Done:
        started.append(command)
        return Done()

    monkeypatch.setattr(starting.subprocess, "run", run)
    write_config(
        workspace.root / "datasets" / "tiny", output_dir=str(workspace.root / "outputs" / "configs" / "checked")
    )
    values = {"config": "outputs/configs/checked.json", "num_processes": 2, "task": "mixed", "keys": {"max_steps": 5}}
    cookie = f"{client.headers['Cookie']}; songgen-language=zh"
    answer = client.post("/api/train/check", {"values": values}, Cookie=cookie)
    assert answer.status == 200 and "留出片段" in answer.json["findings"][0]["message"]
    words = started[0][started[0].index("check") :]
    assert words == ["check", "--num_processes=2", "--json", "outputs/configs/checked.json", "--max_steps=5"]
    Done.returncode, Done.stdout, Done.stderr = 2, b"", b"...\nsonggen check: error: it does not fit\n"
    assert client.post("/api/train/check", {"values": values}).json["error"] == "it does not fit"


def test_a_run_that_a_job_starts_is_shown_before_its_folder_is_there(client: Client, workspace: Workspace) -> None:
    command = ["songgen", "train", "outputs/configs/x.json"]
    job = create_job(workspace.jobs, command, title="train", cwd=workspace.root, subject="outputs/soon")
    (job / "log.txt").write_text("warning: slow\nplain\nerror: it failed\n")
    try:
        assert client.get("/train/run/outputs%2Fsoon").status == 200
        state = client.get(api("outputs/soon")).json
        assert state["config"] == "outputs/configs/x.json"
        assert not state["is_there"] and state["job"]["id"] == read_job(workspace.jobs, job.name).job.id
        lines = client.get(api("outputs/soon", "/console?lines=2")).json["lines"]
        assert lines == ["plain", "error: it failed"]
        lines = client.get(api("outputs/soon", "/console?lines=8&only=warnings")).json["lines"]
        assert lines == ["warning: slow", "error: it failed"]
    finally:
        shutil.rmtree(job)


def test_a_run_of_which_a_job_trains_is_not_started_again(
    client: Client, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second job would fail on the lock, and then be taken for the job of the run."""
    command = ["songgen", "train", "--gpu_ids=2,3", "--num_processes=2", "--config_file=fsdp2_8_gpus.yaml", "x.json"]
    job = create_job(workspace.jobs, command, title="train", cwd=workspace.root, subject="outputs/twice")
    started: list[str] = []

    def start(folder: Path, words: list[str], *, title: str, cwd: Path, subject: str) -> JobView:
        started.append(subject)
        return read_job(workspace.jobs, job.name)

    monkeypatch.setattr(jobs, "start_job", start)
    try:
        values = {"config": "outputs/configs/planned.json"}
        for subject in ("outputs/twice", "./outputs/twice/"):
            body = {"command": "train", "values": values, "subject": subject}
            refused = client.post("/api/jobs", body)
            assert refused.status == 422 and "a job trains in" in refused.json["error"]
        other = {"command": "train", "values": values, "subject": "outputs/other"}
        assert client.post("/api/jobs", other).status == 200 and started == ["outputs/other"]
        odd = create_job(workspace.jobs, command, title="odd", cwd=workspace.root, subject="a\0b")
        assert client.post("/api/jobs", other).status == 200, "a job file of somebody else"
        shutil.rmtree(odd)
        # What it is resumed with.
        launch = client.get(api("outputs/twice")).json["launch"]
        assert launch == {"gpu_ids": "2,3", "num_processes": "2", "config_file": "fsdp2_8_gpus.yaml"}
    finally:
        shutil.rmtree(job)


def test_a_resumed_run_evaluates_if_its_checkpoints_say_so(client: Client, workspace: Workspace) -> None:
    """The file in its folder is that of the first launch."""
    folder = write_run(workspace.root / "outputs" / "resumed")
    (folder / "checkpoint-9").mkdir()
    for place, evaluates in ((folder, False), (folder / "checkpoint-9", True)):
        (place / "training_config.json").write_text(json.dumps({"do_eval": evaluates}))
    assert client.get(api("outputs/resumed")).json["evaluates"]


def test_what_the_evaluations_say_comes_with_the_curves(client: Client, workspace: Workspace) -> None:
    folder = write_run(workspace.root / "outputs" / "healthy")
    answer = curves(client, {"folder": "outputs/healthy"})
    assert [finding["kind"] for finding in answer["health"]] == ["falling"]
    part = answer["runs"]["outputs/healthy"]
    seen = {"folder": "outputs/healthy", "key": part["key"], "lines": part["lines"]}
    assert curves(client, seen)["health"] is None, "nothing was added"
    with (folder / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps({"step": step, "eval/loss": 0.3}) + "\n" for step in (40, 50))
    (finding,) = curves(client, seen)["health"]
    assert (finding["kind"], finding["step"], finding["ratio"]) == ("rising", 30, pytest.approx(0.3 / 0.2))


def wait_for(condition: Callable[[], Any], run: Fork) -> Any:
    deadline = time.monotonic() + SAFETY_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline and any(child.is_alive() for child in run.children), run.log.read_text()
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def running(workspace: Workspace, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fork]:
    """A tiny run that trains in `outputs/real`, started as in a terminal."""
    config = write_config(
        workspace.root / "datasets" / "tiny", output_dir=str(workspace.root / "outputs" / "real"), max_steps=1_000_000,
        lr_scheduler_type="constant", max_length=12, num_generated_samples=1, logging_steps=5, save_steps=None,
    )  # fmt: skip

    def hook(rank: int) -> None:
        requests.LOOK_SECONDS = 0.02

    run = fork_run(config, tmp_path_factory.mktemp("log") / "log", hook=hook)
    try:
        wait_for(lambda: client.get(api("outputs/real")).json.get("progress"), run)
        yield run
    finally:
        run.kill()


def ask(client: Client, text: str) -> dict[str, Any]:
    """Send a command, and wait for its answer as the page does: by asking for the state of the run."""
    sent: dict[str, Any] = client.post(api("outputs/real", "/commands"), {"text": text}).json
    deadline = time.monotonic() + SAFETY_SECONDS
    while sent.get("state") == "waiting":
        assert time.monotonic() < deadline
        time.sleep(0.05)
        sent = next(
            each for each in client.get(api("outputs/real")).json["commands"]["answers"] if each["text"] == text
        )
    return sent


def test_a_run_that_trains_is_shown_and_takes_commands(
    client: Client, workspace: Workspace, running: Fork, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = wait_for(lambda: (found := client.get(api("outputs/real")).json)["progress"]["loss"] and found, running)  # type: ignore[func-returns-value]
    assert state["state"] == "running" and state["doing"] in runs.ACTIVITIES and state["step"] > 0
    assert state["progress"]["total_steps"] == 1_000_000 and state["progress"]["learning_rate"] == 1e-3
    assert any("step" in line for line in client.get(api("outputs/real", "/console")).json["lines"])
    plan = client.post("/api/train/plan", {"values": {"config": "outputs/real.json"}}).json
    assert plan["holds"] == "run" and plan["state"] == "running"

    assert "5e-05 from here on" in ask(client, "lr 5e-5")["answer"]
    assert ask(client, "save")["state"] == "done"
    assert ask(client, "sample 1")["state"] == "done"
    late = ask(client, "save@1")
    assert late["state"] == "refused" and "step 1 is over" in late["answer"]
    wrong = client.post(api("outputs/real", "/commands"), {"text": "svae"})
    assert wrong.status == 422 and "did you mean save" in wrong.json["error"]
    cookie = f"{client.headers['Cookie']}; songgen-language=zh"
    translated = client.get(api("outputs/real"), Cookie=cookie).json["commands"]["answers"]
    assert {each["text"] for each in translated} == {"lr 5e-05", "save", "sample 1", "save@1"}
    for each in translated:
        shown = each["answer"].removeprefix(f"{each['text']}: ")
        assert shown != each["answer"] and "步" in shown and "step " not in shown

    journal = client.get(api("outputs/real")).json["commands"]["journal"]
    assert [entry["command"] for entry in journal] == ["sample 1", "save", "lr 5e-05"], "the latest first"
    assert all(entry["is_of_page"] and str(os.getpid()) in entry["source"] for entry in journal)
    results = client.get(api("outputs/real", "/results")).json
    (checkpoint,) = results["checkpoints"]
    assert checkpoint["step"] > 0 and checkpoint["loss"] > 0 and checkpoint["problem"] == ""
    assert checkpoint["epoch"] == -(-checkpoint["step"] // state["progress"]["steps_in_epoch"]), "as in the terminal"
    (sampling,) = results["samplings"]
    (song,) = client.get(api("outputs/real", f"/songs?step={sampling['step']}")).json["songs"]
    assert song["text"]["caption"] and {track["label"].split(",")[0] for track in song["tracks"]} == {
        "target",
        "generated",
    }
    rates = curves(client, {"folder": "outputs/real"})["runs"]["outputs/real"]["curves"]["train/learning_rate"]
    assert rates["values"][0] == 1e-3

    # A run in a long step does not block the page, and a second browser, or server, sees what waits.
    monkeypatch.setattr(run_commands, "AT_ONCE_SECONDS", 0.0)
    monkeypatch.setattr(run_commands, "send", lambda *arguments, **options: threading.Event().wait(SAFETY_SECONDS))
    began = time.monotonic()
    assert client.post(api("outputs/real", "/commands"), {"text": "eval"}).json["state"] == "waiting"
    assert time.monotonic() - began < 10
    monkeypatch.undo()
    control = workspace.root / "outputs" / "first" / "control"
    control.mkdir(parents=True)
    request = {"run_id": "another", "command": "eval", "sender": "a test", "schema_version": 1}
    (control / f"request-{time.time_ns():020d}-{'0' * 16}.json").write_text(json.dumps(request))
    assert client.get(api("outputs/first")).json["commands"]["waiting"] == ["eval"]

    assert ask(client, "quit")["state"] == "done"
    running.finish()
    ended = client.get(api("outputs/real")).json
    assert ended["state"] == "stopped" and ended["progress"]["step"] == ended["step"]
