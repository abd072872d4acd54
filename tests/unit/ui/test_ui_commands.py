"""Command lines that the page makes: only what a command declares, each value in one word, no path outside."""

from pathlib import Path
from typing import Any

import pytest

from songgen.config.loading import split_command_line
from songgen.ui.commands import STARTABLE, command_form, command_words
from songgen.ui.workspace import Workspace

ATTACKS = ["--output_dir=/etc", "-x", "--help", "/etc/passwd", "../x", "~/x", "a\0b", "x" * 200_000]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "link").symlink_to("/etc")
    return Workspace(tmp_path.resolve())


def test_values_become_single_words(workspace: Workspace) -> None:
    values = {"config": "small.json", "keys": {"learning_rate": 1e-4, "run_name": "--output_dir=/etc", "eval_steps": None}}
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


@pytest.mark.parametrize("name", ["rm", "ui", "review", "jobs", "ctl", "", "train --x", "../train", "__import__"])
def test_other_commands_are_not_started(workspace: Workspace, name: str) -> None:
    with pytest.raises(ValueError, match="not a command"):
        command_words(name, {}, workspace)
