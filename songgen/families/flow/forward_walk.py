"""Walk through a flow model's forward pass that accounts for what it keeps; see `songgen.families.tensor_account`.

It follows diffusers' classes operation by operation; a version that keeps other tensors shows in the tests.

Shapes: B clips, S patches, M condition tokens, Y lyrics tokens, R frames of the timbre reference, D width, E width of
the text encoder, C channels of a latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from songgen.families.costs import FLOAT32, BatchSize
from songgen.families.tensor_account import AttentionShape, Flow, TensorAccount

REFERENCE_FRAMES = 750
"""Frames of the timbre reference, 30 seconds."""

TIME_CHANNELS = 256
"""Sines and cosines of a timestep."""

TRANSFORMER_LAYER = "transformer.layers.{}"
"""Name of a layer of the transformer by its number."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a stack of layers, from its `config.json`."""

    width: int
    """D."""
    inner: int
    """Width between the two products of the feed-forward part."""
    heads: int
    """Attention heads of the queries."""
    key_heads: int
    """Attention heads of keys and values."""
    head_width: int
    """Width of a head."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sizes:
        """Read the sizes in a configuration."""
        keys = "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"
        return cls(*(int(config[key]) for key in keys))


@dataclass(frozen=True)
class ForwardWalk:
    """Forward pass of one micro-batch."""

    transformer: Mapping[str, Any]
    """Configuration of the transformer."""
    encoder: Mapping[str, Any]
    """Configuration of the condition encoder."""
    new_account: Callable[[], TensorAccount]
    """Function that returns an empty account."""
    size: BatchSize
    """Size of the micro-batch."""

    @property
    def patches(self) -> int:
        """Positions of the transformer, S."""
        return -(-self.size.frames // int(self.transformer["patch_size"]))

    @property
    def condition_tokens(self) -> int:
        """Tokens that the transformer attends to, M: lyrics, timbre and caption."""
        return self.size.lyrics + 1 + self.size.caption

    def conditions(self, account: TensorAccount, *, checkpointing: bool) -> tuple[Flow, int]:
        """Account for the condition encoder; return B x M x D, and the bytes that its largest layer keeps by itself."""
        config, name, clips = self.encoder, "condition_encoder", self.size.clips
        text, width = int(config["text_hidden_dim"]), int(config["hidden_size"])
        caption = Flow("caption", clips * self.size.caption * text, FLOAT32, False)
        caption = account.linear(f"{name}.text_projector", caption, text, width)
        lyrics = Flow("lyrics", clips * self.size.lyrics * text, FLOAT32, False)
        layers = int(config["num_lyric_encoder_hidden_layers"])
        length = self.size.lyrics
        masks = [clips * length * length] * 2  # of layers that see everything, and of those that see near tokens
        lyrics, lyrics_kept = self._encoder(
            account, f"{name}.lyric_encoder", lyrics, text, layers, clips, length, masks, checkpointing
        )
        channels, layers = int(config["timbre_hidden_dim"]), int(config["num_timbre_encoder_hidden_layers"])
        # Usually silence, which is encoded once for all clips.
        timbre = Flow("reference", REFERENCE_FRAMES * channels, FLOAT32, False)
        masks = [REFERENCE_FRAMES * REFERENCE_FRAMES]
        timbre, timbre_kept = self._encoder(
            account, f"{name}.timbre_encoder", timbre, channels, layers, 1, REFERENCE_FRAMES, masks, checkpointing
        )
        timbre = replace(timbre, key="timbre token", numbers=clips * width)
        numbers = clips * self.condition_tokens * width
        joined = account.new("conditions", numbers, max(caption.width, lyrics.width), caption, lyrics, timbre)
        return joined, max(lyrics_kept, timbre_kept)

    def _encoder(
        self,
        account: TensorAccount,
        name: str,
        source: Flow,
        inputs: int,
        layers: int,
        clips: int,
        length: int,
        masks: Sequence[int],
        again: bool,
    ) -> tuple[Flow, int]:
        """Account for the encoder of lyrics or timbre: from clips x length x inputs to clips x length x D."""
        sizes, layer_kept = Sizes.of(self.encoder), 0
        states = account.linear(f"{name}.embed_tokens", source, inputs, sizes.width)
        for index in range(layers):
            inner = self.new_account()
            # Every layer of lyrics has a mask of padding; otherwise, only those that see near tokens have one.
            has_mask = len(masks) > 1 or index % 2 == 0
            following = self._encoder_layer(
                inner, f"{name}.layers.{index}", sizes, states, clips, length, has_mask=has_mask
            )
            layer_kept = max(layer_kept, inner.kept + inner.kept_weights)
            if again and following.has_gradient:
                account.keep(states)
            account.include(inner, tensors=not again)
            states = following
        if states.has_gradient:
            for number, entries in enumerate(masks):
                account.keep(Flow(f"{name} mask {number}", entries, account.computed, False))
        return self._norm(account, f"{name}.norm", states, sizes.width), layer_kept

    def _encoder_layer(
        self, account: TensorAccount, name: str, sizes: Sizes, states: Flow, clips: int, length: int, *, has_mask: bool
    ) -> Flow:
        """Account for one layer of the condition encoder."""
        normed = self._norm(account, f"{name}.input_layernorm", states, sizes.width)
        shape = AttentionShape(clips, sizes.heads, length, length)
        mixed = self._attention(
            account, f"{name}.self_attn", sizes, normed, normed, shape, rotates=True, has_mask=has_mask
        )
        states = account.add(f"{name} attended", states, mixed)
        normed = self._norm(account, f"{name}.post_attention_layernorm", states, sizes.width)
        return account.add(f"{name} fed", states, self._feed_forward(account, f"{name}.mlp", sizes, normed))

    def layers(self, account: TensorAccount, conditions: Flow, *, checkpointing: bool) -> int:
        """Account for the transformer; return the bytes that its largest layer keeps by itself."""
        sizes, clips = Sizes.of(self.transformer), self.size.clips
        rows, width = clips * self.patches, sizes.width
        modulation = self._time(account, width)
        source_width = int(self.encoder["hidden_size"])
        conditions = account.linear("transformer.condition_embedder", conditions, source_width, width)
        patch = int(self.transformer["patch_size"])
        joined = int(self.transformer["in_channels"]) * patch
        patched = account.cast(Flow("patches", rows * joined, FLOAT32, False), "transformer.proj_in_conv")
        states = account.linear("transformer.proj_in_conv", patched, joined, width)
        layer_kept, kinds = 0, self.transformer.get("layer_types")
        for index in range(int(self.transformer["num_hidden_layers"])):
            inner = self.new_account()
            is_near = (index + 1) % 2 == 1 if kinds is None else kinds[index] == "sliding_attention"
            following = self._layer(inner, index, sizes, states, conditions, modulation, is_near=is_near)
            for shared in (conditions.key, "window", "transformer modulation"):
                if shared in inner.tensors:
                    account.tensors[shared] = inner.tensors.pop(shared)
            layer_kept = max(layer_kept, inner.kept + inner.kept_weights)
            if checkpointing and following.has_gradient:
                account.keep(states)
            account.include(inner, tensors=not checkpointing)
            states = following
        if checkpointing:
            account.keep(conditions)
            account.keep(Flow("window", self.patches * self.patches, account.computed, False))
        states = self._norm(account, "transformer.norm_out", states, width)
        states = self._modulated(account, "transformer.scale_shift_table", states, modulation, account.computed)
        latents = int(self.transformer["audio_acoustic_hidden_dim"]) * patch
        account.linear("transformer.proj_out_conv", self._copied(states, "transformer.proj_out_conv"), width, latents)
        return layer_kept

    def _time(self, account: TensorAccount, width: int) -> Flow:
        """Account for both time embeddings; return B x 6D."""
        clips = self.size.clips
        total = None
        for name in ("transformer.time_embed", "transformer.time_embed_r"):
            sines = Flow(f"{name} sines", clips * TIME_CHANNELS, FLOAT32, False)
            embedded = account.activation(f"{name} act1", account.linear(f"{name}.linear_1", sines, 256, width))
            embedded = account.activation(f"{name} act2", account.linear(f"{name}.linear_2", embedded, width, width))
            projected = account.linear(f"{name}.time_proj", embedded, width, 6 * width)
            total = projected if total is None else account.add("transformer modulation", total, projected)
        assert total is not None
        return total

    def _layer(
        self,
        account: TensorAccount,
        index: int,
        sizes: Sizes,
        states: Flow,
        conditions: Flow,
        modulation: Flow,
        *,
        is_near: bool,
    ) -> Flow:
        """Account for one layer of the transformer: B x S x D."""
        name, clips, length = TRANSFORMER_LAYER.format(index), self.size.clips, self.patches
        table = f"{name}.scale_shift_table"
        normed = self._norm(account, f"{name}.self_attn_norm", states, sizes.width)
        normed = self._modulated(account, table, normed, modulation, states.width)
        # With padding, the window of a layer is a mask for every clip.
        has_padding = clips > 1
        own = AttentionShape(
            clips, sizes.heads, length, length, mask=clips * length * length if has_padding and is_near else 0
        )
        if is_near and not has_padding:
            account.keep(Flow("window", length * length, account.computed, False))
        mixed = self._attention(
            account, f"{name}.self_attn", sizes, normed, normed, own,
            rotates=True, copies=True, has_mask=is_near or has_padding,
        )  # fmt: skip
        states = self._gated(account, f"{name} attended", table, states, mixed, modulation)
        normed = self._norm(account, f"{name}.cross_attn_norm", states, sizes.width)
        normed = replace(normed, width=states.width)
        shape = AttentionShape(clips, sizes.heads, length, self.condition_tokens)
        mixed = self._attention(
            account, f"{name}.cross_attn", sizes, normed, conditions, shape, copies=True, has_mask=has_padding
        )
        states = account.add(f"{name} informed", states, mixed)
        normed = self._norm(account, f"{name}.mlp_norm", states, sizes.width)
        normed = self._modulated(account, table, normed, modulation, states.width)
        fed = self._feed_forward(account, f"{name}.mlp", sizes, normed, copies=True)
        return self._gated(account, f"{name} fed", table, states, fed, modulation)

    def _norm(self, account: TensorAccount, module: str, flow: Flow, width: int) -> Flow:
        """Account for a norm by the root of the mean square, which is computed in float32."""
        trained, rows = account.is_trained(f"{module}.weight"), flow.numbers // width
        if flow.has_gradient:
            account.keep(flow)
            account.keep(flow if flow.width == FLOAT32 else replace(flow, key=f"{flow.key} wide", width=FLOAT32))
            account.keep(Flow(f"{module} root", rows, FLOAT32, False))
        result = account.new(module, flow.numbers, account.stream, flow, trained=trained)
        account.kernels += 4
        account.moved += 3 * flow.numbers * FLOAT32
        if trained:
            account.keep(replace(flow, key=f"{module} normed", width=account.stream))
        return result

    def _modulated(self, account: TensorAccount, table: str, normed: Flow, modulation: Flow, width: int) -> Flow:
        """Account for scale and shift of a normed tensor, which is then brought to the precision of the layers."""
        trained = modulation.has_gradient or account.is_trained(table)
        if trained:
            account.keep(normed)
        return account.new(f"{normed.key} modulated", normed.numbers, width, normed, modulation, trained=trained)

    def _gated(
        self, account: TensorAccount, key: str, table: str, states: Flow, addition: Flow, modulation: Flow
    ) -> Flow:
        """Account for a sum with a gate."""
        trained = modulation.has_gradient or account.is_trained(table)
        if trained:
            account.keep(addition)
        if trained or addition.has_gradient:
            account.keep(Flow(table, modulation.numbers, FLOAT32, False))
        return account.new(key, states.numbers, states.width, states, addition, trained=trained)

    def _attention(
        self,
        account: TensorAccount,
        name: str,
        sizes: Sizes,
        normed: Flow,
        source: Flow,
        shape: AttentionShape,
        *,
        has_mask: bool,
        rotates: bool = False,
        copies: bool = False,
    ) -> Flow:
        """Account for an attention layer: queries of B x S x D, keys and values of `source`."""
        wide, narrow = sizes.heads * sizes.head_width, sizes.key_heads * sizes.head_width
        is_own = source is normed
        query = account.linear(f"{name}.to_q", self._copied(normed, name, "q", copies), sizes.width, wide)
        keys = account.linear(f"{name}.to_k", self._copied(source, name, "k", copies and is_own), sizes.width, narrow)
        values = account.linear(f"{name}.to_v", self._copied(source, name, "v", copies and is_own), sizes.width, narrow)
        query = self._norm(account, f"{name}.norm_q", query, sizes.head_width)
        keys = self._norm(account, f"{name}.norm_k", keys, sizes.head_width)
        if rotates:  # what attention keeps are the rotated ones, which are new tensors
            query = account.new(f"{name} rotated query", query.numbers, query.width, query)
            keys = account.new(f"{name} rotated keys", keys.numbers, keys.width, keys)
        if has_mask:  # see `songgen.families.flow.padding`
            keys, values = (
                account.new(f"{flow.key} of all heads", flow.numbers * sizes.heads // sizes.key_heads, flow.width, flow)
                for flow in (keys, values)
            )
        mixed = account.fused_attention(name, query, keys, values, shape)
        mixed = replace(mixed, key=f"{name} mixed", width=query.width) if query.width != mixed.width else mixed
        return account.linear(f"{name}.to_out.0", mixed, wide, sizes.width)

    def _feed_forward(
        self, account: TensorAccount, name: str, sizes: Sizes, normed: Flow, *, copies: bool = False
    ) -> Flow:
        """Account for the gated feed-forward part."""
        gate = account.linear(f"{name}.gate_proj", self._copied(normed, name, "gate", copies), sizes.width, sizes.inner)
        up = account.linear(f"{name}.up_proj", self._copied(normed, name, "up", copies), sizes.width, sizes.inner)
        opened = account.activation(f"{name} opened", gate)
        if up.has_gradient:
            account.keep(opened)
        if opened.has_gradient:
            account.keep(up)
        product = account.new(f"{name} product", up.numbers, up.width, opened, up)
        return account.linear(f"{name}.down_proj", product, sizes.inner, sizes.width)

    def _copied(self, flow: Flow, reader: str, part: str = "", copies: bool = True) -> Flow:
        """Return a tensor as its reader sees it.

        Patches come out of a convolution in another order of memory, which each linear layer brings into its own; of a
        single clip, that is the transposed matrix, which needs no copy.
        """
        return replace(flow, key=f"{flow.key} for {reader} {part}") if copies and self.size.clips > 1 else flow
