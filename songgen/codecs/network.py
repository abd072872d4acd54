"""Codecs that are networks of the transformers library: opening, saving, choosing the bandwidth."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from songgen.codecs.base import AudioCodec
from songgen.runtime.file_hashes import checked_folder
from songgen.runtime.pretrained import FOREIGN_ERRORS
from songgen.runtime.tensor_files import require_finite

Model = TypeVar("Model", bound=PreTrainedModel)


class NetworkCodec(AudioCodec):
    """A codec that wraps a network of the transformers library, in evaluation mode and without gradients."""

    unused_weights: tuple[str, ...] = ()
    """Name endings of weights that encoding and decoding do not use, so that a file may lack them."""

    def __init__(self, model: PreTrainedModel, spec: dict[str, Any]) -> None:
        """Wrap an open network; `spec` opens it again."""
        self.model = model.eval().requires_grad_(False)
        self._spec = spec

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.model.device

    @property
    def spec(self) -> dict[str, Any]:
        """JSON that `load_codec` takes to open the same codec again."""
        return dict(self._spec)

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device."""
        torch.nn.Module.to(self.model, torch.device(device))
        return self

    def save(self, folder: Path) -> None:
        """Write model.safetensors, and config.json with this codec's settings as `codec_settings`."""
        settings = {key: value for key, value in self._spec.items() if key not in ("type", "path", "revision")}
        self.model.config.codec_settings = settings  # type: ignore[attr-defined]
        self.model.save_pretrained(folder)

    def _weights(self) -> Mapping[str, Tensor]:
        weights = self.model.state_dict()
        return {name: value for name, value in weights.items() if not name.endswith(self.unused_weights)}


def open_network(
    model_class: type[Model], path: str, revision: str | None, unused_weights: tuple[str, ...] = ()
) -> Model:
    """Open a network in float32 from the safetensors files of a folder or hub repository.

    Raises:
        ValueError: if it cannot be opened, has changed since it was written, or weights are missing or not finite.
    """
    if Path(path).is_dir():
        checked_folder(Path(path))
    try:
        model, info = model_class.from_pretrained(
            path, revision=revision or "main", dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (*FOREIGN_ERRORS, SafetensorError) as error:
        raise ValueError(
            f"Cannot open the weights of the codec {path!r}: {error} Give a folder or hub id that holds "
            "model.safetensors; files in pickle format are not opened."
        ) from error
    missing = sorted(
        name
        for name in {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
        if not name.endswith(unused_weights)
    )
    if missing:
        raise ValueError(
            f"The codec {path!r} lacks {len(missing)} weights of its network or has them in another shape, such as "
            f"{missing[0]}: the download is incomplete or config.json belongs to another model."
        )
    require_finite(model.state_dict(), f"the codec {path!r}")
    return model


def network_spec(kind: str, path: str, model: PreTrainedModel, revision: str | None, **settings: Any) -> dict[str, Any]:
    """Return the spec of an open network; a hub id is pinned to the commit that was opened."""
    revision = getattr(model.config, "_commit_hash", None) or revision
    return {"type": kind, "path": path, **({"revision": revision} if revision else {}), **settings}


def checked_bandwidth(bandwidth: Any, choices: Sequence[float], default: float, path: str) -> float:
    """Return the bandwidth in kbit/s to use: `default` for None, otherwise one of `choices`.

    Raises:
        ValueError: if the network does not offer the bandwidth.
    """
    if bandwidth is None:
        return float(default)
    for choice in choices:
        if isinstance(bandwidth, (int, float)) and math.isclose(bandwidth, choice):
            return float(choice)
    offered = ", ".join(f"{choice:g}" for choice in choices)
    raise ValueError(f"The codec {path!r} has no bandwidth {bandwidth!r}; choose one of {offered} kbit/s.")
