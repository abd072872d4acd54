"""Page of the demo: one HTML file from plain data, which links to files next to it only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from songgen.web.document import link, render_document, section


@dataclass(frozen=True)
class Clip:
    """An audio file of a song."""

    label: str
    """Description, for example ``original``."""
    audio: str
    """Wav file, relative to the page."""
    spectrogram: str | None = None
    """PNG file, relative to the page."""


@dataclass(frozen=True)
class SongCard:
    """A song with all of its audio files."""

    name: str
    caption: str
    lyrics: str
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class SongGroup:
    """Songs under one heading."""

    title: str
    explanation: str
    songs: tuple[SongCard, ...]
    folded: bool = False
    """Whether only the heading is shown until the group is opened."""


@dataclass(frozen=True)
class Figure:
    """A measured number."""

    label: str
    value: str
    goal: str = ""
    """Goal for the number; empty if there is none."""
    reached: bool | None = None
    """Whether the goal is reached; None if there is none."""


@dataclass(frozen=True)
class Stage:
    """A stage of training."""

    title: str
    picture: str
    """Path of the curves, relative to the page."""
    facts: str
    """Summary of steps and losses."""


@dataclass(frozen=True)
class Run:
    """A command that was run."""

    title: str
    command: str
    seconds: float


@dataclass(frozen=True)
class Page:
    """Content of the page."""

    title: str
    introduction: str
    figures: tuple[Figure, ...]
    groups: tuple[SongGroup, ...]
    stages: tuple[Stage, ...]
    runs: tuple[Run, ...]
    machine: str
    """Machine on which the demo was run."""


def write_page(page: Page, path: Path) -> None:
    """Write the page as one HTML file, with styles inside and relative links to audio and pictures."""
    path.write_text(render_page(page), encoding="utf-8")


def render_page(page: Page) -> str:
    """Return the page as HTML."""
    body = "\n".join(
        [
            f"<header><h1>{escape(page.title)}</h1><p>{escape(page.introduction)}</p></header>",
            section("figures", "Figures", _render_figures(page.figures)),
            *(_render_group(number, group) for number, group in enumerate(page.groups) if group.songs),
            section("training", "Training", _render_stages(page.stages)),
            section("runs", "What was run", _render_runs(page.runs, page.machine)),
        ]
    )
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return render_document(page.title, body, style)


def _render_figures(figures: Sequence[Figure]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(figure.label)}</th><td class="value{_verdict_class(figure.reached)}">'
        f"{escape(figure.value)}</td><td>{escape(figure.goal)}</td></tr>"
        for figure in figures
    )
    return (
        '<div class="scroll"><table><thead><tr><th>Measured</th><th>Value</th><th>Goal</th></tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _verdict_class(reached: bool | None) -> str:
    return "" if reached is None else " reached" if reached else " missed"


def _render_group(number: int, group: SongGroup) -> str:
    songs = "\n".join(_render_song(song) for song in group.songs)
    content = f"<p>{escape(group.explanation)}</p>\n"
    if group.folded:
        content += f"<details><summary>Show {len(group.songs)} songs</summary>\n{songs}\n</details>"
    else:
        content += songs
    return section(f"songs-{number}", group.title, content)


def _render_song(song: SongCard) -> str:
    clips = "\n".join(_render_clip(song, clip) for clip in song.clips)
    return (
        f'<article><h3>{escape(song.name)}</h3><p class="caption">{escape(song.caption)}</p>'
        f'<p class="lyrics">{escape(song.lyrics)}</p>\n<div class="clips">\n{clips}\n</div></article>'
    )


def _render_clip(song: SongCard, clip: Clip) -> str:
    picture = ""
    if clip.spectrogram is not None:
        description = escape(f"Spectrogram of {song.name}, {clip.label}")
        picture = f'<img src="{link(clip.spectrogram)}" alt="{description}" loading="lazy">'
    name = escape(f"{song.name}, {clip.label}")
    return (
        f"<figure><figcaption>{escape(clip.label)}</figcaption>{picture}"
        f'<audio controls preload="none" aria-label="{name}" src="{link(clip.audio)}"></audio></figure>'
    )


def _render_stages(stages: Iterable[Stage]) -> str:
    cards = "\n".join(
        f'<article class="stage"><h3>{escape(stage.title)}</h3><p>{escape(stage.facts)}</p>'
        f'<img src="{link(stage.picture)}" alt="{escape("Loss and learning rate of " + stage.title)}" loading="lazy">'
        "</article>"
        for stage in stages
    )
    return f'<div class="stages">\n{cards}\n</div>'


def _render_runs(runs: Sequence[Run], machine: str) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(run.title)}<pre>{escape(run.command)}</pre></td>"
        f'<td class="value">{_time(run.seconds)}</td></tr>'
        for run in runs
    )
    total = _time(sum(run.seconds for run in runs))
    return (
        f'<p>{escape(machine)}</p>\n<div class="scroll"><table class="runs"><thead><tr><th>Step</th><th>Time</th></tr>'
        f'</thead>\n<tbody>\n{rows}\n</tbody><tfoot><tr><th scope="row">All steps</th>'
        f'<td class="value">{total}</td></tr></tfoot></table></div>'
    )


def _time(seconds: float) -> str:
    """Return a duration as ``12.3 s`` or ``2 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
