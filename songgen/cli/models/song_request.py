"""`songgen generate --request`: songs of a folder with a recorded request, by one model after the other."""

import argparse
import gc
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.families.use.generating import ProgressCallback
from songgen.families.use.song_folder import (
    RESERVED_OPTIONS,
    SONG_LOCK_FILE,
    SONG_STATUS_FILE,
    SongRequest,
    Take,
    read_song_request,
    read_song_texts,
    song_files,
)

if TYPE_CHECKING:
    from songgen.runtime.reported_work import ReportedWork

EXPORTED_MODEL = ".model"
"""Folder, in that of the songs, of the model that is written out of a checkpoint; it is removed afterwards."""


ParseWords = Callable[[list[str]], argparse.Namespace]
"""Parser of the options of `songgen generate`; it raises a `ValueError` for wrong ones."""

Generate = Callable[[argparse.Namespace, ProgressCallback], list[Path]]
"""Function that generates and writes the songs of parsed options, and returns the files."""


def generate_request(folder: Path, parse: ParseWords, generate: Generate) -> list[Path]:
    """Generate the songs that a folder's request asks for, and return the files. State and progress are recorded in it.

    All takes are generated in one process, so that nothing is left to start when the first one has ended.

    Args:
        folder: folder with the request.
        parse: parser of the options.
        generate: function that generates the songs of a take.

    Raises:
        ValueError: if there is no request, another process generates these songs, or an option is wrong.
    """
    from songgen.runtime.folder_lock import locked
    from songgen.runtime.reported_work import ReportedWork

    request = read_song_request(folder)
    paths = []
    with locked(folder, SONG_LOCK_FILE), ReportedWork(folder, SONG_STATUS_FILE) as work:
        texts = read_song_texts(folder)
        parsed = [parse(take_words(request, take, texts, folder)) for take in request.takes]
        for earlier in song_files(folder, request):  # of a try that was stopped; the page takes files for results
            earlier.path.unlink()
        for take, arguments in zip(request.takes, parsed, strict=True):
            work.begin(f"opening {take.name}")
            with _model_of(take.model, folder) as model, _progress(work, take.name) as on_step:
                arguments.model = model
                paths += generate(arguments, on_step)
            gc.collect()  # the next model needs the memory of this one
    return paths


def take_words(request: SongRequest, take: Take, texts: Mapping[str, str], folder: Path) -> list[str]:
    """Return the options of `songgen generate` for a take.

    Raises:
        ValueError: if the request holds an option that it cannot have.
    """
    own = {"model": take.model, "adapter": list(take.adapter), "out": str(folder / f"{take.name}{request.ending}")}
    given = {**request.options, **texts}
    if odd := [name for name in given if not name.isidentifier()]:
        raise ValueError(f"{odd[0]!r} is not the name of an option")  # with `=` in it, it would be another one
    if reserved := sorted(RESERVED_OPTIONS & {*given}):
        raise ValueError(f"the options of a request cannot have {', '.join(reserved)}")
    return [word for name, value in {**given, **own}.items() for word in _words(name, value)]


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
    last = 0
    has_begun = False
    with progress_bar() as show:

        def on_step(done: int, total: int) -> None:
            nonlocal has_begun, last
            if not has_begun:
                work.begin(f"generating {take}", total=total, unit="step")
                has_begun = True
            work.expect(total)
            work.advance(done - last)
            last = done
            show(done, total)

        yield on_step


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Show steps, speed and remaining time in a terminal."""
    from tqdm import tqdm

    with tqdm(unit="step", desc="generating", file=sys.stderr, disable=None) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_step
