"""Train: start and resume runs, watch them, and tell them what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from songgen.jobs.log import read_log, read_text_end
from songgen.jobs.record import LOG_FILE, JobView, find_jobs, newest_job
from songgen.runtime.control.commands import FORMS, SCHEDULED
from songgen.runtime.status import read_run_status
from songgen.train.reporting.console import CONSOLE_FILE
from songgen.ui.commands import command_form, command_text, command_values
from songgen.ui.fields import Field
from songgen.ui.parts.jobs import MAX_LINES, job_values, lines_of, reason_text
from songgen.ui.site import Site, body_of, number_of, table_of, text_in, text_of
from songgen.ui.training.curves import MAX_RUNS, Curves, Seen
from songgen.ui.training.run_commands import RunCommands
from songgen.ui.training.runs import (
    checkpoints_of,
    details_of,
    is_run,
    list_of_runs,
    samplings_of,
    songs_at,
    started_at,
)
from songgen.ui.training.starting import check_of, configurations, launch_files, plan_of
from songgen.ui.translation import Translator
from songgen.ui.workspace import CONFIGS_FOLDER
from songgen.web.answers import json_response
from songgen.web.application import PageRoute

CHARTS = "plotly"
"""Package with the library that draws curves."""

_STYLE_ID = re.compile(r'document\.getElementById\("([0-9a-f]{64})"\)\)\{var \w+=document\.createElement\("style"\)')

_WARNINGS = ("warning:", "error:", "traceback", "=====")
"""Beginnings of lines, in small letters, that are shown if only warnings are."""


class TrainPart:
    """The endpoints of training."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site
        self._workspace = site.workspace
        self._curves = Curves(site.workspace)
        self._commands = RunCommands()

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        page, api = self._site.page, self._site.api
        return [
            PageRoute("/train", page(self.index)),
            PageRoute("/train/run/{folder}", page(self.run_page)),
            PageRoute("/library/{name}", charts),
            PageRoute("/api/train/runs", api(self.listing)),
            PageRoute("/api/train/plan", api(self.plan), methods=["POST"]),
            PageRoute("/api/train/check", api(self.check), methods=["POST"]),
            PageRoute("/api/train/curves", api(self.curves), methods=["POST"]),
            PageRoute("/api/train/zoom", api(self.zoom), methods=["POST"]),
            PageRoute("/api/train/runs/{folder}", api(self.state)),
            PageRoute("/api/train/runs/{folder}/results", api(self.results)),
            PageRoute("/api/train/runs/{folder}/songs", api(self.songs)),
            PageRoute("/api/train/runs/{folder}/console", api(self.console)),
            PageRoute("/api/train/runs/{folder}/commands", api(self.command), methods=["POST"]),
        ]

    def index(self, request: Request) -> Response:
        """Return the page with all runs and the form to start one; `?config=FILE` fills it in."""
        return self._site.render(
            request,
            "train.html",
            runs=list_of_runs(self._workspace),
            form=_train_fields(),
            config=request.query_params.get("config", ""),
            configurations=configurations(self._workspace),
            launch_files=launch_files(),
        )

    def run_page(self, request: Request) -> Response:
        """Return the page of a run; `?with=FOLDER` lays the curves of further runs over its own.

        Raises:
            ValueError: if there is no such run, and no job that is about to start it.
        """
        text = request.path_params["folder"]
        folder = self._workspace.path(text, "folder")
        others = [self._workspace.path(other, "with") for other in request.query_params.getlist("with")]
        if not is_run(folder) and self._job_of(folder) is None:
            raise ValueError(f"there is no run in {text}; it may have been moved or deleted")
        return self._site.render(
            request,
            "train_run.html",
            folder=self._workspace.shown(folder),
            name=folder.name,
            others=[self._workspace.shown(other) for other in others][: MAX_RUNS - 1],
            form=_train_fields(),
            launch_files=launch_files(),
            forms=[*((form.usage, form.meaning) for form in FORMS.values()), SCHEDULED],
            charts=charts_address(),
            charts_ids=charts_style_ids(),
        )

    def listing(self, request: Request) -> Response:
        """Return the runs, the latest changed first, and how many more there are."""
        return json_response(list_of_runs(self._workspace))

    def plan(self, request: Request) -> Response:
        """Return the output folder of a start and what is in it: `{"values": {OPTION: VALUE}}`."""
        return json_response(plan_of(self._workspace, table_of(request, "values")))

    def check(self, request: Request) -> Response:
        """Return what `songgen check` says of a start: `{"values": {OPTION: VALUE}}`."""
        return json_response(check_of(self._workspace, table_of(request, "values"), self._site.language(request)))

    def curves(self, request: Request) -> Response:
        """Return what is new in curves: `{"runs": [{"folder", "key", "lines"}], "layout": NAME}`."""
        given = _list_of_tables(request, "runs")
        runs = [Seen(self._place(run.get("folder")), text_in(run, "key"), _number(run, "lines")) for run in given]
        return json_response(self._curves.answer(runs, text_of(request, "layout"), self._site.language(request)))

    def zoom(self, request: Request) -> Response:
        """Return curves in detail: `{"runs": [{"folder", "metrics": [NAME]}], "first": STEP, "last": STEP}`."""
        runs = {}
        for run in _list_of_tables(request, "runs"):
            metrics = run.get("metrics")
            if not isinstance(metrics, list) or not all(isinstance(name, str) for name in metrics):
                raise ValueError("metrics: a list of names is expected")
            runs[self._place(run.get("folder"))] = metrics
        body = body_of(request)
        return json_response(self._curves.zoom(runs, _number(body, "first"), _number(body, "last")))

    def state(self, request: Request) -> Response:
        """Return everything about a run that changes often: state, progress, commands, and its job.

        A run that is not there yet, or not any more, is no error: a page that is open must be able to say so.
        """
        folder = self._place(request.path_params["folder"])
        job = self._job_of(folder)
        t = self._site.language(request)
        details = details_of(folder)
        details["reason"] = reason_text(details["reason"], t)
        details["doing"] = t(details["doing"])
        if details["diagnosis"] is not None:
            _translate(details["diagnosis"], t.message)
        commands = self._commands.shown(folder)
        commands["answers"] = [_answered(sent, t) for sent in commands["answers"]]
        return json_response(
            {
                "is_there": is_run(folder),
                **details,
                "commands": commands,
                "job": None if job is None else job_values(job, t),
                "config": "" if job is None else _config_of(job),
                "launch": {} if job is None else _launch_of(job),
            }
        )

    def results(self, request: Request) -> Response:
        """Return what a run has written: checkpoints, and the steps at which songs were sampled."""
        folder = self._place(request.path_params["folder"])
        return json_response(
            {
                "checkpoints": checkpoints_of(self._workspace, folder),
                "samplings": samplings_of(folder),
            }
        )

    def songs(self, request: Request) -> Response:
        """Return the songs of a sampling: `?step=N`."""
        folder = self._place(request.path_params["folder"])
        return json_response({"songs": songs_at(self._workspace, folder, number_of(request, "step"))})

    def console(self, request: Request) -> Response:
        """Return the last `?lines=N` of the output of a run: of its job, or what its main process printed.

        `?only=warnings` leaves out everything else.
        """
        folder = self._place(request.path_params["folder"])
        wanted = lines_of(request)
        only_warnings = request.query_params.get("only") == "warnings"
        read = MAX_LINES if only_warnings else wanted
        job = self._job_of(folder)
        if job is not None and not job.is_active and _began_after(folder, job):
            job = None
        if job is not None:
            part = read_log(job.folder, max_lines=read)
        else:
            part = read_text_end(folder / CONSOLE_FILE, max_lines=read)
        lines = part.text.splitlines()
        if only_warnings:
            lines = [line for line in lines if line.lower().startswith(_WARNINGS)][-wanted:]
        elif part.unfinished:
            lines.append(part.unfinished)
        return json_response({"lines": lines, "job": None if job is None else job.job.id})

    def command(self, request: Request) -> Response:
        """Send a command to a run: `{"text": COMMAND}`."""
        text = request.path_params["folder"]
        folder = self._place(text)
        if not is_run(folder):
            raise ValueError(f"there is no run in {text}; it may have been moved or deleted")
        sent = self._commands.send(folder, text_of(request, "text"))
        words = ["songgen", "ctl", self._workspace.shown(folder), *sent["text"].split()]
        return json_response(_answered(sent, self._site.language(request)) | {"in_terminal": command_text(words)})

    def _place(self, text: Any) -> Path:
        """Return the path of a folder, in which a run may be, have been, or come to be.

        Raises:
            ValueError: if it is outside of the folders of the page.
        """
        if not isinstance(text, str):
            raise ValueError("folder: a text is expected")
        return self._workspace.path(text, "folder")

    def _job_of(self, folder: Path) -> JobView | None:
        """Return the job that trains, or has trained last, in a folder; None if it was started elsewhere."""
        return newest_job(find_jobs(self._workspace.jobs), self._workspace.shown(folder), ("train",))


