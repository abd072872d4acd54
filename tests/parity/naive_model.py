"""A second, naive implementation of the model, written from the published facts alone: float64, one clip, one head, one
token at a time, and nothing of `songgen` in it. It reads weights under their published names.

What `songgen.models` computes is compared with it in configurations of which no published numbers are at hand.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

PADDING = -100
LAYER_NORM_EPS = 1e-5

LAYOUTS: dict[str, dict[str, Any]] = {
    "mixed": {"stride": 1, "tracks": [("mix", 0, 0)]},
    "mixed_pro": {"stride": 1, "tracks": [("mix", 0, 0)]},
    "parallel_std": {"stride": 1, "tracks": [("acc", 0, 0), ("vocal", 0, 1)]},
    "parallel_A_V": {"stride": 1, "tracks": [("acc", 0, 0), ("vocal", 1, 1)]},
    "parallel_V_A": {"stride": 1, "tracks": [("acc", 1, 0), ("vocal", 0, 1)]},
    "interleaving_A_V": {"stride": 2, "tracks": [("acc", 0, 0), ("vocal", 1, 0)]},
    "interleaving_V_A": {"stride": 2, "tracks": [("acc", 1, 0), ("vocal", 0, 0)]},
}
"""Steps between two frames; of each track: its name, the step it begins at, and whether its heads come second."""


@dataclass
class Settings:
    """What the weights do not tell."""

    layout: str
    codebooks: int
    codebook_size: int
    heads: int
    key_value_heads: int
    cross_key_value_heads: int
    lyrics_heads: int
    rotary: bool = False
    rotary_base: float = 10000.0
    lyrics_in_memory: bool = True
    lyrics_encoded: bool = True
    every_eos: bool = False
    codebook_weights: list[float] | None = None

    @property
    def streams(self) -> int:
        """Output heads."""
        return self.codebooks * (1 + max(second for _, _, second in LAYOUTS[self.layout]["tracks"]))

    @property
    def bos(self) -> int:
        return self.codebook_size + 1

    @property
    def eos(self) -> int:
        return self.codebook_size


@dataclass
class Clip:
    """One clip's inputs: codes by track (codebooks x frames), ids and masks, states of the frozen encoders."""

    codes: dict[str, list[list[int]]]
    text: Tensor
    text_mask: list[int]
    lyrics: list[int]
    lyrics_mask: list[int]
    voice: Tensor | None = None
    voice_is_silent: bool = False
    labels: list[list[int]] = field(default_factory=list)
    vocal_labels: list[list[int]] | None = None


def block_length(settings: Settings, frames: int) -> int:
    """Steps of a clip: its frames, the longest wait, one EOS."""
    layout = LAYOUTS[settings.layout]
    last_start = max(begin for _, begin, _ in layout["tracks"]) + layout["stride"] * (settings.codebooks - 1)
    return layout["stride"] * frames + last_start + 1


def laid_out(settings: Settings, codes: dict[str, list[list[int]]], num_steps: int) -> list[list[int]]:
    """Lay a clip out, head by head, step by step, and pad it."""
    layout = LAYOUTS[settings.layout]
    rows = [[PADDING] * num_steps for _ in range(settings.streams)]
    for track, begin, second in layout["tracks"]:
        frames = len(codes[track][0])
        for codebook in range(settings.codebooks):
            start = layout["stride"] * codebook + begin
            row = rows[second * settings.codebooks + codebook]
            for step in range(start % layout["stride"], block_length(settings, frames), layout["stride"]):
                frame = (step - start) // layout["stride"]
                if frame < 0:
                    row[step] = settings.bos
                elif frame < frames:
                    row[step] = codes[track][codebook][frame]
                else:
                    row[step] = settings.eos
    return rows


def lay_out(settings: Settings, clips: list[Clip]) -> None:
    """Fill in the labels of clips, padded to the longest."""
    tracks = [track for track, _, _ in LAYOUTS[settings.layout]["tracks"]]
    longest = max(block_length(settings, len(clip.codes[tracks[0]][0])) for clip in clips)
    for clip in clips:
        clip.labels = laid_out(settings, clip.codes, longest)
        if settings.layout == "mixed_pro":
            clip.vocal_labels = laid_out(settings, {"mix": clip.codes["vocal"]}, longest)


