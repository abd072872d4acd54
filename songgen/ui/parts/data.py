"""Data: list of data sets, and one data set with its progress, figures, rows, and what comes next."""

import dataclasses
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from songgen.config.recipes import recipe_folder
from songgen.data.sound.contents import AUDIO_SUFFIXES
from songgen.doctor.work_folders import work_folder_of
from songgen.jobs.record import JobView, find_jobs, newest_job
from songgen.ui.commands import command_values
from songgen.ui.folders.library import searched_folders, values_of
from songgen.ui.parts.jobs import job_values
from songgen.ui.site import Site
from songgen.web.answers import PartialFileResponse, existing_file, json_response
from songgen.web.application import PageRoute
from songgen.web.guard import DOCUMENT_POLICY

if TYPE_CHECKING:
    from songgen.ui.datasets import DataSet

COMMANDS = ("prepare", "tokenizer", "codec", "init", "tokenize")
"""Commands whose jobs are shown with the data sets."""

REPORT_PAGE = "report.html"
AUDIO_FOLDER = "audio"
"""In a prepared data set: the page with its figures, and its clips."""

TOKENS_ENDING = "_tokens"
"""What preparing adds to the name of a data set for the folder of its tokens."""

DEMO_SCRIPT = Path("demo") / "build_songs.py"
"""Script of a clone that makes songs for trying out, next to the recipes."""


