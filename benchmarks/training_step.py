"""Time of a training step: ours compared with a straightforward one, with the same weights.

    python benchmarks/training_step.py [--attention sdpa] [--device cuda]

A step consists of making a batch from the clips' codes, forward, backward, clipping and AdamW. The baseline computes
the same loss in the most obvious way: labels arranged token by token in nested lists, one embedding and one head after
another, dense 4-D float masks with explicit attention (`--attention sdpa`: SDPA with these masks), one boolean-indexed
loss per codebook whose value is read immediately, logits kept in float32, default AdamW. A check with dropout off
ensures first that losses and gradients agree. The frozen encoders are left out: their states are given, and both sides
compute the cross-attention memory from them in the same way.

Shapes: B batch, H heads, S steps, D width, A attention heads, V vocabulary, M memory length.
"""

import argparse
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from reporting import Timing, describe_machine, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

from songgen.data.collate import collate
from songgen.data.samples import Sample
from songgen.families.trainable import Trainable
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration
from songgen.models.decoder import Attention, sinusoids
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer
from songgen.vocabulary import IGNORE_INDEX, AudioVocabulary

TARGET_RATIO = 1.5
NUM_CODEBOOKS = 8
CAPTION_LENGTH, LYRICS_LENGTH, VOICE_FRAMES = 40, 120, 225
"""Numbers of ids of a caption and of lyrics, and of frames in three seconds of voice."""

FROZEN_WIDTH, VOICE_LAYERS = 1024, 25
"""Sizes of the frozen encoders' states, as published."""

CODEBOOK_WEIGHTS = [0.25, 0.25, 0.25, 0.05, 0.05, 0.05, 0.05, 0.05]
VOCAL_WEIGHT, MAX_GRADIENT_NORM = 0.1, 1.0
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3

NestedCodes = list[list[int]]
"""K x T codes of a track, as lists."""


def laid_out(songs: Sequence[NestedCodes], vocabulary: AudioVocabulary) -> Tensor:
    """Delay, end and pad every codebook of every song by loops: B x S x H."""
    longest = max(len(song[0]) + len(song) for song in songs)
    batch = []
    for song in songs:
        num_steps = len(song[0]) + len(song)
        rows = []
        for step in range(longest):
            row = []
            for delay, codes in enumerate(song):
                if step >= num_steps:
                    row.append(IGNORE_INDEX)
                elif step < delay:
                    row.append(vocabulary.bos_token_id)
                elif step - delay < len(codes):
                    row.append(codes[step - delay])
                else:
                    row.append(vocabulary.eos_token_id)
            rows.append(row)
        batch.append(rows)
    return torch.tensor(batch)


