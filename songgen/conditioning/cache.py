"""A content-addressed cache of features in memory."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor


class FeatureCache:
    """Features by a key of encoder and content; the least recently used are dropped first."""

    def __init__(self, max_bytes: int) -> None:
        """Make an empty cache that keeps at most `max_bytes`."""
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._items: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    @staticmethod
    def key(encoder_fingerprint: str, content: bytes) -> str:
        """Return the key of a content (SHA-256 over the encoder's fingerprint and the content)."""
        return hashlib.sha256(encoder_fingerprint.encode() + b"\0" + content).hexdigest()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return copies of the features under a key (on the CPU), or None."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return {name: tensor.clone() for name, tensor in self._items[key].items()}

    def put(self, key: str, features: Mapping[str, Tensor]) -> None:
        """Keep copies of features under a key, unless they exceed the limit by themselves."""
        if (known := self._items.pop(key, None)) is not None:
            self.num_bytes -= _num_bytes(known)
        size = _num_bytes(features)
        if size > self.max_bytes:
            return
        self._items[key] = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in features.items()}
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, oldest = self._items.popitem(last=False)
            self.num_bytes -= _num_bytes(oldest)


def _num_bytes(features: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in features.values())
