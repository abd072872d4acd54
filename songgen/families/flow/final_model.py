"""Writing a flow model: a diffusers folder that generates songs, and from which the next run starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from songgen.config import RunConfig
from songgen.families.flow.model import FlowModel
from songgen.families.flow.model_folder import LICENSE_FILE, TRAINED_PARTS
from songgen.families.flow.pipeline import read_index, weights_of
from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import PIPELINE_FILE, copy_part, part_files
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE, opened_tensors, weight_precisions, write_tensors

_ORIGIN_KEY = "_name_or_path"
"""Key under which diffusers notes from where a component was read: a path of the machine that wrote the folder."""


def write_model(core: FlowModel, weights: Mapping[str, Tensor], config: RunConfig, folder: Path) -> None:
    """Write a trained model; see `songgen.families.family.Family.write_model`."""
    write_pipeline(core.folder, folder, weights)


def write_merged(core: FlowModel, weights: Mapping[str, Tensor], folder: Path, metadata: Mapping[str, str]) -> None:
    """Write a model that was opened with other weights; see `songgen.families.family.Family.write_merged`."""
    write_pipeline(core.folder, folder, weights, metadata=metadata)


def stored_precisions(folder: Path) -> dict[str, torch.dtype]:
    """Return the precisions of the trained components' weights; see `Family.stored_precisions`."""
    precisions: dict[str, torch.dtype] = {}
    for part in TRAINED_PARTS:
        for path in weights_of(folder, part):
            precisions |= {f"{part}.{key}": kind for key, kind in weight_precisions(path).items()}
    return precisions


def write_pipeline(
    source: Path, folder: Path, weights: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a diffusers folder with other weights of the trained components; everything else is that of `source`.

    Weights are stored in the files, and in the precision, in which `source` stores them. A file whose weights did not
    change is copied byte by byte, and so are the frozen components.

    Args:
        source: folder of the model that was opened.
        folder: folder to write to; other files in it are kept.
        weights: whole weights by name, such as `transformer.norm_out.weight`; those left out are as in `source`.
        metadata: texts for the headers of the weight files that are written, in addition to those in `source`.

    Raises:
        ValueError: if a link leads out of `source`, or weights are not those of this model.
    """
    unknown = set(weights)
    folder.mkdir(parents=True, exist_ok=True)
    for part in TRAINED_PARTS:
        files = set(weights_of(source, part))
        for path in part_files(source / part, source):
            target = folder / path.relative_to(source)
            if path in files:
                unknown -= _write_weights(path, target, part, weights, metadata or {}, source)
            else:
                copy_part(path, target, source)
    if unknown:
        raise ValueError(f"{source} holds no weights of the names {', '.join(sorted(unknown)[:3])}")
    present = read_index(source)
    for part in present.keys() - TRAINED_PARTS:
        copy_part(source / part, folder / part, source)
    if (source / LICENSE_FILE).is_file():
        copy_part(source / LICENSE_FILE, folder / LICENSE_FILE, source)
    copy_part(source / PIPELINE_FILE, folder / PIPELINE_FILE, source)
    for path in (folder / PIPELINE_FILE, *(folder / part / MODEL_CONFIG_FILE for part in present)):
        _forget_origin(path)


def _write_weights(
    path: Path, target: Path, part: str, weights: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path
) -> set[str]:
    """Write one weight file with new values, or copy it if they are the same; return the names of its weights."""
    stored: dict[str, Tensor] = {}
    is_changed = False
    with opened_tensors(path) as opened:
        header = opened.metadata() or {}
        for key in opened.keys():  # noqa: SIM118 - no mapping
            old, new = opened.get_tensor(key), weights.get(f"{part}.{key}")
            if new is None:
                stored[key] = old
                continue
            if new.shape != old.shape:
                raise ValueError(f"{part}.{key} has the shape {tuple(new.shape)}, in {path} {tuple(old.shape)}")
            stored[key] = new.detach().to("cpu", old.dtype)
            is_changed = is_changed or not torch.equal(stored[key], old)
    names = {f"{part}.{key}" for key in stored if f"{part}.{key}" in weights}
    if not is_changed:
        copy_part(path, target, source)
        return names
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, stored, {"format": "pt", **header, **metadata})
    return names


def _forget_origin(path: Path) -> None:
    """Remove the path of another folder from a configuration, which would otherwise be published."""
    if not path.is_file():
        return
    values = read_json_object(path)
    if values.pop(_ORIGIN_KEY, None) is not None:
        write_text_atomic(path, json.dumps(values, indent=2) + "\n")
