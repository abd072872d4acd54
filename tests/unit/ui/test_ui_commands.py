"""Command lines that the page makes: only what a command declares, each value in one word, no path outside."""

import json
from pathlib import Path
from typing import Any

import pytest

from songgen.config.loading import split_command_line
from songgen.jobs.record import Job, JobView
from songgen.runtime.status import RunStatus
from songgen.ui.commands import MAX_WORD_BYTES, STARTABLE, command_form, command_words
from songgen.ui.parts.jobs import job_values
from songgen.ui.translation import translator
from songgen.ui.workspace import Workspace

ATTACKS = ["--output_dir=/etc", "-x", "--help", "/etc/passwd", "../x", "~/x", "a\0b", "x" * 200_000]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "link").symlink_to("/etc")
    return Workspace(tmp_path.resolve())


def test_values_become_single_words(workspace: Workspace) -> None:
    values = {
        "config": "small.json",
        "keys": {"learning_rate": 1e-4, "run_name": "--output_dir=/etc", "eval_steps": None},
    }
    words = command_words("train", values, workspace)
    assert words[:2] == ["songgen", "train"] and "small.json" in words
    files, overrides, problems = split_command_line(words[2:])
    assert (files, problems) == (["small.json"], [])
    assert dict(overrides) == {"learning_rate": "0.0001", "run_name": "--output_dir=/etc", "eval_steps": "null"}


@pytest.mark.parametrize("name", STARTABLE)
def test_no_option_leads_out_or_adds_another(workspace: Workspace, name: str) -> None:
    """Every option of every command that the page starts, with texts that are trouble elsewhere."""
    form = command_form(name)
    for field in form.fields:
        for attack in [*ATTACKS, "link", "link/passwd"]:
            value: Any = [attack] if field.kind == "list" else attack
            try:
                words = command_words(name, {field.name: value}, workspace)
            except ValueError:
                continue
            [word] = words[2:]
            assert word.startswith(f"{field.flag}=") if field.flag else not word.startswith("-")
            text = word.partition("=")[2] if field.flag else word
            assert field.name in ("lyrics", "caption", "language", "license") or text in ("--help", "-x", ATTACKS[0])


@pytest.mark.parametrize(
    "keys", [{"--x": 1}, {"a b": 1}, {"": 1}, {"x=y": 1}, {"x": "/etc"}, {"x": ["link"]}, {"x": {"y": "../z"}}, [1]]
)
def test_keys_are_names_and_stay_inside(workspace: Workspace, keys: Any) -> None:
    with pytest.raises(ValueError, match="key|outside|option"):
        command_words("train", {"config": "small.json", "keys": keys}, workspace)


@pytest.mark.parametrize(
    "value",
    [
        "link/new", "data+/etc/x", "data,/etc/x", "data+ ../x", ' ["/etc/x"]', '{"a": {"b": ["~/x"]}}', '"/etc/x"',
        "org/name, link/new", "loop/x",
    ],
)  # fmt: skip
def test_paths_inside_of_texts_stay_inside(workspace: Workspace, value: str) -> None:
    """Behind a link that leads out, in a list in one text, and in a text that the command reads as JSON."""
    (workspace.root / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match="outside|cannot be"):
        command_words("train", {"config": "small.json", "keys": {"x": value}}, workspace)
    workspace.require_inside(["org/name", "a+b", "rock, pop", "x" * 5000, "\ud83d", "", "new/run"], "x")


@pytest.mark.parametrize("strength", ["1", "-0.5", "1e-3", "+1", " 1", "1_0", "inf", "١"])
def test_an_adapter_with_a_strength_stays_inside(workspace: Workspace, strength: str) -> None:
    for folder in ("link", "link/new", "/etc", "../x"):
        with pytest.raises(ValueError, match="outside"):
            command_words("generate", {"model": "m", "adapter": [f"{folder}:{strength}"]}, workspace)


