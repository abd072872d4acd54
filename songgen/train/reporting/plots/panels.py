"""Panels of a plot: which curves of which runs are shown together, and the marks between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from songgen.train.reporting.plots.curves import Curve, RunCurves

TRAINING_LOSS = ("train/unweighted_loss", "train/loss")
"""Metrics of the training loss, the one that can be compared with the evaluation's first."""

TRACK_NAMES = {"mix": "mix", "vocal": "vocals", "acc": "accompaniment"}
"""Track in the names of metrics -> the word for it; "acc" would be read as accuracy."""

FINE_PARTS = {"codebook": "loss by codebook", "band": "loss by band of timesteps"}
"""Beginning of the names of the finest parts of a loss -> title of their panels."""

FINE_LABELS = {"codebook": "codebook {0}", "band": "band {0}"}
"""Beginning of those names -> name of a curve in such a panel."""

COLORS = ("#3457d5", "#c2410c", "#1b8a5a", "#9333ea", "#b45309", "#0e7490", "#be185d", "#4d7c0f")
"""Colours of curves, distinct for most forms of colour blindness when used in this order."""


@dataclass(frozen=True)
class Guide:
    """Horizontal line that curves are compared with."""

    value: float
    """Height."""
    label: str
    """Meaning."""


# Marks at which coherent speech began in the trainer of VALL-E that names them. They were seen with its codec and its
# data; with another number of codes, or another share of music, speech may come earlier or later.
SPEECH_LOSS = Guide(3.0, "speech emerges in VALL-E: loss 3.0")
SPEECH_ACCURACY = Guide(0.7, "speech emerges in VALL-E: accuracy 0.7")
SPEECH_GRADIENT_NORM = Guide(0.2, "speech emerges in VALL-E: norm 0.2")


@dataclass(frozen=True)
class Line:
    """Curve with its look in a panel."""

    curve: Curve
    """Points."""
    run: RunCurves
    """The run."""
    metric: str
    """Name of the metric, such as `train/loss`."""
    name: str
    """Name in the legend of a panel with one run; empty for none."""
    label: str
    """Name in the legend, with that of the run if there are several; empty for none."""
    color: str
    """Colour."""
    has_markers: bool = False
    """Whether each point is marked: for evaluations, which are few."""
    opacity: float = 1.0
    """Opacity of the line."""


@dataclass(frozen=True)
class Panel:
    """A pair of axes with curves over the steps."""

    key: str
    """Name of its file, without ending."""
    title: str
    """Title."""
    lines: tuple[Line, ...]
    """Curves, with at least one point each."""
    guides: tuple[Guide, ...] = ()
    """Marks."""
    top: float | None = None
    """Upper end of the axis; None to fit the curves. The lower end is 0."""
    is_logarithmic: bool = False
    """Whether the axis is logarithmic; it then fits the curves."""


def all_panels(runs: Sequence[RunCurves]) -> list[Panel]:
    """Return the panels of some runs that have a curve, each with all runs over each other."""
    found = [
        loss_panel(runs),
        Panel("accuracy", "accuracy (evaluation)", tuple(_accuracies(runs)), (SPEECH_ACCURACY,), top=1.0),
        *_part_panels(runs),
        rate_panel(runs),
        Panel(
            "gradient_norm", "gradient norm, before clipping", tuple(_lines(runs, ("train/grad_norm",), "norm")),
            (SPEECH_GRADIENT_NORM,), is_logarithmic=True,
        ),
    ]  # fmt: skip
    return [panel for panel in found if panel.lines]


def loss_panel(runs: Sequence[RunCurves]) -> Panel:
    """Return the panel of the training loss and the evaluation loss."""
    lines = [*_lines(runs, TRAINING_LOSS, "training"), *_lines(runs, ("eval/loss",), "evaluation", shift=1)]
    return Panel("loss", "loss (mean over heads, nats)", tuple(lines), (SPEECH_LOSS,))


def rate_panel(runs: Sequence[RunCurves]) -> Panel:
    """Return the panel of the learning rate."""
    return Panel("learning_rate", "learning rate", tuple(_lines(runs, ("train/learning_rate",), "rate", shift=2)))


