"""Write the demo's page from the outputs of the other steps.

Run:
    python helpers/demo/build_page.py --out outputs/demo

The page is ``OUT/index.html``. All files that it links to are in ``OUT`` too, so that the folder can be moved or sent.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo_report.files import ORIGINAL_COLUMNS, GeneratedSong, read_generated, read_songs
from demo_report.page import Figure, Page, SongCard, SongGroup, write_page
from demo_report.parts import finished_runs, machine, make_clip, make_stage

GOAL = 0.95
NUM_OPEN_SONGS = 8
"""Number of training songs that are shown without unfolding."""
TRACK_TITLES = {"mix": "mix", "vocal": "vocal", "acc": "accompaniment"}
SPLIT_TITLES = {"train": "training songs", "eval": "held-out songs"}
MODE_TITLES = {"mixed": "mixed model", "dual_track": "dual-track model"}
INTRODUCTION = (
    "All songs are synthetic: words spoken by espeak-ng and put on notes by Praat, over synthesized chords, bass and "
    "drums. The models were trained on this machine, and generated songs from captions and lyrics only."
)


def build_page(out: Path, songs_folder: Path, stages: Sequence[Path]) -> None:
    """Write ``out/index.html`` and the pictures and audio files on it.

    Args:
        out: Folder of the demo.
        songs_folder: Folder of the demo songs.
        stages: Output folders of the training stages, in order.
    """
    figures = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    songs = read_songs(songs_folder)
    generated = {mode: {song.fname: song for song in read_generated(out / "generated" / mode)} for mode in MODE_TITLES}
    cards = {
        split: [
            _song_card(out, songs_folder, row, generated, with_pictures=split == "eval" or number < NUM_OPEN_SONGS)
            for number, row in enumerate(rows)
        ]
        for split, rows in songs.items()
    }
    page = Page(
        title="Songs by models that were trained on this machine",
        introduction=INTRODUCTION,
        figures=tuple(figure_rows(figures)),
        groups=(
            SongGroup(
                "Training songs",
                "Generated greedily from captions and lyrics of songs in the training data.",
                tuple(cards["train"][:NUM_OPEN_SONGS]),
            ),
            SongGroup(
                "Held-out songs",
                "Sampled from captions and lyrics of songs outside the training data: known words in new orders.",
                tuple(cards["eval"]),
            ),
            SongGroup(
                "All other training songs", "Generated in the same way.",
                tuple(cards["train"][NUM_OPEN_SONGS:]), folded=True,
            ),
        ),
        stages=tuple(make_stage(out, folder) for folder in stages),
        runs=tuple(finished_runs(out / "steps")),
        machine=machine(),
    )  # fmt: skip
    write_page(page, out / "index.html")


def figure_rows(figures: Mapping[str, Any]) -> list[Figure]:
    """Return the rows of the table of figures, from ``figures.json``."""
    rows = []
    for mode, title in MODE_TITLES.items():
        values = figures[mode]
        tracks = values["tracks"]
        for track in tracks if len(tracks) == 1 else [*tracks, "mean"]:
            share = values["first_codebook_agreement"][track]
            is_total = len(tracks) == 1 or track == "mean"
            name = "" if len(tracks) == 1 else f" ({TRACK_TITLES.get(track, 'both tracks')})"
            rows.append(_share(f"First-codebook codes reproduced, {title}{name}", share, is_total))
        for track, share in values["nearest_to_own_original"].items():
            name = "" if len(tracks) == 1 else f" ({TRACK_TITLES[track]})"
            label = f"Songs closest to their own original, {title}{name}"
            rows.append(_share(label, share, track == "mix", values["num_songs"]))
    for split, title in SPLIT_TITLES.items():
        error = figures["codec_quantizer_error"][split]
        rows.append(Figure(f"Error of the codec's quantization, {title} (mix)", f"{error:.3f} nepers"))
        for track, error in figures["codec_log_mel_error"][split].items():
            rows.append(
                Figure(f"Log-mel error of decoded audio, {title} ({TRACK_TITLES[track]})", f"{error:.3f} nepers")
            )
    return rows


def _share(label: str, share: float, has_goal: bool, count: int | None = None) -> Figure:
    value = f"{100 * share:.1f} %" + (f" of {count}" if count is not None else "")
    return Figure(label, value, f"≥ {100 * GOAL:.0f} %", share >= GOAL) if has_goal else Figure(label, value)


def _song_card(
    out: Path,
    songs_folder: Path,
    row: Mapping[str, Any],
    generated: Mapping[str, Mapping[str, GeneratedSong]],
    *,
    with_pictures: bool,
) -> SongCard:
    """Copy a song's original into the folder, draw spectrograms, and list all audio of the song."""
    name = row["fname"]
    original = out / "originals" / f"{name}_mix.wav"
    original.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(songs_folder / row[ORIGINAL_COLUMNS["mix"]], original)
    sounds = [("original", original), ("codec round trip", out / "round_trip" / f"{name}_mix.wav")]
    for mode, title in MODE_TITLES.items():
        song = generated[mode][name]
        how = "greedy" if song.greedy else "sampled"
        sounds.append((f"{title}, {how}", out / "generated" / mode / song.files["mix"]))
        if len(song.tracks) > 1:
            sounds += [
                (f"{title}: {TRACK_TITLES[track]}", out / "generated" / mode / song.files[track])
                for track in sorted(song.tracks, reverse=True)
            ]
    clips = tuple(make_clip(out, label, path, with_picture=with_pictures) for label, path in sounds)
    return SongCard(name, row["caption"], row["lyrics"], clips)


def main() -> None:
    """Parse the command line and write the page."""
    parser = argparse.ArgumentParser(description="Write the demo's page.")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--songs", type=Path, default=Path("datasets/demo_songs"))
    parser.add_argument("--stages", type=Path, nargs="*", default=[], help="output folders of the training stages")
    arguments = parser.parse_args()
    try:
        build_page(arguments.out, arguments.songs, arguments.stages)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.out / 'index.html'}")


if __name__ == "__main__":
    main()
