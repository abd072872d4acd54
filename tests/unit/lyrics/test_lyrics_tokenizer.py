import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace

from songgen.lyrics import LANGUAGES, SECTION_TAGS, VoiceBpeTokenizer, train_lyrics_tokenizer

LINES = [
    ("[Verse 1]\nHello hello world, I am singing\n[Chorus]\nla la la hello world", "english"),
    ("Ich bin müde, hallo welt, ich lache", "de"),
    ("", "en"),
]


@pytest.fixture(scope="module")
def tokenizer() -> VoiceBpeTokenizer:
    return train_lyrics_tokenizer(LINES * 3, 400)


def published_kind() -> Tokenizer:
    """A file as the published one: characters, a merge, special tokens at their ids, no section tags."""
    letters = "abcdefghijklmnopqrstuvwxyz.'[]"
    vocabulary = {"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "[en]": 259, "[de]": 260, "[START]": 261, "[zh-cn]": 262}
    vocabulary |= {letter: index for index, letter in enumerate(letters, start=3)} | {"he": 40}
    tokenizer = Tokenizer(BPE(vocabulary, [("h", "e")], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([token for token in vocabulary if token.startswith("[") and len(token) > 1])
    return tokenizer


def test_special_ids_stand_at_their_published_places(tokenizer: VoiceBpeTokenizer) -> None:
    ids = {token: tokenizer.tokenizer.token_to_id(token) for token in ("[STOP]", "[UNK]", "[SPACE]", "[START]")}
    assert ids == {"[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "[START]": 261}
    assert [tokenizer.tokenizer.token_to_id(f"[{code}]") for code in ("en", "de", "fr", "nl")] == [259, 260, 262, 297]
    vocabulary = tokenizer.tokenizer.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(tokenizer.vocab_size))
    assert len(tokenizer) == tokenizer.vocab_size <= 400


def test_every_language_has_its_tag(tokenizer: VoiceBpeTokenizer) -> None:
    firsts = {tokenizer.encode("a", code)[0] for code in LANGUAGES if code not in ("zh", "ja", "ko")}
    assert len(firsts) == len(LANGUAGES) - 3
    assert tokenizer.tokenizer.token_to_id("[zh-cn]") is not None and tokenizer.tokenizer.token_to_id("[zh]") is None


def test_round_trip(tokenizer: VoiceBpeTokenizer) -> None:
    ids = tokenizer.encode_lyrics("[Verse]\nHello, WORLD 2", "en")
    assert ids[0] == 261 and ids[1] == 259 and ids[-1] == 0
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor(ids)) == "[en][verse].hello, world two"
    assert tokenizer.batch_decode([ids, [261, 0]]) == ["[en][verse].hello, world two", ""]


def test_empty_lyrics(tokenizer: VoiceBpeTokenizer) -> None:
    assert tokenizer.encode_lyrics("", "en") == tokenizer.encode_lyrics(" \n", "de") == [261, 0]


def test_section_tags_are_single_tokens_also_with_a_number(tokenizer: VoiceBpeTokenizer) -> None:
    for tag in SECTION_TAGS:
        assert len(tokenizer.encode(tag, "en")) == 2, tag
    assert tokenizer.encode("[Verse 2]\nla", "en") == tokenizer.encode("[verse]\nla", "en")
    assert tokenizer.encode("[Chorus: both]", "de") == tokenizer.encode("[Chorus]", "de")
    assert len(tokenizer.encode("[nonsense 2]", "en")) > 2


def test_unknown_pieces_are_told(tokenizer: VoiceBpeTokenizer) -> None:
    assert tokenizer.unknown_pieces("hello 漢 world ☃", "en") == ["漢", "☃"]
    assert tokenizer.unknown_pieces("hello world's müde?", "en") == []
    assert tokenizer.encode("☃", "en")[1:] == [tokenizer.unknown_token_id]
    assert "[UNK]" in tokenizer.decode(tokenizer.encode("☃", "en"))


def test_save_and_open(tokenizer: VoiceBpeTokenizer, tmp_path: Path) -> None:
    path = tokenizer.save_pretrained(tmp_path / "new" / "folder")
    assert path.name == "lyrics_tokenizer.json"
    for opened in (VoiceBpeTokenizer(path), VoiceBpeTokenizer.from_pretrained(path.parent)):
        assert opened.fingerprint == tokenizer.fingerprint
        assert opened.encode("Hello world", "en") == tokenizer.encode("Hello world", "en")
    assert tokenizer.fingerprint != train_lyrics_tokenizer([("other words", "en")], 298).fingerprint


def test_a_published_file_gives_its_own_ids(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(published_kind().to_str(), encoding="utf-8")
    tokenizer = VoiceBpeTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("He has", "en") == [259, 40, 2, 10, 3, 21]
    tagged = tokenizer.tokenizer.encode("[en][verse[SPACE]two].a").ids
    assert tokenizer.encode("[Verse 2]\na", "en") == tagged, "without section tags in the file, text is left alone"
    with pytest.raises(ValueError, match=r"no \[fr\]"):
        tokenizer.encode("salut", "fr")


def test_what_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a vocabulary file"):
        VoiceBpeTokenizer()
    with pytest.raises(ValueError, match="cannot read"):
        VoiceBpeTokenizer(tmp_path / "none.json")
    with pytest.raises(ValueError, match="lyrics_tokenizer.json or vocab.json"):
        VoiceBpeTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="not a tokenizers file"):
        VoiceBpeTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(Tokenizer(BPE({"a": 0}, [])).to_str(), encoding="utf-8")
    with pytest.raises(ValueError, match="special ids"):
        VoiceBpeTokenizer.from_pretrained(tmp_path)


def test_training_does_not_depend_on_the_order_of_lines() -> None:
    assert (
        train_lyrics_tokenizer(LINES * 3, 350).to_string() == train_lyrics_tokenizer(LINES[::-1] * 3, 350).to_string()
    )


def test_training_merges_frequent_words_and_respects_the_size() -> None:
    lines = [(" ".join(f"word{letter}{other}" for letter in "abcdefgh" for other in "stuvwxyz"), "en")] * 2
    small, large = (train_lyrics_tokenizer(lines, size) for size in (298, 330))
    assert len(small) == 298 and 298 <= len(large) <= 330
    assert len(large.encode("wordas", "en")) < len("wordas") + 1


def test_letters_of_a_language_are_known_though_the_corpus_lacks_them() -> None:
    assert train_lyrics_tokenizer(LINES, 400, languages=["ru"]).unknown_pieces("жизнь", "ru") == []
    assert train_lyrics_tokenizer(LINES, 400).unknown_pieces("жизнь", "ru") != []


def test_training_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="vocab_size 100 is too small.*298"):
        train_lyrics_tokenizer(LINES, 100)
    with pytest.raises(ValueError, match="unknown language"):
        train_lyrics_tokenizer([("a", "xx")], 400)


@pytest.mark.parametrize("lines", [[("", "en"), (" \n", "de")], [("[intro]\n[instrumental]", "en")], []])
def test_instrumental_music_alone_gives_a_vocabulary_that_spells(
    lines: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A model of instrumental music needs a tokenizer too: for empty lyrics, and for the texts of a later stage."""
    tokenizer = train_lyrics_tokenizer(lines, 2048)
    assert "no lyrics to train a tokenizer from" in caplog.text and "instrumental" in caplog.text
    assert tokenizer.encode_lyrics("", "en") == [261, 0]
    for text, language in (("golden road", "en"), ("жизнь", "ru"), ("größe", "de")):
        assert tokenizer.unknown_pieces(text, language) == []
    assert train_lyrics_tokenizer(lines, 400, languages=["en"]).unknown_pieces("жизнь", "ru") != []
