"""Demucs networks out of safetensors files, without running anything that a file names.

The files are those that demucs 4.1 publishes: `NAME.yaml` lists the networks of a model, and each network is a
`SIGNATURE.safetensors` whose metadata hold its class and arguments. The library's own reader imports and calls whatever
class the metadata name; this one knows three classes. The older `.th` files are pickles and are refused.
"""

import importlib
import inspect
import logging
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from songgen.runtime.json_files import parse_json
from songgen.runtime.pretrained import find_file
from songgen.runtime.tensor_files import opened_tensors, read_tensors

NETWORKS = {
    "demucs.htdemucs.HTDemucs": ("demucs.htdemucs", "HTDemucs"),
    "demucs.hdemucs.HDemucs": ("demucs.hdemucs", "HDemucs"),
    "demucs.demucs.Demucs": ("demucs.demucs", "Demucs"),
}
"""Class that a file may name -> module and attribute."""

HUB_OWNER = "adefossez"
"""Whose repositories hold the published models."""

_FILE_NAME = re.compile(r"[\w-]+")

logger = logging.getLogger(__name__)


def load_demucs(name: str, revision: str = "") -> Any:
    """Load a separation model on the CPU.

    Args:
        name: published name such as `htdemucs` (`owner/htdemucs` for another owner's repository), or a folder with
            NAME.yaml and its safetensors files, or one safetensors file.
        revision: commit, tag or branch of the hub repository; empty for the newest.

    Returns:
        A `demucs.apply.BagOfModels`, ready for inference.

    Raises:
        ImportError: if demucs is not installed.
        ValueError: if the model is not there, or holds what is not read here.
    """
    from demucs.apply import BagOfModels

    path = Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        return BagOfModels([_read_network(path)]).eval()
    if path.suffix in (".th", ".pt", ".pth"):
        raise ValueError(f"{name} is a pickle, which is never read; take the published safetensors (name: htdemucs)")
    definition = (
        _find_definition(path) if path.is_dir() else _download(name, f"{name.rpartition('/')[2]}.yaml", revision)
    )
    bag = _read_definition(definition)
    files = [f"{signature}.safetensors" for signature in bag["models"]]
    networks = [_read_network(path / file if path.is_dir() else _download(name, file, revision)) for file in files]
    return BagOfModels(networks, bag.get("weights"), bag.get("segment")).eval()


def _find_definition(folder: Path) -> Path:
    found = sorted(folder.glob("*.yaml"))
    if len(found) != 1:
        raise ValueError(
            f"the folder {folder} must hold one NAME.yaml that lists the model's networks: has {len(found)}"
        )
    return found[0]


def _read_definition(path: Path) -> dict[str, Any]:
    """Read and check the list of a model's networks."""
    import yaml

    try:
        bag = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    names = bag.get("models") if isinstance(bag, dict) else None
    # Names become file names: nothing that leads elsewhere.
    if not isinstance(names, list) or not names or not all(_FILE_NAME.fullmatch(str(entry)) for entry in names):
        raise ValueError(f"{path} does not list networks under `models`")
    return dict(bag)


def _download(name: str, file: str, revision: str) -> Path:
    """Fetch a file of a published model from the hub, or from its cache."""
    owner, _, model = name.rpartition("/")
    if model.startswith("htdemucs"):
        repository = "HTDemucs" + model.removeprefix("htdemucs").replace("_", "-", 1)
    else:
        repository = f"Demucs-{model}"
    try:
        return find_file(f"{owner or HUB_OWNER}/{repository}", [file], revision=revision or None)
    except ValueError as error:
        raise ValueError(f"the separator {name!r} cannot be loaded from the hub: {error}") from error


def _read_network(path: Path) -> Any:
    """Build one network from its file.

    Raises:
        ValueError: if the file cannot be read, or is not a plain network of a known class.
    """
    try:
        with opened_tensors(path) as file:
            metadata = file.metadata() or {}
        tensors = read_tensors(path)
        args, kwargs = (_decode_fractions(parse_json(metadata[key])) for key in ("args", "kwargs"))
        kind = metadata["klass"]
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path} is not a Demucs network in safetensors: {error}") from error
    if kind not in NETWORKS:
        raise ValueError(f"{path} names the class {kind!r}; only {', '.join(NETWORKS)} are made")
    if "structure" in metadata:
        raise ValueError(f"{path} is quantized, which is not read here; take a model without `_q`")
    module, attribute = NETWORKS[kind]
    network_class = getattr(importlib.import_module(module), attribute)
    known = inspect.signature(network_class).parameters
    if dropped := sorted(set(kwargs) - set(known)):
        logger.warning("%s: arguments that this version of demucs does not know are left out: %s", path, dropped)
    try:
        network = network_class(*args, **{key: value for key, value in kwargs.items() if key in known})
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit its own description: {error}") from error
    return network.eval()


def _decode_fractions(value: Any) -> Any:
    """Replace the objects that stand for fractions, at any depth."""
    if isinstance(value, list):
        return [_decode_fractions(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.get("_type") == "fraction":
        return Fraction(value["numerator"], value["denominator"])
    return {key: _decode_fractions(entry) for key, entry in value.items()}
