"""A small workspace for the page, with one of everything that it shows, and the addresses of its pages."""

import dataclasses
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prepare_songs import write_song
from review_songs import write_work_folder
from starlette.routing import compile_path
from training_fakes import write_dataset, write_model_folder

from songgen.families.use.song_folder import SongRequest, Take, write_song_request
from songgen.jobs.record import JOB_STATUS_FILE, JOBS_FOLDER, LOG_FILE, create_job
from songgen.prepare.config import load_prepare_config
from songgen.prepare.preparation import prepare
from songgen.runtime.status import RunStatus
from songgen.ui.help_texts import help_entries
from songgen.ui.page import page_routes
from songgen.ui.parts.train import charts_address
from songgen.ui.site import Site
from songgen.ui.workspace import CONFIGS_FOLDER, SONGS_FOLDER, UPLOADS_FOLDER, Workspace
from songgen.web.application import PageRoute

MARK = "not-for-others-9f3c"
"""Text in every text file of a workspace that was written with it: an answer that shows it has read there."""

RUN, MODEL, TOKENS, SONGS = "outputs/run", "outputs/model", "datasets/tokens", "datasets/songs.work"
PREPARED = "datasets/mine"

FINDINGS = {"fine": False, "findings": [{"level": "error", "where": "model", "what": "the file is missing",
                                         "way_out": "restore it from a copy"}]}  # fmt: skip
"""Output of `songgen doctor --json`."""


def make_workspace(root: Path, text: str = "words of a song") -> Workspace:
    """Write a workspace.

    Args:
        root: its folder.
        text: used as caption, as lyrics, and wherever else a text of a user is.
    """
    root.mkdir(parents=True, exist_ok=True)
    write_model_folder(root / MODEL)
    write_dataset(root / TOKENS, root / MODEL, 3, 2)
    (root / "datasets").mkdir(exist_ok=True)
    write_work_folder(root / "datasets")
    write_run(root / RUN, text=text)
    upload = root / UPLOADS_FOLDER / "mine"
    upload.mkdir(parents=True)
    for number in range(2):
        write_song(upload, f"song_{number}.wav", seconds=3.0, seed=number, lyrics=text)
    write_prepared(root / PREPARED, upload)
    config = {"model_name_or_path": MODEL, "save_to_disk": TOKENS, "output_dir": RUN, "max_steps": 3}
    (root / CONFIGS_FOLDER).mkdir(parents=True)
    (root / CONFIGS_FOLDER / "small.json").write_text(json.dumps(config))
    (root / SONGS_FOLDER / "first").mkdir(parents=True)
    shutil.copy(upload / "song_0.wav", root / SONGS_FOLDER / "first" / "first.wav")
    write_job(root, text, f"{text}\n")
    write_job(root, "diagnosis", json.dumps(FINDINGS, indent=1) + "\n")
    song = SongRequest((Take("a", MODEL),), {"seed": 1}, created=time.time())
    write_song_request(root / SONGS_FOLDER / "first", song, {"caption": text, "lyrics": text})
    return Workspace(root.resolve())


def write_prepared(folder: Path, songs: Path) -> None:
    """Prepare songs, without the steps that take longer."""
    argv = ["--inputs", str(songs), "--output_dir", str(folder)]
    argv += ["--voice", "null", "--measure", "null", "--duplicates", "null", "--export", "ljspeech"]
    assert prepare(load_prepare_config(argv)) is not None


def write_run(folder: Path, *, steps: int = 20, text: str = "words", names: tuple[str, ...] = ()) -> None:
    """Write what a training run leaves in its folder, except checkpoints."""
    folder.mkdir(parents=True)
    now = time.time()
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            line: dict[str, Any] = {"step": step, "epoch": step / 10, "time": now - steps + step,
                                    "train/loss": 7.0 - step / steps, "train/learning_rate": 1e-3,
                                    "train/grad_norm": 0.5, **{name: 1.0 for name in names}}  # fmt: skip
            if step % 10 == 0:
                line["eval/loss"] = 7.1 - step / steps
            file.write(json.dumps(line) + "\n")
    status = {"status": "finished", "run_id": "0123456789abcdef", "rank": 0, "step": steps, "total_steps": steps,
              "exit_code": 0, "reason": text, "time": now, "started": now - steps, "progress": None,
              "schema_version": 1}  # fmt: skip
    (folder / "run_status.json").write_text(json.dumps(status))
    config = {"model_name_or_path": MODEL, "save_to_disk": TOKENS, "output_dir": str(folder), "max_steps": steps}
    (folder / "training_config.json").write_text(json.dumps(config))