def _began_after(folder: Path, job: JobView) -> bool:
    """Return whether the latest launch in a folder began after a job that has ended: it was started in a terminal."""
    started = started_at(read_run_status(folder))
    try:
        ended = (job.folder / LOG_FILE).stat().st_mtime
    except OSError:
        return False
    return started is not None and started > ended


def charts_address() -> str:
    """Return the address of the library of charts, which changes with its version."""
    return f"/library/{CHARTS}-{importlib.metadata.version(CHARTS)}.min.js"


@cache
def charts_style_ids() -> list[str]:
    """Return the ids of elements with which the library of charts adds no style elements of its own.

    It brings the style of its maps, which are not used here, and would add it to every page, against the content
    policy; but not to one that has an element with the id of that style already.
    """
    return sorted(set(_STYLE_ID.findall(charts_file().read_text(encoding="utf-8"))))


def charts_file() -> Path:
    """Return the file of the library of charts."""
    found = importlib.util.find_spec(CHARTS)
    assert found is not None and found.origin is not None, "a package of the page, as Starlette"
    return Path(found.origin).parent / "package_data" / f"{CHARTS}.min.js"


def charts(request: Request) -> Response:
    """Return the library of charts, from the file of its package.

    Raises:
        HTTPException: 404 for another name or version.
    """
    if f"/library/{request.path_params['name']}" != charts_address():
        raise HTTPException(404, "there is no such file")
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return FileResponse(charts_file(), media_type="text/javascript", headers=headers)


