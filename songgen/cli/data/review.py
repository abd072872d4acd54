"""`songgen review`: a page on this machine to listen to clips, correct them, and accept or refuse them."""

import argparse
from pathlib import Path

from songgen.cli.page_arguments import add_page_arguments, missing_page_package, page_access
from songgen.exit_codes import EXIT_DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen review`."""
    parser.add_argument("folder", type=Path, help="prepared data set, or its work folder")
    add_page_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        ValueError: if something needs the user's attention.
    """
    from songgen.prepare.review.corrections import CORRECTIONS_FILE
    from songgen.prepare.review.desk import ReviewDesk, find_work_folder

    try:
        from songgen.prepare.review.page import ReviewPage
        from songgen.ui.site import texts_of
        from songgen.web.server import LocalServer
    except ModuleNotFoundError as error:
        raise missing_page_package(error) from error

    access = page_access(arguments)
    work = find_work_folder(arguments.folder.resolve())
    desk = ReviewDesk(work)
    page = ReviewPage(desk, work.name.removesuffix(".work"), texts_of)
    server = LocalServer(page.routes(), access, arguments.port)
    print(f"{_reviewed(desk.progress())}; corrections are saved in {work / CORRECTIONS_FILE}")
    if orphans := desk.orphans():
        print(f"{len(orphans)} corrections do not fit any clip of the last run; the page lists them")
    print(f"open {server.url}\nCtrl-C stops it; run `songgen prepare` again to apply the corrections", flush=True)
    server.serve()
    print(f"\n{_reviewed(desk.progress())}")
    return EXIT_DONE


def _reviewed(progress: dict[str, int]) -> str:
    return f"{progress['reviewed']} of {progress['total']} clips are reviewed"
