"""Costs of training a token model, from its configuration: weights, and what a micro-batch keeps and computes.

Shapes: S decoder steps, D width, H heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from songgen.config import RunConfig
from songgen.data.schema import DatasetInfo
from songgen.families.caption_features import TEXT_CACHE_BYTES
from songgen.families.costs import (
    FLOAT32,
    HALF,
    LAYERS,
    LOSSES,
    AdapterPlan,
    BatchCosts,
    BatchSize,
    OwnChoice,
    WeightCounts,
)
from songgen.families.foreign_keys import FLOW_KEYS, refuse_keys
from songgen.families.objective import DataNeeds
from songgen.families.planned_weights import PlannedWeights, stored_bytes
from songgen.families.tensor_account import TensorAccount
from songgen.families.tokens.forward_walk import LAYER, ForwardWalk
from songgen.families.tokens.model import lyrics_fingerprint, planned_config
from songgen.families.tokens.objective import data_needs
from songgen.families.tokens.parameter_groups import planned_training
from songgen.models.configuration_songgen import SongGenConfig
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.pretrained import local_folder
from songgen.runtime.tensor_files import weight_files
from songgen.tasks import VOCAL

LYRICS, CONDITIONS = "lyrics encoder", "caption and voice"
"""Names of the parts in `BatchCosts.kept`."""

HEADS = ("decoder.lm_heads.", "decoder.vocal_lm_heads.")
"""Beginnings of the names of the heads' weights."""

LAYERS_PREFIX, FIRST_LAYER = LAYER.format(""), LAYER.format("0.")
"""Beginnings of the names of the weights of all layers, and of the first one."""

WEIGHTS = "copies of weights in lower precision"

PUBLISHED_ENCODERS = {"google/flan-t5-large": 1_366_000_000, "m-a-p/MERT-v1-330M": 1_262_000_000}
"""Bytes of the encoders that the published models name, float32; nothing is downloaded for an estimate."""


def token_costs(config: RunConfig) -> TokenCosts:
    """Return the costs of the model of a run; only its configuration and the headers of its files are read.

    Raises:
        ValueError: if the model's configuration cannot be read, or groups to freeze or keys do not exist.
    """
    refuse_keys(config, FLOW_KEYS, "a model of codec tokens")
    model_config, folder = planned_config(config)
    with torch.device("meta"):
        core = SongGenForConditionalGeneration(model_config, folder=folder)
    trained, plan = planned_training(config, core)
    needs_voices = config.data.voice_probabilities().get(VOCAL, 0.0) > 0 and not config.data.voice_feature_crops
    costs = TokenCosts(
        config=model_config,
        shapes={name: parameter.shape for name, parameter in core.named_parameters()},
        trained=trained,
        plan=plan,
        encoders={
            name: encoder_bytes(getattr(model_config, name), folder)
            for name in ("text_encoder", "voice_encoder")
            if name == "text_encoder" or needs_voices
        },
        lyrics_tokenizer=lyrics_fingerprint(config, folder),
        vocal_heads=config.training.add_vocal_loss,
    )
    return costs.with_settings(config)


def encoder_bytes(spec: Mapping[str, Any], folder: Path | None) -> int | None:
    """Return the bytes of a frozen encoder's weights; None if they are neither here nor known."""
    path = str(spec.get("path", ""))
    if path in PUBLISHED_ENCODERS:
        return PUBLISHED_ENCODERS[path]
    where = local_folder(path, folder) if path else None
    if where is None or not weight_files(where):
        return None
    # Of a T5 model, only the encoder is used.
    return stored_bytes((where / name for name in weight_files(where)), ("decoder.", "lm_head."))


