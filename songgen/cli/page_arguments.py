"""Shared options of the subcommands that serve a page: port, address, and the token of the page."""

import argparse
import os
import stat
from pathlib import Path

from songgen.runtime.files import read_regular
from songgen.web.access import LOOPBACK, TOKEN_VARIABLE, Access, make_access

DEFAULT_PORT = 8765

MAX_TOKEN_BYTES = 1024

PAGE_PACKAGES = ("starlette", "uvicorn", "h11", "jinja2")
"""Packages of the extra `page`."""


def add_page_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a page."""
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of the page; 0 for any free one")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on; any other than this needs a token")
    parser.add_argument(
        "--token_file",
        type=Path,
        help="file with the token of the page, at least 16 letters and digits, readable only by you; "
        f"default: the environment variable {TOKEN_VARIABLE}; else a token is generated",
    )


def page_access(arguments: argparse.Namespace) -> Access:
    """Return who may see the page.

    Raises:
        ValueError: if other machines can reach it and no token was chosen, or if the token cannot be used.
    """
    return make_access(arguments.host, _chosen_token(arguments.token_file))


def missing_page_package(error: ModuleNotFoundError) -> ValueError:
    """Return the problem of a package that pages need and that is not installed; raise the error if it is another."""
    name = (error.name or "").partition(".")[0]
    if name not in PAGE_PACKAGES:
        raise error
    return ValueError(f'the page needs {name}, which is not installed: pip install "songgen[page]"')


def _chosen_token(path: Path | None) -> str | None:
    """Return the token that the user has chosen; None to generate one.

    Raises:
        ValueError: if its file cannot be read, or can be read by others, or if the environment variable is empty.
    """
    if path is None:
        chosen = os.environ.get(TOKEN_VARIABLE)
        if chosen == "":
            raise ValueError(
                f"{TOKEN_VARIABLE} is set but empty: unset it, or set it to at least 16 letters and digits"
            )
        return chosen
    try:
        token = read_regular(path, MAX_TOKEN_BYTES).decode("ascii").strip()
        is_private = not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except (OSError, ValueError) as error:
        raise ValueError(f"--token_file: {path} cannot be read: {error}") from error
    if not is_private:
        raise ValueError(f"--token_file: other users can read {path}; run `chmod 600 {path}`, and choose a new token")
    return token
