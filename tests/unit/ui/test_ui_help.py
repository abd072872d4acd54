"""Help beside fields, settings, and what is installed."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from local_pages import Client, serving_page

from songgen.cli.ui import add_arguments
from songgen.config.keys import all_keys
from songgen.data.reject_codes import REJECT_CODES
from songgen.runtime.json_files import write_json
from songgen.runtime.status import RUN_STATUS_FILE, StatusFile
from songgen.ui import presets
from songgen.ui.commands import STARTABLE, command_form
from songgen.ui.configuring.sections import form_keys
from songgen.ui.help_texts import SECTIONS, help_entries, help_of, segments
from songgen.ui.installed import Extra, extras, versions
from songgen.ui.preparing.form import section_forms
from songgen.ui.site import codes
from songgen.ui.translation import LANGUAGES
from songgen.ui.workspace import Workspace

UI = Path(__file__).resolve().parents[3] / "songgen" / "ui"


ADAPTER = "outputs/singer"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The page of a workspace with an adapter, as small as its files can be."""
    root = tmp_path_factory.mktemp("project").resolve()
    (root / ADAPTER).mkdir(parents=True)
    adapter = {"base_model_name_or_path": "outputs/base", "peft_type": "LORA", "r": 16, "lora_alpha": 32}
    for name, values in {
        "training_config.json": {},
        "adapter_config.json": {**adapter, "target_modules": ["q"]},
    }.items():
        write_json(root / ADAPTER / name, values)
    StatusFile(root / ADAPTER, RUN_STATUS_FILE, "r").write("finished", exit_code=0)
    with serving_page(Workspace(root)) as client:
        yield client


def test_every_question_is_complete_in_every_language() -> None:
    assert len(help_entries()) >= 30 and len({entry.id for entry in help_entries()}) == len(help_entries())
    for entry in help_entries():
        assert entry.section in SECTIONS and entry.link.startswith("/")
        assert set(entry.questions) == set(entry.answers) == set(LANGUAGES)
        for language in LANGUAGES:
            assert entry.questions[language].strip() and len(entry.answers[language]) > 30
            assert entry.answers[language].count("`") % 2 == 0
        codes_of = [sorted(set(re.findall(r"`([^`]+)`", entry.answers[language]))) for language in ("en", "zh")]
        assert codes_of[0] == codes_of[1], entry.id
        assert re.search("[一-鿿]", entry.questions["zh"]), entry.id


