"""Fine-tune the demo's mixed model with an adapter: ten songs of a singer that it never heard, in a few minutes.

Run (after run_demo.py):
    python helpers/demo/run_adapter_demo.py

Each step is a command that can be run by hand, and is printed before it runs. Finished steps are reused. The result is
``outputs/demo/singer_adapter``, with ``comparison/index.html``: songs and held-out losses without and with the adapter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo_run.machine import environment, measure_speed
from demo_run.steps import Step, StepRunner, digest_sources, run_steps
from run_demo import CONFIGS, DEMO, MODES, OUT, ROOT, launch, read_config

SONGS, TOKENS = Path("datasets/demo_singer_songs"), Path("datasets/demo_singer_tokens")
BASE, ADAPTER, MERGED = OUT / "mixed_step3", OUT / "singer_adapter", OUT / "singer_merged"
NUM_SONGS, NUM_HELD_OUT = 13, 3


def all_steps(seed: int, dtype: str) -> list[Step]:
    """Return the steps in order; paths are relative to the repository."""
    data, stage = CONFIGS / "singer_data.json", CONFIGS / "singer_adapter.json"
    return [
        Step(
            name="singer_songs",
            title="Build songs of a new singer",
            command=(
                "python", f"{DEMO}/build_songs.py", "--out", f"{SONGS}", "--num_songs", f"{NUM_SONGS}",
                "--num_held_out", f"{NUM_HELD_OUT}", "--seed", f"{seed}", "--new_singer",
            ),
            outputs=(SONGS,),
            cleans_up=True,
        ),
        Step(
            name="singer_tokens",
            title="Tokenize them with the codec and the tokenizers of the base",
            command=launch(Path("training/preprocess_data.py"), data),
            outputs=(TOKENS,),
            inputs=read_config(ROOT / data)[1],
        ),
        Step(
            name="singer_adapter",
            title="Train an adapter, and compare it with the base",
            command=(*launch(MODES["mixed"][1], stage), "--dtype", dtype),
            outputs=(ADAPTER,),
            inputs=read_config(ROOT / stage)[1],
        ),
        Step(
            name="singer_merged",
            title="Merge it into its base",
            command=("songgen", "export", f"{ADAPTER}", "--merge", f"{MERGED}"),
            outputs=(MERGED,),
        ),
    ]  # fmt: skip


def main() -> None:
    """Parse the command line and run all steps."""
    parser = argparse.ArgumentParser(description="Fine-tune the demo's model with an adapter to a new singer.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="precision (if left out: the faster one)")
    arguments = parser.parse_args()
    if not (ROOT / BASE / "model.safetensors").is_file():
        parser.exit(2, f"error: {BASE} is not there yet; run `make demo` first\n")
    source = digest_sources([ROOT / "songgen", ROOT / "training", ROOT / "helpers"])
    runner = StepRunner(ROOT, ROOT / OUT / "adapter_steps", source, environment)
    run_steps(runner, all_steps(arguments.seed, measure_speed(arguments.dtype).dtype))
    print(f"\nThe adapter is ready: open {ADAPTER}/comparison/index.html")


if __name__ == "__main__":
    main()
