"""The tokenizers that the package carries for models that are given none."""

import json
import runpy
from pathlib import Path

import pytest

from songgen.conditioning import load_caption_tokenizer
from songgen.conditioning.caption_tokenizer import UNK_TOKEN_ID
from songgen.lyrics import LANGUAGES, SECTION_TAGS, VoiceBpeTokenizer, normalize_lyrics
from songgen.models.initialize import GENERAL_TOKENIZERS, choose_parts, general_notice

OTHER_LYRICS = {
    "en": "[chorus 2]\nI've got 99 dreams & 1 café\n\"Don't wait\", she said - 50%!",
    "es": "¿Qué pasó, señor? El pingüino bailó 3 noches",
    "fr": "Où naît l'œuvre d'août ? Ça, c'était là-bas",
    "de": "Größe, Öl und Äpfel: 7 süße Jäger",
    "pt": "Não, vovô; pões à mãe três lições",
    "it": "Perché così? Però è già lunedì",
    "pl": "Zażółć gęślą jaźń, 12 łódek",
    "tr": "İçimde ğ, ışık, çöl ve 5 şüphe",
    "ru": "Съешь ещё этих мягких булок, 4 дня",
    "nl": "Eén koe, twee reeën, 's nachts om 3 uur",
    "cs": "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "ar": "قالَ الطِّفْلُ: مَرْحَبًا، كَيْفَ حالُكَ؟ ٣ أيام",
    "zh": "女孩说：我有3个愿望，去旅行吧！",
    "ja": "ヴァイオリンとギターで、3回「好き」と言った。",
    "hu": "Árvíztűrő tükörfúrógép, 2 őz",
    "ko": "괜찮아요, 우리 꿈을 꿔봐요 3번",
    "hi": "ज़िन्दगी १२३ & फ़िल्म, ऋषि ॐ ठंढ",
}
"""Lyrics that the vocabulary was not trained on, with rare letters."""


@pytest.fixture(scope="module")
def lyrics() -> VoiceBpeTokenizer:
    return VoiceBpeTokenizer.from_pretrained(GENERAL_TOKENIZERS)


def test_lyrics_of_every_language_come_back_whole(lyrics: VoiceBpeTokenizer) -> None:
    assert set(OTHER_LYRICS) == set(LANGUAGES)
    for language, text in OTHER_LYRICS.items():
        assert lyrics.unknown_pieces(text, language) == [], language
        tag, _, body = lyrics.decode(lyrics.encode(text, language)).partition("]")
        assert body == normalize_lyrics(text, language).replace("[chorus two]", "[chorus]"), language


def test_section_tags_are_single_tokens_and_words_are_shorter_than_their_letters(lyrics: VoiceBpeTokenizer) -> None:
    for tag in SECTION_TAGS:
        assert len(lyrics.encode(tag, "en")) == 2, "the tag of the language, and this one"
    words = "when the night is falling i remember everything"
    assert len(lyrics.encode(words, "en")) < 0.7 * len(words)


def test_captions_have_no_unknown_token() -> None:
    captions = load_caption_tokenizer(GENERAL_TOKENIZERS / "caption_tokenizer")
    text = "Naïve Größe 東京 folk, 92 bpm"
    ids = captions(text).input_ids
    assert UNK_TOKEN_ID not in ids and captions.decode(ids, skip_special_tokens=True) == text


def test_the_files_are_what_the_texts_give(repository_root: Path, tmp_path: Path) -> None:
    folder = repository_root / "helpers" / "general_tokenizers"
    assert runpy.run_path(str(folder / "make_general_tokenizers.py"))["make"](tmp_path) == 0
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(made) == 4
    assert made == {name: (GENERAL_TOKENIZERS / name).read_bytes() for name in made}
    texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["language"] for row in texts if "[verse]" in row["lyrics"]} == set(LANGUAGES)


def test_what_is_general_is_said_and_a_named_vocabulary_wins(tmp_path: Path) -> None:
    neither = choose_parts("small", audio_codec="codec")
    assert "lyrics and captions" in general_notice(neither)
    published = choose_parts("published", audio_codec="codec")
    assert published.caption_tokenizer == published.text_encoder
    assert "vocabulary of lyrics was given" in general_notice(published)
    named = choose_parts("published", audio_codec="codec", lyrics_tokenizer="vocab.json")
    assert named.lyrics_tokenizer == "vocab.json" and general_notice(named) == ""