def _list_of_tables(request: Request, name: str) -> list[dict[str, Any]]:
    """Return a list of at most `MAX_RUNS` tables that a request carries.

    Raises:
        ValueError: if it is something else.
    """
    found = body_of(request).get(name)
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_RUNS or not all(isinstance(x, dict) for x in found):
        raise ValueError(f"{name}: a list of 1 to {MAX_RUNS} tables is expected")
    return found


def _number(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise ValueError(f"{name}: a number is expected")
    return int(value)


def _translate(diagnosis: dict[str, Any], message: Any) -> None:
    """Translate the texts of a diagnosis."""
    diagnosis["title"] = message(diagnosis["title"])
    for remedy in diagnosis["remedies"]:
        remedy["effect"] = message(remedy["effect"])


def _answered(sent: dict[str, Any], texts: Translator) -> dict[str, Any]:
    """Return a command that was sent, with its answer in the language of `texts`.

    A run begins its answer with the command, which is the same in every language.
    """
    answer, command = sent["answer"], f"{sent['text']}: "
    head = command if answer.startswith(command) else ""
    return sent | {"answer": head + texts.message(answer.removeprefix(head))}


def _train_fields() -> dict[str, Field]:
    """Return the options of `songgen train` by name, as fields of a form."""
    return {field.name: field for field in command_form("train").fields}


def _launch_of(job: JobView) -> dict[str, Any]:
    """Return the options with which a job was launched; none for one that was not started on the page."""
    try:
        values = command_values(job.job.command)
    except ValueError:
        return {}
    return {name: values[name] for name in ("num_processes", "config_file", "gpu_ids", "task") if name in values}


def _config_of(job: JobView) -> str:
    """Return the configuration file that a job was started with; empty for a shipped recipe, or none."""
    return next((word for word in job.job.command[2:] if word.startswith(f"{CONFIGS_FOLDER}/")), "")
