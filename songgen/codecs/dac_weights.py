"""Weight files of the package descript-audio-codec, carried over to the transformers library's `DacModel`.

The package saves `{"state_dict": ..., "metadata": {"kwargs": ...}}` with `torch.save`: weight-normalized convolutions
(`weight_g`, `weight_v`) under names of its own, and the keyword arguments of its network. They are the same network as
`DacModel`; see docs/guide.md, "Codecs".
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from songgen.runtime.tensor_files import load_strictly

if TYPE_CHECKING:
    from transformers import DacConfig, DacModel

WEIGHTS_ENDINGS = (".pth", ".pt")
"""Endings of the package's weight files."""

DOWNLOADS = Path("~/.cache/descript/dac")
"""Folder in which the package keeps its downloads, such as `weights_16khz_8kbps_0.0.5.pth`."""

_WEIGHT_FILES = "weights*.pth"
"""Names that the package gives to its downloads and to the weights of its own training runs."""

_DEFAULTS: dict[str, Any] = {
    "encoder_dim": 64,
    "encoder_rates": [2, 4, 8, 8],
    "latent_dim": None,
    "decoder_dim": 1536,
    "decoder_rates": [8, 8, 4, 2],
    "n_codebooks": 9,
    "codebook_size": 1024,
    "codebook_dim": 8,
    "sample_rate": 44100,
}
"""Arguments of the package's network, with its defaults; others (dropout in training) do not change codes."""

_MAX_BLOCKS = 16
"""Most down-sampling blocks of a network; the published ones have 4."""

_CODEBOOK = re.compile(r"quantizer\.quantizers\.\d+\.codebook\.weight")

_UNIT = {"0": "snake1", "1": "conv1", "2": "snake2", "3": "conv2"}
"""Layers of a residual unit: index in the package -> name in `DacModel`."""

# Pairs as `torch.nn.utils.weight_norm` and its successor `parametrizations.weight_norm` name them.
_GAINS = (".weight_g", ".parametrizations.weight.original0")
_DIRECTIONS = (".weight_v", ".parametrizations.weight.original1")


def is_native(path: Path | str) -> bool:
    """Return whether a path has the ending of the package's weight files."""
    return str(path).endswith(WEIGHTS_ENDINGS)


def find_native_weights(path: str, base_folder: Path | None = None) -> Path | None:
    """Return the weight file that a path means; None if the path is not one of the package's.

    Args:
        path: a file, which may also be in `base_folder` or in `DOWNLOADS`, or a folder with one such file.
        base_folder: folder of a model or data set that names the path.

    Raises:
        ValueError: if the path has the ending of a weight file and there is no such file, or if a folder holds several.
    """
    named = Path(path).expanduser()
    if is_native(named):
        places = [named, DOWNLOADS.expanduser() / named]
        if base_folder is not None and (inside := base_folder / named).resolve().is_relative_to(base_folder.resolve()):
            places.insert(0, inside)
        if (found := next((place for place in places if place.is_file()), None)) is None:
            looked = f"looked from {Path.cwd()} and in {DOWNLOADS}"
            raise ValueError(f"there is no file {path} ({looked})")
        return found.resolve()
    if not named.is_dir() or (named / "config.json").exists():
        return None
    files = sorted(named.glob(_WEIGHT_FILES))
    if len(files) > 1:
        raise ValueError(f"the folder {path} holds several codecs, name one file: {', '.join(map(str, files))}")
    return files[0].resolve() if files else None


