"""`songgen review`: a page on this machine to listen to clips, correct them, and take them in or leave them out."""

import argparse
from pathlib import Path

from songgen.exit_codes import EXIT_DONE

DEFAULT_PORT = 8765


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen review`."""
    parser.add_argument("folder", type=Path, help="prepared data set, or its work folder")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of the page; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than this need --token")
    parser.add_argument("--token", help="secret of the page, at least 16 letters and digits; without it one is drawn")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        ValueError: for anything the user can put right.
    """
    from songgen.prepare.review.corrections import CORRECTIONS_FILE
    from songgen.prepare.review.desk import ReviewDesk, find_work_folder
    from songgen.prepare.review.page import ReviewPage
    from songgen.web import LocalServer, make_access

    access = make_access(arguments.host, arguments.token)
    work = find_work_folder(arguments.folder.resolve())
    desk = ReviewDesk(work)
    server = LocalServer(ReviewPage(desk, work.name.removesuffix(".work")).routes(), access, arguments.port)
    print(f"{_reviewed(desk.progress())}; corrections go to {work / CORRECTIONS_FILE}")
    if orphans := desk.orphans():
        print(f"{len(orphans)} corrections fit no clip of the last run any more; the page lists them")
    print(f"open {server.url}\nCtrl-C ends; run `songgen prepare` again to apply the corrections", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        print(f"\n{_reviewed(desk.progress())}")
    finally:
        server.close()
    return EXIT_DONE


def _reviewed(progress: dict[str, int]) -> str:
    return f"{progress['reviewed']} of {progress['total']} clips are reviewed"
