"""Parts of a page from the files of a demo: players, curves of training, and the commands that were run."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from demo_run.steps import ORDER_FILE

from demo_report.files import read_sound
from demo_report.measures import demo_log_mel
from demo_report.page import Clip, Run, Stage
from demo_report.pictures import draw_spectrogram
from songgen.train.reporting.plots.curves import read_curves
from songgen.train.reporting.plots.panels import TRAINING_LOSS, loss_panel, rate_panel
from songgen.train.reporting.plots.pictures import draw
from songgen.train.reporting.trackers import METRICS_FILE


def make_clip(out: Path, label: str, sound: Path, *, with_picture: bool) -> Clip:
    """Return the player of an audio file below ``out``, and draw its spectrogram."""
    if not with_picture:
        return Clip(label, sound.relative_to(out).as_posix())
    picture = out / "spectrograms" / sound.relative_to(out).with_suffix(".png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_spectrogram(picture, demo_log_mel(*read_sound(sound)))
    return Clip(label, sound.relative_to(out).as_posix(), picture.relative_to(out).as_posix())


def make_stage(out: Path, folder: Path) -> Stage:
    """Draw the curves of a stage and summarize it.

    Raises:
        ValueError: if its metrics have no loss.
    """
    run = read_curves(folder)
    loss = run.first_of(*TRAINING_LOSS)
    if not loss:
        raise ValueError(f"{folder / METRICS_FILE} has no {TRAINING_LOSS[0]!r}; train that stage again")
    picture = out / "curves" / f"{folder.name}.svg"
    draw(picture, [loss_panel([run]), rate_panel([run])])
    facts = f"{loss.steps[-1]:.0f} steps, training loss {loss.values[0]:.2f} to {loss.values[-1]:.3f}"
    mode, _, stage = folder.name.partition("_")
    return Stage(f"{mode}: {stage}", picture.relative_to(out).as_posix(), facts)


def finished_runs(folder: Path) -> list[Run]:
    """Return the finished steps in the order in which they ran."""
    order = json.loads((folder / ORDER_FILE).read_text(encoding="utf-8"))
    records = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in order]
    return [Run(record["title"], record["command"], record["seconds"]) for record in records if record["finished"]]


def machine() -> str:
    """Return a sentence about this machine."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}."
