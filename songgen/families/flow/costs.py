"""Costs of training a flow model, from its configuration: weights, and what a micro-batch keeps and computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from songgen.config import RunConfig
from songgen.config.flow_arguments import FlowArguments
from songgen.data.schema import LATENTS, DatasetInfo
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
from songgen.families.flow.forward_walk import TRANSFORMER_LAYER, ForwardWalk
from songgen.families.flow.keys import check_keys
from songgen.families.flow.model import FlowModel
from songgen.families.flow.model_folder import TRAINED_PARTS, is_turbo
from songgen.families.flow.parameter_groups import planned_training
from songgen.families.flow.pipeline import AUTOENCODER, TEXT_ENCODER, empty_component, read_index
from songgen.families.foreign_keys import TOKEN_KEYS
from songgen.families.objective import DataNeeds
from songgen.families.planned_weights import PlannedWeights, stored_bytes
from songgen.families.tensor_account import TensorAccount
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import resolve_folder
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE, weight_files
from songgen.tasks import MIX

CONDITIONS, WEIGHTS = "condition encoder", "copies of weights in lower precision"
"""Names of parts in `BatchCosts.kept`."""

OUTPUT = ("transformer.norm_out.", "transformer.proj_out_conv.", "transformer.scale_shift_table")
"""Beginnings of the names of the weights behind the layers."""

LAYERS_PREFIX, FIRST_LAYER = TRANSFORMER_LAYER.format(""), TRANSFORMER_LAYER.format("0.")
"""Beginnings of the names of the weights of all layers, and of the first one."""

_WIDTHS = "hidden_size", "intermediate_size"

_SMALL_FILES = ("*.json",)


def flow_costs(config: RunConfig) -> FlowCosts:
    """Return the costs of the model of a run; only its configuration and the headers of its files are read.

    Raises:
        ValueError: if the model's configuration cannot be read, or groups to freeze or keys do not exist.
    """
    model = config.model
    folder = resolve_folder(model.model_name_or_path, revision=model.model_revision, patterns=_SMALL_FILES)
    read_index(folder)
    core = FlowModel(folder, *(empty_component(folder, part) for part in TRAINED_PARTS))
    check_keys(config, is_turbo=core.is_turbo)
    trained, plan = planned_training(config, core)
    transformer, encoder = (dict(getattr(core, part).config) for part in TRAINED_PARTS)
    costs = FlowCosts(
        transformer=transformer,
        encoder=encoder,
        shapes={name: parameter.shape for name, parameter in core.named_parameters()},
        trained=trained,
        plan=plan,
        encoders={TEXT_ENCODER: _text_encoder_bytes(folder)},
        autoencoder=read_json_object(folder / AUTOENCODER / MODEL_CONFIG_FILE),
    )
    return costs.with_settings(config)


def _text_encoder_bytes(folder: Path) -> int | None:
    """Return the bytes of the text encoder in float32; None if its weights are not here."""
    files = [folder / TEXT_ENCODER / name for name in weight_files(folder / TEXT_ENCODER)]
    is_complete = files and all(path.is_file() for path in files)  # of a hub repository, weights are not downloaded
    return stored_bytes(files, bytes_each=FLOAT32) if is_complete else None


@dataclass(frozen=True)
class FlowCosts:
    """Costs of a flow model; see `songgen.families.costs.ModelCosts`."""

    transformer: Mapping[str, Any]
    """Configuration of the transformer."""
    encoder: Mapping[str, Any]
    """Configuration of the condition encoder."""
    shapes: Mapping[str, torch.Size]
    """Name of each parameter -> its shape."""
    trained: frozenset[str]
    """Names of the trained parameters, without those of adapters."""
    encoders: Mapping[str, int | None]
    """Bytes of each frozen network that is in memory while the model trains."""
    autoencoder: Mapping[str, Any]
    """Configuration of the autoencoder."""
    computed: int = FLOAT32
    """Bytes of a number in matrix products."""
    checkpointing: bool = False
    """Whether layers are computed again in the backward pass."""
    stream: int = FLOAT32
    """Bytes of a weight."""
    plan: AdapterPlan | None = None
    """Adapters; None if the weights themselves are trained."""

    @property
    def data_needs(self) -> DataNeeds:
        """See `ModelCosts`."""
        return DataNeeds(LATENTS, (MIX,))

    def misfits(self, info: DatasetInfo) -> list[str]:
        """See `ModelCosts`."""
        pairs = {
            "kind of target": (LATENTS, info.target_kind),
            "channels": (self.transformer["audio_acoustic_hidden_dim"], info.num_channels),
            "sample rate": (self.autoencoder["sampling_rate"], info.sample_rate),
        }
        return [
            f"{name}: {own} in the model, {other} in the data" for name, (own, other) in pairs.items() if own != other
        ]

    @property
    def is_trained(self) -> bool:
        """See `ModelCosts`; a pipeline does not say, and new ones are small."""
        return True

    @property
    def unused_keys(self) -> frozenset[str]:
        """See `ModelCosts`; a voice comes from the timbre reference."""
        return TOKEN_KEYS

    @property
    def own_choices(self) -> Mapping[str, OwnChoice]:
        """See `ModelCosts`."""
        shift = OwnChoice(FlowArguments.shift, "as the published models are used: more of the steps near the noise")
        if is_turbo(self.transformer):
            steps = OwnChoice("discrete", "the eight timesteps at which a turbo model is used")
            conditions = OwnChoice(0.0, "guidance is distilled into a turbo model, and nothing reads a null condition")
            return {"timestep_sampling": steps, "shift": shift, "condition_dropout": conditions}
        return {"timestep_sampling": OwnChoice("logit_normal", "most timesteps in the middle"), "shift": shift}

    def with_settings(self, config: RunConfig) -> FlowCosts:
        """See `ModelCosts`."""
        return replace(
            self,
            computed=FLOAT32 if config.training.dtype == "float32" else HALF,
            checkpointing=config.model.gradient_checkpointing,
            stream=FLOAT32 if config.training.weights_dtype == "float32" else HALF,
        )

    def with_captions(self, tokens: int) -> FlowCosts:
        """See `ModelCosts`; `songgen.families.caption_features` then frees the encoder."""
        if tokens * int(self.encoder["text_hidden_dim"]) * FLOAT32 > TEXT_CACHE_BYTES:
            return self
        return replace(self, encoders={})

    @cached_property
    def weights(self) -> WeightCounts:
        """See `ModelCosts`."""
        return self._planned.counts(FIRST_LAYER, self.stream)

    @property
    def _planned(self) -> PlannedWeights:
        return PlannedWeights(self.shapes, self.trained, self.plan)

    def batch(self, size: BatchSize, device: str) -> BatchCosts:
        """See `ModelCosts`."""

        def account() -> TensorAccount:
            return TensorAccount(
                self.trained.__contains__, device, computed=self.computed, stream=self.stream, plan=self.plan
            )

        walk = ForwardWalk(self.transformer, self.encoder, account, size)
        before, layers = account(), account()
        conditions, encoder_kept = walk.conditions(before, checkpointing=self.checkpointing)
        layer_kept = max(encoder_kept, walk.layers(layers, conditions, checkpointing=self.checkpointing))
        accounts = (before, layers)
        weights = sum(entry.kept_weights for entry in accounts)
        # Autocast frees its copies after the forward pass; those that the backward pass needs are counted as kept.
        cached = max(0, sum(entry.cached for entry in accounts) - weights)
        rows, width, inner = size.clips * walk.patches, *(self.transformer[key] for key in _WIDTHS)
        # The error of the velocity and its square, in float32.
        latents = size.clips * size.frames * int(self.transformer["audio_acoustic_hidden_dim"]) * FLOAT32
        gradients = rows * (2 * inner * self.computed + 2 * width * FLOAT32)
        again = {"one layer, computed again": layer_kept} if self.checkpointing else {}
        forward_operations = sum(entry.forward_operations for entry in accounts) * (1 + self.checkpointing)
        return BatchCosts(
            kept={CONDITIONS: before.kept, LAYERS: layers.kept, LOSSES: 2 * latents}
            | ({WEIGHTS: weights} if weights else {}),
            forward={"velocity": latents} | ({WEIGHTS: cached} if cached else {}),
            backward={"gradients of the velocity": 2 * latents},
            layer=again | {"gradients of activations": gradients},
            gradients_before_layers=self._planned.trained_in(OUTPUT),
            gradients_after_layers=self._planned.trained_in((*OUTPUT, LAYERS_PREFIX))
            - self._planned.trained_in((FIRST_LAYER,)),
            operations=forward_operations + sum(entry.backward_operations for entry in accounts),
            kernels=3 * sum(entry.kernels for entry in accounts),
            moved=3 * sum(entry.moved for entry in accounts),
        )