def _lines(runs: Sequence[RunCurves], names: Sequence[str], label: str, shift: int = 0) -> Iterator[Line]:
    """Yield the line of a metric for each run that has it.

    Args:
        runs: the runs; several have a colour each.
        names: metrics, the first of which is shown.
        label: name in the legend; empty for none.
        shift: number of the metric in its panel: its colour for one run, its opacity for several.
    """
    is_evaluation = names[0].startswith("eval/")
    for number, run in enumerate(runs):
        metric = next((name for name in names if name in run.curves), None)
        if metric is not None and (curve := run.curves[metric]):
            several = len(runs) > 1
            shown = f"{run.name}, {label}" if several and label else label
            color = COLORS[(number if several else shift) % len(COLORS)]
            opacity = max(0.3, 1.0 - 0.15 * shift) if several else 1.0
            yield Line(curve, run, metric, label, shown, color, is_evaluation, opacity)


def _accuracies(runs: Sequence[RunCurves]) -> Iterator[Line]:
    """Yield the accuracies, overall and by track."""
    yield from _lines(runs, ("eval/accuracy",), "all", shift=1)
    tracks = list(dict.fromkeys(name for run in runs for name in _coarse(run, "accuracy")))
    for shift, name in enumerate(tracks if len(tracks) > 1 else (), start=2):
        yield from _lines(runs, (name,), track_name(name.split("/")[1]), shift=shift)


def _part_panels(runs: Sequence[RunCurves]) -> Iterator[Panel]:
    """Yield the panels of the evaluation loss by track, and of the losses by codebook or band, one for each track."""
    tracks = list(dict.fromkeys(name for run in runs for name in _coarse(run, "loss")))
    if len(tracks) > 1:
        lines = [
            line
            for shift, name in enumerate(tracks)
            for line in _lines(runs, (name,), track_name(name.split("/")[1]), shift=shift)
        ]
        yield Panel("loss_by_track", "evaluation loss by track", tuple(lines))
    parts = list(dict.fromkeys(name for run in runs for name in run.curves if _is_fine(name, "loss")))
    for kind, track in dict.fromkeys((_kind(name), _owner(name)) for name in parts):
        lines, labelled = [], set[int]()
        for name in parts:
            if (_kind(name), _owner(name)) == (kind, track):
                number = _number(name)
                has_label = number not in labelled and (len(runs) == 1 or not labelled)
                lines += _lines(runs, (name,), FINE_LABELS[kind].format(number) if has_label else "", shift=number)
                labelled.add(number)
        title = FINE_PARTS[kind]
        title = f"{title}: {track_name(track)} (points: evaluation)" if track else f"{title} (points: evaluation)"
        yield Panel(f"loss_by_{kind}_{track or 'all'}", title, tuple(lines))


def track_name(track: str) -> str:
    """Return the word for a track in the name of a metric."""
    return TRACK_NAMES.get(track, track)


def _coarse(run: RunCurves, metric: str) -> list[str]:
    """Return the names of the evaluation metrics of whole tracks, such as `eval/vocal/loss`."""
    paths = [(name, name.split("/")) for name in run.curves]
    return [
        name
        for name, path in paths
        if len(path) == 3 and path[0] == "eval" and path[2] == metric and not path[1].startswith(tuple(FINE_PARTS))
    ]


def _is_fine(name: str, metric: str) -> bool:
    """Return whether a metric is one of a codebook or band, such as `train/vocal/codebook_0/loss`."""
    path = name.split("/")
    return len(path) > 2 and path[-1] == metric and path[-2].startswith(tuple(FINE_PARTS))


def _kind(name: str) -> str:
    """Return the kind of a fine part, by the name of its metric."""
    return next(kind for kind in FINE_PARTS if name.split("/")[-2].startswith(kind))


def _number(name: str) -> int:
    """Return the number of the metric of a codebook or band; 0 if it has none."""
    digits = name.split("/")[-2].rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def _owner(name: str) -> str:
    """Return the track of a codebook's metric; empty if the codebook is shared by several tracks."""
    return "/".join(name.split("/")[1:-2])
