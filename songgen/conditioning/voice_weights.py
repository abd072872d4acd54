"""Mapping MERT's configuration and weights onto the native HuBERT class."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import HubertConfig

from songgen.runtime.network_sizes import require_sane_sizes

logger = logging.getLogger(__name__)

_REFUSED_OPTIONS = ("feature_extractor_cqt", "deepnorm")
_PREFIX = re.compile(r"^(mert_model|hubert)\.")
_WEIGHT_NORM = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
_NOT_OF_THE_ENCODER = re.compile(r"^(masked_spec_embed|final_proj|label_embs|mask_emb|target_glu)")
_HEAD_WIDTH = 64
"""Width of an attention head in every published HuBERT and MERT."""


def hubert_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of the native class, without those that serve pre-training only."""
    named: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in tensors.items():
        native = _PREFIX.sub("", name)
        for old, new in _WEIGHT_NORM.items():
            if native.endswith(old):
                native = native.removesuffix(old) + new
        if _NOT_OF_THE_ENCODER.match(native):
            left_out.append(native)
        else:
            named[native] = tensor
    if left_out:
        logger.debug("left out of the voice encoder, as they serve pre-training only: %s", ", ".join(left_out))
    return named


def hubert_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HubertConfig:
    """Return the configuration for the native class; the weights say what the given one leaves out.

    Raises:
        ValueError: for options that HuBERT lacks, or for weights of another kind of network.
    """
    require_sane_sizes(config, "the configuration of the voice encoder")
    refused = [option for option in _REFUSED_OPTIONS if config.get(option)]
    if refused:
        raise ValueError(f"the voice encoder uses {', '.join(refused)}, which the native HuBERT class does not have")
    known = HubertConfig().to_dict().keys() - {"dtype", "torch_dtype", "transformers_version"}
    given = {key: value for key, value in config.items() if key in known}
    training_only = {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    return HubertConfig.from_dict(_read_off(tensors) | given | training_only)


def _read_off(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the configuration from the weights; what they do not tell is as in the large models."""
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}
    kernels = sorted(
        (name for name in tensors if re.fullmatch(r"feature_extractor\.conv_layers\.\d+\.conv\.weight", name)),
        key=lambda name: int(name.split(".")[2]),
    )
    try:
        positions = tensors["encoder.pos_conv_embed.conv.parametrizations.weight.original1"]
        feed_forward = tensors["encoder.layers.0.feed_forward.intermediate_dense.weight"]
    except KeyError as error:
        raise ValueError(f"these are not weights of a HuBERT voice encoder: {error.args[0]} is missing") from error
    intermediate_size, hidden_size = feed_forward.shape
    return {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden_size // _HEAD_WIDTH),
        "conv_dim": [tensors[name].shape[0] for name in kernels],
        "conv_kernel": [tensors[name].shape[2] for name in kernels],
        "conv_bias": kernels[0].replace("weight", "bias") in tensors,
        "feat_extract_norm": "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in tensors else "group",
        "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in tensors,
        "num_conv_pos_embeddings": positions.shape[2],
        "num_conv_pos_embedding_groups": hidden_size // positions.shape[1],
        "do_stable_layer_norm": True,
    }
