"""Flip random bits in all that the program writes, and run every command that reads it.

`python tests/faults/random_flips.py --flips 70 --out FOLDER` flips one bit at a time, in turns in a model folder, a
run, its checkpoints, prepared and tokenized data sets and the work folders of both; each command then gets a copy. It
prints a table, writes FOLDER/flips.jsonl, and exits with 1 if a command uses damaged data without naming the file. A
flip takes five to ten seconds.
"""

import argparse
import json
import os
import random
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import torch
from flipping import SILENT, UNNAMED, World, table
from tqdm import tqdm


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=70, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the bits")
    parser.add_argument("--out", type=Path, required=True, help="folder for the list and the world, which is emptied")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread may hold the bars' lock at the moment of a fork
    shutil.rmtree(arguments.out, ignore_errors=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(arguments.out.absolute() / "caches")}
    world, draws, flips = World(arguments.out.absolute()), random.Random(arguments.seed), []
    kinds = list(world.places())
    with (arguments.out / "flips.jsonl").open("w", buffering=1) as lines:
        for number in tqdm(range(arguments.flips), unit="flip"):
            for flip in world.flip(kinds[number % len(kinds)], draws):
                flips.append(flip)
                lines.write(json.dumps(vars(flip)) + "\n")
    print(table(flips))
    bad = [flip for flip in flips if flip.outcome in (SILENT, UNNAMED)]
    print("\n".join(f"{flip.reader}: {flip.file}, {flip.where}: {flip.outcome}" for flip in bad))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
