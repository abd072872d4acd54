"""A real Qwen2-Audio of a few thousand random parameters: plumbing, batches and confidence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from descriptions import answer
from tiny_audio_llm import PROMPT, RATE, save_tiny_audio_llm

from songgen.prepare.describing.audio_llm import LocalDescriber, _Certainty
from songgen.prepare.describing.conversation import Conversation


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_audio_llm(tmp_path_factory.mktemp("random")))


@pytest.fixture(scope="module")
def knowing_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_audio_llm(tmp_path_factory.mktemp("knowing"), learned=answer()))


def conversations(*seconds: float) -> list[Conversation]:
    generator = np.random.default_rng(0)
    return [Conversation(generator.normal(0, 0.1, round(RATE * each)).astype(np.float32), PROMPT) for each in seconds]


def test_a_learned_answer_comes_back_whole_and_with_confidence(knowing_model: str) -> None:
    describer = LocalDescriber(knowing_model, device="cpu")
    assert describer.sample_rate == RATE
    for found in describer.answer(conversations(0.5, 1.5, 2.0)):
        assert found.text == answer()
        assert found.confidence is not None and 0.9 < found.confidence <= 1


def test_an_answer_does_not_depend_on_its_batch(random_model: str) -> None:
    describer = LocalDescriber(random_model, device="cpu", max_new_tokens=12)
    asked = conversations(0.4, 1.2, 2.0)
    alone = [describer.answer([each])[0] for each in asked]
    together = describer.answer(asked)
    assert [found.text for found in together] == [found.text for found in alone]
    assert [found.confidence for found in together] == pytest.approx([found.confidence for found in alone], rel=1e-4)
    assert len({found.text for found in alone}) > 1


def test_earlier_answers_and_what_was_wrong_reach_the_model(random_model: str) -> None:
    describer = LocalDescriber(random_model, device="cpu", max_new_tokens=12)
    [asked] = conversations(1.0)
    again = Conversation(asked.samples, asked.prompt, (("no JSON at all", "mood is missing"),))
    assert describer.answer([asked])[0].text != describer.answer([again])[0].text
    seen = describer._processor.apply_chat_template(
        again.messages({"type": "audio"}), add_generation_prompt=True, tokenize=False
    )
    assert seen.index(PROMPT) < seen.index("<|AUDIO|>") < seen.index("no JSON at all") < seen.index("mood is missing")


def test_the_confidence_is_that_of_a_pass_over_the_finished_answer(random_model: str) -> None:
    describer = LocalDescriber(random_model, device="cpu", max_new_tokens=6)
    [asked] = conversations(1.0)
    [found] = describer.answer([asked])
    processor, network = describer._processor, describer._network
    text = processor.apply_chat_template(asked.messages({"type": "audio"}), add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], audio=[asked.samples], sampling_rate=RATE, return_tensors="pt")
    logarithms = []
    with torch.inference_mode():
        for _ in range(6):
            scores = network(**inputs).logits[0, -1].log_softmax(-1)
            logarithms.append(float(scores.max()))
            inputs["input_ids"] = torch.cat([inputs["input_ids"], scores.argmax().view(1, 1)], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    assert found.confidence == pytest.approx(np.exp(np.mean(logarithms)), rel=1e-4)


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the audio language model .*Qwen2-Audio.*tag.backend"):
        LocalDescriber(str(tmp_path), device="cpu")


def test_what_stands_behind_the_end_of_an_answer_does_not_count() -> None:
    certainty = _Certainty()
    probabilities = torch.tensor([[0.9, 0.5], [0.8, 0.6], [0.7, 0.99]])  # steps x answers, of the likeliest token
    for step in probabilities:
        certainty(torch.zeros(2, 0, dtype=torch.long), torch.stack([step, 1 - step], dim=1).log())
    end, pad = 7, 0
    written = torch.tensor([[3, 4, 5], [3, end, pad]])
    expected = [(0.9 * 0.8 * 0.7) ** (1 / 3), (0.5 * 0.6) ** 0.5]
    assert certainty.means(written, [end]) == pytest.approx(expected, rel=1e-6)
