"""Train a small flow-matching model of the kind of ACE-Step on a dozen songs, and generate them.

Run:
    python helpers/demo/run_flow_demo.py

Each step is a command that can be run by hand, and is printed before it runs. Finished steps are reused, and an
interrupted one is resumed. The result is ``outputs/demo/flow/index.html``: originals, what the autoencoder makes of
them, and songs that were generated from captions and lyrics.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo_run.machine import environment
from demo_run.steps import Step, StepRunner, digest_sources, run_steps
from run_demo import CONFIGS, DEMO, HELPERS, OUT, ROOT, launch, read_config

SONGS, LATENTS = Path("datasets/demo_flow_songs"), Path("datasets/demo_flow_latents")
UNTRAINED, MODEL, PAGE, STEPS = OUT / "flow_untrained", OUT / "flow_model", OUT / "flow", OUT / "flow_steps"
NUM_SONGS, NUM_HELD_OUT = 14, 2


def all_steps(seed: int) -> list[Step]:
    """Return the steps in order; paths are relative to the repository."""
    data, training = CONFIGS / "flow_data.json", CONFIGS / "flow.json"
    return [
        Step(
            name="flow_songs",
            title="Build the songs",
            command=(
                "python", f"{DEMO}/build_songs.py", "--out", f"{SONGS}", "--num_songs", f"{NUM_SONGS}",
                "--num_held_out", f"{NUM_HELD_OUT}", "--seed", f"{seed}",
            ),
            outputs=(SONGS,),
            cleans_up=True,
        ),
        Step(
            name="flow_untrained",
            title="Make a small untrained model, with an autoencoder fitted to the songs",
            command=("python", f"{DEMO}/build_flow_model.py", "--songs", f"{SONGS}", "--out", f"{UNTRAINED}"),
            outputs=(UNTRAINED,),
        ),
        Step(
            name="flow_latents",
            title="Tokenize the songs to latents",
            command=launch(Path("training/preprocess_data.py"), data),
            outputs=(LATENTS,),
            inputs=read_config(ROOT / data)[1],
        ),
        Step(
            name="flow_model",
            title="Train the model",
            command=launch(Path("training/run_training_flow.py"), training),
            outputs=(MODEL,),
            inputs=read_config(ROOT / training)[1],
        ),
        Step(
            name="flow_generated",
            title="Generate the songs",
            command=(
                "python", f"{DEMO}/generate_flow_songs.py", "--model", f"{MODEL}", "--songs", f"{SONGS}",
                "--out", f"{PAGE}/generated",
            ),
            outputs=(PAGE / "generated",),
        ),
        Step(
            name="flow_page",
            title="Measure what was learned, and write the page",
            command=(
                "python", f"{DEMO}/report_flow.py", "--out", f"{PAGE}", "--songs", f"{SONGS}",
                "--latents", f"{LATENTS}", "--model", f"{MODEL}", "--steps", f"{STEPS}",
            ),
            outputs=(PAGE / "index.html", PAGE / "figures.json", PAGE / "round_trip"),
        ),
    ]  # fmt: skip


def main() -> None:
    """Parse the command line and run all steps."""
    parser = argparse.ArgumentParser(description="Train a small flow-matching model on a dozen songs, and generate.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ignore_source_changes", action="store_true",
        help="reuse finished steps although the program has changed since (for development)",
    )  # fmt: skip
    arguments = parser.parse_args()
    steps = all_steps(arguments.seed)
    source = digest_sources([ROOT / "songgen", ROOT / "training", ROOT / HELPERS])
    runner = StepRunner(ROOT, ROOT / STEPS, source, environment, ignore_source=arguments.ignore_source_changes)
    run_steps(runner, steps)
    print(f"\nThe flow demo is ready: open {PAGE}/index.html")


if __name__ == "__main__":
    main()
