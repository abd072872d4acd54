"""Make the flow demo's untrained pipeline: a diffusers folder whose autoencoder and tokenizer are fitted to the songs.

Run:
    python helpers/demo/build_flow_model.py --songs datasets/demo_flow_songs --out outputs/demo/flow_untrained
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo_flow.pipeline import make_pipeline
from demo_report.files import ORIGINAL_COLUMNS, SPLITS, read_rows, read_sound


def build_flow_model(songs_folder: Path, out: Path, seed: int) -> None:
    """Write the pipeline for the training songs of a folder."""
    rows = read_rows(songs_folder / SPLITS["train"])
    sounds = [read_sound(songs_folder / row[ORIGINAL_COLUMNS["mix"]]) for row in rows]
    pipeline = make_pipeline([samples for samples, _ in sounds], rows, sounds[0][1], seed)
    pipeline.save_pretrained(out)


def main() -> None:
    """Parse the command line and write the folder."""
    parser = argparse.ArgumentParser(description="Make the flow demo's untrained pipeline.")
    parser.add_argument("--songs", type=Path, default=Path("datasets/demo_flow_songs"), help="folder of the songs")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo/flow_untrained"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    arguments = parser.parse_args()
    build_flow_model(arguments.songs, arguments.out, arguments.seed)
    print(f"{arguments.out}")


if __name__ == "__main__":
    main()
