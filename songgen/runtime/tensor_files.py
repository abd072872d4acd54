"""Finding and reading the weights of frozen networks: folders, hub repositories, safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from songgen.runtime.json_files import read_json_object

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"

_SPEC_KEYS = ("path", "revision", "allow_pickle_weights")


@dataclass(frozen=True)
class Source:
    """Where a frozen network's files lie on this machine."""

    folder: Path
    """Holds config and weights."""

    allow_pickle_weights: bool
    """Whether `pytorch_model.bin` may be read where there is no safetensors file."""

    def config(self) -> dict[str, Any]:
        """Read `config.json`."""
        return self.read_json(CONFIG_FILE)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the folder.

        Raises:
            ValueError: if it is missing or no JSON object.
        """
        return read_json_object(self.folder / name)

    def preprocessor(self) -> dict[str, Any]:
        """Read `preprocessor_config.json`, empty where there is none."""
        return self.read_json(PREPROCESSOR_FILE) if (self.folder / PREPROCESSOR_FILE).is_file() else {}

    def tensors(self, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
        """Read the tensors whose names begin with one of the prefixes.

        Raises:
            ValueError: if there are no weights, or only pickled ones that the spec does not allow.
        """
        if (self.folder / INDEX_FILE).is_file():
            names = sorted(set(self.read_json(INDEX_FILE)["weight_map"].values()))
        elif (self.folder / WEIGHTS_FILE).is_file():
            names = [WEIGHTS_FILE]
        elif self.allow_pickle_weights and (self.folder / PICKLE_FILE).is_file():
            state = torch.load(self.folder / PICKLE_FILE, map_location="cpu", weights_only=True)
            return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}
        else:
            raise ValueError(
                f"{self.folder} holds no {WEIGHTS_FILE}"
                f'; a {PICKLE_FILE} is read only where the spec says "allow_pickle_weights": true'
            )
        tensors: dict[str, Tensor] = {}
        for name in names:
            try:
                with safe_open(self.folder / name, framework="pt") as opened:
                    wanted = [key for key in opened.keys() if key.startswith(prefixes)]  # noqa: SIM118 - no mapping
                    tensors.update({key: opened.get_tensor(key) for key in wanted})
            except (OSError, SafetensorError) as error:
                raise ValueError(f"cannot read the weights {self.folder / name}: {error}") from error
        return tensors


def normalize_spec(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec as a dictionary with known keys.

    Raises:
        ValueError: for unknown keys or without a path.
    """
    normalized = {"path": spec} if isinstance(spec, str) else dict(spec)
    unknown = sorted(set(normalized) - set(_SPEC_KEYS))
    if unknown or not normalized.get("path"):
        raise ValueError(f"a frozen encoder is given by {', '.join(_SPEC_KEYS)} (path is required), got {normalized}")
    return normalized


def locate(spec: Mapping[str, Any], base_folder: Path | None) -> Source:
    """Return the files of a spec: a folder under `base_folder`, any folder, or a download from the hub.

    Raises:
        ValueError: if there is no such folder or repository.
    """
    path, allow_pickle = str(spec["path"]), bool(spec.get("allow_pickle_weights", False))
    candidates = [Path(path)] if base_folder is None else [Path(base_folder) / path, Path(path)]
    for candidate in candidates:
        if candidate.is_dir():
            return Source(candidate, allow_pickle)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ValueError(f"no folder {path!r}" + (f" in {base_folder} or here" if base_folder else ""))
    return Source(_download(path, spec.get("revision"), allow_pickle), allow_pickle)


def _download(repository: str, revision: str | None, allow_pickle: bool) -> Path:
    """Fetch configuration and weights of a hub repository; the pickle only where there is nothing better."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "model*.safetensors"]
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if allow_pickle and not any(folder.glob("model*.safetensors")):
            snapshot_download(repository, revision=revision, allow_patterns=[PICKLE_FILE])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"{repository!r} is no folder, and the hub does not hand it over (revision {revision}): {error}"
        ) from error
    return folder


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill a model built on the meta device; `tensors` become its parameters.

    Raises:
        ValueError: if a tensor is missing or has another shape; all problems at once.
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
    model.load_state_dict({name: tensors[name] for name in expected}, assign=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file of a saved encoder."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
