"""Lyrics as people and programs write them: times of many forms, markup, languages, and no words."""

import time

import pytest

from songgen.lyrics import is_known_language, language_code, states_language
from songgen.lyrics.timed import LONGEST_ESTIMATE_SECONDS, read_timed_lyrics
from songgen.lyrics.written import clean_text, read_written_lyrics

LENGTH = 1 << 18
"""Characters of a long text."""
LONG_SECONDS = 10.0
"""Far more than reading takes, and far less than the slow patterns took."""


def times(text: str) -> list[tuple[str, float, float]]:
    timed = read_timed_lyrics(text)
    assert timed is not None
    return [(line.text, line.start, line.end) for line in timed.lines]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[00:01.50]a\n[00:03:50]b\n[00:05]\n", [("a", 1.5, 3.5), ("b", 3.5, 5.0)]),
        ("[1:07.899]a\n[1:10.7]b\n[1:12.77]", [("a", 67.899, 70.7), ("b", 70.7, 72.77)]),
        ("[01:00:00.5]a\n[01:00:01.5]b\n[01:00:02.5]", [("a", 3600.5, 3601.5), ("b", 3601.5, 3602.5)]),
        ("[00:01.00][00:05.00]x\n[00:03.00]y\n[00:07.00]", [("x", 1, 3), ("y", 3, 5), ("x", 5, 7)]),
        ("[offset:500]\n[00:01.00]a\n[00:02.00]", [("a", 0.5, 1.5)]),
        ("[offset:-500]\n[00:01.00]a\n[00:02.00]", [("a", 1.5, 2.5)]),
        ("[00:01.00]<00:01.00>a <00:01.50>b<00:02.00>\n[00:04.00]c\n[00:05.00]", [("a b", 1, 2), ("c", 4, 5)]),
        ("[00:01.00]a[00:01.50]b\n[00:04.00]\n", [("ab", 1, 4)]),
        ("[00:01.0]v1:<00:01.0>Hey <00:01.5>[bg:<00:01.6>(hey)<00:02.0>]", [("Hey (hey)", 1, 2)]),
        ("[00:22]a\n[00:96]b c\n[00:27]d\n[00:28]", [("a b c", 22, 27), ("d", 27, 28)]),
        ("[1000,2000]wo(1000,500)rd(1500,500)\n[4000,500]<0,200,0>x", [("word", 1, 3), ("x", 4, 4.5)]),
        ("[COLOUR]0xFFFFFF\n[00:01]F: a\n[00:02]", [("a", 1, 2)]),
        ("1\n00:00:01,000 --> 00:00:02,000\na\nb\n2\n00:00:03,000 --> 00:00:04,000\nc\n", [("a b", 1, 2), ("c", 3, 4)]),
        ("WEBVTT\n\nNOTE x\n\n00:01.000 --> 00:02.000\n<v X><i>a</i> <00:00:01.500>b\n", [("a b", 1, 2)]),
        ("Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\k20}la{\\k30}lo, li\\Nlu", [("lalo, li lu", 1, 2.5)]),
        ("[00:00.000 --> 00:05.000]  hi\n[00:05.000 --> 00:07.000]  you", [("hi", 0, 5), ("you", 5, 7)]),
        ("0.5\t1.5\ta\n2\t3\tb", [("a", 0.5, 1.5), ("b", 2, 3)]),
        ("[00:01]\u266a\n[00:02]a\n[00:03](instrumental)\n", [("a", 2, 3)]),
    ],
)
def test_forms_of_times(text: str, expected: list[tuple[str, float, float]]) -> None:
    assert times(text) == expected


def test_an_estimated_end_is_bounded() -> None:
    first, second = times("[00:00.00]a\n[02:00.00]b")
    assert first[2] == LONGEST_ESTIMATE_SECONDS and second[2] == 120 + LONGEST_ESTIMATE_SECONDS
    assert times("[00:00]a\n[00:03]b\n[00:06]c\n[01:00]d")[2] == ("c", 6, 12), "twice the usual distance"


def test_section_tags_belong_to_the_lines_after_them() -> None:
    timed = read_timed_lyrics("[Verse 1]\n[00:01]a\n[00:02][Chorus]\n[00:03]b\n[00:04][Outro] c\n[00:05]")
    assert timed is not None and timed.text == "[Verse 1]\na\n[Chorus]\nb\n[Outro]\nc"
    assert [(line.text, line.section) for line in timed.lines] == [("a", "verse"), ("b", "chorus"), ("c", "outro")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ti:x]\n[ar: y]\n\n[verse: all]\nla\nlo", "[verse: all]\nla\nlo"),
        ("[00:10][Verse]\nla\nlo\n[00:30][Chorus]\nli", "[Verse]\nla\nlo\n[Chorus]\nli"),
    ],
)
def test_a_header_or_times_of_sections_are_left_out(text: str, expected: str) -> None:
    assert read_written_lyrics(text).text == expected and not read_written_lyrics(text).lines


@pytest.mark.parametrize("text", ["la", "[verse]\nla at 5:30", "meet me at [the] 10:30", "I <3 you -> me", "", "1\n2"])
def test_other_lyrics_have_no_times(text: str) -> None:
    assert read_timed_lyrics(text) is None and read_written_lyrics(text).text == text


