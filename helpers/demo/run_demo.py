"""Run the demo from songs to trained models: build a corpus, tokenize it, train both modes, generate, report.

Run:
    python helpers/demo/run_demo.py

Each step is a command that can be run by hand, and is printed before it runs. Finished steps are reused: another run
does only what is missing or has other inputs. Everything is written to ``outputs/demo``, ``datasets/demo_songs`` and
``datasets/demo_tokens``; the result is ``outputs/demo/index.html``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from demo_run.machine import environment, measure_speed
from demo_run.steps import Step, StepRunner, digest_sources, run_steps

ROOT = Path(__file__).resolve().parents[2]
SONGS, TOKENS, OUT = Path("datasets/demo_songs"), Path("datasets/demo_tokens"), Path("outputs/demo")
CODEC, TOKENIZERS, UNTRAINED = OUT / "codec", OUT / "tokenizers", OUT / "untrained"
HELPERS, DEMO = Path("helpers"), Path("helpers/demo")
CONFIGS = Path("helpers/training_configs/demo")
MODES = {
    "mixed": ("mixed", Path("training/run_training_mixed.py")),
    "dual": ("dual_track", Path("training/run_training_dual_track.py")),
}
"""Prefix of the stages' files -> name of the mode and its training script."""


def all_steps(num_songs: int, seed: int, dtype: str) -> list[Step]:
    """Return the steps of the demo in order; paths are relative to the repository."""
    steps = [*_preparation(num_songs, seed)]
    stage_folders = []
    for prefix, (mode, script) in MODES.items():
        for config in sorted((ROOT / CONFIGS).glob(f"{prefix}_step*.json"), key=lambda path: path.stem):
            values, sources = read_config(config)
            folder = Path(values["output_dir"])
            stage_folders.append((mode, folder))
            steps.append(
                Step(
                    name=config.stem,
                    title=f"Train the {mode.replace('_', '-')} model: {config.stem.removeprefix(prefix + '_')}",
                    command=(*launch(script, CONFIGS / config.name), "--dtype", dtype),
                    outputs=(folder,),
                    inputs=sources,
                )
            )
    return [*steps, *_report(stage_folders)]


def _preparation(num_songs: int, seed: int) -> list[Step]:
    """Return the steps for songs, codec, tokenizers, untrained model and tokenized data set."""
    data_config = CONFIGS / "data.json"
    return [
        Step(
            name="songs",
            title="Build the demo songs",
            command=(
                "python", f"{DEMO}/build_songs.py", "--out", f"{SONGS}", "--num_songs", f"{num_songs}",
                "--seed", f"{seed}",
            ),
            outputs=(SONGS,),
            cleans_up=True,
        ),
        Step(
            name="codec",
            title="Fit the spectral codec on the songs",
            command=(
                "python", f"{HELPERS}/fit_spectral_codec.py", "--manifest", f"{SONGS}/metadata.jsonl",
                "--out", f"{CODEC}", "--codebook_size", "256",
            ),
            outputs=(CODEC,),
        ),
        Step(
            name="tokenizers",
            title="Train the tokenizers of lyrics and captions",
            command=(
                "python", f"{HELPERS}/train_tokenizers.py", "--manifest", f"{SONGS}/metadata.jsonl",
                "--out", f"{TOKENIZERS}",
            ),
            outputs=(TOKENIZERS,),
        ),
        Step(
            name="untrained",
            title="Make a small untrained model",
            command=(
                "python", f"{HELPERS}/model_init_scripts/init_model_mixed.py", f"{UNTRAINED}", "--preset", "small",
                "--audio_model", f"{CODEC}", "--tokenizers", f"{TOKENIZERS}",
            ),
            outputs=(UNTRAINED,),
        ),
        Step(
            name="tokens",
            title="Tokenize the songs",
            command=launch(Path("training/preprocess_data.py"), data_config),
            outputs=(TOKENS,),
            inputs=read_config(ROOT / data_config)[1],
        ),
    ]  # fmt: skip


def _report(stages: list[tuple[str, Path]]) -> list[Step]:
    """Return the steps for generation with the last stage of each mode, for figures and for the page."""
    last = dict(stages)
    steps = [
        Step(
            name=f"generate_{mode}",
            title=f"Generate songs with the {mode.replace('_', '-')} model",
            command=(
                "python", f"{DEMO}/generate_songs.py", "--model", f"{folder}", "--songs", f"{SONGS}",
                "--out", f"{OUT}/generated/{mode}",
            ),
            outputs=(OUT / "generated" / mode,),
        )
        for mode, folder in last.items()
    ]  # fmt: skip
    figures = (
        "python", f"{DEMO}/figures.py", "--out", f"{OUT}", "--songs", f"{SONGS}", "--tokens", f"{TOKENS}",
        "--codec", f"{CODEC}",
    )  # fmt: skip
    page = (
        "python", f"{DEMO}/build_page.py", "--out", f"{OUT}", "--songs", f"{SONGS}",
        "--stages", *(str(folder) for _, folder in stages),
    )  # fmt: skip
    return [
        *steps,
        Step("figures", "Measure what was learned", figures, (OUT / "figures.json", OUT / "round_trip")),
        Step(
            "page", "Write the page", page,
            (OUT / "index.html", OUT / "originals", OUT / "spectrograms", OUT / "curves"),
        ),
    ]  # fmt: skip


def launch(script: Path, config: Path) -> tuple[str, ...]:
    """Return the launch of a script: one process on all cores, regardless of the user's accelerate settings."""
    return (
        "accelerate", "launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--num_cpu_threads_per_process", f"{os.cpu_count() or 1}", f"{script}", f"{config}",
    )  # fmt: skip


def read_config(path: Path) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Return the values of a configuration and the files that they come from, relative to the repository."""
    from songgen.config.loading import read_config_file

    values, chain = read_config_file(path)
    return values, tuple(Path(file).resolve().relative_to(ROOT) for file in chain)


def ui_command() -> str:
    """Return the command that opens the page of the repository, also where no environment is active."""
    program = Path(sys.executable).with_name("songgen")
    inside = program.is_relative_to(ROOT)
    return shlex.join([str(program.relative_to(ROOT) if inside else program), "ui"])


def main() -> None:
    """Parse the command line and run all steps."""
    parser = argparse.ArgumentParser(description="Run the demo: build songs, train both modes, generate, report.")
    parser.add_argument("--num_songs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ignore_source_changes", action="store_true",
        help="reuse finished steps although the program has changed since (for development)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="precision to train in (if left out: the faster one, measured)"
    )
    arguments = parser.parse_args()
    speed = measure_speed(arguments.dtype)
    print(f"training in {speed.dtype}; about {speed.expected_minutes} minutes if nothing else runs")
    steps = all_steps(arguments.num_songs, arguments.seed, speed.dtype)
    source = digest_sources([ROOT / "songgen", ROOT / "training", ROOT / HELPERS])
    runner = StepRunner(ROOT, ROOT / OUT / "steps", source, environment, ignore_source=arguments.ignore_source_changes)
    run_steps(runner, steps)
    print(f"\nThe demo is ready: open {OUT}/index.html")
    print(f"Its models, songs and curves, to play with: {ui_command()}")


if __name__ == "__main__":
    main()
