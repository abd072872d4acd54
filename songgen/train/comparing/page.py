"""Writes a comparison: `comparison.json`, and a page that plays the songs side by side and needs nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from songgen.runtime.files import new_folder, write_text_atomic
from songgen.train.comparing.measure import ORIGINAL, WITH, WITHOUT, ComparedSong, Comparison
from songgen.train.comparing.pictures import spectrogram_png
from songgen.web.document import link, render_document, section

COMPARISON_FOLDER = "comparison"
COMPARISON_FILE = "comparison.json"
PAGE_FILE = "index.html"
COMPARISON_SCHEMA_VERSION = 1

_TITLES = {ORIGINAL: "original", WITHOUT: "without the adapter", WITH: "with the adapter"}
_SHOWN_DIGITS = 4


@dataclass(frozen=True)
class Subject:
    """What was compared."""

    adapter: str
    """Name of the adapter or run."""
    base: str
    """Name of the base model."""
    step: int | None = None
    """Completed optimizer steps."""


def write_comparison(comparison: Comparison, subject: Subject, folder: Path) -> None:
    """Write page, sounds and pictures into `FOLDER/comparison`, and `FOLDER/comparison.json`, in place of earlier ones.

    Raises:
        OSError: if something cannot be written.
    """
    target = folder / COMPARISON_FOLDER
    if target.is_dir():
        shutil.rmtree(target)
    with new_folder(target) as fresh:
        files = {song.name: _write_sounds(song, number, fresh) for number, song in enumerate(comparison.songs, 1)}
        (fresh / PAGE_FILE).write_text(render(comparison, subject, files), encoding="utf-8")
    write_text_atomic(folder / COMPARISON_FILE, json.dumps(_record(comparison, subject, files), indent=1) + "\n")


Files = dict[str, dict[str, str]]
"""Side -> track -> sound file, relative to the page; its picture has the same name and the ending `.png`."""


def _write_sounds(song: ComparedSong, number: int, folder: Path) -> Files:
    files: Files = {}
    for side, tracks in song.sounds.items():
        for track, sound in tracks.items():
            name = f"{number:02d}_{side}_{track}.wav"
            soundfile.write(folder / name, np.clip(sound.waveform.T, -1, 1), sound.sample_rate, subtype="PCM_16")
            picture = spectrogram_png(np.atleast_2d(sound.waveform).mean(axis=0), sound.sample_rate)
            (folder / name).with_suffix(".png").write_bytes(picture)
            files.setdefault(side, {})[track] = name
    return files


def _record(comparison: Comparison, subject: Subject, files: dict[str, Files]) -> dict[str, Any]:
    """Return the comparison as a JSON object."""
    return {
        "schema_version": COMPARISON_SCHEMA_VERSION,
        "adapter": subject.adapter,
        "base": subject.base,
        "step": subject.step,
        "clips": len(comparison.improvements),
        WITHOUT: comparison.metrics[WITHOUT],
        WITH: comparison.metrics[WITH],
        "improvement": comparison.improvement,
        "standard_error": comparison.standard_error,
        "warnings": comparison.warnings(),
        "songs": [
            {"id": song.name, "unchanged": song.is_unchanged, "files": files[song.name]} for song in comparison.songs
        ],
    }


def summary(comparison: Comparison) -> str:
    """Return the result as one line."""
    before, after = (comparison.metrics[side]["loss"] for side in (WITHOUT, WITH))
    return (
        f"held-out loss {after:.4g} with the adapter, {before:.4g} without ({_percent(before, after)}; "
        f"{len(comparison.improvements)} clips)"
    )


def render(comparison: Comparison, subject: Subject, files: dict[str, Files]) -> str:
    """Return the page as HTML; all text from songs is escaped."""
    step = "" if subject.step is None else f", step {subject.step:,}"
    head = (
        f"<header><h1>What the adapter changes</h1><p>{escape(subject.adapter)}{step}, on {escape(subject.base)}. "
        f"{escape(summary(comparison))}.</p></header>"
    )
    warnings = "".join(f"<li>{escape(text)}</li>" for text in comparison.warnings())
    parts = [head]
    if warnings:
        parts.append(f'<ul class="warnings">{warnings}</ul>')
    parts.append(section("loss", "Held-out clips", _table(comparison)))
    if comparison.songs:
        songs = "\n".join(_song(song, files[song.name]) for song in comparison.songs)
        explanation = "<p>From the captions, lyrics and voices of held-out clips, each with the same seed.</p>"
        parts.append(section("songs", "Songs", f"{explanation}\n{songs}"))
    style = (Path(__file__).parent / "comparison_page.css").read_text(encoding="utf-8")
    return render_document("What the adapter changes", "\n".join(parts), style)


def _table(comparison: Comparison) -> str:
    without, with_it = comparison.metrics[WITHOUT], comparison.metrics[WITH]
    plain = [name for name in without if name in with_it and "codebook" not in name]
    detailed = [name for name in without if name in with_it and "codebook" in name]
    table = _rows(comparison, plain)
    if detailed:
        table += f"\n<details><summary>By track and codebook</summary>\n{_rows(comparison, detailed)}\n</details>"
    return table


def _rows(comparison: Comparison, names: Iterable[str]) -> str:
    rows = []
    for name in names:
        before, after = comparison.metrics[WITHOUT][name], comparison.metrics[WITH][name]
        is_better = (after > before) if name.endswith("accuracy") else (after < before)
        has_verdict = after != before and not name.endswith(("seconds", "db"))
        kind = (" class=better" if is_better else " class=worse") if has_verdict else ""
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{before:.{_SHOWN_DIGITS}g}</td><td>{after:.{_SHOWN_DIGITS}g}</td>"
            f"<td{kind}>{_percent(before, after)}</td></tr>"
        )
    return (
        '<div class="scroll"><table><thead><tr><th></th><th>without</th><th>with</th><th>change</th></tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def _percent(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else "-"


def _song(song: ComparedSong, files: Files) -> str:
    figures = [
        f'<figure><figcaption>{escape(_TITLES[side])}: {escape(track)}</figcaption><img src="{link(_picture(name))}" '
        f'alt="spectrogram"><audio controls preload="none" src="{link(name)}"></audio></figure>'
        for side in (ORIGINAL, WITHOUT, WITH)
        for track, name in files.get(side, {}).items()
    ]
    same = "<p class=worse>The same song with and without the adapter.</p>" if song.is_unchanged else ""
    return (
        f"<article><h3>{escape(song.name)}</h3><p>{escape(song.caption)}</p>{same}"
        f'<p class="lyrics">{escape(song.lyrics)}</p>\n<div class="sides">\n{chr(10).join(figures)}\n</div></article>'
    )


def _picture(sound: str) -> str:
    return str(Path(sound).with_suffix(".png"))
