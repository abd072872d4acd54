"""From logits to tokens: only codes can be sampled, and the end of a song where it is allowed.

Shapes: B sequences, H heads, V padded vocabulary, C codebook size.
"""

import torch
from torch import Tensor

from songgen.generation.options import GenerationOptions

NOISE_BLOCK_STEPS = 8
"""Steps whose noise a song samples at once, so that each step does not cost one kernel launch a song."""


def allowed_logits(logits: Tensor, codebook_size: int, eos_due: Tensor | None) -> Tensor:
    """Keep the logits of tokens that may be sampled.

    Args:
        logits: B x H x V of any floating type.
        codebook_size: C; ids below it are codes, and the id C is the end of a stream.
        eos_due: H bool, heads on which the song may end at this step; None if it may not end.

    Returns:
        B x H x C float32 if no song may end, else B x H x (C + 1) with minus infinity on the heads where it may not.
        No other id has a column, so that nothing else can be sampled, whatever the logits are.
    """
    if eos_due is None:
        return logits[..., :codebook_size].float()
    allowed = logits[..., : codebook_size + 1].float()
    keep = torch.ones(allowed.shape[1:], dtype=torch.bool, device=allowed.device)
    keep[:, codebook_size] = eos_due
    return allowed.masked_fill(~keep, -torch.inf)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Set all but the `top_k` largest logits of each row to minus infinity (ties with the last one stay)."""
    smallest_kept = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the most likely entries of each row until they have `top_p` of its probability; one is always kept."""
    descending, order = logits.sort(dim=-1, descending=True)
    probabilities = descending.softmax(dim=-1)
    held_before = probabilities.cumsum(dim=-1) - probabilities
    beyond = held_before >= top_p
    drop = torch.zeros_like(beyond).scatter(-1, order, beyond)
    drop.scatter_(-1, order[..., :1], False)
    return logits.masked_fill(drop, -torch.inf)


class TokenSampler:
    """Samples one token for each sequence and head.

    Each sequence has a random generator of its own, so its tokens depend on its seed, its logits and the step, and not
    on the other sequences of the batch.
    """

    def __init__(
        self,
        options: GenerationOptions,
        codebook_size: int,
        num_heads: int,
        seeds: list[int],
        device: torch.device,
    ) -> None:
        """Seed one generator for each sequence.

        Args:
            options: temperature, top-k, top-p, and whether to sample at all.
            codebook_size: C.
            num_heads: H.
            seeds: B seeds, one a sequence.
            device: where the logits are.
        """
        self.options = options
        self.codebook_size = codebook_size
        self.num_heads = num_heads
        self.device = device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._noise = torch.empty(0)
        self._noise_left = 0

    def __call__(self, logits: Tensor, eos_due: Tensor | None = None) -> Tensor:
        """Sample from logits (B x H x V); `eos_due` (H bool) tells where the end is allowed. Return B x H int64."""
        logits = allowed_logits(logits, self.codebook_size, eos_due)
        if not self.options.do_sample:
            return logits.argmax(dim=-1)
        logits = logits / self.options.temperature
        if self.options.top_k:
            logits = keep_top_k(logits, self.options.top_k)
        if self.options.top_p is not None and self.options.top_p < 1:
            logits = keep_top_p(logits, self.options.top_p)
        # Gumbel-max trick: the argmax of logits plus Gumbel noise is a sample from their softmax.
        return (logits + self._next_noise()[..., : logits.shape[-1]]).argmax(dim=-1)

    def _next_noise(self) -> Tensor:
        """Return B x H x (C + 1) standard Gumbel noise, each sequence's from its own generator."""
        if self._noise_left == 0:
            shape = (NOISE_BLOCK_STEPS, self.num_heads, self.codebook_size + 1)
            exponential = torch.stack(
                [torch.empty(shape, device=self.device).exponential_(generator=own) for own in self._generators]
            )
            self._noise = -exponential.clamp_min(torch.finfo(torch.float32).tiny).log()
            self._noise_left = NOISE_BLOCK_STEPS
        step = NOISE_BLOCK_STEPS - self._noise_left
        self._noise_left -= 1
        return self._noise[:, step]
