"""Quantized bases, computed by bitsandbytes on the CPU."""

import pytest
import torch
from model_fakes import batch, tiny
from torch import nn

from songgen.adapters.attach import attach
from songgen.adapters.options import AdapterOptions
from songgen.adapters.quantization import quantize
from songgen.adapters.targets import find_targets
from songgen.families.tokens.parameter_groups import TOKEN_LAYERS

pytest.importorskip("bitsandbytes")

CPU = torch.device("cpu")
KINDS = {"nf4": 0.3, "int8": 0.02}
"""Kind -> largest error of a product, relative to its deviation."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_quantized_layer_computes_nearly_the_same(kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 48, bias=bias))
    inputs = torch.randn(5, 128, requires_grad=True)
    expected = model(inputs)
    quantize(model, ["0"], kind, compute_dtype=torch.float32, device=CPU)
    found = model(inputs)
    assert found.dtype == torch.float32
    assert (found - expected).std() < KINDS[kind] * expected.std() and not torch.equal(found, expected)
    found.sum().backward()
    assert inputs.grad is not None and inputs.grad.abs().sum() > 0
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_the_bytes_of_a_weight() -> None:
    linear = nn.Linear(256, 256, bias=False)
    full = sum(parameter.nbytes for parameter in linear.parameters())
    for kind, share in (("nf4", 1 / 8), ("int8", 1 / 4)):
        model = nn.Sequential(nn.Linear(256, 256, bias=False))
        quantize(model, ["0"], kind, compute_dtype=torch.float32, device=CPU)
        assert sum(parameter.nbytes for parameter in model.parameters()) == full * share


def test_evaluation_changes_nothing_for_later_steps() -> None:
    """bitsandbytes would repack weights outside of training, and round them differently from then on."""
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(64, 64)), torch.randn(3, 64)
    quantize(model, ["0"], "nf4", compute_dtype=torch.float32, device=CPU)
    before, stored = model.train()(inputs), model[0].weight.data.clone()
    with torch.no_grad():
        model.eval()(inputs)
    assert torch.equal(model[0].weight.data, stored) and torch.equal(model.train()(inputs), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_learns_on_a_quantized_base(kind: str, dtype: torch.dtype) -> None:
    model = tiny()
    names = [name for name in find_names(model) if ".layers." in name or ".encoders." in name]
    quantize(model, names, kind, compute_dtype=dtype, device=CPU)
    options = AdapterOptions(targets=("all-linear",), rank=4, alpha=8)
    attach(model, options, find_targets(model, options, TOKEN_LAYERS.words, lambda name: False), seed=0)
    kinds = {type(model.get_submodule(name)).__name__ for name in names}
    assert kinds == {"Linear4bit" if kind == "nf4" else "Linear8bitLt"}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, inputs, losses = torch.optim.AdamW(trained, lr=1e-2), batch(model), []
    for _ in range(6):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model.train()(**inputs, return_logits=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
    assert {parameter.dtype for parameter in trained} == {torch.float32}


def find_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
