"""A page in two languages says the same: headings, commands, keys, figures and links, section by section."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {"finetuning_acestep.md": "finetuning_acestep.zh.md"}
"""Page in English -> the same in Chinese."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def sections(text: str) -> list[tuple[int, str]]:
    """Level and text of every section, without its heading and blocks of code."""
    parts = HEADING.split(FENCE.sub("", text))
    return [(len(mark), body) for mark, body in zip(parts[1::3], parts[3::3], strict=True)]


def said(body: str, own: set[str]) -> dict[str, list[str]]:
    """What a section has in any language; `own` are the names of the page in both languages."""
    rows = [line for line in body.splitlines() if line.startswith("|")]
    links = [target for target in LINK.findall(body) if target not in own and not target.startswith("#")]
    return {
        "code": sorted(CODE.findall(body)),
        "links": sorted(links),
        "cells of each row": [str(row.count("|")) for row in rows],
        "numbers of each row": [" ".join(sorted(NUMBER.findall(row))) for row in rows],
        "items of lists": [str(len(re.findall(r"^- ", body, re.MULTILINE)))],
    }


def differences(english: str, chinese: str, own: set[str]) -> list[str]:
    """What one of two texts has and the other does not."""
    found = []
    blocks = [[block for block in FENCE.findall(text) if block[0]] for text in (english, chinese)]
    if blocks[0] != blocks[1]:
        found.append("blocks of code")
    first, second = sections(english), sections(chinese)
    if [level for level, _ in first] != [level for level, _ in second]:
        return [*found, "headings"]
    for number, ((_, body), (_, other)) in enumerate(zip(first, second, strict=True)):
        there = said(other, own)
        found += [
            f"section {number}, {kind}: {here} and {there[kind]}"
            for kind, here in said(body, own).items()
            if here != there[kind]
        ]
    return found


@pytest.mark.parametrize(("english", "chinese"), PAGES.items())
def test_both_languages_say_the_same(english: str, chinese: str) -> None:
    first, second = texts = [(DOCS / name).read_text(encoding="utf-8") for name in (english, chinese)]
    assert differences(first, second, {english, chinese}) == []
    for text, other in zip(texts, (chinese, english), strict=True):
        assert f"]({other})" in text.split("\n## ")[0], "each version names the other one at its top"
    assert len(re.findall(r"[\u4e00-\u9fff]", second)) > 3000


TEXT = """# A

B `c` [d](guide.md)

```bash
songgen list
```

## E

| f | 1.5 |
|---|---|
| g | `h` |

- i
"""


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("## E", "### E", "headings"),
        ("songgen list", "songgen doctor", "blocks of code"),
        ("`c`", "c", "code"),
        ("guide.md", "trust.md", "links"),
        ("1.5", "1.6", "numbers"),
        ("| g | `h` |\n", "", "cells"),
        ("- i", "i", "items"),
    ],
)
def test_a_difference_is_noticed(old: str, new: str, kind: str) -> None:
    assert differences(TEXT, TEXT, set()) == []
    assert any(kind in line for line in differences(TEXT, TEXT.replace(old, new), set()))


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
