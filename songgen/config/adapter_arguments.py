"""Configuration keys of adapters: what is attached to a base model, and how it is trained."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from songgen.config.types import PositiveFloat, PositiveInt, Range, coerce_fields


@dataclass(frozen=True, kw_only=True)
class LoraArguments:
    """Keys of the table `lora`, with the names that peft and ACE-Step use."""

    r: PositiveInt = 16
    """Rank of the adapters: a layer from width a to width b gets r * (a + b) trained weights."""

    lora_alpha: PositiveInt = 32
    """Numerator of the scale of adapters' outputs: `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`."""

    lora_dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Dropout rate of the adapters' inputs."""

    use_rslora: bool = False
    """Whether outputs are scaled by `lora_alpha / sqrt(r)`, so that large ranks do not learn more slowly."""

    use_dora: bool = False
    """Whether magnitudes of the weights are trained separately from their directions (DoRA). Slower, and often better
    at small ranks."""

    target_modules: list[str] | str = field(default_factory=lambda: ["attention", "cross_attention", "feed_forward"])
    """Layers that get an adapter: `attention`, `cross_attention`, `feed_forward` (of the decoder or transformer),
    `lyrics_encoder`, `projections` (of the conditions, and in flow-matching models of the time), `heads`, `all-linear`
    (all linear layers except the heads), the name of a layer or of a part (`q_proj`, `layers.3.fc1`, `layers.0`), or a
    regular expression for whole names. In flow-matching models, only the transformer gets an adapter, and the names of
    ACE-Step's own trainers are understood."""

    rank_pattern: dict[str, PositiveInt] = field(default_factory=dict)
    """Other ranks for some layers, named as in `target_modules`."""

    alpha_pattern: dict[str, PositiveInt] = field(default_factory=dict)
    """Other values of `lora_alpha` for some layers, named as in `target_modules`."""

    modules_to_save: list[str] = field(default_factory=list)
    """Layers that are trained whole instead of by an adapter, and are a part of it, named as in `target_modules`."""

    quantization: Literal["none", "nf4", "int8"] = "none"
    """Precision of the base in memory: as it is, 4 bits (`nf4`, QLoRA) or 8 bits (`int8`). Only layers of the decoder
    and of the lyrics encoder are quantized, or of the blocks of a flow-matching model's transformer. Requires
    bitsandbytes."""


@dataclass(frozen=True, kw_only=True)
class AdapterArguments:
    """Adapters: small weights that are trained in place of the model, and saved without it."""

    lora: dict[str, Any] | None = None
    """Adapter to train, as a table; see [the table `lora`](#the-table-lora). The base model is frozen; every checkpoint
    and the output folder are adapter folders of PEFT. null: the model itself is trained."""

    lora_config_path: str | None = None
    """JSON file with the table `lora`, in the form of ACE-Step's `--lora_config_path` or of peft's
    `adapter_config.json`, or the name of a shipped one, such as `r16.json`. The resolved configuration contains its
    content instead. It may also contain `lora_learning_rate` and `lora_plus_ratio`."""

    loras: list[dict[str, Any]] = field(default_factory=list)
    """Adapter in the form of VALL-E: [{"name": ..., "rank": 128, "alpha": 128, "training": true}]. One adapter is
    trained at a time. The resolved configuration contains `lora` instead."""

    lora_learning_rate: PositiveFloat | None = None
    """Peak learning rate of the adapter. null: `learning_rate`, which also applies to `modules_to_save`."""

    lora_plus_ratio: PositiveFloat = 1.0
    """Factor of the learning rate of the adapters' second matrices B (LoRA+); 16 is usual."""

    def lora_arguments(self) -> LoraArguments | None:
        """Return the keys of the adapter to train; None if there is none."""
        return None if self.lora is None else LoraArguments(**coerce_fields(LoraArguments, self.lora))
