"""An audio language model that runs here with transformers and describes recordings in batches."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, LogitsProcessor, LogitsProcessorList

from songgen.prepare.describing.conversation import Answer, Conversation
from songgen.prepare.listening.devices import choose_device
from songgen.runtime.network_sizes import require_sane_folder
from songgen.runtime.pretrained import FOREIGN_ERRORS

SPEAKING_MODELS = {
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
}
"""Type of a model that also speaks -> class of its text part; the rest is not loaded."""

_GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


class LocalDescriber:
    """A model such as Qwen2-Audio or Qwen2.5-Omni. It decodes greedily, so the same recording gets the same answer."""

    def __init__(self, model: str, *, revision: str = "", device: str = "", max_new_tokens: int = 600) -> None:
        """Load a model.

        Args:
            model: hub id or folder.
            revision: branch, tag or commit on the hub; empty for the main branch.
            device: such as `cuda:0`; empty for the GPU if there is one.
            max_new_tokens: most tokens of an answer.

        Raises:
            ValueError: If it cannot be loaded, or does not take audio.
        """
        self.device = choose_device(device)
        self._max_new_tokens = max_new_tokens
        dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        revision = revision or "main"
        try:
            require_sane_folder(model)
            self._processor: Any = AutoProcessor.from_pretrained(model, revision=revision, trust_remote_code=False)
            kind = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False).model_type
            network = _model_class(kind).from_pretrained(model, revision=revision, use_safetensors=True, dtype=dtype)
            self.sample_rate: int = self._processor.feature_extractor.sampling_rate
        except (*FOREIGN_ERRORS, ImportError) as error:
            raise ValueError(
                f"cannot load the audio language model {model!r}: {error}. Give the id or the folder of a model such "
                'as Qwen/Qwen2-Audio-7B-Instruct that has safetensors files, or set tag.backend to "server" or "none"'
            ) from error
        self._network: Any = network.to(self.device).eval()
        # An answer continues its question, so padding goes on the left.
        self._processor.tokenizer.padding_side = "left"

    @torch.inference_mode()
    def answer(self, conversations: Sequence[Conversation]) -> list[Answer]:
        """Answer a batch of conversations, each about one recording."""
        texts = [
            self._processor.apply_chat_template(
                conversation.messages({"type": "audio"}), add_generation_prompt=True, tokenize=False
            )
            for conversation in conversations
        ]
        inputs = self._processor(
            text=texts,
            audio=[conversation.samples for conversation in conversations],
            sampling_rate=self.sample_rate,
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        for name, value in inputs.items():
            if torch.is_floating_point(value):
                inputs[name] = value.to(self._network.dtype)
        certainty = _Certainty()
        written = self._network.generate(
            **inputs,
            **_GREEDY,
            max_new_tokens=self._max_new_tokens,
            logits_processor=LogitsProcessorList([certainty]),
        )[:, inputs["input_ids"].shape[1] :]
        confidences = certainty.means(written, self._ends())
        answers = self._processor.batch_decode(written, skip_special_tokens=True)
        return [Answer(text, confidence) for text, confidence in zip(answers, confidences, strict=True)]

    def _ends(self) -> list[int]:
        """Return the token ids that end an answer."""
        ends = self._network.generation_config.eos_token_id
        return [] if ends is None else ends if isinstance(ends, list) else [ends]


class _Certainty(LogitsProcessor):
    """Keeps the probability of the most probable token of each step, which greedy decoding takes.

    `generate` could return the scores of all steps, but they take gigabytes for a vocabulary of 150,000.
    """

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._steps.append(torch.log_softmax(scores.float(), dim=-1).amax(dim=-1))
        return scores

    def means(self, written: torch.Tensor, ends: Sequence[int]) -> list[float]:
        """Return the geometric mean of each answer's token probabilities, including its end token.

        Args:
            written: B x L tokens of the answers.
            ends: token ids that end an answer.
        """
        logarithms = torch.stack(self._steps, dim=1)[:, : written.shape[1]]
        is_end = torch.isin(written, torch.tensor(ends, device=written.device, dtype=written.dtype))
        is_said = is_end.cumsum(dim=1) - is_end.long() == 0
        means = (logarithms * is_said).sum(dim=1) / is_said.sum(dim=1)
        return [float(value) for value in means.exp().tolist()]


def _model_class(kind: str) -> Any:
    """Return the class that loads a type of model."""
    import transformers

    return getattr(transformers, SPEAKING_MODELS[kind]) if kind in SPEAKING_MODELS else AutoModelForMultimodalLM
