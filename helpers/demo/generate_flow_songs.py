"""Generate the flow demo's songs: `songgen generate` for each of them, in one process.

Run:
    python helpers/demo/generate_flow_songs.py --model outputs/demo/flow_model --songs datasets/demo_flow_songs \
        --out outputs/demo/flow/generated
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from demo_flow.autoencoder import FRAME_SAMPLES
from demo_report.files import GeneratedSong, read_songs, read_sound, write_generated

from songgen.cli.main import main as songgen

STEPS = 30
"""Steps of a song; 50 do not sound better."""
TRACK = "mix"


def generate_song(model: Path, row: dict[str, Any], out: Path, seed: int) -> None:
    """Write a song from its caption and its lyrics, as long as the original.

    Raises:
        ValueError: if the command fails; it has printed why.
    """
    command = [
        "generate", "--model", f"{model}", "--out", f"{out}", "--caption", row["caption"], "--lyrics", row["lyrics"],
        "--language", row["language"], "--seconds", f"{row['duration']}", "--steps", f"{STEPS}", "--guidance", "1",
        "--seed", f"{seed}",
    ]  # fmt: skip
    if songgen(command) != 0:
        raise ValueError(f"{row['fname']} was not generated")


def main() -> None:
    """Parse the command line and generate."""
    parser = argparse.ArgumentParser(description="Generate the flow demo's songs with its trained model.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--songs", type=Path, default=Path("datasets/demo_flow_songs"), help="folder of the songs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of all songs")
    arguments = parser.parse_args()
    # The steps of a small model are too short to gain from several threads, which may have to wait for a core.
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = []
    for split, rows in read_songs(arguments.songs).items():
        for row in rows:
            file = f"{row['fname']}_{TRACK}.wav"
            try:
                generate_song(arguments.model, row, arguments.out / file, arguments.seed)
            except ValueError as error:
                parser.exit(1, f"error: {error}\n")
            frames = len(read_sound(arguments.out / file)[0]) // FRAME_SAMPLES
            written.append(GeneratedSong(row["fname"], split, False, frames, {TRACK: file}, (TRACK,)))
    write_generated(arguments.out, written)


if __name__ == "__main__":
    main()