@pytest.mark.parametrize("name", ["train", "tokenize", "try", "prepare"])
def test_the_paths_in_a_configuration_file_stay_inside(workspace: Workspace, name: str) -> None:
    """It may have been uploaded, or written by others."""
    file, base = workspace.root / "small.json", workspace.root / "base.json"
    file.write_text('{"output_dir": "/etc/x"}')
    with pytest.raises(ValueError, match="output_dir: /etc/x is outside"):
        command_words(name, {"config": "small.json"}, workspace)
    file.write_text('{"base": "base.json"}')
    base.write_text('{"a": {"save_to_disk": ["../x"]}}')
    with pytest.raises(ValueError, match="save_to_disk: ../x is outside"):
        command_words(name, {"config": "small.json"}, workspace)
    base.write_text('{"output_dir": "outputs/x", "learning_rate": 1}')
    assert command_words(name, {"config": "small.json"}, workspace)[-1] == "small.json"


def test_the_base_of_a_configuration_is_the_one_that_is_read(workspace: Workspace) -> None:
    """A file with the same name does not take the place of one in the home folder."""
    (workspace.root / "~").mkdir()
    (workspace.root / "~" / "secret.json").write_text("{}")
    (workspace.root / "small.json").write_text('{"base": "~/secret.json"}')
    with pytest.raises(ValueError, match="base: .*outside"):
        command_words("train", {"config": "small.json"}, workspace)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"voice": "/etc/x.wav"}}, "voice: /etc/x.wav is outside"),
        ({"options": {"adapter=/etc/x": True}}, "no option adapter=/etc/x"),
        ({"options": {"lyrics_file": "a.txt"}}, "cannot have lyrics_file"),
        ({"takes": [{"name": "a", "model": "../x"}]}, "model: ../x is outside"),
        ({"takes": [{"name": "a", "model": "m", "adapter": ["link:1e0"]}]}, "adapter: link is outside"),
        ({"takes": [{"name": "a", "model": 5}]}, "are texts"),
    ],
)
def test_the_request_of_a_folder_of_songs_stays_inside(
    workspace: Workspace, change: dict[str, Any], message: str
) -> None:
    folder = workspace.root / "song"
    folder.mkdir()
    request = {"takes": [{"name": "a", "model": "m"}], "options": {"seed": 1}, "created": 1.0, "schema_version": 1}
    (folder / "request.json").write_text(json.dumps(request))
    assert command_words("generate", {"request": "song"}, workspace) == ["songgen", "generate", "--request=song"]
    (folder / "request.json").write_text(json.dumps(request | change))
    with pytest.raises(ValueError, match=message):
        command_words("generate", {"request": "song"}, workspace)


@pytest.mark.parametrize("name", ["rm", "ui", "review", "jobs", "ctl", "", "train --x", "../train", "__import__"])
def test_other_commands_are_not_started(workspace: Workspace, name: str) -> None:
    with pytest.raises(ValueError, match="not a command"):
        command_words(name, {}, workspace)


def test_the_reason_of_the_end_of_a_job_is_translated(tmp_path: Path) -> None:
    """Without the beginning that every failed command prints."""
    status = RunStatus("failed", "0123456789abcdef", reason="songgen generate: error: a/b cannot be read: it is gone")
    view = JobView(
        Job("20200101-000000-generate-0000", "generate", ("songgen", "generate"), "/", 0.0), tmp_path, "failed", status
    )
    assert job_values(view, translator("en"))["reason"] == "a/b cannot be read: it is gone"
    assert job_values(view, translator("zh"))["reason"] == "无法读取 a/b：it is gone"


def test_a_text_is_as_long_as_its_bytes(workspace: Workspace) -> None:
    text = "中" * (MAX_WORD_BYTES // 3)
    assert command_words("generate", {"lyrics": text}, workspace)[2] == f"--lyrics={text}"
    for values in ({"lyrics": text + "中"}, {"config": "x.json", "keys": {"run_name": text + "中"}}):
        with pytest.raises(ValueError, match="too long"):
            command_words("train" if "keys" in values else "generate", values, workspace)
