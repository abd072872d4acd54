"""`songgen generate --request`: songs of a folder with a recorded request, by one model after the other."""

import argparse
import gc
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from songgen.cli.models.generate import add_arguments, generate_files, progress_bar
from songgen.families.use.generating import ProgressCallback
from songgen.families.use.song_folder import (
    SONG_LOCK_FILE,
    SONG_STATUS_FILE,
    SongRequest,
    Take,
    read_song_request,
    read_song_texts,
)

if TYPE_CHECKING:
    from songgen.runtime.reported_work import ReportedWork

EXPORTED_MODEL = ".model"
"""Folder, in that of the songs, of the model that is written out of a checkpoint; it is removed afterwards."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def generate_request(folder: Path) -> list[Path]:
    """Generate the songs that a folder's request asks for, and return the files. State and progress are recorded in it.

    All takes are generated in one process, so that nothing is left to start when the first one has ended.

    Raises:
        ValueError: if there is no request, another process generates these songs, or an option is wrong.
    """
    from songgen.runtime.folder_lock import locked
    from songgen.runtime.reported_work import ReportedWork

    request = read_song_request(folder)
    paths = []
    with locked(folder, SONG_LOCK_FILE), ReportedWork(folder, SONG_STATUS_FILE) as work:
        texts = read_song_texts(folder)
        parsed = [take_arguments(request, take, texts, folder) for take in request.takes]
        for take, arguments in zip(request.takes, parsed, strict=True):
            work.begin(f"opening {take.name}")
            with _model_of(take.model, folder) as model, _progress(work, take.name) as on_step:
                arguments.model = model
                paths += generate_files(arguments, on_step)
            gc.collect()  # the next model needs the memory of this one
    return paths


def take_arguments(request: SongRequest, take: Take, texts: Mapping[str, str], folder: Path) -> argparse.Namespace:
    """Return the arguments of `songgen generate` for a take.

    Raises:
        ValueError: if there is no such option, or it has a wrong value.
    """
    parser = _Parser(prog="songgen generate", add_help=False, allow_abbrev=False)
    add_arguments(parser)
    own = {"model": take.model, "adapter": list(take.adapter), "out": str(folder / f"{take.name}{request.ending}")}
    given = {**request.options, **texts}
    reserved = sorted({*own, "request", "lyrics_file"} & {*given})
    if reserved:
        raise ValueError(f"the options of a request cannot have {', '.join(reserved)}")
    return parser.parse_args([word for name, value in {**given, **own}.items() for word in _words(name, value)])


def _words(name: str, value: Any) -> list[str]:
    """Return the words of an option; nothing for an empty value."""
    if value is None or value is False or value == "":
        return []
    if value is True:
        return [f"--{name}"]
    return [f"--{name}={item}" for item in (value if isinstance(value, list) else [value])]


@contextmanager
def _model_of(name: str, folder: Path) -> Iterator[str]:
    """Return the name of a model; a checkpoint of a run without adapters is written as a model for the time of use."""
    from songgen.train.checkpoint_model import export_model, is_whole_checkpoint

    source = Path(name)
    if not is_whole_checkpoint(source):
        yield name
        return

    exported = folder / EXPORTED_MODEL
    shutil.rmtree(exported, ignore_errors=True)  # of a process that was killed
    try:
        export_model(source, exported)
        yield str(exported)
    finally:
        shutil.rmtree(exported, ignore_errors=True)


@contextmanager
def _progress(work: "ReportedWork", take: str) -> Iterator[ProgressCallback]:
    """Record the steps of a take, and show them in a terminal."""
    total_steps, last = 0, 0
    with progress_bar() as show:

        def on_step(done: int, total: int) -> None:
            nonlocal total_steps, last
            if total != total_steps:
                work.begin(f"generating {take}", total=total, unit="step")
                total_steps, last = total, 0
            work.advance(done - last)
            last = done
            show(done, total)

        yield on_step
