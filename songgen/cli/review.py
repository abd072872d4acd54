"""`songgen review`: a page on this machine to listen to clips, correct them, and accept or refuse them."""

import argparse
import os
from pathlib import Path

from songgen.exit_codes import EXIT_DONE
from songgen.web.access import LOOPBACK, make_access

DEFAULT_PORT = 8765

TOKEN_VARIABLE = "SONGGEN_REVIEW_TOKEN"
"""Environment variable with the token; a command line could be read by other users of the machine."""

PAGE_PACKAGES = ("starlette", "uvicorn", "h11")
"""Packages of the extra `page`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen review`."""
    parser.add_argument("folder", type=Path, help="prepared data set, or its work folder")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of the page; 0 for any free one")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on; any other than this needs a token")
    parser.add_argument(
        "--token",
        help="secret of the page, at least 16 letters and digits; default: the environment variable "
        f"{TOKEN_VARIABLE}, which other users of this machine cannot read; else one is generated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        ValueError: if something needs the user's attention.
    """
    from songgen.prepare.review.corrections import CORRECTIONS_FILE
    from songgen.prepare.review.desk import ReviewDesk, find_work_folder

    try:
        from songgen.prepare.review.page import ReviewPage
        from songgen.web.server import LocalServer
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in PAGE_PACKAGES:
            raise
        raise ValueError(f'the page needs {name}, which is not installed: pip install "songgen[page]"') from error

    token = os.environ.get(TOKEN_VARIABLE) if arguments.token is None else arguments.token
    access = make_access(arguments.host, token)
    work = find_work_folder(arguments.folder.resolve())
    desk = ReviewDesk(work)
    server = LocalServer(ReviewPage(desk, work.name.removesuffix(".work")).routes(), access, arguments.port)
    print(f"{_reviewed(desk.progress())}; corrections are saved in {work / CORRECTIONS_FILE}")
    if orphans := desk.orphans():
        print(f"{len(orphans)} corrections do not fit any clip of the last run; the page lists them")
    print(f"open {server.url}\nCtrl-C stops it; run `songgen prepare` again to apply the corrections", flush=True)
    server.serve()
    print(f"\n{_reviewed(desk.progress())}")
    return EXIT_DONE


def _reviewed(progress: dict[str, int]) -> str:
    return f"{progress['reviewed']} of {progress['total']} clips are reviewed"