def dense_masks(memory_mask: Tensor, num_steps: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the causal mask (B x 1 x S x S) and the memory's (B x 1 x S x M): 0 or the lowest number."""
    lowest = torch.finfo(dtype).min
    batch, device = len(memory_mask), memory_mask.device
    causal = torch.full((num_steps, num_steps), lowest, dtype=dtype, device=device).triu(1)
    causal = causal[None, None].expand(batch, 1, -1, -1).clone()
    cross = (1 - memory_mask[:, None, None].to(dtype)).expand(-1, 1, num_steps, -1) * lowest
    return causal, cross


@dataclass
class BaselineStep:
    """Forward pass of a `mixed_pro` model with sinusoidal positions and lyrics in the memory."""

    model: SongGenForConditionalGeneration
    """Source of the weights; it also encodes the conditions, which is the same on both sides."""

    attention: str
    """Kind of attention: "eager" or "sdpa"."""

    def losses(
        self,
        mix: Sequence[NestedCodes],
        vocal: Sequence[NestedCodes],
        conditions: dict[str, Any],
        codebook_weights: Sequence[float],
    ) -> tuple[Tensor, Tensor, list[float]]:
        """Return the weighted loss, the loss of the vocal heads, and each codebook's loss as a number."""
        vocabulary, device = self.model.vocabulary, self.model.device
        labels, vocal_labels = laid_out(mix, vocabulary).to(device), laid_out(vocal, vocabulary).to(device)
        input_ids = labels.new_full(labels.shape, vocabulary.bos_token_id)
        input_ids[:, 1:] = labels[:, :-1].clone()
        input_ids.masked_fill_(input_ids == IGNORE_INDEX, vocabulary.pad_token_id)
        states = self._decode(input_ids, conditions)
        mask = (labels != vocabulary.bos_token_id) & (labels != IGNORE_INDEX) & (input_ids != vocabulary.eos_token_id)
        decoder = self.model.decoder
        losses = self._codebook_losses(decoder.lm_heads, states, labels, mask)
        vocal_losses = self._codebook_losses(decoder.vocal_lm_heads, states, vocal_labels, mask)
        loss, values = torch.zeros((), device=device), []
        for weight, codebook_loss in zip(codebook_weights, losses, strict=True):
            loss = loss + weight * codebook_loss
            values.append(codebook_loss.item())
        vocal_loss = torch.zeros((), device=device)
        for codebook_loss in vocal_losses:
            vocal_loss = vocal_loss + codebook_loss / len(vocal_losses)
            values.append(codebook_loss.item())
        return loss, vocal_loss, values

    def _decode(self, input_ids: Tensor, keywords: dict[str, Any]) -> Tensor:
        """B x S x H -> B x S x D."""
        conditions = self.model.encode_conditions(**keywords)
        decoder = self.model.decoder.model.decoder
        states = torch.zeros((), device=input_ids.device)
        for codebook, embedding in enumerate(decoder.embed_tokens):
            states = states + embedding(input_ids[..., codebook])
        num_steps = input_ids.shape[1]
        states = states + sinusoids(torch.arange(num_steps, device=states.device), states.shape[-1])
        states = decoder.dropout(states)
        causal, cross = dense_masks(conditions.memory_mask, num_steps, states.dtype)
        for layer in decoder.blocks:
            normed = layer.self_attn_layer_norm(states)
            states = states + layer.dropout(self._attend(layer.self_attn, normed, normed, causal))
            normed = layer.encoder_attn_layer_norm(states)
            states = states + layer.dropout(self._attend(layer.encoder_attn, normed, conditions.memory, cross))
            hidden = F.gelu(layer.fc1(layer.final_layer_norm(states)))
            states = states + layer.dropout(layer.fc2(layer.activation_dropout(hidden)))
        return decoder.layer_norm(states)

    def _attend(self, attention: Attention, states: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Attend from B x S x D to B x M x D under a dense mask."""
        heads = self.model.config.decoder.num_attention_heads

        def split(projected: Tensor) -> Tensor:
            return projected.view(*projected.shape[:2], heads, -1).transpose(1, 2)

        query = split(attention.q_proj(states))
        key, value = split(attention.k_proj(memory)), split(attention.v_proj(memory))
        if self.attention == "sdpa":
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))
        else:
            scores = torch.matmul(query / math.sqrt(query.shape[-1]), key.transpose(-1, -2)) + mask
            mixed = torch.matmul(F.softmax(scores, dim=-1), value)
        return attention.out_proj(mixed.transpose(1, 2).reshape(*states.shape[:2], -1))

    @staticmethod
    def _codebook_losses(heads: nn.ModuleList, states: Tensor, labels: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the mean cross-entropy of each codebook over the targets, selected by a boolean mask."""
        logits = torch.stack([head(states) for head in heads], dim=1).float()
        losses = []
        for codebook in range(len(heads)):
            chosen = mask[..., codebook].reshape(-1)
            codebook_logits = logits[:, codebook].reshape(-1, logits.shape[-1])[chosen]
            losses.append(F.cross_entropy(codebook_logits, labels[..., codebook].reshape(-1)[chosen]))
        return losses


def build_model(layers: int, width: int, dropout: float) -> SongGenForConditionalGeneration:
    """Return a mixed_pro model whose weights depend on the sizes only."""
    config = SongGenConfig(
        track_pattern="mixed_pro",
        decoder=DecoderConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            ffn_dim=4 * width,
            dropout=dropout,
        ),
        lyrics_encoder=LyricsEncoderConfig(
            output_size=width, attention_heads=width // 64, linear_units=4 * width, num_blocks=2, dropout=dropout
        ),
        voice_num_layers=VOICE_LAYERS,
        voice_hidden_size=FROZEN_WIDTH,
        text_hidden_size=FROZEN_WIDTH,
    )
    torch.manual_seed(0)
    return SongGenForConditionalGeneration(config).train()


@dataclass
class Clips:
    """Clips in the forms of both sides, with the states of the frozen encoders."""

    samples: list[Sample]
    """Samples of the data set, for our step."""

    mix: list[NestedCodes]
    """Codes of the mix as lists, for the baseline."""

    vocal: list[NestedCodes]
    """Codes of the vocal track as lists, for the baseline."""

    frozen: dict[str, Tensor]
    """States and masks of caption and voice, and the lyrics' ids: keywords of `encode_conditions`."""


def random_clips(lengths: Sequence[int], device: torch.device) -> Clips:
    """Return random clips of given lengths in frames."""
    random, size = np.random.default_rng(0), len(lengths)
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index, frames in enumerate(lengths):
        codes = {name: random.integers(0, 1024, (NUM_CODEBOOKS, frames), dtype=np.int16) for name in ("mix", "vocal")}
        caption, lyrics = (random.integers(2, 900, n, dtype=np.int32) for n in (CAPTION_LENGTH, LYRICS_LENGTH))
        samples.append(Sample(str(index), frames, codes, caption, lyrics, np.zeros(0, dtype=np.int16)))
    lyrics_ids = torch.from_numpy(np.stack([sample.lyrics_ids for sample in samples])).long()
    frozen = {
        "text_hidden_states": torch.randn(size, CAPTION_LENGTH, FROZEN_WIDTH, generator=generator),
        "attention_mask": torch.ones(size, CAPTION_LENGTH, dtype=torch.long),
        "prompt_input_ids": lyrics_ids,
        "prompt_attention_mask": torch.ones_like(lyrics_ids),
        "voice_hidden_states": torch.randn(size, VOICE_LAYERS, VOICE_FRAMES, FROZEN_WIDTH, generator=generator),
        "voice_mask": torch.ones(size, VOICE_FRAMES, dtype=torch.bool),
    }
    mix, vocal = ([sample.targets[name].tolist() for sample in samples] for name in ("mix", "vocal"))
    return Clips(samples, mix, vocal, {name: value.to(device) for name, value in frozen.items()})


def our_loss(model: nn.Module, clips: Clips) -> Tensor:
    """Return the loss that our step minimizes."""
    device = clips.frozen["voice_mask"].device
    batch = collate(clips.samples, ("mix",), ("vocal",)).to(device).model_inputs()
    weights = torch.tensor(CODEBOOK_WEIGHTS, device=device)
    output = model(**{**batch, **clips.frozen}, codebook_weights=weights, return_logits=False)
    return output.loss + VOCAL_WEIGHT * output.vocal_loss


def baseline_loss(baseline: BaselineStep, clips: Clips) -> Tensor:
    """Return the loss that the baseline minimizes."""
    loss, vocal_loss, _ = baseline.losses(clips.mix, clips.vocal, clips.frozen, CODEBOOK_WEIGHTS)
    return loss + VOCAL_WEIGHT * vocal_loss


def require_equal(layers: int, width: int, attention: str, device: torch.device) -> None:
    """Compare losses and gradients of both sides on short clips, with dropout off.

    Raises:
        RuntimeError: if they differ, so that the ratio of their times would be meaningless.
    """
    model = build_model(layers, width, dropout=0.0).to(device)
    clips = random_clips((40, 31, 25), device)
    found: list[tuple[float, Tensor]] = []
    for loss in (our_loss(model, clips), baseline_loss(BaselineStep(model, attention), clips)):
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append((loss.item(), torch.cat([gradient.flatten() for gradient in gradients])))
    (ours, our_gradient), (baseline, baseline_gradient) = found
    distance = float((our_gradient - baseline_gradient).norm() / baseline_gradient.norm())
    if abs(ours - baseline) > LOSS_TOLERANCE * baseline or distance > GRADIENT_TOLERANCE:
        raise RuntimeError(f"the two disagree: losses {ours} and {baseline}, gradients differ by {distance:.1e}")
    print(f"same loss ({ours:.6f}, baseline {baseline:.6f}) and gradients (relative distance {distance:.1e})")


def measure(
    model: SongGenForConditionalGeneration, clips: Clips, attention: str, dtype: torch.dtype, rounds: int
) -> dict[str, Timing]:
    """Return the times of complete steps of both sides in turns, each with its own weights and optimizer."""
    device = model.device
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    baseline = BaselineStep(theirs, attention)
    our_optimizer = build_optimizer(ours, Trainable.choose(ours), OptimizerOptions(learning_rate=1e-4))
    baseline_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=1e-4)

    def our_step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = our_loss(ours, clips)
        _update(loss, ours, our_optimizer)

    def baseline_step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = baseline_loss(baseline, clips)
        _update(loss, theirs, baseline_optimizer)

    our_step()
    baseline_step()
    return take_turns({"ours": our_step, "baseline": baseline_step}, rounds, device)


