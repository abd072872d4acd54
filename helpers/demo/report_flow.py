"""Measure the flow demo's model, and write its page.

Run:
    python helpers/demo/report_flow.py --out outputs/demo/flow --songs datasets/demo_flow_songs \
        --latents datasets/demo_flow_latents --model outputs/demo/flow_model

Reads the songs, the latents of the data set and ``OUT/generated``; writes ``OUT/figures.json``, ``OUT/round_trip``
(the latents decoded) and ``OUT/index.html`` with all files that it links to.

Songs are compared by the mean difference of their log-mel spectrograms, all at the same level, since the pipeline
gives every song the same peak:

- nearest to its own original: share of the training songs whose generated song is closer to its own original than to
  that of any other.
- difference of generated songs: mean difference to the own original, and to those of the other songs.
- autoencoder: mean difference between originals and their decoded latents.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_report.files import ORIGINAL_COLUMNS, GeneratedSong, read_generated, read_songs, read_sound, write_sound
from demo_report.measures import demo_log_mel, nearest_originals
from demo_report.page import Figure, Page, SongCard, SongGroup, write_page
from demo_report.parts import finished_runs, machine, make_clip, make_stage
from numpy.typing import NDArray

from songgen.data.dataset import SongDataset
from songgen.families.flow.pipeline import AUTOENCODER, open_component
from songgen.metrics.mel import mel_distance

GOAL = 0.9
LEVEL = 0.08
"""Root mean square of the samples at which songs are compared, close to that of the originals."""
SILENCE = 1e-6
TRACK = "mix"
FIGURES_FILE = "figures.json"
GROUPS = {
    "train": ("Training songs", "Generated from captions and lyrics of the songs that the model was trained on."),
    "eval": (
        "Other songs",
        "Generated from captions and lyrics that the model has never read. A dozen songs teach it those songs, and not "
        "how to sing others.",
    ),
}
"""Split -> title and explanation of its songs."""
INTRODUCTION = (
    "A small flow-matching model of the kind of ACE-Step, with all of its parts, was trained on this machine. It "
    "generates songs from captions and lyrics only, from noise. The songs are synthetic, as in the other demo."
)


def decode_latents(songs_folder: Path, latents_folder: Path, model: Path, out: Path) -> None:
    """Write the latents of the data set as sound."""
    autoencoder = open_component(model, AUTOENCODER)
    for split, rows in read_songs(songs_folder).items():
        lengths = {row["fname"]: round(row["duration"] * autoencoder.config.sampling_rate) for row in rows}
        dataset = SongDataset.open(latents_folder, split)
        for row in map(dataset.row, range(len(dataset))):
            latents = torch.from_numpy(row.targets[TRACK].astype(np.float32))[None]
            with torch.no_grad():
                sound = autoencoder.decode(latents).sample[0].mean(dim=0)
            path = out / f"{row.id}_{TRACK}.wav"
            write_sound(path, sound[: lengths[row.id]].numpy(), autoencoder.config.sampling_rate)


def leveled_mel(path: Path) -> NDArray[np.float32]:
    """Return the spectrogram of a file at the level at which songs are compared."""
    samples, sample_rate = read_sound(path)
    level = float(np.sqrt((samples**2).mean()))
    return demo_log_mel(samples * (LEVEL / max(level, SILENCE)), sample_rate)


def measure(songs_folder: Path, out: Path) -> dict[str, Any]:
    """Return the figures of the generated and of the decoded songs."""
    originals, decoded = (
        {
            split: {row["fname"]: leveled_mel(path(row)) for row in rows}
            for split, rows in read_songs(songs_folder).items()
        }
        for path in (
            lambda row: songs_folder / row[ORIGINAL_COLUMNS[TRACK]],
            lambda row: out / "round_trip" / f"{row['fname']}_{TRACK}.wav",
        )
    )
    songs = [song for song in read_generated(out / "generated") if song.split == "train"]
    names = list(originals["train"])
    generated = [leveled_mel(out / "generated" / song.files[TRACK]) for song in songs]
    nearest = nearest_originals(generated, list(originals["train"].values()))
    own: list[float] = []
    others: list[float] = []
    for song, mel in zip(songs, generated, strict=True):
        for name, original in originals["train"].items():
            (own if name == song.fname else others).append(mel_distance(mel, original))
    return {
        "num_songs": len(songs),
        "nearest_to_own_original": float(
            np.mean([names[index] == song.fname for index, song in zip(nearest, songs, strict=True)])
        ),
        "difference_to_own_original": float(np.mean(own)),
        "difference_to_other_originals": float(np.mean(others)),
        "autoencoder_difference": {
            split: float(np.mean([mel_distance(decoded[split][name], mel) for name, mel in mels.items()]))
            for split, mels in originals.items()
        },
    }


def figure_rows(figures: Mapping[str, Any]) -> list[Figure]:
    """Return the rows of the table of figures."""
    share = figures["nearest_to_own_original"]
    errors = figures["autoencoder_difference"]
    return [
        Figure(
            "Songs closest to their own original",
            f"{100 * share:.1f} % of {figures['num_songs']}",
            f"≥ {100 * GOAL:.0f} %",
            share >= GOAL,
        ),
        Figure("Difference to the own original", f"{figures['difference_to_own_original']:.3f} nepers"),
        Figure("Difference to the other originals", f"{figures['difference_to_other_originals']:.3f} nepers"),
        Figure("Difference made by the autoencoder, training songs", f"{errors['train']:.3f} nepers"),
        Figure("Difference made by the autoencoder, other songs", f"{errors['eval']:.3f} nepers"),
    ]


def write_flow_page(out: Path, songs_folder: Path, model: Path, steps: Path) -> None:
    """Write ``out/index.html`` and the pictures and audio files on it."""
    generated = {song.fname: song for song in read_generated(out / "generated")}
    groups = []
    for split, rows in read_songs(songs_folder).items():
        title, explanation = GROUPS[split]
        cards = tuple(song_card(out, songs_folder, row, generated[row["fname"]]) for row in rows)
        groups.append(SongGroup(title, explanation, cards))
    page = Page(
        title="Songs by a flow-matching model that was trained on this machine",
        introduction=INTRODUCTION,
        figures=tuple(figure_rows(json.loads((out / FIGURES_FILE).read_text(encoding="utf-8")))),
        groups=tuple(groups),
        stages=(make_stage(out, model),),
        runs=tuple(finished_runs(steps)),
        machine=machine(),
    )
    write_page(page, out / "index.html")


def song_card(out: Path, songs_folder: Path, row: Mapping[str, Any], song: GeneratedSong) -> SongCard:
    """Copy a song's original into the folder, and list its three sounds with spectrograms."""
    file = f"{row['fname']}_{TRACK}.wav"
    original = out / "originals" / file
    original.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(songs_folder / row[ORIGINAL_COLUMNS[TRACK]], original)
    sounds = {
        "original": original,
        "autoencoder round trip": out / "round_trip" / file,
        "generated": out / "generated" / song.files[TRACK],
    }
    clips = tuple(make_clip(out, label, path, with_picture=True) for label, path in sounds.items())
    return SongCard(row["fname"], row["caption"], row["lyrics"], clips)


def main() -> None:
    """Parse the command line, measure and write the page."""
    parser = argparse.ArgumentParser(description="Measure the flow demo's model, and write its page.")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo/flow"), help="folder of the page")
    parser.add_argument("--songs", type=Path, default=Path("datasets/demo_flow_songs"))
    parser.add_argument("--latents", type=Path, default=Path("datasets/demo_flow_latents"), help="tokenized data set")
    parser.add_argument(
        "--model", type=Path, default=Path("outputs/demo/flow_model"), help="folder of the trained model"
    )
    parser.add_argument(
        "--steps", type=Path, default=Path("outputs/demo/flow_steps"), help="records of the demo's steps"
    )
    arguments = parser.parse_args()
    try:
        decode_latents(arguments.songs, arguments.latents, arguments.model, arguments.out / "round_trip")
        figures = measure(arguments.songs, arguments.out)
        text = json.dumps(figures, indent=2)
        (arguments.out / FIGURES_FILE).write_text(text + "\n", encoding="utf-8")
        write_flow_page(arguments.out, arguments.songs, arguments.model, arguments.steps)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(text)


if __name__ == "__main__":
    main()