class NaiveModel:
    """The forward pass."""

    def __init__(self, weights: dict[str, Tensor], settings: Settings) -> None:
        self.weights = {name: value.double() for name, value in weights.items()}
        self.settings = settings

    def logits(self, clips: list[Clip], *, vocal: bool = False) -> list[list[Tensor]]:
        """Logits of each clip and head: steps x vocabulary."""
        name = "decoder.vocal_lm_heads" if vocal else "decoder.lm_heads"
        result = []
        for clip in clips:
            states = self.decode(clip)
            result.append([states @ self.weights[f"{name}.{head}.weight"].T for head in range(self.settings.streams)])
        return result

    def greedy(self, clip: Clip, frames: int) -> dict[str, list[list[int]]]:
        """The likeliest code of every stream at every step, all that was read before read anew: codes by track."""
        settings, layout = self.settings, LAYOUTS[self.settings.layout]
        rows: list[list[int]] = [[] for _ in range(settings.streams)]
        codes = {track: [[0] * frames for _ in range(settings.codebooks)] for track, _, _ in layout["tracks"]}
        for step in range(block_length(settings, frames) - layout["stride"]):
            for row in rows:
                row.append(PADDING)
            state = self.decode(replace(clip, labels=rows))[-1]
            for track, begin, second in layout["tracks"]:
                for codebook in range(settings.codebooks):
                    distance = step - layout["stride"] * codebook - begin
                    if distance % layout["stride"]:
                        continue
                    head, frame = second * settings.codebooks + codebook, distance // layout["stride"]
                    scores = self.weights[f"decoder.lm_heads.{head}.weight"] @ state
                    likeliest = int(scores[: settings.codebook_size].argmax())
                    rows[head][step] = settings.bos if frame < 0 else likeliest if frame < frames else settings.eos
                    if 0 <= frame < frames:
                        codes[track][codebook][frame] = likeliest
        return codes

    def losses(self, clips: list[Clip], *, vocal: bool = False) -> tuple[float, list[float]]:
        """The loss and each head's mean cross-entropy; the vocal heads are weighted alike."""
        settings, logits = self.settings, self.logits(clips, vocal=vocal)
        means = []
        for head in range(settings.streams):
            entropies = []
            for clip, clip_logits in zip(clips, logits, strict=True):
                labels = clip.vocal_labels if vocal else clip.labels
                for step in range(len(clip.labels[head])):
                    if self._is_target(clip.labels[head], step):
                        scores = clip_logits[head][step]
                        entropies.append(float(torch.logsumexp(scores, 0) - scores[labels[head][step]]))
            means.append(sum(entropies) / len(entropies))
        weights = [1 / settings.streams] * settings.streams
        if settings.codebook_weights is not None and not vocal:
            tracks = settings.streams // settings.codebooks
            weights = [weight / tracks for _ in range(tracks) for weight in settings.codebook_weights]
        return sum(weight * mean for weight, mean in zip(weights, means, strict=True)), means

    def _is_target(self, row: list[int], step: int) -> bool:
        """Published: a label that is neither BOS nor padding, behind an input that is not EOS."""
        settings = self.settings
        if row[step] in (settings.bos, PADDING):
            return False
        if settings.every_eos:
            stride = LAYOUTS[settings.layout]["stride"]
            return step < stride or row[step - stride] != settings.eos
        return self._input(row, step) != settings.eos

    def _input(self, row: list[int], step: int) -> int:
        """What the decoder reads at a step: the label before, pad (which is EOS) in place of padding."""
        if step == 0:
            return self.settings.bos
        return self.settings.eos if row[step - 1] == PADDING else row[step - 1]

    def decode(self, clip: Clip) -> Tensor:
        """Steps x width."""
        settings, weights = self.settings, self.weights
        memory, memory_mask = self.memory(clip)
        rows = []
        for step in range(len(clip.labels[0])):
            total = sum(
                weights[f"decoder.model.decoder.embed_tokens.{head}.weight"][self._input(clip.labels[head], step)]
                for head in range(settings.streams)
            )
            rows.append(total / (settings.streams // settings.codebooks))
        visible = [True] * len(rows)
        prefix = 0
        if not settings.lyrics_in_memory:
            prefix = len(clip.lyrics)
            rows = self._lyrics(clip) + rows
            visible = [bool(on) for on in clip.lyrics_mask] + visible
        if not settings.rotary:
            rows = [row + self._position(position, len(row)) for position, row in enumerate(rows)]
        states = torch.stack(rows)
        layer = 0
        while f"decoder.model.decoder.layers.{layer}.fc1.weight" in weights:
            states = self._layer(f"decoder.model.decoder.layers.{layer}", states, visible, memory, memory_mask)
            layer += 1
        return self._norm("decoder.model.decoder.layer_norm", states)[prefix:]

    def _position(self, position: int, width: int) -> Tensor:
        """The stored table's row; the tables of the published cases hold random numbers like all their weights."""
        table = self.weights.get("decoder.model.decoder.embed_positions.weights")
        return sinusoid(position, width) if table is None else table[position]

    def _layer(self, name: str, states: Tensor, visible: list[bool], memory: Tensor, memory_mask: list[bool]) -> Tensor:
        """Self-attention, cross-attention, feed-forward, each behind its norm."""
        settings = self.settings
        normed = self._norm(f"{name}.self_attn_layer_norm", states)
        seen = [[j for j in range(i + 1) if visible[j] or i == j] for i in range(len(states))]
        states = states + self._attention(f"{name}.self_attn", normed, normed, seen, settings.key_value_heads, True)
        normed = self._norm(f"{name}.encoder_attn_layer_norm", states)
        seen = [[j for j in range(len(memory)) if memory_mask[j]] for _ in range(len(states))]
        states = states + self._attention(
            f"{name}.encoder_attn", normed, memory, seen, settings.cross_key_value_heads, False
        )
        normed = self._norm(f"{name}.final_layer_norm", states)
        hidden = gelu(normed @ self.weights[f"{name}.fc1.weight"].T)
        return states + hidden @ self.weights[f"{name}.fc2.weight"].T

    def _attention(
        self,
        name: str,
        states: Tensor,
        memory: Tensor,
        seen: list[list[int]],
        key_value_heads: int,
        rotate_keys: bool,
    ) -> Tensor:
        """One query head after the other; `seen[i]` are the positions that query i attends to."""
        settings = self.settings
        query, key, value = (
            source @ self.weights[f"{name}.{part}_proj.weight"].T
            for part, source in (("q", states), ("k", memory), ("v", memory))
        )
        width = query.shape[1] // settings.heads
        outputs = []
        for head in range(settings.heads):
            # Consecutive query heads share a key-value head.
            group = head // (settings.heads // key_value_heads)
            queries = query[:, head * width : (head + 1) * width]
            keys = key[:, group * width : (group + 1) * width]
            values = value[:, group * width : (group + 1) * width]
            if settings.rotary:
                queries = torch.stack([rotated(row, i, settings.rotary_base) for i, row in enumerate(queries)])
                if rotate_keys:
                    keys = torch.stack([rotated(row, i, settings.rotary_base) for i, row in enumerate(keys)])
            rows = []
            for i, positions in enumerate(seen):
                share = torch.softmax(keys[positions] @ queries[i] / math.sqrt(width), dim=0)
                rows.append(share @ values[positions])
            outputs.append(torch.stack(rows))
        return torch.cat(outputs, dim=1) @ self.weights[f"{name}.out_proj.weight"].T

    def memory(self, clip: Clip) -> tuple[Tensor, list[bool]]:
        """Voice, caption and lyrics, and which of their positions may be seen."""
        weights = self.weights
        rows: list[Tensor] = []
        mask: list[bool] = []
        if clip.voice is not None:
            layers, frames, _ = clip.voice.shape
            share, bias = weights["mert_layer_agg.weight"][0, :, 0], weights["mert_layer_agg.bias"][0]
            for frame in range(frames):
                mixed = sum(share[layer] * clip.voice[layer, frame].double() for layer in range(layers)) + bias
                rows.append(self._linear("audio_mert_to_dec_proj", mixed))
            mask += [not clip.voice_is_silent] * frames
        for row, on in zip(clip.text.double(), clip.text_mask, strict=True):
            rows.append(self._linear("enc_to_dec_proj", row) * on)
            mask.append(bool(on))
        if self.settings.lyrics_in_memory:
            rows += self._lyrics(clip)
            mask += [bool(on) for on in clip.lyrics_mask]
        return torch.stack(rows), mask

    def _lyrics(self, clip: Clip) -> list[Tensor]:
        """Encoded and projected, in the memory and in front of the song alike; bare embeddings in our older models."""
        if not self.settings.lyrics_encoded:
            return [self.weights["embed_prompts.weight"][token] for token in clip.lyrics]
        return list(self._linear("lyrics_to_dec_proj", self.encoded_lyrics(clip.lyrics, clip.lyrics_mask)))

    def encoded_lyrics(self, ids: list[int], mask: list[int]) -> Tensor:
        """Lyrics encoder: relative positions, full attention, padding unseen."""
        states = torch.stack([self.weights["embed_prompts.weight"][token] for token in ids])
        states = self._norm("lyrics_encoder.embed.out.1", self._linear("lyrics_encoder.embed.out.0", states))
        states = states * math.sqrt(states.shape[1])
        block = 0
        while f"lyrics_encoder.encoders.{block}.norm_ff.weight" in self.weights:
            name = f"lyrics_encoder.encoders.{block}"
            states = states + self._relative_attention(
                f"{name}.self_attn", self._norm(f"{name}.norm_mha", states), mask
            )
            hidden = self._linear(f"{name}.feed_forward.w_1", self._norm(f"{name}.norm_ff", states))
            states = states + self._linear(f"{name}.feed_forward.w_2", hidden / (1 + torch.exp(-hidden)))
            block += 1
        return self._norm("lyrics_encoder.after_norm", states)

    def _relative_attention(self, name: str, states: Tensor, mask: list[int]) -> Tensor:
        """Score of query i and key j: (q_i + u) k_j + (q_i + v) p_(i-j), over the root of the head width."""
        query, key, value = (self._linear(f"{name}.linear_{part}", states) for part in "qkv")
        length, heads = len(states), self.settings.lyrics_heads
        width = states.shape[1] // heads
        outputs = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            content, place = self.weights[f"{name}.pos_bias_u"][head], self.weights[f"{name}.pos_bias_v"][head]
            rows = []
            for i in range(length):
                positions = [j for j in range(length) if mask[j]]
                scores = []
                for j in positions:
                    distance = (self.weights[f"{name}.linear_pos.weight"] @ alternating(i - j, states.shape[1]))[part]
                    by_content, by_place = (
                        (query[i, part] + content) @ key[j, part],
                        (query[i, part] + place) @ distance,
                    )
                    scores.append((by_content + by_place) / math.sqrt(width))
                rows.append(torch.softmax(torch.stack(scores), dim=0) @ value[positions][:, part])
            outputs.append(torch.stack(rows))
        return self._linear(f"{name}.linear_out", torch.cat(outputs, dim=1))

    def _linear(self, name: str, states: Tensor) -> Tensor:
        return states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, name: str, states: Tensor) -> Tensor:
        centred = states - states.mean(dim=-1, keepdim=True)
        deviation = torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + LAYER_NORM_EPS)
        return centred / deviation * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def sinusoid(position: int, width: int) -> Tensor:
    """The decoder's position: cosines, then sines; the divisor is half - 1."""
    half = width // 2
    angles = [position * 10000 ** (-i / (half - 1)) for i in range(half)]
    return torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64)


def alternating(position: int, width: int) -> Tensor:
    """The lyrics encoder's position: sine on even, cosine on odd channels."""
    values = []
    for channel in range(width):
        angle = position * 10000 ** (-(channel - channel % 2) / width)
        values.append(math.cos(angle) if channel % 2 else math.sin(angle))
    return torch.tensor(values, dtype=torch.float64)


def rotated(row: Tensor, position: int, base: float) -> Tensor:
    """Rotate channel i together with channel i + half by the position's i-th angle."""
    half = len(row) // 2
    result = row.clone()
    for i in range(half):
        angle = position * base ** (-2 * i / len(row))
        cosine, sine = math.cos(angle), math.sin(angle)
        result[i] = row[i] * cosine - row[i + half] * sine
        result[i + half] = row[i + half] * cosine + row[i] * sine
    return result


def gelu(values: Tensor) -> Tensor:
    """The exact one, by the error function."""
    return values * (1 + torch.erf(values / math.sqrt(2))) / 2
