"""`songgen review`: a page on this machine to listen to clips, correct them, and accept or refuse them."""

import argparse
import os
import stat
import sys
from pathlib import Path

from songgen.exit_codes import EXIT_DONE
from songgen.runtime.files import read_regular
from songgen.web.access import LOOPBACK, make_access

DEFAULT_PORT = 8765

TOKEN_VARIABLE = "SONGGEN_REVIEW_TOKEN"
"""Environment variable with the token; a command line could be read by other users of the machine."""

MAX_TOKEN_BYTES = 1024

PAGE_PACKAGES = ("starlette", "uvicorn", "h11")
"""Packages of the extra `page`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen review`."""
    parser.add_argument("folder", type=Path, help="prepared data set, or its work folder")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of the page; 0 for any free one")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on; any other than this needs a token")
    parser.add_argument(
        "--token_file",
        type=Path,
        help="file with the secret of the page, at least 16 letters and digits, which nobody else may be able to read; "
        f"default: the environment variable {TOKEN_VARIABLE}; else a secret is generated",
    )
    parser.add_argument(
        "--token", help="deprecated: the secret itself, which other users of this machine see in the process list"
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

    access = make_access(arguments.host, _chosen_token(arguments))
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


def _chosen_token(arguments: argparse.Namespace) -> str | None:
    """Return the token that the user has chosen; None to generate one.

    Raises:
        ValueError: if it is given twice, or if its file cannot be read, or can be read by others.
    """
    if arguments.token is not None and arguments.token_file is not None:
        raise ValueError("--token and --token_file: give one of them")
    if arguments.token is not None:
        print(
            "--token is deprecated, since other users of this machine can read it in the process list: use "
            f"--token_file FILE or the environment variable {TOKEN_VARIABLE}",
            file=sys.stderr,
        )
        return str(arguments.token)
    if arguments.token_file is None:
        return os.environ.get(TOKEN_VARIABLE)
    path: Path = arguments.token_file
    try:
        token = read_regular(path, MAX_TOKEN_BYTES).decode("ascii").strip()
        is_private = not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except (OSError, ValueError) as error:
        raise ValueError(f"--token_file: {path} cannot be read: {error}") from error
    if not is_private:
        raise ValueError(f"--token_file: other users can read {path}; run `chmod 600 {path}`, and choose a new token")
    return token


def _reviewed(progress: dict[str, int]) -> str:
    return f"{progress['reviewed']} of {progress['total']} clips are reviewed"
