"""Kill training, saving and preprocessing at random moments, and compare every continuation with an uninterrupted run.

Training is also killed while it is steered by commands: the kind `commands`.

`python tests/faults/random_kills.py --kills 200 --out FOLDER` writes FOLDER/random_kills.json and exits with 1 if one
continuation is not equal: files of every checkpoint by hash (weights, optimizer, average, random state, position), and
every shard of a data set. Runs with one and with two processes take turns.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import torch
from killing import Kill, kill_at_random, summary, write_summary
from tqdm import tqdm

KINDS = ("training", "saving", "commands", "preprocessing")


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this one; may be given several times")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True, help="folder for the summary and the runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread may hold the bars' lock at the moment of a fork
    kinds = arguments.kind or KINDS
    counts = {kind: (arguments.kills + place) // len(kinds) for place, kind in enumerate(kinds)}
    began = time.monotonic()
    with tqdm(total=arguments.kills, desc="kills", unit="kill") as bar:

        def report(kill: Kill) -> None:
            bar.update()
            bar.set_postfix_str(kill.kind)
            if kill.problem is not None:
                bar.write(f"{kill.kind}, killed after {kill.moment:.3f} s: {kill.problem}")

        kills = kill_at_random(arguments.out / "runs", counts, seed=arguments.seed, report=report)
    result = summary(kills, time.monotonic() - began)
    write_summary(arguments.out / "random_kills.json", result)
    for kind, figures in result["kinds"].items():
        print(f"{kind:14s} {figures['exact']} of {figures['kills']} kills continued exactly")
    print(f"{result['exact_continuations']} of {result['kills']} in {result['seconds']} s")
    return int(result["exact_continuations"] != result["kills"])


if __name__ == "__main__":
    sys.exit(main())