def test_answers_name_keys_that_exist() -> None:
    """A key that was renamed must be renamed in the answers."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    known = {*all_keys(), *(action.dest for action in parser._actions)}
    known |= {field.name for name in STARTABLE for field in command_form(name).fields}
    other = {"lora_dropout", "nearest_original", *REJECT_CODES}
    named = {code for entry in help_entries() for code in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", entry.answers["en"])}
    assert named - known - other == set()
    asked = {field for entry in help_entries() for field in entry.fields}
    elsewhere = {"inputs", "goal"}  # of preparing, and of the advice
    assert asked - known - {*form_keys()} - {f.name for f in section_forms()["split"].fields} == elsewhere


def test_a_field_has_at_most_one_question() -> None:
    fields = [field for entry in help_entries() for field in entry.fields]
    assert len(fields) == len(set(fields))
    assert help_of("seed") == "seed" and help_of("nothing") is None


def test_every_help_button_has_an_answer() -> None:
    ids = {entry.id for entry in help_entries()}
    files = [*(UI / "templates").glob("*.html"), *(UI / "assets").glob("*.js")]
    named = {
        found
        for path in files
        for pattern in (r'data-help="([a-z-]+)"', r'help_button\(t, "([a-z-]+)"')
        for found in re.findall(pattern, path.read_text(encoding="utf-8"))
    }
    assert named and named <= ids


def test_the_answer_is_in_the_language_of_the_page(client: Client) -> None:
    english = client.get("/api/help/nan").json["entry"]
    chinese = client.get("/api/help/nan", Cookie=f"{client.headers['Cookie']}; songgen-language=zh").json["entry"]
    assert english["question"] == "Why is my loss NaN?" and "NaN" in chinese["question"] != english["question"]
    assert {"text": "float16", "is_code": True} in english["paragraphs"][0]
    assert client.get("/api/help/nothing").status == 422
    assert b'id="nan"' in client.get("/help").body


def test_only_backticks_make_html() -> None:
    assert codes("a `b<c>` <d> & `e`") == "a <code>b&lt;c&gt;</code> &lt;d&gt; &amp; <code>e</code>"
    assert codes("{x} `{0}`") == "{x} <code>{0}</code>"
    assert segments("") == [] and codes("") == ""


def test_a_question_mark_is_beside_the_field(client: Client) -> None:
    html = client.get("/models/new").body.decode()
    assert 'data-help="preset" aria-label="Help: Size"' in html


PAGES = ("/", "/data/prepare", "/configure", "/train", "/listen", "/models", "/models/new", "/settings",
         f"/models/{quote(ADAPTER, safe='')}")  # fmt: skip
"""Addresses of the pages with fields that have answers."""


def test_every_answer_about_a_field_is_beside_it(client: Client) -> None:
    """An answer that is bound to a name that no form has is never seen."""
    html = "\n".join(client.get(page).body.decode() for page in PAGES)
    beside: dict[str, set[str]] = {}
    for field in re.split(r'(?=data-field=")', html)[1:]:
        beside.setdefault(field.split('"')[1], set()).update(
            re.findall(r'data-help="([^"]+)"', field.split("</div>")[0])
        )
    asked = [entry for entry in help_entries() if entry.fields]
    assert [entry.id for entry in asked if f'data-help="{entry.id}"' not in html] == []
    keys = {*form_keys(), *(field.name for field in section_forms()["split"].fields)}
    missing = [name for entry in asked for name in entry.fields if name in keys and entry.id not in beside[name]]
    assert missing == []


def test_settings_say_how_to_reach_the_page_and_what_is_missing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("songgen.ui.parts.settings.extras", lambda: [Extra("flow", ("diffusers",)), Extra("page", ())])
    html = client.get("/settings", Host="localhost:9999").body.decode()
    port = client.server.port
    assert f"ssh -N -L {port}:127.0.0.1:{port} USER@" in html, "the port of the server, not a forwarded one"
    assert "missing: diffusers" in html and "pip install &#34;songgen[flow]&#34;" in html.replace('"', "&#34;")
    assert client.get("/api/machine").json["cores"] >= 1


def test_extras_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["torch", 'starlette>=1; extra == "page"', "unheard-of; sys_platform == 'linux' and extra == 'flow'",
                'ruff; extra == "dev"', 'songgen[train]; extra == "flow"']  # fmt: skip
    monkeypatch.setattr("importlib.metadata.requires", lambda name: required)
    assert extras() == [Extra("flow", ("unheard-of",)), Extra("page", ())]
    assert versions()["starlette"] and versions()["torch"]


def test_sizes_of_presets_agree_with_the_page_about_hardware(repository_root: Path) -> None:
    costs = {cost.name: cost for cost in presets.preset_costs()}
    published, small = costs["published"], costs["small"]
    page = (repository_root / "docs" / "hardware.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| all weights, checkpointing |"))
    assert f"{published.trained / 1e6:.1f}" in row and f"{published.memory / 1e9:.1f} GB" in row
    row = next(line for line in page.splitlines() if line.startswith("| LoRA, checkpointing |"))
    assert f"{published.adapter_memory / 1e9:.1f} GB" in row
    assert small.memory < 2e9 < published.adapter_memory < published.memory


@pytest.mark.parametrize(
    ("path", "status"), [("/model-list", 404), ("/assets/none.js", 404), ("/api/configure/state", 405)]
)
def test_a_mistyped_address_is_answered_with_a_page_for_a_person(client: Client, path: str, status: int) -> None:
    person = client.get(path, Accept="text/html,*/*", Accept_Language="zh-CN")
    assert person.status == status and b"<nav" in person.body and "无法显示" in person.body.decode()
    assert status != 405 or person.headers["Allow"] == "POST"
    script = client.get(path, Accept="*/*", Accept_Language="zh-CN")
    assert script.status == status and re.search("[一-鿿]", script.json["error"])


def test_refusals_are_in_the_language_of_the_page(client: Client) -> None:
    answer = client.send("POST", "/api/configure/state", b"no", headers={"Accept-Language": "zh"})
    assert answer.status == 400 and answer.json == {"error": "发送的内容不是 JSON"}
    stranger = client.get("/models", Cookie=None, Authorization=None, Accept_Language="zh")
    assert stranger.status == 401 and stranger.json == {"error": "缺少令牌：请打开终端里显示的地址"}
