"""Speech recognition with Whisper: the words of audio chunks with times, and which results to reject.

Text is decoded greedily; then a second pass over the finished text gives each token's probability and the attention of
the alignment heads. Both passes see only the tokens of one chunk, so that its words and times do not depend on the rest
of the batch (`generate(return_token_timestamps=True)` of transformers aligns the padding of a batch as well).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput

from songgen.prepare.engine.record import Word
from songgen.prepare.listening.devices import choose_device
from songgen.prepare.listening.hearing import Guards, HeardChunk, compression_ratio, find_doubt
from songgen.prepare.timing.text_distance import WITHOUT_BLANKS, base_language
from songgen.prepare.timing.word_times import split_words, timed_words, token_starts
from songgen.runtime.network_sizes import require_sane_folder
from songgen.runtime.pretrained import FOREIGN_ERRORS

RETRY_STEP = 0.2
"""Each retry of a chunk samples at a temperature higher by this, as in Whisper's own transcription."""

_RETRY_SEED = 0
_IMPOSSIBLE = -math.inf


@dataclass(frozen=True)
class _Reading:
    """Result of the second pass over a chunk."""

    starts: np.ndarray
    probabilities: np.ndarray
    log_probability: float
    no_speech: float


class Recognizer:
    """A Whisper network with its feature extractor and tokenizer."""

    def __init__(self, model: str, revision: str = "", device: str = "") -> None:
        """Load a model.

        Args:
            model: hub id or folder.
            revision: branch, tag or commit on the hub; empty for the main branch.
            device: such as `cuda`; empty for an accelerator where there is one.

        Raises:
            ValueError: If it cannot be loaded, or is not a Whisper model.
        """
        self.device = choose_device(device)
        dtype = torch.float32 if self.device == "cpu" else torch.float16
        revision = revision or "main"
        try:
            require_sane_folder(model)
            self._processor: Any = WhisperProcessor.from_pretrained(model, revision=revision)
            network: Any = WhisperForConditionalGeneration.from_pretrained(
                model, revision=revision, use_safetensors=True, dtype=dtype
            )
        except FOREIGN_ERRORS as error:
            raise ValueError(
                f"cannot load the recognizer {model!r}: {error}. Give the id or the folder of a Whisper model that "
                "has a safetensors file, or switch `transcribe` off (null)"
            ) from error
        self._network = network.to(self.device).eval()
        extractor = self._processor.feature_extractor
        self.sample_rate: int = extractor.sampling_rate
        self._samples_per_frame = extractor.hop_length * 2
        self.chunk_seconds: float = extractor.n_samples / extractor.sampling_rate
        generation = self._network.generation_config
        self._tokenizer = self._processor.tokenizer
        self._language_ids = {
            token[2:-2]: int(index) for token, index in (getattr(generation, "lang_to_id", None) or {}).items()
        }
        self._start_id = int(generation.decoder_start_token_id)
        self._no_timestamps_id = int(self._tokenizer.convert_tokens_to_ids("<|notimestamps|>"))
        self._end_id = int(self._network.config.eos_token_id)
        self._suppressed = self._mask([*(generation.suppress_tokens or ()), *range(self._no_timestamps_id, len(self))])
        self._suppressed_first = self._mask(generation.begin_suppress_tokens or ())
        # All tokens after the end of text are special (tasks, languages, timestamps) and never part of the text.
        self._suppressed[self._end_id + 1 :] = _IMPOSSIBLE
        self._heads = getattr(generation, "alignment_heads", None) or _upper_heads(self._network.config)

    def __len__(self) -> int:
        """Return the size of the vocabulary."""
        return int(self._network.config.vocab_size)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that it knows; empty for an English-only model."""
        return tuple(self._language_ids)

    @torch.inference_mode()
    def language_probabilities(self, chunks: Sequence[np.ndarray]) -> dict[str, float]:
        """Return how probable each language is, over all chunks together; louder evidence counts by length.

        Args:
            chunks: mono samples of one song at `sample_rate`, none longer than `chunk_seconds`.
        """
        if not self._language_ids:
            return {"en": 1.0}
        states = self._encode(chunks)
        prompt = torch.full((len(chunks), 1), self._start_id, device=self.device)
        logits = self._network(encoder_outputs=BaseModelOutput(states), decoder_input_ids=prompt).logits[:, -1]
        found = torch.softmax(logits[:, list(self._language_ids.values())].double(), dim=-1).cpu().numpy()
        mean = np.average(found, axis=0, weights=[len(chunk) for chunk in chunks])
        return {code: float(value) for code, value in zip(self._language_ids, mean, strict=True)}

    @torch.inference_mode()
    def transcribe(
        self, chunks: Sequence[np.ndarray], languages: Sequence[str], guards: Guards | None = None
    ) -> list[HeardChunk]:
        """Hear what is sung in a batch of chunks.

        Args:
            chunks: mono samples at `sample_rate`, none longer than `chunk_seconds`.
            languages: code of each chunk's language, one of `languages` (`en` for a model of English alone).
            guards: what is believed.
        """
        guards = guards or Guards()
        states = self._encode(chunks)
        texts = self._decode(states, languages)
        heard = []
        for row, (chunk, language) in enumerate(zip(chunks, languages, strict=True)):
            own = states[row : row + 1]
            result = self._read(own, texts[row], len(chunk), language, guards)
            for retry in range(1, guards.retries + 1):
                if result.doubt in ("", "no_speech"):
                    break
                [tokens] = self._decode(own, [language], temperature=retry * RETRY_STEP)
                result = self._read(own, tokens, len(chunk), language, guards)
            heard.append(result)
        return heard

    def _encode(self, chunks: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the states of the encoder: chunks x frames x width."""
        longest = max(len(chunk) for chunk in chunks)
        assert longest <= self.chunk_seconds * self.sample_rate, longest
        features = self._processor.feature_extractor(
            list(chunks), sampling_rate=self.sample_rate, return_tensors="pt"
        ).input_features
        states = self._network.get_encoder()(features.to(self.device, self._network.dtype)).last_hidden_state
        return torch.as_tensor(states)

    def _prompt(self, language: str) -> list[int]:
        """Return the tokens that select language and task."""
        if not self._language_ids:
            return [self._start_id, self._no_timestamps_id]
        task = int(self._tokenizer.convert_tokens_to_ids("<|transcribe|>"))
        return [self._start_id, self._language_ids[language], task, self._no_timestamps_id]

    def _decode(self, states: torch.Tensor, languages: Sequence[str], temperature: float = 0.0) -> list[list[int]]:
        """Return the text tokens of each row, decoded greedily or sampled at a temperature."""
        generator = torch.Generator(device=self.device).manual_seed(_RETRY_SEED)
        inputs = torch.tensor([self._prompt(language) for language in languages], device=self.device)
        # Whisper's own transcription uses at most half of the decoder's positions for the text.
        limit = self._network.config.max_target_positions // 2
        is_done = torch.zeros(len(languages), dtype=torch.bool, device=self.device)
        outputs = BaseModelOutput(states)
        rows: list[torch.Tensor] = []
        cache = None
        for position in range(limit):
            result = self._network(
                encoder_outputs=outputs, decoder_input_ids=inputs, past_key_values=cache, use_cache=True
            )
            cache = result.past_key_values
            logits = self._allowed(result.logits[:, -1].float(), is_first=position == 0)
            if temperature:
                probabilities = torch.softmax(logits / temperature, dim=-1)
                chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            else:
                chosen = logits.argmax(dim=-1)
            chosen = chosen.masked_fill(is_done, self._end_id)
            is_done |= chosen == self._end_id
            rows.append(chosen)
            if bool(is_done.all()):
                break
            inputs = chosen[:, None]
        table = torch.stack(rows, dim=1).tolist()
        return [row[: row.index(self._end_id)] if self._end_id in row else row for row in table]

    def _read(
        self, states: torch.Tensor, tokens: list[int], num_samples: int, language: str, guards: Guards
    ) -> HeardChunk:
        """Return words, times and probabilities of a decoded text."""
        reading = self._second_pass(states, tokens, num_samples, language)
        text = self._text(tokens).strip()
        ratio = compression_ratio(text)
        doubt = find_doubt(ratio, reading.log_probability, reading.no_speech, guards)
        words: list[Word] = []
        if not doubt and tokens:
            spans = split_words(tokens, self._text, base_language(language) not in WITHOUT_BLANKS)
            seconds = num_samples / self.sample_rate
            words = timed_words(spans, reading.starts.tolist(), reading.probabilities.tolist(), seconds)
        return HeardChunk(tuple(words), reading.log_probability, ratio, reading.no_speech, doubt)

    def _second_pass(self, states: torch.Tensor, tokens: list[int], num_samples: int, language: str) -> _Reading:
        """Return the probability and start time of each token of a chunk, with one more time for the end."""
        prompt = self._prompt(language)
        inputs = torch.tensor([[*prompt, *tokens]], device=self.device)
        implementation = self._network.config._attn_implementation
        # Fused attention does not return its weights.
        self._network.set_attn_implementation("eager")
        try:
            result = self._network(
                encoder_outputs=BaseModelOutput(states), decoder_input_ids=inputs, output_attentions=True
            )
        finally:
            self._network.set_attn_implementation(implementation)
        logits = result.logits[0].float()
        no_speech = torch.softmax(logits[0], dim=-1)[self._no_timestamps_id - 1]
        rows = slice(len(prompt) - 1, None)
        allowed = self._allowed(logits[rows], is_first=False)
        allowed[0] += self._suppressed_first
        chosen = torch.tensor([*tokens, self._end_id], device=self.device)
        # Text that was cut off by the limit may have an impossible end token (-inf), which would make the mean
        # infinite.
        logs = torch.log_softmax(allowed, dim=-1).gather(1, chosen[:, None])[:, 0].clamp_min(-100.0)
        num_frames = max(1, min(math.ceil(num_samples / self._samples_per_frame), states.shape[1]))
        weights = torch.stack([result.cross_attentions[layer][0, head] for layer, head in self._heads])
        attention = weights[:, rows, :num_frames].double().cpu().numpy()
        attention /= np.maximum(attention.sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
        frames = token_starts(attention, self._network.config.median_filter_width)
        return _Reading(
            starts=frames * (self._samples_per_frame / self.sample_rate),
            probabilities=logs[:-1].exp().cpu().numpy(),
            log_probability=float(logs.mean()),
            no_speech=float(no_speech),
        )

    def _allowed(self, logits: torch.Tensor, is_first: bool) -> torch.Tensor:
        """Return logits in which tokens that are not text are impossible: rows x vocabulary."""
        masked = logits + self._suppressed
        return masked + self._suppressed_first if is_first else masked

    def _mask(self, ids: Sequence[int]) -> torch.Tensor:
        mask = torch.zeros(len(self), device=self.device)
        mask[list(ids)] = _IMPOSSIBLE
        return mask

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _upper_heads(config: Any) -> list[list[int]]:
    """Return all heads in the upper half of the decoder, Whisper's default for models that name no alignment heads."""
    layers = range(config.decoder_layers // 2, config.decoder_layers)
    return [[layer, head] for layer in layers for head in range(config.decoder_attention_heads)]
