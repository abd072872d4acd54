"""Weights in safetensors files, and the files of frozen networks in folders and hub repositories."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from songgen.runtime.file_hashes import checked
from songgen.runtime.files import synchronize
from songgen.runtime.json_files import read_json_object
from songgen.runtime.pretrained import find_folder, local_folder

MODEL_CONFIG_FILE = "config.json"
"""File in every folder of a network; in a model's folder, its key `model_type` gives the family."""

PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"

DIFFUSERS_STEM = "diffusion_pytorch_model"
"""Beginning of the names of the weight files that diffusers writes."""

_PRECISIONS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""Name in a safetensors header -> precision."""

_SPEC_KEYS = ("path", "revision", "allow_pickle_weights")


def weight_files(folder: Path, stem: str = "model") -> list[str]:
    """Return the names of a folder's safetensors files: one, or those that the index lists; none if it has neither.

    Args:
        folder: folder of a network.
        stem: beginning of the names of its weight files.

    Raises:
        ValueError: if the index is damaged, or names anything but weight files of this folder.
    """
    index, single = folder / f"{stem}.safetensors.index.json", f"{stem}.safetensors"
    if not index.is_file():
        return [single] if (folder / single).is_file() else []
    try:
        names = sorted(set(read_json_object(index)["weight_map"].values()))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is damaged ({type(error).__name__}: {error})") from error
    # The index may come from anyone: a name with a folder in it could make the program read any file.
    allowed = re.compile(rf"{stem}[\w.-]*\.safetensors")
    if foreign := [name for name in names if not allowed.fullmatch(str(name))]:
        raise ValueError(f"{index} names files that are not weights of this folder: {foreign}")
    return names


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file: `keys`, `get_tensor`, `get_slice`, `metadata`.

    Raises:
        ValueError: if it is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error


def read_tensors(path: Path, *, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file whose names begin with one of the prefixes, to the CPU.

    Raises:
        ValueError: if it is missing or damaged.
    """
    with opened_tensors(path) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys() if key.startswith(prefixes)}  # noqa: SIM118