def write_job(root: Path, title: str, log: str, subject: str = "") -> str:
    """Write the folder of a job that has ended, and return its id."""
    command = ("songgen", "doctor", title)
    folder = create_job(root / "outputs" / "jobs", command, title=title, cwd=root, subject=subject)
    (folder / LOG_FILE).write_text(log)
    status = RunStatus("finished", "0123456789abcdef", exit_code=0, reason=title, started=time.time() - 5)
    (folder / JOB_STATUS_FILE).write_text(json.dumps(dataclasses.asdict(status)))
    return folder.name


def parameters(route: PageRoute) -> list[str]:
    """Names of the parameters in the address of a route."""
    return list(compile_path(route.path)[2])


def known_values(workspace: Workspace) -> dict[str, list[str]]:
    """Name of a parameter -> values of it that lead to something that there is."""
    root = workspace.root
    jobs = [path.name for path in (root / JOBS_FOLDER).iterdir()][:5]
    runs = [
        str(path.parent.relative_to(root))
        for path in sorted((root / "outputs").glob("*/metrics.jsonl"))
        if not path.parent.is_symlink()
    ]
    uploads = [str(path.relative_to(root)) for path in (root / UPLOADS_FOLDER).iterdir()]
    folders = [*runs, MODEL, TOKENS, SONGS, PREPARED, *uploads, str(SONGS_FOLDER / "first")]
    configs = [str(path.relative_to(root)) for path in (root / CONFIGS_FOLDER).iterdir()]
    files = [*configs, str(SONGS_FOLDER / "first" / "first.wav"), f"{RUN}/metrics.jsonl"]
    charts = charts_address().rpartition("/")[2]
    return {
        "id": [*jobs, "river_000", help_entries()[0].id], "folder": folders, "path": [*files, *folders], "file": files,
        "run": runs, "data": [PREPARED, TOKENS, SONGS], "from": [PREPARED], "songs": uploads,
        "model": [MODEL], "config": configs, "language": ["zh"],
        "name": ["doctor", "small", "ui.css", "first", "review.css", "train.txt", charts,
                 *(path.name for path in sorted((root / PREPARED / "audio").glob("*"))[:1])],
        "track": ["mix", "vocal"], "command": ["doctor"], "subject": [RUN], "split": ["train"],
    }  # fmt: skip


def fill(route: PageRoute, values: dict[str, str]) -> str:
    """Return the address of a route with values in place of its parameters, escaped as the page does."""
    return re.sub(r"\{(\w+)[^}]*\}", lambda match: quote(values[match[1]], safe="", errors="surrogatepass"), route.path)


NOT_PAGES = re.compile(r"/(api|assets|favicon|files|library|review/|data/files/.*/(audio|lists))")
"""Beginning of the addresses of what pages load."""


def page_addresses(workspace: Workspace, *, with_documents: bool = False) -> list[str]:
    """Address of every page that a person can open: each route of HTML, with every known value of its parameters.

    Args:
        workspace: the workspace.
        with_documents: whether reports of data sets are among them, which do not have the frame of the page.
    """
    known = known_values(workspace)
    found = []
    for route in page_routes(Site(workspace)):
        names = parameters(route)
        is_page = "GET" in (route.methods or ()) and not NOT_PAGES.match(route.path)
        is_document = route.path.startswith("/data/files/")
        if (
            not is_page
            or (is_document and not with_documents)
            or route.path == "/"
            or not all(name in known for name in names)
        ):
            continue
        choices = known[names[0]] if names else [""]
        found += [fill(route, dict.fromkeys(names, choice)) for choice in choices]
    return found
