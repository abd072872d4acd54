"""Page of plots: one HTML file with everything in it, pictures and the songs of the latest evaluation."""

from __future__ import annotations

import io
import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import soundfile

from songgen.runtime.files import write_bytes_atomic
from songgen.train.reporting.plots.curves import RunCurves
from songgen.train.reporting.plots.panels import TRAINING_LOSS, Panel
from songgen.train.reporting.plots.songs import latest_songs
from songgen.web.document import link, render_document, section

EMBEDDED_BYTES = 24 * 1024**2
"""Bytes of songs in the page; it links to further ones, which are next to it in the folder of the run."""

STYLE = """\
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 0.9rem; }
.panels img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px; }
"""


def write_page(path: Path, runs: Sequence[RunCurves], pictures: Sequence[tuple[Panel, bytes]]) -> None:
    """Write the page.

    Args:
        path: file to write.
        runs: the runs on it.
        pictures: panels, and their pictures as PNG.
    """
    names = ", ".join(run.name for run in runs)
    images = "\n".join(
        f'<img src="data:image/png;base64,{b64encode(picture).decode()}" alt="{escape(panel.title)}">'
        for panel, picture in pictures
    )
    budget = [EMBEDDED_BYTES]
    parts = [
        f"<header><h1>{escape(names)}</h1></header>",
        section("state", "State", _table(runs)),
        section("curves", "Curves", f'<div class="panels">\n{images}\n</div>'),
        *(_songs(run, path.parent, budget) for run in runs),
    ]
    text = render_document(names, "\n".join(filter(None, parts)), STYLE)
    write_bytes_atomic(path, text.encode(), durable=False)  # a browser may be reading the earlier one


def _table(runs: Sequence[RunCurves]) -> str:
    """Return the latest values of the runs as a table."""
    head = "".join(f"<th>{escape(title)}</th>" for title in ("run", *_COLUMNS, "damaged lines"))
    rows = "\n".join(
        f'<tr><th scope="row">{escape(run.name)}</th>'
        + "".join(f'<td class="value">{escape(value)}</td>' for value in (*_latest(run), str(run.damaged_lines)))
        + "</tr>"
        for run in runs
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


_COLUMNS = {
    "training loss": TRAINING_LOSS,
    "evaluation loss": ("eval/loss",),
    "accuracy": ("eval/accuracy",),
    "gradient norm": ("train/grad_norm",),
    "learning rate": ("train/learning_rate",),
}
"""Column of the table -> metrics, the first of which is shown."""


def _latest(run: RunCurves) -> Iterator[str]:
    """Yield the latest value of each column, with its step."""
    for names in _COLUMNS.values():
        curve = run.first_of(*names)
        yield f"{curve.last[1]:.4g} (step {curve.last[0]:.0f})" if curve else ""


def _songs(run: RunCurves, folder: Path, budget: list[int]) -> str:
    """Return the section with players; empty if the run has generated no songs.

    Args:
        run: the run.
        folder: folder of the page.
        budget: bytes that may still be put into the page, in a list of one, which is lowered.
    """
    step, songs = latest_songs(run.folder)
    cards = []
    for song in songs:
        players = "\n".join(
            f"<figure><figcaption>{escape(label)}</figcaption>"
            f'<audio controls preload="none" src="{_source(path, folder, budget)}"></audio></figure>'
            for label, path in song.files
        )
        cards.append(f'<article><h3>{escape(song.name)}</h3>\n<div class="clips">\n{players}\n</div></article>')
    title = f"Songs of {run.name} after step {step}"
    return section(f"songs-{run.name}", title, "\n".join(cards)) if cards else ""


def _source(path: Path, folder: Path, budget: list[int]) -> str:
    """Return the address of a song for a player: its content as FLAC, or a relative link once the page is large."""
    if budget[0] > 0:
        try:
            samples, sample_rate = soundfile.read(path, dtype="int16")
            content = io.BytesIO()
            soundfile.write(content, samples, sample_rate, format="FLAC")
        except (OSError, RuntimeError):  # not a sound, or not yet complete
            return ""
        budget[0] -= content.tell()
        return f"data:audio/flac;base64,{b64encode(content.getvalue()).decode()}"
    return link(Path(os.path.relpath(path, folder)).as_posix())
