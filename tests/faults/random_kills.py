"""Kill training, saving, tokenizing and preparing at random moments, and compare with an uninterrupted run.

Training is also killed while it is steered by commands: the kind `commands`. With `--family flow`, a flow-matching
model is trained in these three kinds.

`python tests/faults/random_kills.py --kills 200 --out FOLDER` writes FOLDER/random_kills.json, and exits with 1 if one
continuation is not equal: files of every checkpoint by hash (weights, optimizer, average, random state, position), and
every file of a data set. FOLDER/kills.jsonl gets a line for each kill.

- training, saving, preprocessing: all processes of a run are killed at once; with one and two processes in turns;
- launched-training, launched-tokenizing, launched-preparing: the commands themselves, in two processes, of which one
  (the launcher, a rank, or a process that reads data) gets a signal, SIGKILL for the most part. No process may remain.
  A kill takes two starts of a command, 20 seconds on two cores.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import torch
from killing import Kill, kill_at_random, summary, write_summary
from launched_kills import LAUNCHED
from run_forms import ADAPTER, FLOW_ADAPTER
from tqdm import tqdm

OF_TRAINING = ("training", "saving", "commands")
KINDS = (*OF_TRAINING, "preprocessing", *LAUNCHED)


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this one; may be given several times")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--family", choices=("tokens", "flow"), default="tokens", help="family of the trained model")
    parser.add_argument("--adapter", action="store_true", help="train an adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder for the summary and the runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread may hold the bars' lock at the moment of a fork
    kinds = arguments.kind or (OF_TRAINING if arguments.family == "flow" else KINDS)
    counts = {kind: (arguments.kills + place) // len(kinds) for place, kind in enumerate(kinds)}
    is_flow = arguments.family == "flow"
    changes = (FLOW_ADAPTER if is_flow else ADAPTER) if arguments.adapter else None
    began = time.monotonic()
    with tqdm(total=arguments.kills, desc="kills", unit="kill") as bar:

        def report(kill: Kill) -> None:
            bar.update()
            bar.set_postfix_str(kill.kind)
            with (arguments.out / "kills.jsonl").open("a") as lines:
                lines.write(json.dumps(vars(kill)) + "\n")
            if kill.problem is not None:
                bar.write(f"{kill.kind}, {kill.victim} killed after {kill.moment:.3f} s: {kill.problem}")

        kills = kill_at_random(
            arguments.out / "runs",
            counts,
            seed=arguments.seed,
            report=report,
            others=LAUNCHED,
            changes=changes,
            is_flow=is_flow,
        )
    result = summary(kills, time.monotonic() - began)
    write_summary(arguments.out / "random_kills.json", result)
    for kind, figures in result["kinds"].items():
        print(f"{kind:20s} {figures['exact']} of {figures['kills']} kills continued exactly")
        if "seconds_until_gone" in figures:
            median, worst = figures["seconds_until_gone"].values()
            print(f"{'':20s} all processes had ended after {median:.1f} s (median), {worst:.1f} s (worst)")
    print(f"{result['exact_continuations']} of {result['kills']} in {result['seconds']} s")
    return int(result["exact_continuations"] != result["kills"])


if __name__ == "__main__":
    sys.exit(main())