def stored_shapes(path: Path) -> dict[str, torch.Size]:
    """Return the shapes of the tensors of a safetensors file by name; only its header is read.

    Raises:
        ValueError: if it is missing or damaged.
    """
    with opened_tensors(path) as opened:
        return {key: torch.Size(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118


def weight_precisions(path: Path) -> dict[str, torch.dtype]:
    """Return the precisions of the weights in a safetensors file by name; only its header is read.

    Raises:
        ValueError: if it is missing or damaged.
    """
    with opened_tensors(path) as opened:
        keys = opened.keys()
        return {key: _PRECISIONS.get(opened.get_slice(key).get_dtype(), torch.float32) for key in keys}


def shape_problems(
    stored: Mapping[str, torch.Size], expected: Mapping[str, torch.Size], optional: Collection[str] = ()
) -> list[str]:
    """Say which weights are missing, too many, or of another shape, sorted.

    Args:
        stored: shapes in files, by name.
        expected: shapes in the network.
        optional: names of weights that files may lack.
    """
    problems = [f"missing: {key}" for key in expected.keys() - stored.keys() - set(optional)]
    problems += [f"unexpected: {key}" for key in stored.keys() - expected.keys()]
    problems += [
        f"shape of {key}: stored {tuple(stored[key])}, model {tuple(expected[key])}"
        for key in expected.keys() & stored.keys()
        if stored[key] != expected[key]
    ]
    return sorted(problems)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file and flush it to the disk; on a full disk, an earlier file of the name stays whole.

    Args:
        path: file to write.
        tensors: tensors by name, of any device.
        metadata: texts for the header; more than one are in another order each time.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(stored, temporary, metadata=dict(metadata or {}))
        synchronize(temporary)
        temporary.replace(path)
        synchronize(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity; integers never do."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.itemsize == 1:  # torch has no minimum of 8-bit floats
        tensor = tensor.float()
    # NaN and infinity are the minimum or maximum of every tensor that holds one. 0.04 s per GiB of float32 on one core;
    # `isfinite().all()` takes 2.8 s and a quarter of the tensor's memory.
    lowest, highest = torch.aminmax(tensor.detach())
    return bool(lowest.isfinite() and highest.isfinite())


def non_finite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors.items() if not is_finite(tensor)]


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that a frozen network has no weight that would turn all it computes into NaN, or into code 0.

    Raises:
        ValueError: if tensors hold NaN or infinity; the message names some of them.
    """
    if bad := non_finite_names(tensors):
        raise ValueError(
            f"weights of {where} hold NaN or infinity in {len(bad)} tensors, such as {bad[0]}; get the files again"
        )


def non_finite_tensors(path: Path) -> list[str]:
    """Return the names of the tensors of a safetensors file that hold NaN or infinity, sorted.

    Raises:
        ValueError: if it is missing or damaged.
    """
    with opened_tensors(path) as opened:
        return sorted(key for key in opened.keys() if not is_finite(opened.get_tensor(key)))  # noqa: SIM118


@dataclass(frozen=True)
class NetworkFolder:
    """Local files of a frozen network."""

    folder: Path
    """Folder with configuration and weights."""

    allow_pickle_weights: bool
    """Whether `pytorch_model.bin` may be read if there are no safetensors files."""

    def config(self) -> dict[str, Any]:
        """Read `config.json`."""
        return self.read_json(MODEL_CONFIG_FILE)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the folder.

        Raises:
            ValueError: if it is missing, has changed since it was written, or does not hold a JSON object.
        """
        return read_json_object(checked(self.folder / name))

    def preprocessor(self) -> dict[str, Any]:
        """Read `preprocessor_config.json`; empty if there is none."""
        return self.read_json(PREPROCESSOR_FILE) if (self.folder / PREPROCESSOR_FILE).is_file() else {}

    def tensors(self, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
        """Read the tensors whose names begin with one of the prefixes.

        Raises:
            ValueError: if there are no weights, or only pickled ones that the spec does not allow; or as
                `weight_files`, `checked` and `read_tensors` do.
        """
        names = weight_files(self.folder)
        if not names:
            if self.allow_pickle_weights and (self.folder / PICKLE_FILE).is_file():
                # `weights_only` limits unpickling to tensors; it is still opt-in.
                state = torch.load(self.folder / PICKLE_FILE, map_location="cpu", weights_only=True)
                return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}
            raise ValueError(
                f"{self.folder} holds no {WEIGHTS_FILE}"
                f'; a {PICKLE_FILE} is read only where the spec says "allow_pickle_weights": true'
            )
        return {
            key: tensor
            for name in names
            for key, tensor in read_tensors(checked(self.folder / name), prefixes=prefixes).items()
        }


def normalize_spec(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec as a dictionary with known keys.

    Raises:
        ValueError: if there are unknown keys or no path.
    """
    normalized = {"path": spec} if isinstance(spec, str) else dict(spec)
    unknown = sorted(set(normalized) - set(_SPEC_KEYS))
    if unknown or not normalized.get("path"):
        raise ValueError(f"a frozen encoder is given by {', '.join(_SPEC_KEYS)} (path is required), got {normalized}")
    return normalized


def locate(spec: Mapping[str, Any], base_folder: Path | None) -> NetworkFolder:
    """Return the files of a spec: a folder in `base_folder`, another folder, or a download from the hub.

    Raises:
        ValueError: if neither a folder nor a repository is found.
    """
    path, allow_pickle = str(spec["path"]), bool(spec.get("allow_pickle_weights", False))
    if (folder := local_folder(path, base_folder)) is not None:
        return NetworkFolder(folder, allow_pickle)
    patterns = ["*.json", "model*.safetensors"]
    where: dict[str, Any] = {"base_folder": base_folder, "revision": spec.get("revision"), "bare": True}
    folder = find_folder(path, patterns=patterns, **where)
    if allow_pickle and not any(folder.glob("model*.safetensors")):  # the pickle only if nothing else exists
        folder = find_folder(path, patterns=[*patterns, PICKLE_FILE], **where)
    return NetworkFolder(folder, allow_pickle)


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill a model built on the meta device; `tensors` become its parameters.

    Raises:
        ValueError: if a tensor is missing, has another shape or holds NaN or infinity; the message lists all problems.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [
        f"{name}: {'missing' if name not in found else f'shape {found[name]}'}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name) != shape
    ]
    if problems:
        raise ValueError(f"weights of {where} do not fit its configuration:\n  " + "\n  ".join(problems))
    require_finite({name: tensors[name] for name in expected}, where)
    model.load_state_dict({name: tensors[name] for name in expected}, assign=True)
