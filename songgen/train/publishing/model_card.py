"""README (model card) of a published model. All facts and numbers in it are read from the model's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from huggingface_hub import ModelCardData

from songgen.config.keys import all_keys
from songgen.families.model_facts import ModelFacts, escaped, without_folders
from songgen.families.registry import family_of
from songgen.runtime.json_files import read_json_object
from songgen.runtime.pretrained import is_hub_id
from songgen.runtime.tensor_files import opened_tensors
from songgen.train.checkpoints.files import RUN_CONFIG_FILE
from songgen.train.publishing.adapter_files import PublishedAdapter, adapter_facts
from songgen.train.reporting.trackers import METRICS_FILE, read_metrics, redact

ALWAYS_SHOWN = (
    "learning_rate",
    "lr_scheduler_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_steps",
    "num_train_epochs",
    "dtype",
    "seed",
)
"""Settings of a run that are in its card even if they are the defaults."""

NOT_SHOWN = frozenset(
    {"output_dir", "overwrite_output_dir", "resume", "report_to", "wandb_project", "wandb_run_name", "push_to_hub"}
    | {"hub_model_id", "hub_private", "audio_roots", "dataloader_num_workers", "eval_dataloader_num_workers"}
)
"""Settings that say nothing about the model."""

_EVALUATION = "eval/"


def published_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that may be published: without secrets, and with absolute paths cut to their last part."""
    shown: dict[str, Any] = without_folders(redact(values))
    return shown


def model_card(
    folder: Path, *, repo_id: str | None = None, license_name: str | None = None, samples: Sequence[str] = ()
) -> str:
    """Write the README of a model folder.

    Args:
        folder: folder with `config.json` and weights, and optionally `training_config.json` and `metrics.jsonl`.
        repo_id: hub id that the model will have.
        license_name: identifier of the licence, such as "apache-2.0"; None to state none.
        samples: audio files that are published with the model, paths relative to the folder.

    Returns:
        Markdown with YAML front matter.

    Raises:
        ValueError: if the folder does not hold a model.
    """
    family = family_of(folder)
    facts = family.model_facts(folder)
    name = repo_id or folder.resolve().name
    command = f'songgen generate --model {name} --caption "..." --lyrics_file lyrics.txt --out song.wav'
    rows = _model_rows(facts, folder, family.model_files.weights(folder))
    front = ModelCardData(
        library_name="songgen", license=license_name, base_model=_base_model(folder), **_shared_data(facts)
    )
    return _card(folder, name, front, facts.introduction, _usage(command), rows, samples)


def adapter_card(
    folder: Path,
    published: PublishedAdapter,
    *,
    repo_id: str | None = None,
    license_name: str | None = None,
    samples: Sequence[str] = (),
) -> str:
    """Write the README of an adapter; arguments and result as those of `model_card`."""
    facts = adapter_facts(published)
    name = repo_id or folder.resolve().name
    base = published.base if is_hub_id(published.base) else "BASE"
    command = (
        f'songgen generate --model {base} --adapter {name} --caption "..." --lyrics_file lyrics.txt --out song.wav'
    )
    note = (
        f"\n`--adapter {name}:0.7` applies it at 70 %, several `--adapter` are added, and `songgen export {name} "
        "--merge OUT` writes a whole model. peft opens it as well: `PeftModel.from_pretrained`."
    )
    count = sum(tensor.numel() for tensor in published.adapter.weights.values())
    rows = [*facts.head, (facts.size_name, f"{count:,}"), *facts.rows]
    front = ModelCardData(
        library_name="peft",
        license=license_name,
        base_model=published.base if is_hub_id(published.base) else None,
        **_shared_data(facts),
    )
    return _card(folder, name, front, facts.introduction, _usage(command) + note, rows, samples)


def _base_model(folder: Path) -> str | None:
    """Return the hub id of the model that a run started from; None if it was a folder, or no run wrote this one."""
    run_file = folder / RUN_CONFIG_FILE
    name = read_json_object(run_file).get("model_name_or_path") if run_file.is_file() else None
    return name if isinstance(name, str) and is_hub_id(name) else None