@dataclass(frozen=True)
class TokenCosts:
    """Costs of a token model; see `songgen.families.costs.ModelCosts`."""

    config: SongGenConfig
    """Configuration of the model, as the run changes it."""
    shapes: Mapping[str, torch.Size]
    """Name of each parameter -> its shape."""
    trained: frozenset[str]
    """Names of the trained parameters, without those of adapters."""
    encoders: Mapping[str, int | None]
    """Bytes of each frozen encoder that is in memory while the model trains."""
    lyrics_tokenizer: str | None
    """Fingerprint of the lyrics tokenizer in the model's folder or the configuration; None if there is none."""
    vocal_heads: bool
    """Whether the auxiliary vocal heads are trained."""
    computed: int = FLOAT32
    """Bytes of a number in matrix products."""
    fused: bool = True
    """Whether attention is one kernel where the device has it."""
    checkpointing: bool = False
    """Whether decoder layers are computed again in the backward pass."""
    stream: int = FLOAT32
    """Bytes of a number between layers, and of a weight."""
    plan: AdapterPlan | None = None
    """Adapters; None if the weights themselves are trained."""

    def misfits(self, info: DatasetInfo) -> list[str]:
        """See `ModelCosts`."""
        decoder, codec = self.config.decoder, self.config.audio_codec_fingerprint
        pairs = {
            "codebooks": (decoder.num_codebooks, info.num_codebooks),
            "codes of a codebook": (self.config.vocabulary.codebook_size, info.codebook_size),
            "codec": (codec, info.codec_fingerprint if codec else None),
            "lyrics tokenizer": (
                self.lyrics_tokenizer,
                info.lyrics_tokenizer_fingerprint if self.lyrics_tokenizer else None,
            ),
        }
        found = [
            f"{name}: {own} in the model, {other} in the data" for name, (own, other) in pairs.items() if own != other
        ]
        lacking = [track for track in self.data_needs.tracks if track not in info.tracks]
        return [*found, *(f"the data has no track {track}" for track in lacking)]

    @property
    def is_trained(self) -> bool:
        """See `ModelCosts`."""
        return self.config.audio_codec_fingerprint is not None

    @property
    def unused_keys(self) -> frozenset[str]:
        """See `ModelCosts`."""
        return FLOW_KEYS

    @property
    def own_choices(self) -> Mapping[str, OwnChoice]:
        """See `ModelCosts`."""
        return {}

    def with_settings(self, config: RunConfig) -> TokenCosts:
        """See `ModelCosts`."""
        return replace(
            self,
            computed=FLOAT32 if config.training.dtype == "float32" else HALF,
            fused=config.model.attn_implementation == "sdpa",
            checkpointing=config.model.gradient_checkpointing,
            stream=FLOAT32 if config.training.weights_dtype == "float32" else HALF,
        )

    def with_captions(self, tokens: int) -> TokenCosts:
        """See `ModelCosts`; `songgen.families.caption_features` then frees the encoder."""
        if tokens * self.config.text_hidden_size * FLOAT32 > TEXT_CACHE_BYTES:
            return self
        return replace(self, encoders={name: size for name, size in self.encoders.items() if name != "text_encoder"})

    @cached_property
    def weights(self) -> WeightCounts:
        """See `ModelCosts`."""
        return self._planned.counts(FIRST_LAYER, self.stream)

    @property
    def _planned(self) -> PlannedWeights:
        return PlannedWeights(self.shapes, self.trained, self.plan)

    @property
    def data_needs(self) -> DataNeeds:
        """See `ModelCosts`."""
        return data_needs(self.config.layout, self.config.task.auxiliary_tracks if self.vocal_heads else ())

    def batch(self, size: BatchSize, device: str) -> BatchCosts:
        """See `ModelCosts`."""
        walk = ForwardWalk(self.config, self._account, size, device)
        conditions, lyrics, decoder = self._account(device), self._account(device), self._account(device)
        memory, prefix = walk.conditions(conditions, lyrics)
        layer_kept = walk.decoder(decoder, memory, prefix, checkpointing=self.checkpointing, fused=self.fused)
        accounts = (conditions, lyrics, decoder)
        rows, layout = size.clips * walk.steps, self.config.layout
        losses, logits, gradients = self._losses(rows)
        kept = {CONDITIONS: conditions.kept, LYRICS: lyrics.kept, LAYERS: decoder.kept, LOSSES: losses}
        weights = sum(account.kept_weights for account in accounts)
        # Autocast frees its copies after the forward pass; those that the backward pass needs are counted as kept.
        cached = max(0, sum(account.cached for account in accounts) - weights)
        decoder_config = self.config.decoder
        # The widest gradients: those of both sides of the activation, and of the layer's input and output.
        inner = rows * (2 * decoder_config.ffn_dim * self.computed + 2 * decoder_config.hidden_size * self.stream)
        again = {"one decoder layer, computed again": layer_kept} if self.checkpointing else {}
        forward_operations = sum(account.forward_operations for account in accounts)
        forward_operations += decoder.forward_operations * self.checkpointing  # once more in the backward pass
        operations = forward_operations + sum(account.backward_operations for account in accounts)
        return BatchCosts(
            kept=kept | ({WEIGHTS: weights} if weights else {}),
            forward={"logits of one head": logits} | ({WEIGHTS: cached} if cached else {}),
            backward={"gradients of the heads": gradients},
            layer=again | {"gradients of activations": inner},
            gradients_before_layers=self._planned.trained_in(HEADS),
            gradients_after_layers=self._planned.trained_in((*HEADS, LAYERS_PREFIX))
            - self._planned.trained_in((LAYER.format(0) + ".",)),
            operations=operations + 6.0 * rows * self._head_weights,
            kernels=3 * sum(account.kernels for account in accounts) + 30 * layout.num_heads,
            moved=3 * sum(account.moved for account in accounts) + 8 * self._head_rows * rows * FLOAT32,
        )

    def _account(self, device: str, computed: int | None = None) -> TensorAccount:
        """Return an empty account, in the precision of the run unless another one is given."""
        return TensorAccount(
            self.trained.__contains__, device, computed=computed or self.computed, stream=self.stream, plan=self.plan
        )

    @property
    def _head_rows(self) -> int:
        """Rows of all heads that are computed: (H + vocal heads) x V."""
        return self.config.decoder.vocab_size * self.config.layout.num_heads * (1 + self.vocal_heads)

    @property
    def _head_weights(self) -> int:
        """Weights of all heads that are computed."""
        return self._head_rows * self.config.decoder.hidden_size

    def _losses(self, rows: int) -> tuple[int, int, int]:
        """Return the bytes that the losses keep, need at the end of the forward pass, and at the start of backward."""
        config = self.config.decoder
        sets, states = 1 + self.vocal_heads, rows * config.hidden_size * FLOAT32
        matrices = self._head_weights // sets
        if self._are_heads_plain:
            # The fused loss keeps the gradients of states and heads, and holds the logits of one head.
            logits = rows * config.vocab_size * (FLOAT32 + self.computed * (self.computed != FLOAT32))
            return sets * (states + matrices * FLOAT32), logits + 2 * states, states + matrices * FLOAT32
        # Each head by itself: log-probabilities of all heads, and their gradients.
        numbers = sets * rows * config.vocab_size * self.config.layout.num_heads
        return numbers * FLOAT32 + states, numbers * self.computed, numbers * FLOAT32

    @property
    def _are_heads_plain(self) -> bool:
        """Whether no head has an adapter, so that losses are fused."""
        return self.plan is None or not any(name.startswith(HEADS) for name in self.plan.ranks)
