"""`songgen jobs`: list the jobs of a workspace, read their logs, start, stop and remove them."""

import argparse
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from songgen.exit_codes import EXIT_DONE
from songgen.jobs.log import LogPart, read_added, read_log
from songgen.jobs.record import JOBS_FOLDER, JobView, find_jobs, one_line, read_job
from songgen.jobs.starting import remove_job, start_job, stop_job
from songgen.runtime.terminal import printable

SHOWN_TITLE, SHOWN_DETAIL = 40, 60
"""Maximum number of characters of a title, and of progress or a reason, in the table; JSON has all of them."""

DEFAULT_LINES = 50
"""Number of lines of a log that are printed if no other is given."""

FOLLOW_SECONDS = 0.5
"""Seconds between two looks at a log that is followed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `songgen jobs`."""
    parser.set_defaults(action="list", folder=Path(), json=False)
    actions = parser.add_subparsers(metavar="ACTION", help="list if none is given")

    def add_action(name: str, summary: str, **options: Any) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", **options)
        action.set_defaults(action=name)
        return action

    listing = add_action("list", "list the jobs of a workspace, newest first")
    log = add_action("log", "print the end of a job's log")
    log.add_argument("--lines", type=int, default=DEFAULT_LINES, help="number of lines (default: %(default)d)")
    log.add_argument("--follow", action="store_true", help="print what is added, until the job ends")
    stop = add_action("stop", "stop a job; a training run saves, other commands keep what is done")
    stop.add_argument("--kill", action="store_true", help="end it at once, without saving")
    start = add_action(
        "start",
        "start a command that outlives the terminal",
        usage="songgen jobs start [--title TITLE] [--folder FOLDER] [--json] -- COMMAND [ARGUMENT ...]",
    )
    start.add_argument("--title", help="description in the list; the command itself if not given")
    start.add_argument("command", nargs="+", help="command of songgen and its arguments, such as: train run.json")
    remove = add_action("remove", "remove a job that has ended, with its log; what it has written is kept")
    for action in (log, stop, remove):
        action.add_argument("id", help="id of the job, its beginning, or its last four characters")
    for action in (parser, listing, log, stop, start, remove):
        # After the name of an action, a default would replace a value that was given before it.
        action.add_argument(
            "--folder", type=Path, default=argparse.SUPPRESS, help="workspace; the current folder if not given"
        )
    for action in (parser, listing, start):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked.

    Raises:
        ValueError: if the workspace or the job does not exist, or the job cannot be started, stopped or removed.
    """
    workspace: Path = arguments.folder
    if not workspace.is_dir():
        raise ValueError(f"there is no folder {workspace}; name the folder with datasets and outputs")
    jobs_folder = workspace / JOBS_FOLDER
    if arguments.action == "list":
        _list(jobs_folder, as_json=arguments.json)
    elif arguments.action == "start":
        _start(jobs_folder, arguments.command, arguments.title, as_json=arguments.json)
    else:
        view = find_job(jobs_folder, arguments.id)
        if arguments.action == "log":
            _print_log(view, arguments.lines, follow=arguments.follow)
        elif arguments.action == "stop":
            stop_job(view, kill=arguments.kill)
            print(f"{view.job.id} is asked to stop{' at once' * arguments.kill}; `songgen jobs` shows its state")
        else:
            remove_job(view)
            print(f"removed {view.job.id}")
    return EXIT_DONE


def find_job(jobs_folder: Path, word: str) -> JobView:
    """Return the job with an id that begins with a word, or ends with its last four characters.

    Raises:
        ValueError: if there is none, or several.
    """
    ids = [view.job.id for view in find_jobs(jobs_folder)]
    found = [each for each in ids if each == word] or [
        each for each in ids if word and (each.startswith(word) or each.endswith(f"-{word}"))
    ]
    if len(found) > 1:
        raise ValueError(f"{len(found)} jobs are named {printable(word)!r}, such as {found[0]}; give more of the id")
    return read_job(jobs_folder, found[0] if found else word)


def table(views: Sequence[JobView]) -> list[str]:
    """Return the jobs as lines for a terminal."""
    rows = [("id", "state", "since", "title", "progress or reason")]
    for view in views:
        since = view.job.created if view.status is None or view.is_active else view.status.time
        shown = datetime.fromtimestamp(since).strftime("%Y-%m-%d %H:%M")
        title, detail = _cut(view.job.title, SHOWN_TITLE), _cut(_detail(view), SHOWN_DETAIL)
        rows.append((view.job.id, view.state, shown, title, detail))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _list(jobs_folder: Path, *, as_json: bool) -> None:
    """Print the jobs."""
    views = find_jobs(jobs_folder)
    if as_json:
        print(json.dumps([_as_json(view) for view in views], indent=2))
    elif views:
        print("\n".join(table(views)))
    else:
        print(f"there is no job in {jobs_folder}; `songgen jobs start -- COMMAND` starts one")


def _start(jobs_folder: Path, words: Sequence[str], title: str | None, *, as_json: bool) -> None:
    """Start a command of songgen in the current folder.

    Raises:
        ValueError: if there is no such command, or it cannot be started.
    """
    from songgen.cli.main import COMMANDS

    words = list(words)[1:] if words[0] == "songgen" else list(words)
    if not words or words[0] not in COMMANDS:
        raise ValueError(f"{shlex.join(words)!r} is not a command of songgen; `songgen --help` lists them")
    view = start_job(jobs_folder, ["songgen", *words], title=title or shlex.join(words), cwd=Path.cwd())
    if as_json:
        print(json.dumps(_as_json(view), indent=2))
    else:
        print(f"{view.job.id}\nits log: songgen jobs log {view.job.id} --follow")


def _print_log(view: JobView, lines: int, *, follow: bool) -> None:
    """Print the end of a log, and what is added to it."""
    is_active = view.is_active  # looked up before the log is read: then nothing that was printed is missed
    part = read_log(view.folder, max_lines=lines)
    print(part.text, end="", flush=True)
    while follow and is_active:
        time.sleep(FOLLOW_SECONDS)
        is_active = read_job(view.folder.parent, view.job.id).is_active
        part = _print_added(view, part)
    if part.unfinished:
        print(part.unfinished)


def _print_added(view: JobView, part: LogPart) -> LogPart:
    """Print what was added to a log after a part of it, and return the last part that was read."""
    while (added := read_added(view.folder, part.offset)).offset != part.offset:
        print(added.text, end="", flush=True)
        part = added
    return added


def _detail(view: JobView) -> str:
    """Return the reason of a job's end, or else the last line that it has printed."""
    if view.status is not None and view.status.reason:
        return view.status.reason
    part = read_log(view.folder, max_lines=1)
    return part.unfinished.strip() or part.text.strip()


def _cut(text: str, limit: int) -> str:
    """Return a text in one line of limited length."""
    line = one_line(text)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _as_json(view: JobView) -> dict[str, Any]:
    """Return a job as a JSON object, with times in ISO 8601 (UTC)."""
    status = view.status
    return {
        **{name: value for name, value in asdict(view.job).items() if name != "schema_version"},
        "created": datetime.fromtimestamp(view.job.created, UTC).isoformat(),
        "folder": str(view.folder),
        "state": view.state,
        "exit_code": None if status is None else status.exit_code,
        "reason": None if status is None else status.reason,
    }
