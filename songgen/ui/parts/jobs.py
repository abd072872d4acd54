"""Jobs on the page: start a command, list jobs, show progress and output of one, stop it."""

import dataclasses
import re
import threading
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from songgen.jobs.log import read_log
from songgen.jobs.record import JobView, find_jobs, newest_job, read_job
from songgen.jobs.starting import remove_job, start_job, stop_job
from songgen.ui.commands import STARTABLE, command_text, command_values, command_words
from songgen.ui.site import Site, body_of, number_of, table_of, text_of
from songgen.ui.translation import Translator
from songgen.web.answers import json_response
from songgen.web.application import PageRoute

MAX_LINES = 2_000
"""Maximum number of lines of output that are sent at once."""

SHOWN_JOBS = 100
"""Number of jobs in the list that have ended; those that run are all in it."""

_PROGRAM = re.compile(r"(songgen( \w+)?: )?error: ")
"""Beginning of the last line of a command that failed: the state says so already."""

_ORIGIN = re.compile(r"(process \d+: )?(\w+Error: )?")
"""Beginning of the reason of a run: names that are the same in every language."""


class JobsPart:
    """The endpoints of jobs."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site
        self._folder = site.workspace.jobs
        self._starting = threading.Lock()

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        page, api = self._site.page, self._site.api
        return [
            PageRoute("/jobs", page(self.index)),
            PageRoute("/jobs/{id}", page(self.job_page)),
            PageRoute("/api/jobs", api(self.listing)),
            PageRoute("/api/jobs", api(self.start), methods=["POST"]),
            PageRoute("/api/jobs/{id}", api(self.state)),
            PageRoute("/api/jobs/{id}/stop", api(self.stop), methods=["POST"]),
            PageRoute("/api/jobs/{id}/again", api(self.again), methods=["POST"]),
            PageRoute("/api/jobs/{id}/remove", api(self.remove), methods=["POST"]),
            PageRoute("/api/commands/{name}", api(self.preview), methods=["POST"]),
        ]

    def index(self, request: Request) -> Response:
        """Return the page with all jobs, which its script asks for."""
        return self._site.render(request, "jobs.html")

    def job_page(self, request: Request) -> Response:
        """Return the page of one job."""
        return self._site.render(request, "job.html", job=self._values(request, [self._view(request)])[0])

    def listing(self, request: Request) -> Response:
        """Return the jobs and how many are left out; `?subject=PATH` only those that work on it."""
        subject = request.query_params.get("subject")
        found = find_jobs(self._folder)
        views, left_out = shown_jobs(view for view in found if subject is None or view.works_on(subject))
        return json_response({"jobs": self._values(request, views), "left_out": left_out})

    def start(self, request: Request) -> Response:
        """Start a command: `{"command": NAME, "values": {OPTION: VALUE}, "subject": PATH}`."""
        words = self._words(request, text_of(request, "command"))
        subject = text_of(request, "subject")
        if subject:
            self._site.workspace.path(subject, "subject")
        return json_response({"job": self._values(request, [self.begin(words, subject)])[0]})

    def begin(self, words: list[str], subject: str) -> JobView:
        """Start a checked command as a job.

        Raises:
            ValueError: if it trains in a folder in which another job trains: it would fail when its processes have
                started, and until then be taken for the job of that run.
        """
        title = f"{words[1]} {subject}".strip()
        with self._starting:  # so that two browsers do not start it at once
            if words[1] == "train" and subject:
                self._require_no_training(subject)
            return start_job(self._folder, words, title=title, cwd=self._site.workspace.root, subject=subject)

    def _require_no_training(self, subject: str) -> None:
        """Check that no job trains in a folder.

        Raises:
            ValueError: if one does.
        """
        job = newest_job(find_jobs(self._folder), self._site.workspace.path(subject), ("train",))
        if job is not None and job.is_active:
            raise ValueError(f"a job trains in {subject} already; stop it first, or choose another output folder")

    def preview(self, request: Request) -> Response:
        """Return the command that a form would start, to copy."""
        return json_response({"text": command_text(self._words(request, request.path_params["name"]))})

    def state(self, request: Request) -> Response:
        """Return state and output of a job: the last `?lines=N`."""
        view = self._view(request)
        part = read_log(view.folder, max_lines=lines_of(request))
        return json_response({"job": self._values(request, [view])[0], "log": dataclasses.asdict(part)})

    def stop(self, request: Request) -> Response:
        """Stop a job; `{"kill": true}` ends it at once."""
        stop_job(self._view(request), kill=body_of(request).get("kill") is True)
        return json_response({"job": self._values(request, [self._view(request)])[0]})

    def again(self, request: Request) -> Response:
        """Start the command of a job that has ended once more, for example to continue what was interrupted."""
        view = self._view(request)
        job = view.job
        if view.is_active:
            raise ValueError(f"{job.title} is still running")
        # Read and checked as if it came from a form: job files may be of somebody else.
        words = command_words(job.name, command_values(job.command), self._site.workspace)
        if tuple(words) != job.command:
            raise ValueError("this command was not started on the page; copy it into a terminal to start it again")
        # An interrupted run continues; it is not moved to a backup once more.
        words = [word for word in words if not (job.name == "train" and word.startswith("--overwrite_output_dir"))]
        return json_response({"job": self._values(request, [self.begin(words, job.subject)])[0]})

    def remove(self, request: Request) -> Response:
        """Remove the folder of a job that has ended; what its command wrote is kept."""
        remove_job(self._view(request))
        return json_response({})

    def _words(self, request: Request, name: str) -> list[str]:
        return command_words(name, table_of(request, "values"), self._site.workspace)

    def _values(self, request: Request, views: list[JobView]) -> list[dict[str, Any]]:
        texts = self._site.language(request)
        found = [job_values(view, texts) for view in views]
        # A training that another one has followed is continued on the page of its run: its command is out of date.
        followed: set[str] = set()
        for values in found:
            if values["name"] == "train":
                values["can_repeat"] &= values["subject"] not in followed
                followed.add(values["subject"])
        return found

    def _view(self, request: Request) -> JobView:
        return read_job(self._folder, request.path_params["id"])


def shown_jobs(views: Iterable[JobView]) -> tuple[list[JobView], int]:
    """Return the jobs of a list, those that run first, and the number of ended ones that are left out.

    Args:
        views: jobs, the newest first.
    """
    active: list[JobView] = []
    ended: list[JobView] = []
    for view in views:
        (active if view.is_active else ended).append(view)
    return active + ended[:SHOWN_JOBS], max(0, len(ended) - SHOWN_JOBS)


def lines_of(request: Request) -> int:
    """Return the number of lines of output that a request asks for: `?lines=N`.

    Raises:
        ValueError: if it is not a number.
    """
    return min(max(1, number_of(request, "lines", "200")), MAX_LINES)


def job_values(view: JobView, texts: Translator) -> dict[str, Any]:
    """Return what the page shows of a job, with the reason of its end in the language of `texts`."""
    status = view.status
    return {
        "id": view.job.id,
        "title": view.job.title,
        "name": view.job.name,
        "command": command_text(view.job.command),
        "subject": view.job.subject,
        "created": view.job.created,
        "state": view.state,
        "is_active": view.is_active,
        "can_repeat": not view.is_active and view.job.name in STARTABLE and view.job.name != "push",
        "ended": None if status is None or status.status == "running" else status.time,
        "exit_code": None if status is None else status.exit_code,
        "reason": "" if status is None else reason_text(status.reason or "", texts),
    }


def reason_text(reason: str, texts: Translator) -> str:
    """Return why a job or a run has ended, in the language of `texts`, without the name of the program.

    Args:
        reason: one line, or a line that ends with a colon and its list of problems.
        texts: texts of the page in its language.
    """
    program = _PROGRAM.match(reason)
    text = reason[program.end() :] if program else reason
    origin = _ORIGIN.match(text)
    assert origin is not None  # every text begins with nothing
    return origin[0] + texts.message(text[origin.end() :])
