"""Walk through a token model's forward pass that accounts for what it keeps; see `songgen.families.tensor_account`.

It follows `songgen.models` operation by operation; a change there that keeps other tensors shows in the tests.

Shapes: B clips, S decoder steps, M memory length, L lyrics length, t frames of the voice, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from songgen.families.costs import FLOAT32, HALF, BatchSize
from songgen.families.tensor_account import AttentionShape, Flow, TensorAccount
from songgen.models.configuration_songgen import SongGenConfig

VOICE_HOP = 320
"""Samples of a frame of the voice encoder: the product of the strides that HuBERT and MERT share."""

LAYER = "decoder.model.decoder.layers.{}"
"""Name of a decoder layer by its number."""


@dataclass(frozen=True)
class ForwardWalk:
    """Forward pass of one micro-batch."""

    config: SongGenConfig
    """Configuration of the model."""
    new_account: Callable[..., TensorAccount]
    """Function that returns an empty account for a device, and a precision if it is not that of the run."""
    size: BatchSize
    """Size of the micro-batch."""
    device: str
    """Type of the device."""

    @property
    def steps(self) -> int:
        """Decoder steps of a clip, S."""
        return self.config.layout.num_steps(self.size.frames)

    def conditions(self, account: TensorAccount, lyrics_account: TensorAccount) -> tuple[Flow, Flow | None]:
        """Account for caption, voice and lyrics; return the memory (B x M x D), and lyrics before the song, if any."""
        config, size, clips = self.config, self.size, self.size.clips
        width, length = config.decoder.hidden_size, size.caption
        text = Flow("caption features", clips * size.caption * config.text_hidden_size, FLOAT32, False)
        text = account.linear("enc_to_dec_proj", text, config.text_hidden_size, width)
        text = account.new("caption", text.numbers, text.width, text)
        flows = [text]
        if size.voice_samples >= VOICE_HOP:
            frames = size.voice_samples // VOICE_HOP
            length += frames
            flows.insert(0, self._voice(account, clips, frames))
        lyrics = self._lyrics(lyrics_account)
        prefix = None
        if config.prompt_cross_attention:
            flows.append(lyrics)
            length += size.lyrics
        else:
            prefix = lyrics
        return account.new("memory", clips * length * width, flows[0].width, *flows), prefix

    def _voice(self, account: TensorAccount, clips: int, frames: int) -> Flow:
        """Account for the mixture of the voice encoder's layers, and its projection: B x t x D."""
        config = self.config
        entries = clips * frames * config.voice_hidden_size
        states = Flow("voice features", entries * config.voice_num_layers, FLOAT32, False)
        mixed = account.linear("mert_layer_agg", states, config.voice_num_layers, 1)
        return account.linear("audio_mert_to_dec_proj", mixed, config.voice_hidden_size, config.decoder.hidden_size)

    def _lyrics(self, account: TensorAccount) -> Flow:
        """Account for the lyrics encoder and its projection: B x L x D."""
        config, clips, length = self.config, self.size.clips, self.size.lyrics
        width = config.decoder.hidden_size
        trained = account.is_trained("embed_prompts.weight")
        states = account.new("lyrics", clips * length * width, account.stream, trained=trained)
        if not config.add_prenet:
            return states
        own, rate = config.lyrics_encoder.output_size, config.lyrics_encoder.dropout
        states = account.linear("lyrics_encoder.embed.out.0", states, width, own)
        states = account.norm("lyrics_encoder.embed.out.1", states, own)
        states = account.dropout("lyrics_encoder.embed.out.2", states, rate)
        states = account.new("scaled lyrics", states.numbers, states.width, states)
        for index in range(config.lyrics_encoder.num_blocks):
            states = self._lyrics_block(account, f"lyrics_encoder.encoders.{index}", states)
        states = account.norm("lyrics_encoder.after_norm", states, own)
        return account.linear("lyrics_to_dec_proj", states, own, width)

    def _lyrics_block(self, account: TensorAccount, name: str, states: Flow) -> Flow:
        """Account for a block of the lyrics encoder: B x L x D."""
        encoder, clips, length = self.config.lyrics_encoder, self.size.clips, self.size.lyrics
        width, units, rate, heads = encoder.output_size, encoder.linear_units, encoder.dropout, encoder.attention_heads
        attention, distances = f"{name}.self_attn", 2 * length - 1
        normed = account.norm(f"{name}.norm_mha", states, width)
        query, key, value = (account.linear(f"{attention}.linear_{part}", normed, width, width) for part in "qkv")
        table = Flow("distances", distances * width, account.stream, False)
        distance = account.linear(f"{attention}.linear_pos", table, width, width)
        shape = AttentionShape(clips, heads, length, length, mask=clips * heads * length * length)
        # The term for distances is a product of queries and a table of 2L - 1 rows, both copied head by head.
        if query.has_gradient or distance.has_gradient:
            for part, numbers in (
                ("moved queries", query.numbers),
                ("distances", clips * distance.numbers),
                ("scores by distance", clips * heads * length * distances),
            ):
                account.keep(Flow(f"{attention} {part}", numbers, account.computed, True))
            account.keep(Flow(f"{attention} places", length * length, 8, False))
        biased = replace(query, key=f"{attention} queries", width=account.stream)
        if self.device == "cpu":  # the fused kernel of CPUs has no gradient of its mask; plain attention is float32
            exact = self.new_account(self.device, FLOAT32)
            mixed = exact.plain_attention(attention, biased, key, value, replace(shape, mask=0), dropout=rate)
            account.tensors.update(exact.tensors)
        else:
            mixed = account.fused_attention(attention, biased, key, value, shape)
        mixed = replace(mixed, width=account.computed)
        attended = account.linear(f"{attention}.linear_out", mixed, width, width)
        states = account.add(f"{name} attended", states, account.dropout(f"{name} dropout", attended, rate))
        normed = account.norm(f"{name}.norm_ff", states, width)
        hidden = account.linear(f"{name}.feed_forward.w_1", normed, width, units)
        hidden = account.activation(f"{name} activation", hidden)
        hidden = account.dropout(f"{name}.feed_forward.dropout", hidden, rate)
        fed = account.linear(f"{name}.feed_forward.w_2", hidden, units, width)
        return account.add(f"{name} fed", states, account.dropout(f"{name} second dropout", fed, rate))

    def decoder(
        self, account: TensorAccount, memory: Flow, prefix: Flow | None, *, checkpointing: bool, fused: bool
    ) -> int:
        """Account for embeddings, layers and the last norm; return the bytes that one layer keeps.

        Args:
            account: account of the decoder.
            memory: B x M x D.
            prefix: B x L x D, lyrics before the song.
            checkpointing: whether layers keep their input only.
            fused: whether attention is one kernel where the device has it.
        """
        config, clips, length = self.config.decoder, self.size.clips, self.steps
        heads, width = self.config.layout.num_heads, config.hidden_size
        trained = account.is_trained("decoder.model.decoder.embed_tokens.0.weight")
        if trained:  # the ids of each step, and the step of each id
            account.keep(Flow("embedded ids", 2 * clips * length * heads, 8, False))
        states = account.new("embeddings", clips * length * width, account.stream, trained=trained)
        if prefix is not None:
            length += self.size.lyrics
            states = account.new("prefix and song", clips * length * width, account.stream, states, prefix)
        states = account.new("with positions", states.numbers, account.stream, states)
        states = account.dropout("dropout of embeddings", states, config.dropout)
        has_mask = prefix is not None
        account.keep(memory)
        layer_kept = 0
        for index in range(config.num_hidden_layers):
            inner = self.new_account(self.device)
            following = self._layer(inner, index, states, memory, length, has_mask=has_mask, fused=fused)
            inner.tensors.pop(memory.key, None)
            layer_kept = max(layer_kept, inner.kept + inner.kept_weights)
            if checkpointing:
                account.keep(states)
            account.include(inner, tensors=not checkpointing)
            states = following
        account.norm("decoder.model.decoder.layer_norm", states, width)
        return layer_kept

    def _layer(
        self,
        account: TensorAccount,
        index: int,
        states: Flow,
        memory: Flow,
        length: int,
        *,
        has_mask: bool,
        fused: bool,
    ) -> Flow:
        """Account for one decoder layer: B x length x D."""
        config, name = self.config.decoder, LAYER.format(index)
        clips, width = self.size.clips, config.hidden_size
        steps = memory.numbers // (clips * width)
        # A mask that is not plainly causal, and that of the memory, become numbers in every layer.
        own_mask = clips * length * length if has_mask else 0
        own = AttentionShape(clips, config.num_attention_heads, length, length, causal=not has_mask, mask=own_mask)
        cross = AttentionShape(clips, config.num_attention_heads, length, steps, mask=clips * steps)
        normed = account.norm(f"{name}.self_attn_layer_norm", states, width)
        mixed = self._attention(account, f"{name}.self_attn", normed, normed, config.key_value_heads, own, fused)
        states = account.add(f"{name} attended", states, account.dropout(f"{name} dropout 1", mixed, config.dropout))
        normed = account.norm(f"{name}.encoder_attn_layer_norm", states, width)
        heads = config.cross_key_value_heads
        mixed = self._attention(account, f"{name}.encoder_attn", normed, memory, heads, cross, fused)
        states = account.add(f"{name} informed", states, account.dropout(f"{name} dropout 2", mixed, config.dropout))
        normed = account.norm(f"{name}.final_layer_norm", states, width)
        hidden = account.linear(f"{name}.fc1", normed, width, config.ffn_dim)
        hidden = account.activation(f"{name} activation", hidden, keeps_result=config.activation_function == "relu")
        hidden = account.dropout(f"{name} inner dropout", hidden, config.activation_dropout)
        fed = account.linear(f"{name}.fc2", hidden, config.ffn_dim, width)
        return account.add(f"{name} fed", states, account.dropout(f"{name} dropout 3", fed, config.dropout))

    def _attention(
        self,
        account: TensorAccount,
        name: str,
        normed: Flow,
        source: Flow,
        key_value_heads: int,
        shape: AttentionShape,
        fused: bool,
    ) -> Flow:
        """Account for an attention of the decoder, from B x S x D to B x S x D."""
        config = self.config.decoder
        width = config.hidden_size
        narrow = width // config.num_attention_heads * key_value_heads
        keys = account.linear(f"{name}.k_proj", source, width, narrow)
        values = account.linear(f"{name}.v_proj", source, width, narrow)
        query = account.linear(f"{name}.q_proj", normed, width, width)
        if config.rope_embeddings:  # what attention keeps are the rotated ones, which are new tensors
            query = account.new(f"{name} rotated query", query.numbers, query.width, query)
            if source is normed:
                keys = account.new(f"{name} rotated keys", keys.numbers, keys.width, keys)
        # The fused kernel of CPUs is not used with bfloat16; see `songgen.models.attention`.
        if fused and not (self.device == "cpu" and account.computed == HALF) and not config.attention_dropout:
            mixed = account.fused_attention(name, query, keys, values, shape)
        else:
            mixed = account.plain_attention(name, query, keys, values, shape, dropout=config.attention_dropout)
        return account.linear(f"{name}.out_proj", mixed, width, width)
