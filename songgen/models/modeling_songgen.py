"""The SongGen model: conditions -> cross-attention memory -> decoder -> logits and losses.

Frozen networks (text encoder, voice encoder, codec) serve the model but are not part of it: they are not
submodules, take no room in checkpoints and are loaded when first needed.

Shapes: B batch, N tracks, K codebooks, T frames, H heads, S steps, V vocabulary, L text length, M memory length,
D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from songgen.codecs import AudioCodec, load_codec
from songgen.conditioning import TextEncoder, VoiceEncoder, load_text_encoder, load_voice_encoder
from songgen.layout import TokenLayout
from songgen.models.configuration_songgen import SongGenConfig
from songgen.models.decoder import Conditions, DecoderLayer, SongGenDecoder
from songgen.models.folder import MODEL_FILES
from songgen.models.loading import load_model, save_model
from songgen.models.loss import HeadLosses, fused_head_losses, head_losses, weights_per_head
from songgen.models.lyrics_encoder import LyricsEncoder, LyricsEncoderBlock
from songgen.models.streams import Heads
from songgen.runtime.file_hashes import record_hashes
from songgen.runtime.private_names import NotifiedModule
from songgen.tasks import DUAL_TRACK, MIXED, Task
from songgen.vocabulary import EMPTY_CAPTION_IDS, IGNORE_INDEX, AudioVocabulary

logger = logging.getLogger(__name__)

FROZEN_NETWORKS: dict[str, Callable[..., Any]] = {
    "text_encoder": load_text_encoder,
    "voice_encoder": load_voice_encoder,
    "audio_codec": load_codec,
}
"""Name of each frozen network -> how it is loaded from its spec in the configuration."""


@dataclass
class SongGenOutput:
    """Result of a forward pass; parts that were not asked for are None."""

    loss: Tensor
    """Scalar; see `songgen.models.loss.head_losses`."""

    codebook_losses: Tensor
    """H, mean cross-entropy of each head in nats."""

    target_counts: Tensor
    """H int64, targets of each head in this batch."""

    vocal_loss: Tensor | None = None
    """Scalar loss of the auxiliary vocal heads, all weighted equally; not part of `loss`."""

    vocal_codebook_losses: Tensor | None = None
    """H, the vocal loss of each head."""

    logits: Tensor | None = None
    """B x H x S x V."""

    target_mask: Tensor | None = None
    """B x H x S bool, where a token is to be predicted (outside training, as the next two)."""

    target_losses: Tensor | None = None
    """B x H x S, cross-entropy of each target in nats: the terms of `codebook_losses`; 0 where there is no target."""

    target_hits: Tensor | None = None
    """B x H x S bool, whether each target is the most likely token; false where there is no target."""


class SongGenForConditionalGeneration(NotifiedModule):
    """Composite model of either task; `SongGenMixed...` and `SongGenDualTrack...` fix the task."""

    task_required: ClassVar[Task | None] = None

    _no_split_modules = frozenset({DecoderLayer.__name__, LyricsEncoderBlock.__name__})
    """Classes of the layers that FSDP shards one by one; accelerate reads them."""

    def __init__(self, config: SongGenConfig, *, folder: Path | None = None) -> None:
        """Create the trained part with new weights.

        Args:
            config: sizes and choices.
            folder: where relative paths of frozen networks are looked up.

        Raises:
            ValueError: if the class serves another task than the layout.
        """
        super().__init__()
        if self.task_required not in (None, config.task):
            raise ValueError(f"{type(self).__name__} cannot use layout {config.track_pattern!r} ({config.task.name})")
        self.config = config
        self.folder = folder
        self.layout: TokenLayout = config.layout
        self.vocabulary: AudioVocabulary = config.vocabulary
        self.task: Task = config.task
        self._frozen: dict[str, Any] = {}
        self.input_mask_probability = 0.0
        width = config.decoder.hidden_size
        self.embed_prompts = nn.Embedding(config.lyrics_vocab_size, width)
        self.lyrics_encoder = LyricsEncoder(width, config.lyrics_encoder)
        self.lyrics_to_dec_proj = nn.Linear(config.lyrics_encoder.output_size, width)
        self.enc_to_dec_proj = nn.Linear(config.text_hidden_size, width)
        self.mert_layer_agg = nn.Conv1d(config.voice_num_layers, 1, kernel_size=1)
        self.audio_mert_to_dec_proj = nn.Linear(config.voice_hidden_size, width)
        self.decoder = SongGenDecoder(config.decoder, self.layout.num_heads, vocal_heads=config.add_vocal_loss)
        self._initialize()

    def _initialize(self) -> None:
        """Initialize weights: normal with the configured deviation, zero biases, an even mixture of voice layers."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.decoder.initializer_factor)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.mert_layer_agg.weight, 1 / self.config.voice_num_layers)
        assert self.mert_layer_agg.bias is not None
        nn.init.zeros_(self.mert_layer_agg.bias)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """Load a folder or hub id, our own or published; see `songgen.models.loading.load_model` for the options."""
        return load_model(cls, name, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, trained weights, copies of the frozen networks that are in local folders, and all hashes."""
        save_model(self, Path(folder))
        record_hashes(Path(folder), MODEL_FILES.names(Path(folder)))

    @property
    def device(self) -> torch.device:
        """Where the trained weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of features that a trained layer reads: that of a norm's weight (of the lyrics encoder's last one).

        The layer's own weight does not tell it: a quantized one may be stored as integers, and an adapter has no weight
        of that name. Norms are neither quantized nor adapted.
        """
        return self.lyrics_encoder.after_norm.weight.dtype

    @property
    def text_encoder(self) -> TextEncoder:
        """The frozen text encoder."""
        return self._frozen_part("text_encoder")

    @property
    def voice_encoder(self) -> VoiceEncoder:
        """The frozen voice encoder."""
        return self._frozen_part("voice_encoder")

    @property
    def audio_codec(self) -> AudioCodec:
        """The codec whose tokens the model writes."""
        return self._frozen_part("audio_codec")

    def _frozen_part(self, name: str) -> Any:
        """Return a frozen network on the model's device, loading it when it is first asked for."""
        assert name in FROZEN_NETWORKS, name
        if name not in self._frozen:
            spec = getattr(self.config, name)
            self._frozen[name] = FROZEN_NETWORKS[name](spec, base_folder=self.folder, device=str(self.device))
        return self._frozen[name]

    def load_frozen(self, *names: str) -> None:
        """Load frozen networks now, not when they are first used: one that cannot be loaded is then known at once.

        Args:
            names: out of `FROZEN_NETWORKS`.

        Raises:
            ValueError: if a network cannot be loaded.
        """
        for name in names:
            self._frozen_part(name)

    def attach(self, name: str, part: Any) -> None:
        """Use a frozen network that is already loaded, one of `FROZEN_NETWORKS`."""
        assert name in FROZEN_NETWORKS, name
        self._frozen[name] = part.to(self.device)

    def release(self, name: str) -> None:
        """Free a frozen network until it is needed again; one that could not be loaded again stays."""
        if getattr(self.config, name).get("path"):
            self._frozen.pop(name, None)

    def unload(self, name: str) -> None:
        """Free the network of an encoder whose features are stored, until others are asked for.

        One that could not be loaded again stays: its weights are in the model's own file.
        """
        spec, folder = getattr(self.config, name), self.folder
        if spec.get("path"):
            size = self._frozen_part(name).unload(lambda: FROZEN_NETWORKS[name](spec, base_folder=folder))
            logger.info("the %s is not kept in memory while training: %.1f MB are free", name, size / 1e6)

    def unload_again(self) -> None:
        """Free the networks of encoders that were loaded again since `unload`."""
        for name in ("text_encoder", "voice_encoder"):
            if name in self._frozen:
                self._frozen[name].unload_again()

    def attached(self) -> dict[str, Any]:
        """Return the frozen networks that are loaded, by name."""
        return dict(self._frozen)

    def on_move(self) -> None:
        """Move the frozen networks along with the model."""
        for name, part in getattr(self, "_frozen", {}).items():
            self._frozen[name] = part.to(self.device)

    def set_input_masking(self, probability: float) -> None:
        """Hide the beginnings of some clips, and single tokens of others, in training; see `_hide`.

        Teacher forcing shows the song so far, which predicts the next token better than caption and lyrics do. A model
        that relies on it alone begins another song than the one it was asked for; and one that relies on fine codebooks
        fails as soon as its own are wrong.
        """
        self.input_mask_probability = probability

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute decoder layers in the backward pass instead of keeping their activations."""
        self.decoder.model.decoder.gradient_checkpointing = enabled

    def encode_conditions(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prompt_input_ids: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        ref_voice_values: Tensor | None = None,
        ref_voice_lengths: Tensor | None = None,
        *,
        text_hidden_states: Tensor | None = None,
        voice_hidden_states: Tensor | None = None,
        voice_mask: Tensor | None = None,
    ) -> Conditions:
        """Encode caption, lyrics and voice, in training and generation alike.

        Args:
            input_ids: B x L caption ids.
            attention_mask: B x L, nonzero on real tokens (None: all).
            prompt_input_ids: B x L lyrics ids.
            prompt_attention_mask: B x L, nonzero on real tokens (None: all).
            ref_voice_values: B x samples at the voice encoder's rate; a row of zeros = no voice; None or no samples =
                no voice in the whole batch (looking at the values would wait for the device).
            ref_voice_lengths: B, samples of each clip (None: the whole row).
            text_hidden_states: B x L x width, the text encoder's states where they are already known.
            voice_hidden_states: B x layers x t x width, the same of the voice encoder.
            voice_mask: B x t bool that goes with `voice_hidden_states` (None: clips that are not all zero).

        Raises:
            ValueError: if the decoder has nothing to attend to: neither a caption nor lyrics, or, in a model that reads
                lyrics before the song, no caption.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        voice = self._encode_voice(ref_voice_values, ref_voice_lengths, voice_hidden_states, voice_mask)
        # Computed here, not where it is added: gradients come in the reverse order of the operations, and DeepSpeed
        # reduces them over processes in the order in which they come. So a process whose batch has no voice must
        # compute in the same order as the others.
        without_voice = self._untouched_voice_parameters() if self.training and voice is None else None
        if voice is not None:
            parts.append(voice)
        if text_hidden_states is None and input_ids is not None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            text_hidden_states = self.text_encoder.encode(input_ids, mask)
        if text_hidden_states is not None:
            parts.append(self._project_text(text_hidden_states, attention_mask))
        prefix = None
        if prompt_input_ids is not None:
            lyrics = self._encode_lyrics(prompt_input_ids, prompt_attention_mask)
            if self.config.prompt_cross_attention:
                parts.append(lyrics)
            else:
                prefix = lyrics
        if not parts:
            if self.config.prompt_cross_attention:
                raise ValueError(
                    "nothing to condition on: give a caption (input_ids), lyrics (prompt_input_ids) or both"
                )
            raise ValueError(
                "no caption to condition on: this model reads lyrics before the song and attends only to the "
                f"caption; give input_ids (an empty caption is {list(EMPTY_CAPTION_IDS)})"
            )
        memory = torch.cat([states.to(parts[0][0].dtype) for states, _ in parts], dim=1)
        if without_voice is not None:
            memory = memory + without_voice
        memory_mask = torch.cat([mask for _, mask in parts], dim=1)
        return Conditions(memory, memory_mask, *(prefix or (None, None)))

    def _encode_voice(
        self,
        values: Tensor | None,
        lengths: Tensor | None,
        hidden_states: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor] | None:
        """Return the reference voice's memory (B x t x D) and its mask (B x t), None if no clip has a voice."""
        if hidden_states is None:
            if values is None or values.shape[1] == 0:
                return None
            if lengths is None:
                lengths = torch.full((len(values),), values.shape[1])
            hidden_states, mask = self.voice_encoder.encode(values, lengths)
            if self.voice_encoder.stored is not None and self.voice_encoder.stored.mix is not None:
                return self.audio_mert_to_dec_proj(hidden_states[:, 0].to(self.dtype)), mask
        if mask is None:
            assert values is not None, "voice_hidden_states need voice_mask or ref_voice_values"
            mask = values.ne(0).any(dim=1, keepdim=True).expand(-1, hidden_states.shape[2])
        return self._project_voice(hidden_states), mask

    def _encode_lyrics(self, prompt_input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return encoded lyrics (B x L x D) and their mask (B x L), for the memory and as a prefix alike."""
        mask = torch.ones_like(prompt_input_ids) if attention_mask is None else attention_mask
        embedded = self.embed_prompts(prompt_input_ids)
        if not self.config.add_prenet:
            return embedded, mask.bool()
        return self.lyrics_to_dec_proj(self.lyrics_encoder(embedded, mask)), mask.bool()

    def _project_voice(self, hidden_states: Tensor) -> Tensor:
        """Mix the voice encoder's layers and project: B x layers x t x width -> B x t x D."""
        return self.audio_mert_to_dec_proj(self.mix_voice_layers(hidden_states)[:, 0])

    def mix_voice_layers(self, hidden_states: Tensor) -> Tensor:
        """Mix the voice encoder's layers: B x layers x t x width -> B x 1 x t x width."""
        batch, layers, frames, width = hidden_states.shape
        mixed = self.mert_layer_agg(hidden_states.to(self.dtype).reshape(batch, layers, -1))
        return mixed.view(batch, 1, frames, width)

    def _project_text(self, hidden_states: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Project the caption (whatever the widths) and zero its padding: B x L x D and the mask B x L."""
        projected = self.enc_to_dec_proj(hidden_states.to(self.dtype))
        mask = projected.new_ones(projected.shape[:2]) if attention_mask is None else attention_mask
        return projected * mask[..., None].to(projected.dtype), mask.bool()

    def _untouched_voice_parameters(self) -> Tensor:
        """Return 0 as a function of the voice parameters, so that they get gradients in a batch without voices too."""
        silence = torch.zeros(1, self.config.voice_num_layers, 1, self.config.voice_hidden_size, device=self.device)
        return 0.0 * self._project_voice(silence).sum()

    def forward(
        self,
        *,
        codes: Tensor | None = None,
        frames: Tensor | None = None,
        auxiliary_codes: Tensor | None = None,
        labels: Tensor | None = None,
        vocal_labels: Tensor | None = None,
        codebook_weights: Tensor | None = None,
        target_counts: Tensor | None = None,
        return_logits: bool = True,
        **conditions: Tensor | None,
    ) -> SongGenOutput:
        """Predict every token of a batch from those before it.

        Args:
            codes: B x N x K x T raw codes; values past a clip's frames are never read.
            frames: B, frames of each clip; 0 = a clip without targets.
            auxiliary_codes: B x 1 x K x T codes of the vocal track, for the auxiliary vocal heads.
            labels: B x S x H laid-out labels in the published form, instead of `codes` and `frames`.
            vocal_labels: B x S x H, instead of `auxiliary_codes`.
            codebook_weights: K weights of the codebooks (None: all equal).
            target_counts: H, targets over all micro-batches and processes of an optimizer step; losses then add up.
            return_logits: return the logits.
            **conditions: `CONDITION_KEYWORDS`; see `encode_conditions`.

        Raises:
            ValueError: if there are neither codes with their frames nor labels, or no conditions.
        """
        tokens, vocal_tokens, frames = self._laid_out(codes, frames, auxiliary_codes, labels, vocal_labels)
        encoded = self.encode_conditions(**conditions)
        states = self.decoder(self._hide(self.layout.inputs(tokens, self.vocabulary)), encoded)
        mask = self.layout.target_mask(frames, tokens.shape[-1], train_every_eos=self.config.train_every_eos)
        targets = torch.where(mask, tokens, IGNORE_INDEX)
        weights = None if codebook_weights is None else weights_per_head(codebook_weights, self.layout.head_codebook)
        losses, logits = self._losses(self.decoder.lm_heads, states, targets, target_counts, weights, return_logits)
        output = SongGenOutput(losses.loss, losses.per_head, mask.sum(dim=(0, 2)))
        if vocal_tokens is not None and self.config.add_vocal_loss:
            vocal_targets = torch.where(mask, vocal_tokens, IGNORE_INDEX)
            vocal, _ = self._losses(self.decoder.vocal_lm_heads, states, vocal_targets, target_counts, None, False)
            output.vocal_loss, output.vocal_codebook_losses = vocal.loss, vocal.per_head
        if losses.targets is not None:
            output.target_mask = mask
            output.target_losses, output.target_hits = losses.targets.entropies, losses.targets.hits
        output.logits = logits
        return output

    def _hide(self, inputs: Tensor) -> Tensor:
        """Hide parts of some clips in the decoder's input (B x H x S) behind mask tokens, only in training.

        A clip loses its beginning with the configured probability, up to a random step, and with twice that probability
        single tokens, at a random rate.
        """
        if not self.training or self.input_mask_probability == 0:
            return inputs
        batch, _, num_steps = inputs.shape
        # Four samples a clip: whether to hide the beginning, up to which step; whether to hide tokens, at which rate.
        draws = torch.rand(4, batch, 1, 1, device=inputs.device)
        step = torch.arange(num_steps, device=inputs.device)
        beginning = (draws[0] < self.input_mask_probability) & (step <= draws[1] * num_steps)
        rate = draws[3] * (draws[2] < 2 * self.input_mask_probability)
        hidden = beginning | (torch.rand(inputs.shape, device=inputs.device) < rate)
        return torch.where(hidden & (step > 0), self.vocabulary.mask_token_id, inputs)

    def _losses(
        self,
        heads: Heads,
        states: Tensor,
        targets: Tensor,
        target_counts: Tensor | None,
        weights: Tensor | None,
        needs_logits: bool,
    ) -> tuple[HeadLosses, Tensor | None]:
        """Return the losses of some heads, and their logits (B x H x S x V) if those are needed.

        Heads that are plain matrices have a fused loss that never holds all logits. Others (adapters, quantized or
        hooked layers) compute their logits themselves, which takes B x H x S x V more memory.
        """
        by_target = not self.training
        matrices = None if needs_logits else heads.matrices()
        if matrices is not None:
            return fused_head_losses(states, matrices, targets, target_counts, weights, by_target=by_target), None
        logits = heads(states)
        losses = head_losses(logits, targets, target_counts, weights, by_target=by_target)
        return losses, logits if needs_logits else None

    def _laid_out(
        self,
        codes: Tensor | None,
        frames: Tensor | None,
        auxiliary_codes: Tensor | None,
        labels: Tensor | None,
        vocal_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return laid-out tokens and vocal tokens (B x H x S) and frames (B), from codes or from published labels."""
        vocal_tokens = None if vocal_labels is None else vocal_labels.transpose(1, 2)
        if codes is not None and frames is not None:
            if auxiliary_codes is not None and self.config.add_vocal_loss:
                vocal_tokens = self.layout.labels(auxiliary_codes, frames, self.vocabulary)
            return self.layout.labels(codes, frames, self.vocabulary), vocal_tokens, frames
        if labels is None:
            raise ValueError("give codes together with frames, or labels")
        tokens = labels.transpose(1, 2)
        # A clip of T frames fills stride * T + max_offset + 1 steps of head 0, the end included; the rest is ignored.
        block = (tokens[:, 0] != IGNORE_INDEX).sum(dim=-1)
        frames = torch.div(block - self.layout.max_offset - 1, self.layout.stride, rounding_mode="floor")
        return tokens, vocal_tokens, frames

    @torch.no_grad()
    def generate(self, **inputs: Any) -> Any:
        """Write songs from the processor's inputs; see `songgen.generation.pipeline.generate`."""
        from songgen.generation.pipeline import generate

        return generate(self, **inputs)


CONDITION_KEYWORDS = tuple(signature(SongGenForConditionalGeneration.encode_conditions).parameters)[1:]
"""Conditions of a song: keywords of `encode_conditions`, and so of `forward` and `generate`."""


class SongGenMixedForConditionalGeneration(SongGenForConditionalGeneration):
    """Writes one track with vocal and accompaniment mixed."""

    task_required = MIXED


class SongGenDualTrackForConditionalGeneration(SongGenForConditionalGeneration):
    """Writes vocal and accompaniment in parallel or interleaved."""

    task_required = DUAL_TRACK
