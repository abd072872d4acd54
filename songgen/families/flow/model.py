"""Flow-matching model: the networks of an ACE-Step pipeline that can be trained, and access to the frozen ones.

Time runs from 1 (noise) to 0 (data). Latents at time t are `t * noise + (1 - t) * data`, and the transformer predicts
their velocity, `noise - data`.

Shapes: B clips, T frames, C channels of a latent, L caption tokens, Y lyrics tokens, E width of the text encoder,
U different timbre references, R frames of one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers.models.transformers.ace_step_transformer import AceStepTransformerBlock
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepEncoderLayer
from torch import Tensor, nn

from songgen.families.flow.autoencoder import LatentAutoencoder
from songgen.families.flow.model_folder import TRAINED_PARTS, is_turbo
from songgen.families.flow.padding import mask_padding
from songgen.families.flow.pipeline import (
    AUTOENCODER,
    COMPONENTS,
    find_pipeline,
    open_component,
    read_index,
)
from songgen.families.flow.training.text_features import TextFeatures
from songgen.runtime.file_hashes import checked
from songgen.runtime.json_files import read_json_object
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

if TYPE_CHECKING:
    from diffusers import AceStepPipeline


@dataclass
class FlowOutput:
    """What the model returns: dataclasses of tensors go through every wrapper."""

    velocity: Tensor
    """B x T x C; without meaning beyond the end of a clip."""


class FlowModel(nn.Module):
    """Transformer and condition encoder of a pipeline."""

    _no_split_modules = frozenset({AceStepTransformerBlock.__name__, AceStepEncoderLayer.__name__})
    """Classes of the layers that FSDP shards one by one; accelerate reads them."""

    def __init__(self, folder: Path, transformer: nn.Module, condition_encoder: nn.Module) -> None:
        """Use opened networks.

        Args:
            folder: folder of the pipeline, from which the other components are opened when they are needed.
            transformer: `diffusers.AceStepTransformer1DModel`, whose attention gets masks for padding.
            condition_encoder: `diffusers.pipelines.ace_step.AceStepConditionEncoder`.
        """
        super().__init__()
        self.folder = folder
        self.transformer = transformer
        self.condition_encoder = condition_encoder
        self.texts = TextFeatures(folder)
        self._parts: dict[str, Any] = {}
        self._masks = mask_padding(transformer)
        mask_padding(condition_encoder)  # which makes its own masks, and needs the attention that is fast with them
        # Published weights have it and nothing reads it. DDP would wait for its gradient.
        condition_encoder.timbre_encoder.special_token.requires_grad_(False)  # type: ignore[union-attr, operator]

    @classmethod
    def open(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """Open a pipeline's trained networks in float32 on the CPU.

        Args:
            name: diffusers folder, or hub id.
            revision: branch, tag or commit of a hub repository.

        Raises:
            ValueError: if it is not such a pipeline, or damaged.
        """
        folder = find_pipeline(name, revision=revision)
        return cls(folder, *(open_component(folder, part) for part in TRAINED_PARTS))

    @property
    def is_turbo(self) -> bool:
        """Whether the model was distilled to few steps without guidance."""
        config: Any = self.transformer.config
        return is_turbo(config)

    @property
    def num_channels(self) -> int:
        """Number of values of a latent frame, C."""
        return int(self.transformer.config.audio_acoustic_hidden_dim)  # type: ignore[union-attr, arg-type]

    @property
    def patch_size(self) -> int:
        """Number of frames that the transformer joins to one position."""
        return int(self.transformer.patch_size)  # type: ignore[arg-type]

    @property
    def frame_rate(self) -> float:
        """Number of latent frames a second, from the configuration of the autoencoder."""
        config = read_json_object(checked(self.folder / AUTOENCODER / MODEL_CONFIG_FILE))
        return float(config["sampling_rate"]) / math.prod(config["downsampling_ratios"])

    @cached_property
    def autoencoder_fingerprint(self) -> str:
        """Fingerprint of the autoencoder, which data sets must have been made with.

        Raises:
            ValueError: if it cannot be opened.
        """
        return LatentAutoencoder.open(self.folder).fingerprint

    def blocks(self) -> list[nn.Module]:
        """Return the layers of the transformer, and those of the encoders of lyrics and timbre."""
        return [
            module for module in self.modules() if isinstance(module, (AceStepTransformerBlock, AceStepEncoderLayer))
        ]

    @property
    def device(self) -> torch.device:
        """Device of the trained networks."""
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the transformer's weights."""
        return next(p.dtype for p in self.transformer.parameters() if p.is_floating_point())

    def part(self, name: str) -> Any:
        """Return a frozen component on the model's device and in its precision; it is opened when first needed.

        Args:
            name: key of `songgen.families.flow.pipeline.COMPONENTS`.

        Raises:
            ValueError: if the pipeline does not have it, or it cannot be opened.
        """
        if name not in self._parts:
            if name not in read_index(self.folder):
                raise ValueError(f"{self.folder} has no {name}, which this needs")
            opened = open_component(self.folder, name)
            if isinstance(opened, nn.Module):
                opened.requires_grad_(False)
            self._parts[name] = opened
        part = self._parts[name]
        # Not the method of diffusers' classes, which warns of layers to keep in float32 even if there are none.
        return nn.Module.to(part, self.device, self.dtype) if isinstance(part, nn.Module) else part

    def unload(self, name: str) -> None:
        """Free the memory of a frozen component; it is opened again when it is needed."""
        self._parts.pop(name, None)

    @contextmanager
    def parts_released(self) -> Iterator[None]:
        """Return a context after which the frozen components that were opened in it are freed."""
        before = set(self._parts)
        try:
            yield
        finally:
            for name in self._parts.keys() - before:
                self.unload(name)

    def pipeline(self, leave_out: Collection[str] = ()) -> AceStepPipeline:
        """Return diffusers' pipeline over the same networks, to generate with one song at a time.

        Args:
            leave_out: frozen components that the pipeline gets without; they are not opened.

        Raises:
            ValueError: if a component cannot be opened.
        """
        from diffusers import AceStepPipeline

        self._masks.set(None, None)
        present = read_index(self.folder).keys() - set(leave_out)
        parts = {name: self.part(name) if name in present else None for name in COMPONENTS if name not in TRAINED_PARTS}
        # Otherwise memory would grow with the length of a song.
        self.part(AUTOENCODER).enable_tiling()
        return AceStepPipeline(transformer=self.transformer, condition_encoder=self.condition_encoder, **parts)

    def silence(self, frames: int) -> Tensor:
        """Return the latents of silence that the pipeline brings, 1 x T x C; they are repeated if they are shorter."""
        stored: Tensor = self.condition_encoder.silence_latent  # type: ignore[assignment]
        return stored.repeat(1, math.ceil(frames / stored.shape[1]), 1)[:, :frames]

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        frames: Tensor,
        captions: Tensor,
        caption_mask: Tensor,
        lyrics: Tensor,
        lyrics_mask: Tensor,
        references: Tensor,
        reference_of: Tensor,
        is_unconditional: Tensor | None = None,
    ) -> FlowOutput:
        """Predict the velocity of noisy latents; a clip does not depend on the others in the batch.

        Args:
            noisy: latents at the timesteps, B x T x C.
            timesteps: times from 0 to 1, float32, B.
            frames: lengths of the clips, int64, B.
            captions: features of the captions, B x L x E.
            caption_mask: which of them belong to a caption, bool, B x L.
            lyrics: embeddings of the lyrics, B x Y x E.
            lyrics_mask: which of them belong to the lyrics, bool, B x Y.
            references: latents of the different timbre references, U x R x C.
            reference_of: number of the reference of each clip, int64, B.
            is_unconditional: clips without any condition, bool, B; None for none.
        """
        positions = torch.arange(noisy.shape[1], device=noisy.device)
        inside = positions < frames[:, None]
        conditions, condition_mask = self._conditions(
            captions, caption_mask, lyrics, lyrics_mask, references, reference_of
        )
        if is_unconditional is not None:
            null: Tensor = self.condition_encoder.null_condition_emb  # type: ignore[assignment]
            conditions = torch.where(is_unconditional[:, None, None], null.to(conditions.dtype), conditions)
        # Text to music: the source is silence, and every frame is to be written. Beyond the end of a clip everything
        # is 0, as where the transformer fills up the last patch of a single clip.
        source = self.silence(noisy.shape[1]).to(noisy).expand(len(noisy), -1, -1)
        context = torch.cat([source, torch.ones_like(source)], dim=-1) * inside[..., None]
        self._masks.set(inside[:, :: self.patch_size], condition_mask)
        velocity = self.transformer(
            hidden_states=noisy * inside[..., None],
            timestep=timesteps,
            timestep_r=timesteps,
            encoder_hidden_states=conditions,
            context_latents=context,
            return_dict=False,
        )[0]
        return FlowOutput(velocity)

    def _conditions(
        self,
        captions: Tensor,
        caption_mask: Tensor,
        lyrics: Tensor,
        lyrics_mask: Tensor,
        references: Tensor,
        reference_of: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens that the transformer attends to, and which of them belong to a clip.

        The parts of the condition encoder are called one by one. Its own forward pass moves the tokens of each clip to
        the front, which changes nothing for attention without positions and with a mask, and takes one reference for
        each clip: of 8 clips on a CPU, 30 s of silence for each took as long as the transformer.
        """
        encoder: Any = self.condition_encoder
        timbres, _ = encoder.timbre_encoder(references, torch.arange(len(references), device=references.device))
        timbre = timbres[reference_of]  # B x 1 x D
        conditions = [encoder.lyric_encoder(lyrics, lyrics_mask), timbre, encoder.text_projector(captions)]
        masks = [lyrics_mask, lyrics_mask.new_ones(timbre.shape[:2]), caption_mask]
        return torch.cat([tokens.to(timbre.dtype) for tokens in conditions], dim=1), torch.cat(masks, dim=1)
