"""Texts of the page in other languages: how they are looked up, and that the catalogs are complete."""

from typing import Any

import pytest

from songgen.ui.translation import Translator, translator

CATALOG = {
    "Data": "数据",
    "{count} songs": "{count} 首歌",
    "{0} clips are shorter than {1} s": "{0} 个片段短于 {1} 秒",
    "{0} clips are shorter": "较短的片段：{0}",
    "{0}: {1} clips are shorter than {2} s": "{0}：短于 {2} 秒的片段有 {1} 个",
    "nothing has changed": "没有变化",
}


@pytest.mark.parametrize(
    ("english", "values", "expected"),
    [
        ("Data", {}, "数据"),
        ("{count} songs", {"count": 3}, "3 首歌"),
        ("{count} models", {"count": 3}, "3 models"),
        ('a table such as {"a": 1}', {}, 'a table such as {"a": 1}'),
    ],
)
def test_texts_of_the_page(english: str, values: dict[str, Any], expected: str) -> None:
    assert Translator("zh", CATALOG, {})(english, **values) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("7 clips are shorter than 2.5 s", "7 个片段短于 2.5 秒"),
        ("songs/a: 7 clips are shorter than 2.5 s", "songs/a：短于 2.5 秒的片段有 7 个"),
        ("7 clips are shorter", "较短的片段：7"),
        ("a\nb {0} clips are shorter than  s", "a\nb {0} 个片段短于  秒"),
        ("nothing has changed", "没有变化"),
        ("7 clips are shorter than 2.5 s.", "7 clips are shorter than 2.5 s."),
        ("", ""),
    ],
)
def test_messages_of_programs(message: str, expected: str) -> None:
    assert Translator("zh", CATALOG, {}).message(message) == expected


def test_a_template_takes_a_long_message_in_linear_time() -> None:
    """Backtracking over the values would take hours."""
    texts = {"a".join(f"{{{number}}}" for number in range(30)) + "!": "{0}"}
    assert Translator("zh", texts, {}).message("a" * 100_000 + "?") == "a" * 100_000 + "?"


def test_english_needs_no_catalog() -> None:
    english = translator("en")
    assert english("{count} songs", count=3) == "3 songs"
    assert english.message("7 clips are shorter") == "7 clips are shorter"
    assert english.scripts() == {}
    with pytest.raises(ValueError, match="not a language of the page"):
        translator("tlh")
