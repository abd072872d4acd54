"""Generate songs with a trained demo model: training songs greedily, held-out songs by sampling.

Run:
    python helpers/demo/generate_songs.py --model outputs/demo/mixed_step3 --out outputs/demo/generated/mixed

Each song is generated from its caption and lyrics only. The folder contains a wav file for each track and for the mix,
``codes.safetensors`` (N x K x T for each song) and ``songs.jsonl``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from demo_report.files import CODES_FILE, SPLITS, GeneratedSong, read_songs, write_generated, write_sound
from safetensors.torch import save_file

from songgen import SongGenProcessor
from songgen.generation.song_audio import SongAudio
from songgen.models import SongGenForConditionalGeneration

EXTRA_SECONDS = 1.0
"""Seconds by which a generated song may be longer than the longest demo song."""


def generate_songs(
    model: SongGenForConditionalGeneration,
    processor: Any,
    rows: list[dict[str, Any]],
    options: dict[str, Any],
    batch_size: int,
) -> list[SongAudio]:
    """Generate a song for each row, in batches; the songs of a batch do not affect each other."""
    batches = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        inputs = processor(
            text=[row["caption"] for row in batch],
            lyrics=[row["lyrics"] for row in batch],
            language=[row["language"] for row in batch],
        )
        batches.append(model.generate(**inputs, **options, return_songs=True))
        print(f"  {start + len(batch)} of {len(rows)} songs", flush=True)
    return batches


def save_songs(
    out: Path, split: str, greedy: bool, rows: list[dict[str, Any]], batches: list[SongAudio]
) -> tuple[list[GeneratedSong], dict[str, torch.Tensor]]:
    """Write the audio of generated songs, and return their rows and codes."""
    songs, codes = [], {}
    sounds = [(batch, index) for batch in batches for index in range(len(batch.codes))]
    for row, (batch, index) in zip(rows, sounds, strict=True):
        name, length = row["fname"], int(batch.lengths[index])
        files = {}
        for track, waveforms in {**batch.tracks, "mix": batch.mix}.items():
            files[track] = f"{name}_{track}.wav"
            write_sound(out / files[track], waveforms[index, :length].cpu().numpy(), batch.sampling_rate)
        codes[name] = batch.codes[index].to("cpu", torch.int16).contiguous()
        songs.append(GeneratedSong(name, split, greedy, codes[name].shape[-1], files, tuple(batch.tracks)))
    return songs, codes


def main() -> None:
    """Parse the command line and generate."""
    parser = argparse.ArgumentParser(description="Generate the demo's songs with a trained model.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--songs", type=Path, default=Path("datasets/demo_songs"), help="folder of the demo songs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampled songs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    # The steps of a small model are too short to gain from several threads, which may have to wait for a core.
    torch.set_num_threads(1)
    model = SongGenForConditionalGeneration.from_pretrained(arguments.model).to(arguments.device)
    processor = SongGenProcessor(arguments.model, arguments.device)
    songs = read_songs(arguments.songs)
    longest = max(row["duration"] for rows in songs.values() for row in rows)
    written: list[GeneratedSong] = []
    codes: dict[str, torch.Tensor] = {}
    for split in SPLITS:
        greedy = split == "train"
        print(f"{split}: {len(songs[split])} songs, {'greedy' if greedy else 'sampled'}", flush=True)
        options: dict[str, Any] = {"do_sample": not greedy, "max_seconds": longest + EXTRA_SECONDS}
        if not greedy:
            options["seed"] = arguments.seed
        batches = generate_songs(model, processor, songs[split], options, arguments.batch_size)
        split_songs, split_codes = save_songs(arguments.out, split, greedy, songs[split], batches)
        written += split_songs
        codes |= split_codes
    save_file(codes, arguments.out / CODES_FILE)
    write_generated(arguments.out, written)


if __name__ == "__main__":
    main()
