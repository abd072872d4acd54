"""Adapter folders: PEFT's own two files, with a recipe in the weights' metadata and hashes next to them.

peft opens such a folder, and folders that peft or another program wrote open here; then there is no recipe, and perhaps
no hashes. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.adapters.peft_config import config_json, parse_config
from songgen.runtime.file_hashes import FileEntry, changed_files, checked, record_hashes, unsealed
from songgen.runtime.files import write_text
from songgen.runtime.json_files import parse_json, read_json_object
from songgen.runtime.records import Format

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_PICKLE_FILE = "adapter_model.bin"

ADAPTER_FILES = (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)
"""Files of an adapter folder, besides the hashes."""

DIFFUSERS_FILE, COMFYUI_FILE = "pytorch_lora_weights.safetensors", "comfyui_lora.safetensors"

SHARED_FILES = (DIFFUSERS_FILE, COMFYUI_FILE)
"""Files that an adapter folder may also hold: the same weights in the forms of other programs."""

ADAPTER_NAME = "default"
"""Name under which a run attaches its adapter; it is a part of the parameters' names in the model, not in files."""

PEFT_PREFIX = "base_model.model."
"""Prefix of all names in a file of PEFT."""

RECIPE_SCHEMA_VERSION = 1

_RECIPE_KEY = "songgen_recipe"
_MAX_RECIPE_BYTES = 1024**2

_CHECKPOINT_MANIFEST = "manifest.json"
"""Manifest of a checkpoint (`songgen.train.checkpoints.files`), which lists hashes as `file_hashes.json` does."""


@dataclass(frozen=True)
class _CheckpointFiles:
    """The part of a checkpoint's manifest that is read here."""

    files: dict[str, FileEntry]
    schema_version: int = 1


_CHECKPOINT_FILES = Format(_CheckpointFiles, 1, fix="use another checkpoint", unversioned=1)

_MATRIX = ".lora_"
_MODULES_TO_SAVE = "modules_to_save"
_TENSORS_OF_ADAPTERS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
_SECOND_MATRIX = re.compile(r"\.lora_B\.weight$|\.lora_embedding_B$")
_MAGNITUDE = "lora_magnitude_vector"


@dataclass(frozen=True)
class AdapterRecipe:
    """How an adapter was made, and the base that it needs. Rank and targets are in its configuration."""

    base_model: str
    """Folder or hub id of the base model."""
    base_fingerprint: str
    """`weights_fingerprint` of the base model as it was opened."""
    program_version: str
    """Version of songgen that trained it."""
    trained_dtype: str = "float32"
    """Precision of the adapter's weights while it was trained, such as `float32`."""
    quantization: str | None = None
    """Quantization of the base while the adapter was trained, such as `nf4`; None for none."""
    track_pattern: str | None = None
    """Layout in which the base was opened; None for its own."""
    config_overrides: dict[str, bool] = dataclasses.field(default_factory=dict)
    """Fields of the base's configuration that were replaced, such as `prompt_cross_attention`."""
    data_fingerprint: str | None = None
    """Fingerprint of the training data; None if it is not known."""
    steps: int | None = None
    """Completed optimizer steps."""
    schema_version: int = RECIPE_SCHEMA_VERSION
    """Version of this record."""


_RECIPE = Format(AdapterRecipe, RECIPE_SCHEMA_VERSION, fix="export the adapter again with this version of songgen")


@dataclass(frozen=True)
class Adapter:
    """An adapter as it is in its folder."""

    config: LoraConfig
    """How it is attached."""
    weights: dict[str, Tensor]
    """Its weights by PEFT's names."""
    recipe: AdapterRecipe | None
    """How it was made; None in folders of other programs."""

    @property
    def is_idle(self) -> bool:
        """Whether it changes nothing: every second matrix is 0, as before training, and nothing else is changed."""
        second = [tensor for name, tensor in self.weights.items() if _SECOND_MATRIX.search(name)]
        has_others = self.config.use_dora or any(".lora_" not in name for name in self.weights)
        return not has_others and not any(bool(tensor.any()) for tensor in second)

    @property
    def kinds(self) -> list[str]:
        """Last parts of the names of its layers, sorted; a layer with a number in a list has the name of the list."""
        layers = {name.rsplit(_MATRIX, 1)[0] for name in self.weights if _MATRIX in name}
        return sorted({next(part for part in reversed(name.split(".")) if not part.isdigit()) for name in layers})


def is_adapter_folder(folder: Path) -> bool:
    """Return whether a folder holds an adapter, complete or not; a checkpoint of an adapter run is one, too."""
    return any((folder / name).is_file() for name in (*ADAPTER_FILES, ADAPTER_PICKLE_FILE))


