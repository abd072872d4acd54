"""A page in two languages says the same: headings, commands, keys, figures and links, section by section."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {"guide.md": "zh/guide.md", "finetuning_acestep.md": "zh/finetuning_acestep.md", "ui.md": "zh/ui.md"}
"""Page in English -> the same in Chinese."""
GLOSSARY = "术语表"
"""Last section of the guide in Chinese, which that in English does not have: the terms in both languages."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def without_glossary(text: str) -> str:
    """A page in Chinese without what only it has."""
    return text.split(f"\n## {GLOSSARY}\n")[0].replace(f"[{GLOSSARY}](#{GLOSSARY})", "")


def sections(text: str) -> list[tuple[int, str]]:
    """Level and text of every section, without its heading and blocks of code."""
    parts = HEADING.split(FENCE.sub("", text))
    return [(len(mark), body) for mark, body in zip(parts[1::3], parts[3::3], strict=True)]


def anchors(text: str) -> list[str]:
    """Anchor of the heading of every section, as the usual renderers make it."""
    headings = [heading for _, heading in HEADING.findall(FENCE.sub("", text))]
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def destination(page: Path, target: str) -> str:
    """What a link of a page leads to, the same for both languages: the English page and the number of the section."""
    if "://" in target:
        return target
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if path.parent.name == "pictures":  # of the same page in each language
        path = path.with_name(path.name.replace("_zh.", "_en."))
    known = {
        (DOCS / name).resolve(): DOCS / english for english, chinese in PAGES.items() for name in (english, chinese)
    }
    if path not in known:
        return f"{path}#{anchor}"
    assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{page.name}: {target}"
    section = anchors(path.read_text(encoding="utf-8")).index(anchor) if anchor else 0
    return f"{known[path]}, section {section}"


def said(body: str, leads_to: Callable[[str], str]) -> dict[str, list[str]]:
    """What a section has in any language."""
    rows = [line for line in body.splitlines() if line.startswith("|")]
    plain = "\n".join(line for line in body.splitlines() if not line.startswith("|"))
    return {
        "code": sorted(CODE.findall(body)),
        "links": sorted(leads_to(target) for _, target in LINK.findall(body)),
        "cells of each row": [str(row.count("|")) for row in rows],
        "code of each row": [" ".join(sorted(CODE.findall(row))) for row in rows],
        "numbers of each row": [" ".join(sorted(NUMBER.findall(row))) for row in rows],
        "numbers of the text": sorted(NUMBER.findall(re.sub(r"`[^`\n]*`|\]\(\S*\)", " ", plain))),
        "items of lists": [str(len(re.findall(r"^ *(?:-|\d+\.) ", body, re.MULTILINE)))],
    }


def differences(
    english: str, chinese: str, leads_to: Callable[[str], str], leads_there: Callable[[str], str]
) -> list[str]:
    """What one of two texts has and the other does not; the functions say where links of each text lead."""
    found = []
    blocks = [[block for block in FENCE.findall(text) if block[0]] for text in (english, chinese)]
    if blocks[0] != blocks[1]:
        found.append("blocks of code")
    first, second = sections(english), sections(chinese)
    if [level for level, _ in first] != [level for level, _ in second]:
        return [*found, "headings"]
    for number, ((_, body), (_, other)) in enumerate(zip(first, second, strict=True)):
        there = said(other, leads_there)
        found += [
            f"section {number}, {kind}: {here} and {there[kind]}"
            for kind, here in said(body, leads_to).items()
            if here != there[kind]
        ]
    return found


@pytest.mark.parametrize(("english", "chinese"), PAGES.items())
def test_both_languages_say_the_same(english: str, chinese: str) -> None:
    pages = [DOCS / english, DOCS / chinese]
    texts = [without_glossary(page.read_text(encoding="utf-8")) for page in pages]
    assert differences(*texts, *(lambda target, page=page: destination(page, target) for page in pages)) == []
    assert f"[中文]({chinese})" in texts[0].split("\n## ")[0], "the page in English names the other one at its top"
    assert f"[English](../{english})" in texts[1].split("\n## ")[0], (
        "the page in Chinese names the other one at its top"
    )
    assert len(re.findall(r"[\u4e00-\u9fff]", texts[1])) > len(texts[0]) / 8, "most of the page is in Chinese"