def _card(
    folder: Path,
    name: str,
    front: ModelCardData,
    introduction: str,
    usage: str,
    rows: Sequence[Sequence[str]],
    samples: Sequence[str],
) -> str:
    """Put a card together, with what the folder tells about training and evaluation."""
    run_file, metrics_file = folder / RUN_CONFIG_FILE, folder / METRICS_FILE
    run = published_config(read_json_object(run_file)) if run_file.is_file() else {}
    records = read_metrics(metrics_file) if metrics_file.is_file() else []
    sections = [
        f"---\n{front.to_yaml()}\n---",
        f"# {name.split('/')[-1]}",
        introduction,
        usage,
        "## Model\n\n" + _table(("", ""), rows),
        _training(run, records),
        _evaluation(records),
        _samples(samples),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _shared_data(facts: ModelFacts) -> dict[str, Any]:
    """Return the front matter that models and adapters share."""
    tags = ["songgen", "text-to-song", "music-generation", "singing-voice", *facts.tags]
    return {"pipeline_tag": "text-to-audio", "tags": tags}


def _usage(command: str) -> str:
    """Return the section on usage."""
    return f"## Use\n\n```bash\n{command}\n```"


def _model_rows(facts: ModelFacts, folder: Path, weight_files: Sequence[str]) -> list[tuple[str, str]]:
    """Return the rows of the model's table, including its size."""
    parameters, precisions = _count_parameters(folder, weight_files)
    return [*facts.head, (facts.size_name, f"{parameters:,} ({', '.join(precisions)})"), *facts.rows]


def _training(run: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """Return the section on training: settings, and how far the run got."""
    if not run:
        return ""
    defaults = {name: key.default for name, key in all_keys().items()}
    not_counting = "num_train_epochs" if run.get("max_steps", -1) > 0 else "max_steps"
    shown = [name for name in ALWAYS_SHOWN if name in run and name != not_counting]
    shown += [
        name
        for name, value in run.items()
        if name not in (*shown, *NOT_SHOWN, not_counting) and not (name in defaults and value == defaults[name])
    ]
    text = f"## Training\n\nThe main settings and those that differ from the defaults; all are in `{RUN_CONFIG_FILE}`."
    if records:
        last = max(records, key=lambda record: int(record["step"]))
        epoch = last.get("epoch")
        passes = f", {epoch:.2f} epochs" if isinstance(epoch, int | float) else ""
        text += f"\nThe log ends after step {last['step']}{passes}."
    if run.get("ema_decay"):
        text += "\nThe weights are the moving average of the trained ones."
    return f"{text}\n\n" + _table(("setting", "value"), [(_code(name), _code(json.dumps(run[name]))) for name in shown])


def _evaluation(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the section on metrics of the held-out clips, at the last and the best evaluation."""
    evaluations = [values for record in records if (values := _evaluated(record))]
    if not evaluations:
        return ""
    last = evaluations[-1]
    columns = {f"after step {last['step']}": last}
    with_loss = [values for values in evaluations if "loss" in values]
    best = min(with_loss, key=lambda values: values["loss"], default=last)
    if best is not last:
        columns[f"lowest loss, step {best['step']}"] = best
    names = [name for name in last if name != "step"]
    header = ("metric", *columns)
    rows = [(_code(name), *(_number(values.get(name)) for values in columns.values())) for name in names]
    plain = [row for name, row in zip(names, rows, strict=True) if "/" not in name]
    detailed = [row for name, row in zip(names, rows, strict=True) if "/" in name]
    text = "## Evaluation\n\nOf held-out clips, computed during training.\n\n" + _table(header, plain)
    if detailed:
        text += f"\n\n<details><summary>In detail</summary>\n\n{_table(header, detailed)}\n\n</details>"
    return text


def _evaluated(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the finite evaluation metrics of a line, with its step; empty if it has none."""
    values = {
        name.removeprefix(_EVALUATION): value
        for name, value in record.items()
        if name.startswith(_EVALUATION) and isinstance(value, int | float) and math.isfinite(value)
    }
    return {"step": record["step"], **values} if values else {}


def _samples(samples: Sequence[str]) -> str:
    """Return the section with links to audio."""
    if not samples:
        return ""
    links = "\n".join(f"- [{escaped(PurePosixPath(path).stem)}]({quote(path)})" for path in samples)
    return f"## Samples\n\nGenerated from held-out captions and lyrics.\n\n{links}"


def _count_parameters(folder: Path, weight_files: Sequence[str]) -> tuple[int, list[str]]:
    """Return the number of elements in all weight files and their precisions, from the files' headers."""
    count, precisions = 0, set()
    for name in weight_files:
        with opened_tensors(folder / name) as opened:
            for key in opened.keys():  # noqa: SIM118 - no mapping
                entry = opened.get_slice(key)
                count += math.prod(entry.get_shape())
                precisions.add(str(entry.get_dtype()))
    return count, sorted(precisions)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    """Return text as Markdown code on one line."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def _number(value: float | None) -> str:
    """Return a metric as text, or a dash if it was not computed."""
    return "-" if value is None else f"{value:.5g}"
