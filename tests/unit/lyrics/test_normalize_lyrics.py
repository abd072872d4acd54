import time
import unicodedata

import pytest

from songgen.lyrics import LANGUAGES, language_code, normalize_lyrics
from songgen.lyrics.languages import SYMBOLS


@pytest.mark.parametrize(
    ("text", "sung"),
    [
        ("In 1999", "in nineteen ninety-nine"),
        ("the 1990s", "the nineteen nineties"),
        ("since 1900.", "since nineteen hundred."),
        ("2010, 2024!", "twenty ten, twenty twenty-four!"),
        ("1,999 nights", "one thousand, nine hundred and ninety-nine nights"),
        ("$1999", "one thousand, nine hundred and ninety-nine dollars"),
        ("1999%", "one thousand, nine hundred and ninety-nine percent"),
        ("the 1999th", "the one thousand, nine hundred and ninety-ninth"),
        ("1000 miles", "one thousand miles"),
        ("500 miles", "five hundred miles"),
        ("12999", "twelve thousand, nine hundred and ninety-nine"),
        ("#1999", "hash one thousand, nine hundred and ninety-nine"),
        ("3.1999", "three point one nine nine nine"),
    ],
)
def test_only_bare_english_numbers_are_years(text: str, sung: str) -> None:
    assert normalize_lyrics(text, "en") == sung


@pytest.mark.parametrize(
    ("language", "text", "sung"),
    [
        ("en", "$1,000.50 or 20¢", "one thousand dollars, fifty cents or twenty¢"),
        ("en", "21st, 10ths", "twenty-first, tenths"),
        ("en", "Mrs. Drs. St. Rev. Jr. Col.", "misess doctors saint reverend junior colonel"),
        ("en", 'she said "go"', "she said go"),
        ("en", "20°", "twenty degree"),
        ("es", "El 1er día, 12,5 y 1.000", "el primero día, doce punto cinco y mil"),
        ("fr", "Mr. Dupond, 20,15€ & 2e", "monsieur dupond, vingt euros et quinze centimes et deuxième"),
        ("fr", "20euros", "vingteuros"),
        ("de", "Am 3. Mai, Fr. Dr. Weiß", "am dritte mai, frau doktor weiß"),
        ("de", "1.000 Nächte", "eintausend nächte"),
        ("pt", "Sra. Costa: R 25$", "senhora costa: r vinte e cinco dólares"),
        ("it", "Sig. Rossi, 1° e 20€", "signore rossi, primo e venti euro"),
        ("pl", "Dr. Nowak ma 50%", "doktor nowak ma pięćdziesiąt procent"),
        ("cs", "3. místo, 20€", "tři. místo, dvacet euro"),
        ("ru", "Г-н Иванов, 1-й & 3", "господин иванов, первый и три"),
        ("nl", "Dhr. Jansen, 2e of 3", "de heer jansen, tweede of drie"),
        ("tr", "İstanbul 1. ve %14", "istanbul birinci ve yüzde ondört"),
        ("tr", "12.5", "oniki.beş"),
        ("hu", "Dr. Szabó 1. és 12,5", "doktor szabó első és tizenkettő egész öt tized"),
        ("ar", "50 @ 20$", "خمسون على عشرون دولار"),
        ("hi", "मेरे  12 गीत", "मेरे 12 गीत"),
    ],
)
def test_numbers_abbreviations_and_symbols(language: str, text: str, sung: str) -> None:
    assert normalize_lyrics(text, language) == sung


def test_a_line_break_ends_numbers_and_abbreviations() -> None:
    assert normalize_lyrics("on 3\n5 more", "en") == "on three.five more"
    assert normalize_lyrics("me and co\nfor real", "en") == "me and co.for real"
    assert normalize_lyrics("saat 3\nbir", "tr") == "saat üç.bir"


def test_line_breaks_of_every_system_are_alike() -> None:
    texts = {normalize_lyrics(text, "en") for text in ("a\nb\n\nc", "a\r\nb\r\n\r\nc", "a\rb\r\rc", "\n a\nb\n\nc\n")}
    assert texts == {"a.b..c"}


