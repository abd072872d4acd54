"""Flow models whose tensors are large enough to be counted, with their costs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from torch import Tensor

from songgen.config import RunConfig
from songgen.families.costs import BatchSize
from songgen.families.flow import forward_walk
from songgen.families.flow.costs import FlowCosts
from songgen.families.flow.model import FlowModel
from songgen.families.flow.parameter_groups import planned_training

CHANNELS, WIDTH, TEXT_WIDTH = 8, 96, 32
SIZE = BatchSize(2, 240, 14, 40, 0)
_LAYERS = {
    "hidden_size": WIDTH, "intermediate_size": 256, "num_attention_heads": 6, "num_key_value_heads": 2,
    "head_dim": 16, "sliding_window": 16,
}  # fmt: skip


def counted_model() -> FlowModel:
    """A flow model of three layers with random weights, in training mode; it has no folder."""
    torch.manual_seed(0)
    transformer = AceStepTransformer1DModel(
        num_hidden_layers=3, in_channels=3 * CHANNELS, audio_acoustic_hidden_dim=CHANNELS, **_LAYERS
    )
    encoder = AceStepConditionEncoder(
        text_hidden_dim=TEXT_WIDTH, timbre_hidden_dim=CHANNELS, num_lyric_encoder_hidden_layers=2,
        num_timbre_encoder_hidden_layers=2, **_LAYERS,
    )  # fmt: skip
    return FlowModel(Path("nowhere"), transformer, encoder).train()


def planned_flow(model: FlowModel, **keys: Any) -> tuple[RunConfig, FlowCosts]:
    """The configuration of a run and the costs of a model in it, before an adapter is attached."""
    required = {"model_name_or_path": "m", "save_to_disk": "d", "output_dir": "o", "condition_dropout": 0.0}
    config = RunConfig.from_dict(required | keys)
    trained, plan = planned_training(config, model)
    costs = FlowCosts(
        transformer=dict(model.transformer.config),
        encoder=dict(model.condition_encoder.config),
        shapes={name: parameter.shape for name, parameter in model.named_parameters()},
        trained=trained,
        plan=plan,
        encoders={},
        autoencoder={"sampling_rate": 48_000},
    )
    return config, costs.with_settings(config)


def forward_of_flow(model: FlowModel, size: BatchSize, *, half: bool) -> Callable[[], Tensor]:
    """A forward pass on a batch of a size, the second clip shorter than the first, as the trainer runs it."""
    frames = torch.full((size.clips,), size.frames)
    frames[1:] -= 20
    inside = torch.arange(size.frames) < frames[:, None]
    target = torch.randn(size.clips, size.frames, CHANNELS)
    batch = {
        "noisy": torch.randn(size.clips, size.frames, CHANNELS),
        "timesteps": torch.rand(size.clips),
        "frames": frames,
        "captions": torch.randn(size.clips, size.caption, TEXT_WIDTH),
        "caption_mask": torch.ones(size.clips, size.caption, dtype=torch.bool),
        "lyrics": torch.randn(size.clips, size.lyrics, TEXT_WIDTH),
        "lyrics_mask": torch.ones(size.clips, size.lyrics, dtype=torch.bool),
        "references": torch.randn(1, forward_walk.REFERENCE_FRAMES, CHANNELS),
        "reference_of": torch.zeros(size.clips, dtype=torch.long),
    }

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            velocity = model(**batch).velocity
        return ((velocity.float() - target).square() * inside[..., None]).sum()

    return forward
