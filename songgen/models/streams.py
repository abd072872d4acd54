"""One layer a stream: embeddings whose outputs are summed, and heads whose logits are stacked.

Many small products cost more than one large one, so layers that are exactly PyTorch's are fused: their weights are
joined and multiplied (or looked up) at once. Any other layer is called through its own `forward`: an adapter around a
layer, a quantized layer, or a layer with a hook or a parametrization computes what it says. State-dict names are those
of an `nn.ModuleList`.

Shapes: B batch, H streams, S steps, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from songgen.runtime.private_names import has_hooks


def _is_untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a module runs the `forward` of `kind` and nothing else.

    A subclass, a parametrization and FSDP's wrapping all change the type; accelerate's hooks replace the instance's
    `forward`.
    """
    return type(module) is kind and "forward" not in vars(module) and not has_hooks(module)


class StreamEmbeddings(nn.ModuleList):
    """H embeddings of V x D, one a stream; what they give for a step is summed."""

    def forward(self, ids: Tensor) -> Tensor:
        """Embed: B x H x S ids -> B x S x D."""
        return self.joined()(ids)

    def joined(self) -> Callable[[Tensor], Tensor]:
        """Return what `forward` computes, with the weights joined once for many calls (in generation)."""
        if not (self._is_plain() and len({module.weight.shape for module in self._layers}) == 1):
            return self._summed
        # (H * V) x D: stream h finds its id v in row h * V + v, and a bag sums the H rows of a step.
        table = torch.cat([module.weight for module in self._layers])
        vocabulary = self._layers[0].num_embeddings

        def look_up(ids: Tensor) -> Tensor:
            first_rows = torch.arange(len(self), device=ids.device) * vocabulary
            bags = (ids + first_rows[:, None]).transpose(1, 2)  # B x S x H
            return F.embedding_bag(bags.flatten(0, 1), table, mode="sum").unflatten(0, bags.shape[:2])

        return look_up

    @property
    def _layers(self) -> list[nn.Embedding]:
        """The layers, typed."""
        return cast("list[nn.Embedding]", list(self))

    def _is_plain(self) -> bool:
        """Whether every layer is a plain look-up."""
        return all(
            _is_untouched(module, nn.Embedding)
            and (module.max_norm, module.padding_idx, module.scale_grad_by_freq, module.sparse)
            == (None, None, False, False)
            for module in self._layers
        )

    def _summed(self, ids: Tensor) -> Tensor:
        """Embed each stream by itself: B x H x S -> B x S x D."""
        return torch.stack([module(ids[:, head]) for head, module in enumerate(self)]).sum(dim=0)


class Heads(nn.ModuleList):
    """H linear layers without bias, D to V, one a stream."""

    def forward(self, states: Tensor) -> Tensor:
        """Compute all logits: B x S x D -> B x H x S x V."""
        return self.joined()(states).movedim(-2, 1)

    def joined(self) -> Callable[[Tensor], Tensor]:
        """Return a function from ... x D to the logits ... x H x V, with the weights joined once for many calls."""
        if not self._is_plain():
            return self._stacked
        matrix = torch.cat(self._weights())  # (H * V) x D
        return lambda states: F.linear(states, matrix).unflatten(-1, (len(self), -1))

    def matrices(self) -> list[Tensor] | None:
        """Return the H weights, V x D each, where they say all that `forward` computes; else None."""
        return self._weights() if _is_untouched(self, Heads) and self._is_plain() else None

    def _weights(self) -> list[Tensor]:
        return [cast("nn.Linear", module).weight for module in self]

    def _is_plain(self) -> bool:
        """Whether every layer is a plain matrix product."""
        return all(_is_untouched(module, nn.Linear) and module.bias is None for module in self)

    def _stacked(self, states: Tensor) -> Tensor:
        """Run each head by itself: ... x D -> ... x H x V."""
        return torch.stack([module(states) for module in self], dim=-2)
