"""The fused heads in low precision, and training steps that never wait for a GPU."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from songgen.layout import LAYOUT_NAMES, get_layout
from songgen.models.loss import fused_head_losses, head_losses, weights_per_head
from songgen.vocabulary import IGNORE_INDEX, AudioVocabulary

HEADS, STEPS, WIDTH, VOCABULARY = 4, 40, 32, 150
LOSS_SCALE = 32768.0


def gradients(dtype: torch.dtype, *, targets_of_a_step: int, rows: int = 2, repeated: bool = False) -> list[Tensor]:
    """Gradients of the states and of the first head's weights in a precision, the loss scale taken out again."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, STEPS, WIDTH, generator=generator)
    labels = torch.randint(0, VOCABULARY, (rows, HEADS, STEPS), generator=generator)
    if repeated:
        states, labels = states.abs() + 3, torch.zeros_like(labels)
    labels[0, :, :5] = IGNORE_INDEX
    states.requires_grad_()
    weights = [(0.1 * torch.randn(VOCABULARY, WIDTH, generator=generator)).requires_grad_() for _ in range(HEADS)]
    counts = torch.full((HEADS,), targets_of_a_step)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = fused_head_losses(states, weights, labels, counts).loss
    (loss * LOSS_SCALE).backward()
    found = [states.grad, weights[0].grad]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in found)
    return [gradient / LOSS_SCALE for gradient in found if gradient is not None]


def relative_error(gradient: Tensor, exact: Tensor) -> float:
    return float((gradient - exact).norm() / exact.norm())


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 0.01), (torch.bfloat16, 0.02)])
def test_a_large_step_leaves_its_gradient_in_low_precision(dtype: torch.dtype, limit: float) -> None:
    """A target's share of a step of 200,000 is 1e-6: float16 holds it under the loss scale alone."""
    exact = gradients(torch.float32, targets_of_a_step=200_000)
    for gradient, expected in zip(gradients(dtype, targets_of_a_step=200_000), exact, strict=True):
        assert relative_error(gradient, expected) < limit


def test_errors_that_agree_in_every_row_do_not_overflow() -> None:
    """All rows want the same token: the plain sum over them is beyond float16, their share in the loss is small."""
    exact = gradients(torch.float32, targets_of_a_step=200_000, rows=600, repeated=True)
    found = gradients(torch.float16, targets_of_a_step=200_000, rows=600, repeated=True)
    assert exact[1].abs().max() * 200_000 * HEADS > torch.finfo(torch.float16).max
    for gradient, expected in zip(found, exact, strict=True):
        assert relative_error(gradient, expected) < 0.01


class _Copies(TorchFunctionMode):
    """Notes what brings numbers from the host to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [value for value in args if isinstance(value, Tensor)]
        moved = isinstance(result, Tensor) and any(value.device != result.device for value in inputs)
        indexed_by_list = func is Tensor.__getitem__ and isinstance(args[1], list)
        if moved or indexed_by_list or func in (torch.tensor, torch.as_tensor):
            self.found.append(func.__name__)
        return result


@pytest.mark.parametrize("layout_name", LAYOUT_NAMES)
def test_laying_out_copies_nothing_from_the_host_at_each_step(layout_name: str) -> None:
    """A copy to a GPU waits until all that is queued there is done; the device `meta` shows it here."""
    layout, vocabulary, device = get_layout(layout_name, 4), AudioVocabulary(64), torch.device("meta")
    codes = torch.zeros(2, len(layout.tracks), 4, 6, dtype=torch.long, device=device)
    frames = torch.tensor([6, 4], device=device)
    codebook_weights = torch.ones(4, device=device)

    def lay_out() -> list[str]:
        with _Copies() as copies:
            labels = layout.labels(codes, frames, vocabulary)
            layout.inputs(labels, vocabulary)
            layout.target_mask(frames, labels.shape[-1], train_every_eos=False)
            layout.revert(labels, 6)
            weights_per_head(codebook_weights, layout.head_codebook)
            head_losses(torch.zeros(*labels.shape, VOCABULARY, device=device), labels)
        return copies.found

    lay_out()
    assert lay_out() == []
