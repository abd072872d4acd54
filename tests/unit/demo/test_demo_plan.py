"""The demo's plan: every script and configuration it names is there, and every stage starts from an earlier one."""

import re
from pathlib import Path

import pytest
from run_demo import ROOT, all_steps, ui_command

from songgen.config.loading import read_config_file


def test_every_script_and_configuration_of_the_plan_exists() -> None:
    for step in all_steps(num_songs=9, seed=0, dtype="float32"):
        named = [part for part in step.command if re.search(r"\.(py|json)$", part)]
        assert named, step.name
        for path in [*named, *step.inputs]:
            assert (ROOT / path).is_file(), f"{step.name}: {path}"


def test_every_stage_starts_from_what_an_earlier_step_wrote() -> None:
    written: set[Path] = set()
    num_stages = {"mixed": 0, "dual": 0}
    for step in all_steps(num_songs=9, seed=0, dtype="float32"):
        config = next((part for part in step.command if part.endswith(".json")), None)
        if config is not None:
            assert Path(read_config_file(ROOT / config)[0]["model_name_or_path"]) in written, step.name
        prefix = step.name.partition("_")[0]
        if prefix in num_stages:
            num_stages[prefix] += 1
        written |= set(step.outputs)
    assert num_stages == {"mixed": 4, "dual": 4}


def test_no_two_steps_share_a_name_or_an_output() -> None:
    steps = all_steps(num_songs=9, seed=0, dtype="float32")
    assert len({step.name for step in steps}) == len(steps)
    outputs = [path for step in steps for path in step.outputs]
    assert len(set(outputs)) == len(outputs)


def test_the_page_is_offered_by_a_command_that_works_from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(ROOT / ".venv" / "bin" / "python"))
    assert ui_command() == ".venv/bin/songgen ui"
    monkeypatch.setattr("sys.executable", "/opt/my env/bin/python")
    assert ui_command() == "'/opt/my env/bin/songgen' ui"
