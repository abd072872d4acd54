"""Texts of the page in other languages: how they are looked up, and that the catalogs are complete."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import program_texts
import pytest
from limits import SAFETY_SECONDS

from songgen.config import RunConfig
from songgen.planning.findings import Finding, Severity
from songgen.runtime.control.commands import parse
from songgen.train.comparing.measure import ComparedSong, Comparison
from songgen.ui.translation import LANGUAGES, TEXTS, Translator, parse_template, read_catalogs, translator

CATALOG = {
    "Data": "数据",
    "{count} songs": "{count} 首歌",
    "{0} clips are shorter than {1} s": "{0} 个片段短于 {1} 秒",
    "{0} clips are shorter": "较短的片段：{0}",
    "{0}: {1} clips are shorter than {2} s": "{0}：短于 {2} 秒的片段有 {1} 个",
    "nothing has changed": "没有变化",
    "the run failed{0}": "训练失败{0}",
    " after step {0} of {1}": "（第 {0} 步之后，共 {1} 步）",
    "{0} with exit code {1}": "{0}，退出码 {1}",
    "{0} has no {1}": "{0} 中没有 {1}",
    "not used: {0}": "不使用：{0}",
    "loss": "损失",
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
        ("the run failed after step 7 of 9 with exit code 1", "训练失败（第 7 步之后，共 9 步），退出码 1"),
        ("a/b has no config.json", "a/b 中没有 config.json"),
        ("loss has no scale", "loss 中没有 scale"),
        ("the folder that was given has no songs in it", "the folder that was given has no songs in it"),
        ("not used: the file is damaged", "不使用：the file is damaged"),
        ("nothing has changed\nas it was\n7 clips are shorter", "没有变化\nas it was\n较短的片段：7"),
        ("", ""),
    ],
)
def test_messages_of_programs(message: str, expected: str) -> None:
    assert Translator("zh", CATALOG, {}).message(message) == expected


def test_a_template_takes_a_long_message_in_linear_time() -> None:
    """Backtracking over the values would take hours."""
    texts = {"a".join(f"{{{number}}}" for number in range(30)) + "!": "{0}"}
    assert Translator("zh", texts, {}).message("a" * 100_000 + "?") == "a" * 100_000 + "?"


def test_it_loads_nothing_heavy() -> None:
    program = (
        "import sys; from songgen.ui.translation import translator; translator('zh'); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=SAFETY_SECONDS
    )
    assert result.stdout.strip() == "False"


def test_english_needs_no_catalog() -> None:
    english = translator("en")
    assert english("{count} songs", count=3) == "3 songs"
    assert english.message("7 clips are shorter") == "7 clips are shorter"
    assert english.scripts() == {}
    with pytest.raises(ValueError, match="not a language of the page"):
        translator("tlh")


NAMES = {"songgen tokenize {0}", "songgen ui", "{0} MiB", "{0} kB", "LUFS", "GPU {n}", "Alpha", "Top k", "Top p"}
"""Texts that are the same in every language."""

COLLECTED: dict[str, Callable[[], set[str]]] = {
    "keys.json": program_texts.key_texts,
    "prepare.json": program_texts.prepare_texts,
    "commands.json": program_texts.command_texts,
    "messages.json": program_texts.message_templates,
}
"""Catalog -> function that collects its English texts from the program."""

OTHER_LANGUAGES = sorted(LANGUAGES.keys() - {"en"})
CODE = re.compile(r"`([^`]+)`")
SENTENCE = re.compile(r"\b[a-z]{2,} [a-z]{2,} [a-z]{2,}\b")
"""English words in a row, more than a command with an argument has."""


@pytest.fixture(params=OTHER_LANGUAGES)
def catalogs(request: pytest.FixtureRequest) -> dict[str, dict[str, str]]:
    return read_catalogs((TEXTS / request.param).glob("*.json"))


@pytest.mark.parametrize("name", COLLECTED)
def test_catalogs_have_every_text_of_the_program_and_no_other(name: str, catalogs: dict[str, dict[str, str]]) -> None:
    wanted, translated = COLLECTED[name](), catalogs[name].keys()
    assert len(wanted) > 100
    assert sorted(wanted - translated) == [], "texts without a translation"
    assert sorted(translated - wanted) == [], "translations of texts that the program does not have any more"


def test_translations_keep_values_and_names(catalogs: dict[str, dict[str, str]]) -> None:
    for name, catalog in catalogs.items():
        for english, text in catalog.items():
            fields = [Counter(parsed[1] if (parsed := parse_template(each)) else ()) for each in (english, text)]
            assert fields[0] == fields[1], f"{name}: {english}: other values"
            assert sorted(CODE.findall(english)) == sorted(CODE.findall(text)), f"{name}: {english}: other names"
            assert text.strip(), f"{name}: {english}: no text"
            assert text != english or english in NAMES, f"{name}: {english}: not translated"


def test_a_text_has_one_translation(catalogs: dict[str, dict[str, str]]) -> None:
    found: dict[str, str] = {}
    for name, catalog in catalogs.items():
        for english, text in catalog.items():
            assert found.setdefault(english, text) == text, f"{name}: {english}: another file translates it otherwise"


def test_messages_of_the_program_are_translated() -> None:
    """Values that are messages, a choice in an f-string, and a finding as the planning makes it."""
    chinese = translator("zh")
    finding = Finding(
        Severity.NOTE, "eval_split_name", "2 held-out clips: their loss is mostly chance; hold out at least 4"
    )
    assert chinese.message(finding.message) == "只有 2 个留出片段：其损失大多是偶然；至少留出 4 个"
    assert chinese.message(
        "0.002 is above the usual 2e-05 to 0.002 for adapters or few weights: the loss may jump up and not come back"
    ).startswith("0.002 高于适配器或少量权重常用的 2e-05 到 0.002")
    assert chinese.message("3 x too_short: shorter than `min_duration_in_seconds`") == (
        "3 x too_short：短于 `min_duration_in_seconds`"
    )
    assert chinese.message("1,000 clips, 2.50 h, 1 shard; every byte is as written, all values are in range") == (
        "1,000 个片段，2.50 小时，1 个分片；每个字节都与写出时相同，所有值都在范围内"
    )


def test_problems_of_a_configuration_are_translated_line_by_line() -> None:
    with pytest.raises(ValueError, match="cannot be used") as error:
        RunConfig.from_dict({"learning_rat": 1, "warmup_steps": "ten", "order": []}, sources=("a.json",))
    lines = translator("zh").message(str(error.value)).split("\n")
    assert lines[0].startswith("a.json 无法使用（") and len(lines) > 3
    assert "  - learning_rat：未知的键；是否想写 learning_rate？" in lines
    assert all(line.startswith("  - ") and not line.isascii() for line in lines[1:])


def test_answers_of_a_run_keep_their_indentation() -> None:
    answer = (
        "  step 3 of 10, epoch 1\n"
        "  learning rate 0.0005 in the next step (peak 0.001 by lr, 0.002 configured; schedule cosine)\n"
        "  scheduled: save@500, lr auto@20"
    )
    assert translator("zh").message(answer) == (
        "  第 3 步，共 10 步，第 1 轮\n"
        "  学习率 0.0005（下一步；峰值：由 lr 设为 0.001，配置为 0.002；调度：cosine）\n"
        "  已安排：save@500, lr auto@20"
    )


@pytest.mark.parametrize("text", ["svae", "lr 1e", "sample 0", "event foo", "save now", "lr@3", "save@x", "lr 9e9"])
def test_why_a_text_is_not_a_command_is_translated(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text, "a test")
    shown = translator("zh").message(str(error.value))
    assert not shown.isascii() and not SENTENCE.search(shown)


@pytest.mark.parametrize(
    ("improvements", "idle"), [([0.0], True), ([0.1, -0.1, 0.2], False), ([-0.5, -0.5, -0.51], False)]
)
def test_warnings_of_a_comparison_are_translated(improvements: list[float], idle: bool) -> None:
    losses = {"without": {"loss": 2.0}, "with": {"loss": 2.0}}
    songs = [ComparedSong("a", "", "")] if idle else []
    warnings = Comparison(losses, improvements, songs, idle=idle).warnings()
    assert len(warnings) == (3 if idle else 1)
    assert all(not SENTENCE.search(translator("zh").message(text)) for text in warnings)


def test_the_collector_sees_messages() -> None:
    source = '''
"""Docstring of a module."""
def rule(n: "a type") -> "a result":
    """Docstring of a function."""
    assert n, "an error of ours"
    logger.warning("a line of the log")
    yield Finding("key", f"{n:,} clip{'s' if n > 1 else ''} in {', '.join(n)}", {"name": 1})
    part = "no voice" if n else f"{n}.json"
    yield error("weights", part)
    for text in ("{:.2g} hours", "{:.2g} days"):
        raise ValueError(f"it takes {text.format(n)} of {{}}")
'''
    assert sorted(program_texts.templates_of(source)) == sorted(
        ["{0} clips in {1}", "{0} clip in {1}", "no voice", "weights", "{0} hours", "{0} days", "it takes {0} of {{}}"]
    )