def write_adapter(
    folder: Path,
    config: LoraConfig,
    weights: Mapping[str, Tensor],
    recipe: AdapterRecipe | None,
    *,
    hashes: bool = True,
) -> None:
    """Write the files of an adapter into a folder, and flush them to the disk.

    Args:
        folder: existing folder; other files in it are kept.
        config: how the adapter is attached.
        weights: whole weights by PEFT's names (see `peft_names`).
        recipe: how the adapter was made; None if it is not known.
        hashes: whether to write `file_hashes.json`. A checkpoint has a manifest of its own instead.

    Raises:
        ValueError: if there are no weights.
    """
    from songgen.runtime.tensor_files import write_tensors

    if not weights:
        raise ValueError(f"there are no weights of an adapter to write into {folder}")
    assert all(name.startswith(PEFT_PREFIX) for name in weights), "names of the model instead of PEFT's"
    base_model = recipe.base_model if recipe is not None else str(config.base_model_name_or_path or "")
    write_text(folder / ADAPTER_CONFIG_FILE, config_json(config, base_model))
    write_tensors(folder / ADAPTER_WEIGHTS_FILE, weights, recipe_metadata(recipe))
    if hashes:
        record_hashes(folder, ADAPTER_FILES)


def recipe_metadata(recipe: AdapterRecipe | None) -> dict[str, str]:
    """Return the metadata of an adapter's safetensors file: one entry, since several get another order each time."""
    return {} if recipe is None else {_RECIPE_KEY: json.dumps(dataclasses.asdict(recipe), sort_keys=True)}


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder, or a weight file of another program.

    Files are compared with the hashes of their folder, if it has any.

    Raises:
        ValueError: if it is neither, holds only pickled weights, is damaged, or was changed since it was written; if
            its configuration cannot be used; or if a weight is not finite.
    """
    from songgen.runtime.tensor_files import non_finite_names, read_tensors

    if folder.is_file():
        return read_weight_file(folder)
    config = read_adapter_config(folder)
    path = _checked(folder, ADAPTER_WEIGHTS_FILE)
    weights = read_tensors(path)
    foreign = [name for name in weights if not name.startswith(PEFT_PREFIX)]
    if foreign or not weights:
        raise ValueError(
            f"{path} is not written by peft: "
            + (f"{foreign[0]!r} does not begin with {PEFT_PREFIX!r}" if foreign else "it holds no weights")
        )
    if bad := non_finite_names(weights):
        raise ValueError(f"{path} holds NaN or infinity, for example in {bad[0]}; use an earlier checkpoint")
    return Adapter(config, weights, read_recipe(folder))


def read_weight_file(path: Path) -> Adapter:
    """Read an adapter that is a single weight file; layers keep the names that they have in it.

    Raises:
        ValueError: as `songgen.adapters.weight_file.parse` does; or if the file is damaged, was changed since it was
            written, or a weight is not finite.
    """
    from songgen.adapters.weight_file import parse
    from songgen.runtime.tensor_files import non_finite_names, opened_tensors, read_tensors

    with opened_tensors(checked(path)) as opened:
        metadata = opened.metadata() or {}
    tensors = read_tensors(path)
    if bad := non_finite_names(tensors):
        raise ValueError(f"{path} holds NaN or infinity, for example in {bad[0]}; get the file again")
    config, weights = parse(tensors, metadata, str(path))
    return Adapter(config, {PEFT_PREFIX + name: tensor for name, tensor in weights.items()}, None)


def require_unchanged(folder: Path) -> None:
    """Compare the files of an adapter folder with the hashes that it has, if any, without reading them.

    Raises:
        ValueError: if a file is missing or was changed.
    """
    require_complete(folder)
    for name in ADAPTER_FILES:
        _checked(folder, name)


def read_adapter_config(folder: Path) -> LoraConfig:
    """Read and check how an adapter is attached.

    Raises:
        ValueError: as `read_adapter` does.
    """
    return parse_config(read_config_values(folder), str(folder / ADAPTER_CONFIG_FILE))


def read_config_values(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json` without checking the values.

    Raises:
        ValueError: if the folder is not an adapter folder, or the file is damaged or was changed.
    """
    require_complete(folder)
    return read_json_object(_checked(folder, ADAPTER_CONFIG_FILE))