class DataPart:
    """The endpoints of data sets."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site
        self._workspace = site.workspace

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        page, api = self._site.page, self._site.api
        return [
            PageRoute("/data", page(self.index)),
            PageRoute("/data/set/{folder}", page(self.data_set)),
            PageRoute("/data/files/{folder}/report.html", page(self.report)),
            PageRoute("/data/files/{folder}/audio/{name}", self.audio),
            PageRoute("/data/files/{folder}/lists/{name}", page(self.list_of_texts)),
            PageRoute("/api/data", api(self.listing)),
            PageRoute("/api/data/models", api(self.models)),
            PageRoute("/api/data/set/{folder}", api(self.state)),
            PageRoute("/api/data/set/{folder}/rows", api(self.rows)),
        ]

    def index(self, request: Request) -> Response:
        """Return the page with the list, which its script fetches: searching the folders may take seconds."""
        running = [job_values(view, self._site.language(request)) for view in find_jobs(self._workspace.jobs)
                   if view.is_active and view.job.name in COMMANDS]  # fmt: skip
        script = recipe_folder() / DEMO_SCRIPT
        demo = f"python {shlex.quote(str(script))} --out datasets/demo_songs" if script.is_file() else ""
        return self._site.render(request, "data.html", running=running, demo_command=demo)

    def listing(self, request: Request) -> Response:
        """Return every data set in the folders of the page."""
        from songgen.ui.datasets import list_data_sets

        entries = []
        for entry in list_data_sets(self._workspace):
            values = dataclasses.asdict(entry)
            values["folder"] = self._workspace.shown(Path(entry.folder))
            values["detail"] = self._site.language(request).message(entry.detail)
            entries.append(values)
        return json_response({"entries": entries})

    def models(self, request: Request) -> Response:
        """Return the models whose codec and tokenizers can be used."""
        from songgen.doctor.listing import find_entries

        places = searched_folders(self._workspace)
        found = [entry for entry in find_entries(places, self._workspace.folders) if entry.kind in ("model", "run")]
        return json_response({"models": [self._workspace.shown(Path(entry.folder)) for entry in found]})

    def data_set(self, request: Request) -> Response:
        """Return the page of one data set."""
        from songgen.ui.datasets import read_data_set

        folder = self._folder(request)
        found = read_data_set(folder)
        job = self._newest_job(found.folder)
        if not found.kind and job is None:
            raise ValueError(f"{self._workspace.shown(folder)} is not a data set; it may have been moved or deleted")
        shown = dataclasses.replace(found, kind=found.kind or _kind_of_job(job))
        path = self._workspace.shown(shown.folder)
        return self._site.render(
            request,
            "data_set.html",
            data=shown,
            folder=path,
            address=quote(path, safe=""),
            job=None if job is None else job_values(job, self._site.language(request)),
            has_report_page=(shown.folder / REPORT_PAGE).is_file(),
            source=self._source_of(shown, job),
            again=self._form_again(shown.folder, path),
        )

    def state(self, request: Request) -> Response:
        """Return how far the work on a data set is."""
        from songgen.ui.datasets import read_data_set
        from songgen.ui.preparing.steps import steps_of

        found = read_data_set(self._folder(request), with_reasons=False)  # asked for every other second
        texts, work, job = self._site.language(request), found.work, self._newest_job(found.folder)
        values: dict[str, Any] = {"is_there": found.is_there, "work": None, "job": job and job_values(job, texts)}
        if work is not None:
            progress = work.progress
            values["work"] = {
                "state": work.state,
                "detail": texts.message(work.detail),
                "progress": progress and dataclasses.asdict(progress),
                "steps": [
                    {**vars(step), "summary": texts(step.summary)}
                    for step in steps_of(work_folder_of(found.folder), work.state, progress)
                ],
            }
        return json_response(values)

    def rows(self, request: Request) -> Response:
        """Return rows of a prepared data set: `?split=train&page=1`."""
        from songgen.ui.preparing.rows import read_rows

        query = request.query_params
        page = query.get("page", "1")[:7]
        return json_response(
            read_rows(self._folder(request), query.get("split", "train"), int(page) if page.isdecimal() else 1)
        )

    def report(self, request: Request) -> Response:
        """Return the report of a data set; it may be somebody else's, so it runs no script and loads nothing."""
        folder = self._folder(request)
        path = existing_file(folder / REPORT_PAGE, folder)
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": DOCUMENT_POLICY})

    def list_of_texts(self, request: Request) -> Response:
        """Return a list of clips and texts in the form of LJSpeech, made of the rows, to keep."""
        from songgen.ui.preparing.rows import list_lines

        lines = list_lines(self._folder(request), request.path_params["name"])
        return StreamingResponse(lines, media_type="text/plain")

    def audio(self, request: Request) -> Response:
        """Return a clip of a data set to listen to."""
        try:
            folder = self._workspace.path(request.path_params["folder"])
        except ValueError as error:
            return json_response({"error": str(error)}, 404)
        name = request.path_params["name"]
        if Path(name).suffix.lower() not in AUDIO_SUFFIXES or "/" in name:
            return json_response({"error": "there is no such clip"}, 404)
        path = existing_file(folder / AUDIO_FOLDER / name, folder)
        return PartialFileResponse(path, stat_result=path.stat())

    def _folder(self, request: Request) -> Path:
        return self._workspace.path(request.path_params["folder"], "folder")

    def _source_of(self, tokens: "DataSet", job: JobView | None) -> str:
        """Return the prepared data set that unfinished tokens are made of; empty if it is not known."""
        from songgen.prepare.output.writers import INFO_FILE

        names = [str(tokens.folder).removesuffix(TOKENS_ENDING)]
        if job is not None and job.job.name == "tokenize":
            with suppress(ValueError):  # a job of somebody else
                names.insert(0, str(Path(str(command_values(job.job.command).get("config") or "")).parent))
        for name in names:
            with suppress(ValueError):
                folder = self._workspace.path(name)
                if (folder / INFO_FILE).is_file():
                    return self._workspace.shown(folder)
        return ""

    def _form_again(self, folder: Path, shown: str) -> str:
        """Return the address of the form that prepares a data set again, with its settings and its songs."""
        from songgen.prepare.config import PREPARE_CONFIG_FILE

        values = {"from": shown, "output": shown}
        match values_of(folder / PREPARE_CONFIG_FILE).get("inputs"):
            case [str(songs)] | str(songs):
                with suppress(ValueError):  # outside of the folders of the page
                    values["songs"] = self._workspace.shown(self._workspace.path(songs))
        return f"/data/prepare?{urlencode(values)}"

    def _newest_job(self, folder: Path) -> JobView | None:
        """Return the job that works, or has worked, on a data set."""
        return newest_job(find_jobs(self._workspace.jobs), self._workspace.shown(folder))


def _kind_of_job(job: JobView | None) -> str:
    return "tokens" if job is not None and job.job.name == "tokenize" else "songs"
