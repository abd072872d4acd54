"""Base of the frozen networks: never trained, not part of the trained model, identified by their content."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from songgen.runtime.json_files import write_json
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE, WEIGHTS_FILE

logger = logging.getLogger(__name__)


class FrozenEncoder(ABC):
    """A network in evaluation mode without gradients.

    It is not an `nn.Module`, so that a model that holds it neither trains nor saves it, nor puts it into training mode.

    Args:
        model: the network with its weights.
        spec: what opens it again (`path`, `revision`, ...); empty for one that is not in a folder.
        dtype: precision to compute in (None: as given).
    """

    architecture_keys: ClassVar[tuple[str, ...]]
    """Fields of the configuration that decide what is computed: part of the fingerprint."""

    config: Any
    """Configuration of the network."""

    device: torch.device
    """Where the network computes."""

    dtype: torch.dtype
    """Precision of weights and features."""

    def __init__(
        self, model: nn.Module, *, spec: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Freeze the network."""
        self._network: Any = (model if dtype is None else model.to(dtype)).eval().requires_grad_(False)
        self._reopen: Callable[[], Self] | None = None
        self.config = model.config
        self.device = next(self._network.parameters()).device
        self.dtype = next(self._network.parameters()).dtype
        self.spec: dict[str, Any] = dict(spec or {})

    @property
    def _model(self) -> Any:
        """The network, which is loaded again if it was freed.

        Raises:
            ValueError: if it is not the same any more.
        """
        if self._network is None:
            assert self._reopen is not None
            logger.info("%s: loaded again, for features that are not stored", type(self).__name__)
            opened = self._reopen()
            if opened.fingerprint != self.fingerprint:
                raise ValueError(
                    f"{self.spec.get('path')} has changed since it was loaded: put its files back, or start again"
                )
            self._network = opened._network.to(self.device)
        return self._network

    @property
    def is_loaded(self) -> bool:
        """Whether the network is in memory."""
        return self._network is not None

    def unload(self, reopen: Callable[[], Self]) -> int:
        """Free the network until features are computed again. Its sizes and its fingerprint stay known.

        Args:
            reopen: opens the same network again, on the CPU.

        Returns:
            The bytes that its weights took.
        """
        _ = self.fingerprint  # computed from the weights
        self._reopen = reopen
        return self.unload_again()

    def unload_again(self) -> int:
        """Free the network as `unload` did, if it was loaded again since; return the bytes that its weights took."""
        if self._reopen is None or self._network is None:
            return 0
        size = sum(tensor.nbytes for tensor in self._network.state_dict().values())
        self._network = None
        return size

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """Width of the features."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over configuration and weights in their precision: equal features for equal inputs."""
        digest = hashlib.sha256(type(self).__name__.encode())
        digest.update(json.dumps(self._description(), sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place."""
        if self._network is not None:
            self._network.to(device)
        self.device = torch.empty(0, device=device).device  # with the number that "cuda" stands for
        return self

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, which the loader of this kind opens."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        write_json(target / MODEL_CONFIG_FILE, json.loads(self.config.to_json_string(use_diff=False)))
        save_file(self._tensors(), target / WEIGHTS_FILE, metadata={"format": "pt"})

    def _description(self) -> dict[str, Any]:
        """Return what decides, besides the weights, what is computed."""
        return {key: getattr(self.config, key) for key in self.architecture_keys}

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights to save, each once, on the CPU."""
        return {name: tensor.cpu().contiguous() for name, tensor in self._model.state_dict().items()}

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute without gradients and in the network's own precision, whatever the caller has switched on."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Sample initial weights from a seed and leave the process' own random state unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