def require_complete(folder: Path) -> None:
    """Check that a folder has both files of an adapter.

    Raises:
        ValueError: if one is missing; the message says what to do if there are only pickled weights.
    """
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if not missing:
        return
    if missing == [ADAPTER_WEIGHTS_FILE] and (folder / ADAPTER_PICKLE_FILE).is_file():
        raise ValueError(
            f"{folder} holds its weights as {ADAPTER_PICKLE_FILE}, a pickle, which can run any program and is not "
            f"read: ask its author for {ADAPTER_WEIGHTS_FILE}, or, if you trust it, open it with peft and write it "
            "again with `save_pretrained(FOLDER, safe_serialization=True)`"
        )
    raise ValueError(f"{folder} is not an adapter folder: it has no {' and no '.join(missing)}")


def read_recipe(folder: Path) -> AdapterRecipe | None:
    """Read how an adapter was made, from the header of its weights; None if another program wrote it.

    Raises:
        ValueError: if the file is missing or damaged, or the recipe is of a newer version.
    """
    from songgen.runtime.tensor_files import opened_tensors

    path = folder if folder.is_file() else folder / ADAPTER_WEIGHTS_FILE
    with opened_tensors(path) as opened:
        text = (opened.metadata() or {}).get(_RECIPE_KEY)
    if text is None:
        return None
    try:
        values = parse_json(text, max_bytes=_MAX_RECIPE_BYTES)
    except ValueError as error:
        raise ValueError(f"{path}: its recipe is damaged ({error})") from error
    recipe = _RECIPE.read(values, f"{path}: its recipe")
    texts = [recipe.base_model, recipe.base_fingerprint, recipe.program_version, recipe.trained_dtype]
    optional = [recipe.quantization, recipe.track_pattern, recipe.data_fingerprint]
    is_sound = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(text, str | None) for text in optional)
        and isinstance(recipe.steps, int | None)
        and all(isinstance(value, bool) for value in recipe.config_overrides.values())
    )
    if not is_sound:
        raise ValueError(f"{path}: its recipe is damaged (a value of another kind than expected)")
    return recipe


def _checked(folder: Path, name: str) -> Path:
    """Return the path of a file after comparing it with the manifest of its folder, model folder or checkpoint.

    Raises:
        ValueError: if the file was changed, or the manifest is damaged.
    """
    manifest = folder / _CHECKPOINT_MANIFEST
    if manifest.is_file():
        try:
            record = unsealed(manifest.read_text(encoding="utf-8"), str(manifest))
            entries = _CHECKPOINT_FILES.read({"files": record.get("files")}, str(manifest)).files
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{manifest} cannot be read ({error})") from error
        listed = {name: entries[name]} if name in entries else {}
        if problems := changed_files(folder, listed):
            raise ValueError(f"{folder / name} is not as it was saved ({problems[name]}); use another checkpoint")
    return checked(folder / name)


def peft_names(names: Iterable[str], adapter_name: str = ADAPTER_NAME) -> dict[str, str]:
    """Return the parameters of an adapter by their names in the model -> PEFT's names in files.

    Args:
        names: names of parameters of a model with an attached adapter; those of the base are left out.
        adapter_name: name under which the adapter is attached.
    """
    found = {name: _peft_name(name, adapter_name) for name in names}
    own = {name: PEFT_PREFIX + written for name, written in found.items() if written is not None}
    assert len(set(own.values())) == len(own), "two parameters with one name in the file"
    return own


def model_names(names: Iterable[str], adapter_name: str = ADAPTER_NAME) -> dict[str, str]:
    """Return PEFT's names -> names of the parameters in a model; the inverse of `peft_names`.

    Args:
        names: names of the parameters of the model, as for `peft_names`. Files do not say which modules are whole
            copies (`modules_to_save`), so the names in the model decide.
        adapter_name: name under which the adapter is attached.
    """
    return {written: name for name, written in peft_names(names, adapter_name).items()}


def _peft_name(name: str, adapter_name: str) -> str | None:
    """Return PEFT's name of a parameter without the prefix; None for parameters of the base model."""
    parts = name.split(".")
    for at, part in enumerate(parts[:-1]):
        if parts[at + 1] != adapter_name:
            continue
        rest = parts[at + 2 :]
        if part == _MODULES_TO_SAVE:  # X.modules_to_save.default.weight -> X.weight
            return ".".join([*parts[:at], *rest])
        if part in _TENSORS_OF_ADAPTERS:  # X.lora_A.default.weight -> X.lora_A.weight
            return ".".join([*parts[: at + 1], *rest])
        if part == _MAGNITUDE:  # X.lora_magnitude_vector.default.weight -> X.lora_magnitude_vector
            return ".".join(parts[: at + 1])
    return None


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a base model's weights: names, precisions, shapes and bytes.

    It is taken of the state dict of the base as it was opened, in float32, before the weights are quantized, converted
    or wrapped by an adapter.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