@pytest.mark.parametrize(
    "text",
    ["[Instrumental]", "(instrumental)", "INST.", "No Lyrics", "no vocals!", "Instrumental track", "\u7eaf\u97f3\u4e50",
     "\u6b64\u6b4c\u66f2\u4e3a\u6ca1\u6709\u586b\u8bcd\u7684\u7eaf\u97f3\u4e50\uff0c\u8bf7\u60a8\u6b23\u8d4f",
     "\u6b4c\u8a5e\u306a\u3057", "\uac00\uc0ac \uc5c6\uc74c", "sans paroles", "Ohne Gesang", "sin letra",
     "\u0431\u0435\u0437 \u0441\u043b\u043e\u0432",
     "[intro]\n\n[inst]\n[outro]", "[Instrumental - guitar solo]", "\uff3bInstrumental\uff3d", "**Instrumental**",
     "[00:00.00]\u7eaf\u97f3\u4e50\uff0c\u8bf7\u6b23\u8d4f\n"],
)  # fmt: skip
def test_texts_that_say_that_nobody_sings(text: str) -> None:
    assert read_written_lyrics(text).is_instrumental and read_written_lyrics(text).text == ""


@pytest.mark.parametrize("text", ["[Verse]\nla\n[Instrumental]\nlo", "[verse]", "instrumental love", "la", "no"])
def test_other_texts_are_sung(text: str) -> None:
    assert not read_written_lyrics(text).is_instrumental and read_written_lyrics(text).text == text


@pytest.mark.parametrize("text", ["N/A", "Lyrics not found.", "\u6682\u65e0\u6b4c\u8bcd", "(lyrics unavailable)"])
def test_placeholders_are_no_lyrics(text: str) -> None:
    lyrics = read_written_lyrics(text)
    assert not lyrics.text and not lyrics.is_instrumental and "placeholder" in lyrics.notes[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\uff28\uff45\u3000\uff11\uff01", "He 1!"),
        ("\u4f60\u597d\uff0c\uff21\uff1f", "\u4f60\u597d\uff0cA\uff1f"),
        ("\uff76\uff9e\uff77", "\u30ac\u30ad"),
        ("a\u200b\u00adb\ufeff\u202ec", "abc"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        (r"a\nb\r\nc \never", "a\nb\nc \never".replace("\never", "\never")),
        ("a\u2028b\u0085c\vd", "a\nb\nc\nd"),
        ("\U0001d4f5\U0001d4f8 \ufb01n", "lo fin"),
        ("\u3010Verse\u3011\nla", "[Verse]\nla"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_characters(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<br>b<BR/>c", "a\nb\nc"),
        ("<p>a</p>\n<p>b</p>", "a\n\nb"),
        ("<ruby><rb>\u61d0</rb><rt>\u306a\u3064</rt></ruby>\u304b", "\u61d0\u304b"),
        ("it&#39;s &amp;quot;me&amp;quot; &lt;3", 'it\'s "me" <3'),
        ("<script>x()</script>la <3 <verse>", "la <3 <verse>"),
    ],
)
def test_markup(text: str, expected: str) -> None:
    assert read_written_lyrics(text).text == expected


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ("en eng EN-us en_GB.UTF-8 English english(us) en/ja 英語", "en"),
        ("zh zho chi cmn cn Mandarin zh_CN zh-Hant-TW 中文 普通话", "zh"),
        ("ja jp jpn Japanese 日本語", "ja"),
        ("ko kr kor Korean 한국어", "ko"),
        ("pt pt-BR por português", "pt"),
        ("de ger deu Deutsch", "de"),
        ("cs cz ces Czech", "cs"),
    ],
)
def test_languages_by_their_usual_names(names: str, code: str) -> None:
    assert {name: language_code(name) for name in names.split()} == dict.fromkeys(names.split(), code)
    assert language_code("Mandarin Chinese") == "zh" and language_code("Brazilian Portuguese") == "pt"


@pytest.mark.parametrize("name", ["sv", "yue", "zh-yue", "Chinese (Cantonese)", "ca-ES", "sk-CZ", "Klingon", "", "-"])
def test_other_languages_are_not_taken_for_one(name: str) -> None:
    assert not is_known_language(name)
    with pytest.raises(ValueError, match="unknown language of lyrics"):
        language_code(name)


def test_what_states_no_language() -> None:
    silent = ["", "unknown", "und", "N/A", "None", "instrumental", "zxx", "auto", "mixed", " ", "\u672a\u77e5"]
    assert not any(map(states_language, silent)) and all(map(states_language, ["sv", "en", "Klingon"]))


@pytest.mark.parametrize(
    "piece",
    ["<script>", "<!--", "<p", "[00:00]", "[00:00]\n", "[00:00.1]<00:00.1>", " ", " \t", "&amp;", "[", "\u3010", "(",
     "[00:01]a\nb\n[00:02]c\n", "<00:01>", "[bg:", "00:00:01,000 --> 00:00:02,000\na\n\n", "{\\k", "\u200d", "\uff01"],
)  # fmt: skip
def test_a_long_text_of_anything_is_read_at_once(piece: str) -> None:
    """A megabyte of each of these took minutes with a pattern that starts again at every place."""
    long = piece * (LENGTH // len(piece))
    for text in (long, f"[00:01]{long}\n[00:02]x"):
        started = time.process_time()
        read_written_lyrics(text)
        assert time.process_time() - started < LONG_SECONDS


def test_a_line_with_many_times_does_not_fill_the_memory() -> None:
    tags = "".join(f"[{minute:02d}:{second:02d}.00]" for minute in range(99) for second in range(60))
    assert len(read_written_lyrics(tags + "x" * 100_000).text) < 10_000_000
    assert states_language("(" * 1_000_000) and not is_known_language(" (" * 1_000_000)