def _update(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Run the backward pass, clip the gradients and update the weights."""
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    """Check, measure in each precision, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="decoder layers (default: 8)")
    parser.add_argument("--width", type=int, default=512, help="decoder width, a multiple of 64 (default: 512)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[400, 520, 640, 750], help="frames of each clip")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="eager", help="attention of the baseline")
    parser.add_argument("--rounds", type=int, default=3, help="number of steps of each side in a run (default: 3)")
    parser.add_argument("--runs", type=int, default=2, help="number of runs, to show the noise (default: 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(describe_machine(device))
    require_equal(arguments.layers, arguments.width, arguments.attention, device)
    model = build_model(arguments.layers, arguments.width, dropout=0.1).to(device)
    clips = random_clips(arguments.lengths, device)
    trained = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(
        f"{arguments.layers} layers, {arguments.width} wide, {trained:.1f} M parameters, clips of {arguments.lengths} "
        f"frames, baseline with {arguments.attention} attention, {arguments.rounds} steps each in turns"
    )
    for dtype in (torch.float32, torch.bfloat16):
        for run in range(1, arguments.runs + 1):
            found = measure(model, clips, arguments.attention, dtype, arguments.rounds)
            ours, baseline = found["ours"], found["baseline"]
            ratio = baseline.wall / ours.wall
            name = str(dtype).removeprefix("torch.")
            print(
                f"{name}, run {run}: baseline {baseline.wall:.2f} s, ours {ours.wall:.2f} s, "
                f"ratio {ratio:.2f} ({'at least' if ratio >= TARGET_RATIO else 'BELOW'} {TARGET_RATIO}); "
                f"of CPU time {baseline.cpu / ours.cpu:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
