from pathlib import Path
from typing import Any

import pytest

from songgen.conditioning import load_caption_tokenizer, train_caption_tokenizer

CAPTIONS = [
    "A warm pop song with female vocal and soft piano.",
    "Heavy rock, distorted guitars, male voice",
    "Calm folk ballad with acoustic guitar",
] * 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("caption_tokenizer")
    return train_caption_tokenizer(CAPTIONS, 320, folder), folder


def test_ids_are_those_of_t5(trained: tuple[Any, Path]) -> None:
    tokenizer = trained[0]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert len(tokenizer) <= 320
    assert tokenizer("").input_ids == [1]


def test_any_text_comes_back(trained: tuple[Any, Path]) -> None:
    for text in (CAPTIONS[0], "naïve ♪ 漢字 Жизнь", "soft 🎸 rock"):
        ids = trained[0](text).input_ids
        assert trained[0].unk_token_id not in ids and ids[-1] == 1
        assert trained[0].decode(ids, skip_special_tokens=True) == text


def test_batches_are_padded_on_the_right(trained: tuple[Any, Path]) -> None:
    batch = trained[0](["pop", "a calm folk song"], padding=True)
    assert batch.attention_mask[0][0] == 1 and batch.attention_mask[0][-1] == 0 and batch.input_ids[0][-1] == 0


def test_it_opens_again_and_training_repeats(trained: tuple[Any, Path], tmp_path: Path) -> None:
    text = "soft rock with ♪"
    expected = trained[0](text).input_ids
    assert load_caption_tokenizer(trained[1])(text).input_ids == expected
    again = train_caption_tokenizer(CAPTIONS[::-1], 320, tmp_path)
    assert again(text).input_ids == expected
    assert (tmp_path / "tokenizer.json").read_text() == (trained[1] / "tokenizer.json").read_text()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every line is empty"):
        train_caption_tokenizer(["", " "], 320, tmp_path)
    with pytest.raises(ValueError, match="vocab_size 100"):
        train_caption_tokenizer(CAPTIONS, 100, tmp_path)
    with pytest.raises(ValueError, match="no caption tokenizer"):
        load_caption_tokenizer(tmp_path / "none")
