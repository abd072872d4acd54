"""`songgen ui`: a page on this machine to prepare songs, configure, train, and listen."""

import argparse
import os
import threading
from pathlib import Path

from songgen.cli.page_arguments import add_page_arguments, missing_page_package, page_access
from songgen.exit_codes import EXIT_DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen ui`."""
    parser.add_argument(
        "workspace", type=Path, nargs="?", default=Path(), help="folder of the project: commands run there"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="further folder from which files may be chosen, such as one with songs; may be given several times",
    )
    add_page_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM; jobs that it has started continue.

    Raises:
        ValueError: if something needs the user's attention.
    """
    try:
        from songgen.ui.folders.library import warm_up
        from songgen.ui.page import page_server
    except ModuleNotFoundError as error:
        raise missing_page_package(error) from error
    from songgen.ui.workspace import Workspace

    for folder in (arguments.workspace, *arguments.folder):
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}; create it, or name another one")
    access = page_access(arguments)
    workspace = Workspace(arguments.workspace.resolve(), tuple(folder.resolve() for folder in arguments.folder))
    os.chdir(workspace.root)  # relative paths in configurations begin there, as for the commands
    server = page_server(workspace, access, arguments.port)
    print(f"open {server.url}\nCtrl-C stops the page; running jobs continue", flush=True)
    # Not a daemon: ending in the middle of an import of torch would crash.
    threading.Thread(target=warm_up, name="imports").start()
    server.serve()
    return EXIT_DONE