def test_section_tags_survive_in_every_language() -> None:
    for language in LANGUAGES:
        if language in ("ja", "ko", "zh"):
            pytest.importorskip({"ja": "cutlet", "ko": "hangul_romanize", "zh": "pypinyin"}[language])
        assert "[chorus]" in normalize_lyrics("la\n[Chorus]\nla la", language), language


def test_empty_lyrics_stay_empty() -> None:
    assert [normalize_lyrics(text, "en") for text in ("", "  ", "\n\n")] == ["", "", ""]


def test_composed_and_decomposed_text_are_alike() -> None:
    text = "déjà vu, naïve"
    assert normalize_lyrics(unicodedata.normalize("NFD", text), "fr") == normalize_lyrics(text, "fr") == text


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize("language", ["en", "hi", "zh"])
def test_nul_and_lone_surrogates_are_refused(bad: str, language: str) -> None:
    with pytest.raises(ValueError, match="character 1"):
        normalize_lyrics(bad, language)


def test_a_number_beyond_words_is_read_digit_by_digit() -> None:
    assert normalize_lyrics("1" * 400, "en").split() == ["one"] * 400
    assert normalize_lyrics("7" * 5000, "en").split() == ["seven"] * 5000


@pytest.mark.parametrize("language", ["en", "de", "zh"])
@pytest.mark.parametrize("piece", ["1", "1,", "1.5", "$1", "a", "[", "1年"])
def test_long_texts_take_no_longer_than_they_must(language: str, piece: str) -> None:
    """A quadratic step would take minutes."""
    if language == "zh":
        pytest.importorskip("pypinyin")
    begin = time.process_time()
    normalize_lyrics(piece * 5_000, language)
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("language", [code for code in LANGUAGES if code != "hi"])
def test_no_digit_is_left(language: str) -> None:
    text = "3, 12.5, 1,000.5, 7°, 20€, $5.20, £3, 100%, 4. 2nd 0 007 1999"
    if language in ("zh", "ja"):
        return  # tones are digits; cutlet leaves digits as they are
    if language == "ko":
        pytest.importorskip("hangul_romanize")
    normalized = normalize_lyrics(text, language)
    assert not any(character.isdigit() for character in normalized), normalized
    assert not set(SYMBOLS[language]) & set(normalized)


@pytest.mark.parametrize(
    ("text", "sung"),
    [
        ("2000人", "er4ling2ling2ling2ren2"),
        ("2000元", "liang3qian1yuan2"),
        ("1999年12月31日", "yi1jiu3jiu3jiu3nian2shi2er4yue4san1shi2yi1ri4"),
        ("50%", "bai3fen1zhi1wu3shi2"),
        ("1/2", "er4fen1zhi1yi1"),
        ("20020个", "liang3wan4ling2er4shi2ge4"),
        ("10 和 110", "shi2 he2 yi4bai3yi1shi2"),
        ("0.5", "ling2dian3wu3"),
        ("b2b", "b2b"),
        ("你好，世界！", "ni3hao3,shi4jie4,"),
        ("你\n好", "ni3,hao3"),
    ],
)
def test_chinese(text: str, sung: str) -> None:
    pytest.importorskip("pypinyin")
    assert normalize_lyrics(text, "zh-cn") == sung


def test_japanese_and_korean_are_romanized() -> None:
    pytest.importorskip("cutlet")
    pytest.importorskip("unidic_lite")
    pytest.importorskip("hangul_romanize")
    assert normalize_lyrics("[Verse]\n今日は世界\nさくら", "ja") == "[verse].kyou wa sekai.sakura"
    assert normalize_lyrics("사랑 2", "ko") == "salang i"


def test_a_missing_romanizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypinyin", None)
    with pytest.raises(ValueError, match="pip install pypinyin"):
        normalize_lyrics("你好", "zh")


def test_languages_by_code_region_and_name() -> None:
    assert [language_code(name) for name in ("en", "EN-us", "English", "zh-cn", "zh_TW", " german ")] == [
        "en",
        "en",
        "en",
        "zh",
        "zh",
        "de",
    ]
    with pytest.raises(ValueError, match="klingon.*known languages: en"):
        language_code("klingon")