@pytest.mark.parametrize("chinese", PAGES.values())
def test_a_page_in_chinese_leads_to_pages_in_chinese(chinese: str) -> None:
    """Where they exist; only the name of the language leads to the page in English."""
    page = DOCS / chinese
    links = LINK.findall(page.read_text(encoding="utf-8"))
    paths = [(page.parent / target.partition("#")[0]).resolve() for _, target in links]
    translated = [text for (text, _), path in zip(links, paths, strict=True) if path in {DOCS / name for name in PAGES}]
    assert set(translated) == {"English"}


def test_links_of_both_languages_are_compared_by_what_they_lead_to() -> None:
    english, chinese = DOCS / "finetuning_acestep.md", DOCS / "zh" / "finetuning_acestep.md"
    last = [anchors(page.read_text(encoding="utf-8"))[-1] for page in (english, chinese)]
    assert last[0] != last[1]
    assert destination(english, f"#{last[0]}") == destination(chinese, f"#{last[1]}")
    assert destination(english, f"zh/finetuning_acestep.md#{last[1]}") == destination(chinese, f"#{last[1]}")
    assert destination(english, "#sharing") != destination(chinese, f"#{last[1]}")
    assert destination(english, "trust.md#guarantees") == destination(chinese, "../trust.md#guarantees")
    assert destination(english, "trust.md#guarantees") != destination(chinese, "../trust.md")
    with pytest.raises(AssertionError, match="no_such_section"):
        destination(english, "#no_such_section")


def test_the_glossary_has_the_terms_of_both_pages() -> None:
    """Each term occurs in the language that it is said to be of."""
    texts = [(DOCS / page).read_text(encoding="utf-8") for page in ("guide.md", "zh/guide.md")]
    page, _, table = texts[1].partition(f"\n## {GLOSSARY}\n")
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if line[:2] == "| "][1:]
    assert len(rows) > 40
    flat = " ".join(texts[0].lower().split())
    assert [row for row in rows if row[0] not in flat or row[1] not in page] == []


TEXT = """# A

B `c` [d](guide.md) in 7 hours

```bash
songgen list
```

## E

| f | 1.5 |
|---|---|
| g | `h` |
| j | `k` |

- i
"""


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("## E", "### E", "headings"),
        ("songgen list", "songgen doctor", "blocks of code"),
        ("`c`", "c", "code"),
        ("guide.md", "trust.md", "links"),
        ("7", "8", "numbers of the text"),
        ("1.5", "1.6", "numbers of each row"),
        ("| g | `h` |\n", "", "cells"),
        ("| g | `h` |\n| j | `k` |", "| j | `k` |\n| g | `h` |", "code of each row"),
        ("- i", "i", "items"),
    ],
)
def test_a_difference_is_noticed(old: str, new: str, kind: str) -> None:
    assert differences(TEXT, TEXT, str, str) == []
    assert any(kind in line for line in differences(TEXT, TEXT.replace(old, new), str, str))


def test_figures_of_memory_are_those_of_the_hardware_page() -> None:
    """The rows of songs of 240 s, in gigabytes."""
    table = (DOCS / "hardware.md").read_text(encoding="utf-8").split("### Flow-matching models")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    known = {(row[0], row[1]): row[-1] for row in rows}
    pairs = {
        "LoRA of rank 16": "LoRA, checkpointing",
        "LoRA of rank 16, `weights_dtype` bfloat16": "LoRA, checkpointing, `weights_dtype` bfloat16",
        "QLoRA of rank 16": "QLoRA, checkpointing",
        "all weights, `adamw_8bit`": "all weights, checkpointing, `adamw_8bit`",
    }
    page = (DOCS / "finetuning_acestep.md").read_text(encoding="utf-8")
    for here, there in pairs.items():
        assert f"| {here} | {known['2B', there]} | {known['XL', there]} |" in page, here
