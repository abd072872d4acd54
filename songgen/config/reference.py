"""Writes docs/configuration.md from the dataclasses: ``python -m songgen.config.reference``."""

import json
from pathlib import Path

from songgen.config.ignored import ALIASES, USE_INSTEAD
from songgen.config.keys import GROUPS, all_keys
from songgen.config.types import describe

REFERENCE_FILE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

This file is written by `python -m songgen.config.reference`; a test compares the two.

A run is described by one flat JSON file, by overrides on the command line, or by both:

    accelerate launch training/run_training_mixed.py helpers/training_configs/mixed_pro/step1.json --learning_rate 2e-4

- `--key value` and `--key=value` override the file. Lists and tables are written as JSON (`--report_to '["wandb"]'`), a
  switch may stand alone (`--do_eval`), `none` is JSON's null. `--help` prints all keys.
- `"base": "other.json"` starts from another file; its path is relative to the file that names it. The nearer file wins.
- All other paths are relative to the folder that the command is started in.
- Everything is checked before anything is loaded, and all problems are reported at once: unknown keys with the nearest
  real one, values of a wrong type, and keys that contradict each other.
- The resolved configuration is saved with the run as one flat file, which can be launched again.
- Credentials are refused (`token`, `hub_token`): use `hf auth login`, or HF_TOKEN and WANDB_API_KEY in the environment.
- A file for `preprocess_data.py` says `"preprocessing_only": true`; every other one needs `model_name_or_path`,
  `output_dir` and `save_to_disk`.
"""

TITLES = {"model": "Model", "data": "Data", "training": "Training"}

SCRIPTS = {
    "`training/preprocess_data.py`": "`training/preprocess_data.py`",
    "`training/run_songgen_training_mixed.py`": "`training/run_training_mixed.py`",
    "`training/run_songgen_training_dual_track.py`": "`training/run_training_dual_track.py`",
    "`helpers/training_configs/data_musiccaps.json`": "`helpers/training_configs/data_musiccaps.json`",
    "`mixed_pro_step1`, `_step2_a`, `_step2_b`, `_step3`": "`helpers/training_configs/mixed_pro/step1.json` ...",
    "`inter_A_V_step1_5`, `_step2_a`, `_step2_b`, `_step3`": "`helpers/training_configs/inter_A_V/step1_5.json` ...",
    "copying `mixed_pro/step1` to `inter_A_V/step1` by hand": "not needed: step1_5 starts from the mixed model",
    '`"ref_voice_column_name": ["mert_input", "none"]`': '`"voice_choices": {"vocal": 1, "none": 1}` (both are read)',
    "`token`, `hub_token`, `use_auth_token`": "`hf auth login`, or HF_TOKEN in the environment",
}
"""What the published repository calls a script, a file or a step, and what it is here."""

OTHER_DEFAULTS = {
    "attn_implementation": ("eager", "the fused kernel computes the same, faster"),
    "prompt_cross_attention": (True, "the model's own setting holds; models are made with true"),
    "rope_embeddings": (False, "the model's own setting holds; models are made with false"),
    "track_pattern": ("mixed_pro", "the model's own layout holds"),
    "loading_method": ("hf", "the name of the data set says how it is read"),
    "adam_beta2": (0.999, "the value of the published files"),
    "weight_decay": (0.0, "the value of the published files"),
    "lr_scheduler_type": ("linear", "the value of the published files"),
    "seed": (42, "the value of the published files"),
    "do_train": (False, "a training script trains"),
    "logging_steps": (500, "short runs show something too"),
    "save_total_limit": (None, "disks fill up"),
    "report_to": ("all", "nothing is sent anywhere unless asked for"),
    "wandb_project": ("soggen", "a slip of the pen"),
}
"""Keys whose default differs from the published one: that default, and the reason."""


def reference_text() -> str:
    """Return the text of docs/configuration.md."""
    parts = [INTRODUCTION]
    for group, arguments in GROUPS.items():
        parts += [f"## {TITLES[group]}\n", f"{arguments.__doc__}\n", _key_table(group)]
    parts += ["## Keys without effect\n", "Read as published, checked for their type, and named once in a warning.\n"]
    parts += [_key_table("ignored"), _changes()]
    return "\n".join(parts)


def _key_table(group: str) -> str:
    keys = [key for key in all_keys().values() if key.group == group]
    last_column = "what happens instead" if group == "ignored" else "meaning"
    lines = [f"| key | type | default | {last_column} |", "|---|---|---|---|"]
    lines += [
        f"| `{key.name}` | {_cell(describe(key.annotation))} | {_default(key.default)} | {_cell(key.help)} |"
        for key in keys
    ]
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    return "" if value == "" else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _changes() -> str:
    """Return the section for users of the published repository."""
    lines = ["## Coming from the published repository\n", "| there | here |", "|---|---|"]
    lines += [f"| {there} | {here} |" for there, here in SCRIPTS.items()]
    lines += [f"| `{alias}` | `{key}` (both are read) |" for alias, key in ALIASES.items()]
    lines += [
        "\nKeys of the Hugging Face training arguments that are called otherwise:\n",
        "| there | here |",
        "|---|---|",
    ]
    lines += [f"| `{there}` | {here} |" for there, here in USE_INSTEAD.items()]
    lines += ["\nDefaults that differ from the published ones:\n", "| key | there | here | why |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | `{json.dumps(there)}` | `{json.dumps(all_keys()[name].default)}` | {why} |"
        for name, (there, why) in OTHER_DEFAULTS.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the file."""
    REFERENCE_FILE.write_text(reference_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