def open_native(path: Path) -> "DacModel":
    """Open a weight file of the package in float32. Only tensors and plain values are read; no code in it can run.

    Raises:
        ValueError: if the file is damaged, holds other objects, or is of a network that `DacModel` cannot be.
    """
    from transformers import DacModel

    state, arguments = _read(path)
    num_codebooks = sum(_CODEBOOK.fullmatch(name) is not None for name in state)
    config = _config(path, arguments, num_codebooks)
    try:
        with torch.device("meta"):
            model = DacModel(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the codec in {path} cannot be made: {error}") from error
    load_strictly(model, transformers_tensors(state, len(config.downsampling_ratios)), str(path))
    return model


def transformers_tensors(state: Mapping[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    """Return the package's tensors under the names of `DacModel`, weight norms fused, in float32.

    Args:
        state: state dict of the package's network.
        num_blocks: number of down-sampling blocks (and of up-sampling ones).
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for gain, direction in zip(_GAINS, _DIRECTIONS, strict=True):
            layer = name.removesuffix(direction)
            if layer != name and layer + gain in state:
                tensors[_renamed(f"{layer}.weight", num_blocks)] = _fused(tensor, state[layer + gain])
                break
        else:
            if not name.endswith(_GAINS):
                tensors[_renamed(name, num_blocks)] = tensor.float()
    return tensors


def _fused(direction: Tensor, gain: Tensor) -> Tensor:
    """Return the weight g * v / |v|: one norm for each entry of the first axis, in transposed convolutions too."""
    norms = torch.linalg.vector_norm(direction.float(), dim=tuple(range(1, direction.dim())), keepdim=True)
    return direction.float() * (gain.float() / norms)


def _renamed(name: str, num_blocks: int) -> str:
    """Return the name in `DacModel`; the package numbers the layers of its sequences.

    encoder.block  0: conv1   1 .. n: blocks (0-2 residual units, 3 snake1, 4 conv1)     n+1: snake1   n+2: conv2
    decoder.model  0: conv1   1 .. n: blocks (0 snake1, 1 conv_t1, 2-4 residual units)   n+1: snake1   n+2: conv2
    """
    if (match := re.fullmatch(r"(encoder\.block|decoder\.model)\.(\d+)\.(.+)", name)) is None:
        return name
    part, index, rest = match[1].split(".")[0], int(match[2]), match[3]
    if not 1 <= index <= num_blocks:
        outer = {0: "conv1", num_blocks + 1: "snake1", num_blocks + 2: "conv2"}
        return f"{part}.{outer.get(index, index)}.{rest}"
    inner, _, leaf = rest.removeprefix("block.").partition(".")
    others = {"3": "snake1", "4": "conv1"} if part == "encoder" else {"0": "snake1", "1": "conv_t1"}
    first_unit = 0 if part == "encoder" else 2
    block = f"{part}.block.{index - 1}"
    if inner in others:
        return f"{block}.{others[inner]}.{leaf}"
    layer, _, end = leaf.removeprefix("block.").partition(".")
    return f"{block}.res_unit{int(inner) - first_unit + 1}.{_UNIT.get(layer, layer)}.{end}"


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read state dict and arguments.

    Raises:
        ValueError: if the file is not one of the package's.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # errors of the unpickler, the zip reader and the system have no common base
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as weights of descript-audio-codec, or holds other objects than tensors and plain "
            f"values, which are never opened (the package's `package.pth` holds code, its `weights.pth` does not): "
            f"{reason}"
        ) from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    metadata = content.get("metadata") if isinstance(content, dict) else None
    arguments = metadata.get("kwargs") if isinstance(metadata, dict) else None
    is_state = isinstance(state, dict) and all(isinstance(tensor, Tensor) for tensor in state.values())
    if not is_state or not isinstance(arguments, dict):
        raise ValueError(
            f"{path} is not a weight file of descript-audio-codec: it lacks `state_dict` or `metadata.kwargs`"
        )
    return dict(state), {**_DEFAULTS, **arguments}  # type: ignore[arg-type]


def _config(path: Path, arguments: Mapping[str, Any], num_codebooks: int) -> "DacConfig":
    """Return the configuration of `DacModel` for the package's arguments.

    Args:
        path: of the file, for messages.
        arguments: keyword arguments of the package's network.
        num_codebooks: number of codebooks among the weights.

    Raises:
        ValueError: if it has no such network: its decoder mirrors the encoder, and all codebooks have one width.
    """
    from transformers import DacConfig

    try:
        down, up = ([int(rate) for rate in arguments[f"{part}_rates"]] for part in ("encoder", "decoder"))
        problems = _differences(arguments, down, up, num_codebooks)
        if problems:
            raise ValueError("; ".join(problems))
        return DacConfig(
            encoder_hidden_size=int(arguments["encoder_dim"]),
            downsampling_ratios=down,
            decoder_hidden_size=int(arguments["decoder_dim"]),
            n_codebooks=num_codebooks,
            codebook_size=int(arguments["codebook_size"]),
            codebook_dim=arguments["codebook_dim"],
            sampling_rate=int(arguments["sample_rate"]),
        )
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"the codec in {path} cannot be a DacModel: {error}") from error


def _differences(arguments: Mapping[str, Any], down: list[int], up: list[int], num_codebooks: int) -> list[str]:
    """Say in what the package's network is not one that `DacModel` can be."""
    if not 1 <= len(down) <= _MAX_BLOCKS or len(up) > _MAX_BLOCKS:
        return [f"encoder_rates and decoder_rates must have 1 to {_MAX_BLOCKS} entries"]
    problems = []
    width = int(arguments["encoder_dim"]) * 2 ** len(down)
    if down != up[::-1]:
        problems.append(f"decoder_rates {up} are not encoder_rates {down} in reverse")
    if arguments["latent_dim"] not in (None, width):
        problems.append(f"latent_dim {arguments['latent_dim']} is not {width}")
    if not isinstance(arguments["codebook_dim"], int):
        problems.append(f"codebook_dim {arguments['codebook_dim']} is not one number")
    if arguments["n_codebooks"] != num_codebooks:
        problems.append(f"n_codebooks is {arguments['n_codebooks']}, but there are weights of {num_codebooks}")
    return problems
