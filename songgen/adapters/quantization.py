"""Base models in 4 or 8 bits (bitsandbytes), under adapters that are trained in full precision."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from songgen.adapters.options import QUANTIZATIONS


def quantize(
    model: nn.Module, names: Iterable[str], kind: str, *, compute_dtype: torch.dtype, device: torch.device
) -> None:
    """Replace linear layers by quantized ones with the same names. Their full weights are freed.

    nf4 stores 4 bits for each weight in blocks of 64, and the scales of the blocks in 8 bits (double quantization):
    4.13 bits a weight in all. int8 stores 8 bits, and a scale for each output.

    Args:
        model: base model, changed in place, without adapters.
        names: names of the layers.
        kind: `nf4` or `int8`.
        compute_dtype: precision of the products, and of the biases.
        device: device that the model is trained on, where the weights are quantized. bitsandbytes keeps the scales of
            int8 outside of parameters, and they would be left behind if the model was moved afterwards.

    Raises:
        ValueError: if bitsandbytes is not installed.
    """
    assert kind in QUANTIZATIONS and kind != "none", kind
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"quantization {kind} needs the package bitsandbytes, which is not installed: "
            'pip install -c constraints.txt -e ".[8bit]", or set quantization to none'
        ) from error
    build = {"nf4": _nf4, "int8": _int8}[kind]
    for name in names:
        parent_name, _, own_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, own_name, build(bitsandbytes.nn, getattr(parent, own_name), compute_dtype, device))
    # peft chooses its layers by these attributes of the model, which transformers would set.
    setattr(model, "is_loaded_in_4bit" if kind == "nf4" else "is_loaded_in_8bit", True)
    if kind == "int8":
        # It warns in every product that inputs are rounded to float16, as is documented of this format.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def _nf4(layers: Any, linear: nn.Linear, compute_dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return a 4-bit layer. Its weight is quantized by moving it to the device."""
    quantized = _empty(layers.Linear4bit, linear, compute_dtype=compute_dtype, quant_type="nf4")
    quantized.weight = layers.Params4bit(
        linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=quantized
    )
    # The bias is converted once, here. Otherwise the first product would do it.
    quantized.bias = _frozen(linear.bias, compute_dtype)
    # On some CPUs, bitsandbytes (0.50) repacks weights at the first product outside of training: with other rounding,
    # so that a run which has evaluated would differ from a resumed one; and it fails for widths that are no multiple
    # of 32.
    quantized.support_avx512bf16_for_cpu = False
    moved: nn.Module = quantized.to(device)
    return moved


def _int8(layers: Any, linear: nn.Linear, compute_dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return an 8-bit layer. Its weight is quantized by moving it to the device."""
    quantized = _empty(layers.Linear8bitLt, linear, has_fp16_weights=False)
    quantized.weight = layers.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    quantized.bias = _frozen(linear.bias, compute_dtype)
    moved: nn.Module = quantized.to(device)
    return moved


def _empty(kind: Any, linear: nn.Linear, **options: Any) -> Any:
    """Return a quantized layer without content."""
    return kind(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta", **options)


def _frozen(bias: nn.Parameter | None, dtype: torch.dtype) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.data.to(dtype), requires_grad=False)
