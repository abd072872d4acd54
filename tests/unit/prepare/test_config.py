import json
from pathlib import Path
from typing import Any

import pytest

from songgen.config.keys import keys_of
from songgen.prepare.config import PREPARE_CONFIG_FILE, PrepareConfig, PrepareSettings, help_text, load_prepare_config
from songgen.prepare.sections import SECTIONS, Sections

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "helpers" / "prepare_configs").glob("*.json"))


def write_config(path: Path, **values: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"inputs": ["./songs"], "output_dir": "./out", **values}))
    return str(path)


def load(folder: Path, *overrides: str, **values: Any) -> PrepareConfig:
    return load_prepare_config([write_config(folder / "config.json", **values), *overrides])


def test_defaults_stand_where_nothing_is_said(tmp_path: Path) -> None:
    config = load(tmp_path)
    defaults = {name: section.options() if section.is_on else None for name, section in SECTIONS.items()}
    assert config.sections == Sections(defaults)
    assert [source.name for source in config.inputs] == ["./songs"] and config.settings.workers == 1
    assert config.work_folder.name == "out.work"


def test_steps_that_need_a_model_from_elsewhere_are_off(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.sections["separate"] is None and config.sections["transcribe"] is None
    assert load(tmp_path, separate={}).sections["separate"] is not None
    assert load(tmp_path, separate=True).sections["separate"] == load(tmp_path, separate={}).sections["separate"]


def test_a_single_input_needs_no_list(tmp_path: Path) -> None:
    for given in ("./my songs", '["./my songs"]'):
        config = load(tmp_path, "--inputs", given)
        assert config.settings.inputs == ["./my songs"]
        assert [source.name for source in config.inputs] == ["./my songs"]


@pytest.mark.parametrize("off", [None, False])
def test_a_step_is_switched_off_by_null_or_false(tmp_path: Path, off: object) -> None:
    assert load(tmp_path, voice=off).sections["voice"] is None


def test_the_command_line_overrides_single_keys_and_whole_sections(tmp_path: Path) -> None:
    arguments = ["--take_in.min_seconds", "2.5", "--voice", "null", "--workers=3", "--separate", "./demucs"]
    config = load(tmp_path, *arguments, "--export", "ace,ljspeech", take_in={"max_seconds": 60})
    assert (config.sections["take_in"].min_seconds, config.sections["take_in"].max_seconds) == (2.5, 60.0)
    assert config.sections["voice"] is None and config.settings.workers == 3
    assert config.sections["separate"].model == "./demucs"
    assert config.sections["export"].formats == ("ace", "ljspeech")


def test_all_problems_are_said_at_once_with_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        load(
            tmp_path,
            "--take_in.min_secnds",
            "2",
            output_dir="",
            sepparate={},
            worker=2,
            take_in=None,
            voice={"threshold": "loud"},
            write="wav",
            export={"formats": ["mp4"]},
            inputs=[{"name": "a", "columns": {"captoin": "text"}, "use_for": "test"}, {"nam": "b"}, "c"],
        )
    message = str(error.value)
    for part in (
        "sepparate: unknown key; did you mean separate?",
        "worker: unknown key; did you mean workers?",
        "take_in.min_secnds: unknown key; did you mean min_seconds?",
        'voice.threshold: "loud" is not valid, expected float',
        'write: "wav" is not valid, expected a table of keys',
        "export.formats: mp4 is not known",
        'inputs 1: use_for: "test" is not valid',
        "inputs 2: nam: unknown key; did you mean name?",
        "output_dir: not given",
    ):
        assert part in message, message
    assert "9 problems" in message


def test_what_belongs_to_every_run_cannot_be_switched_off(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take_in: cannot be switched off"):
        load(tmp_path, take_in=False)


def test_values_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"take_in.min_seconds: 9 is not less than max_seconds 5"):
        load(tmp_path, take_in={"min_seconds": 9, "max_seconds": 5})


def test_a_limit_on_what_nobody_measures_is_refused(tmp_path: Path) -> None:
    limit = {"max_transcript_edit_distance": 5}
    with pytest.raises(ValueError, match="not measured; switch transcribe on"):
        load(tmp_path, filter=limit)
    with pytest.raises(ValueError, match=r"not measured; set transcribe.agreement_model"):
        load(tmp_path, filter=limit, transcribe={"model": "a"})
    load(tmp_path, filter=limit, transcribe={"model": "a", "agreement_model": "b"})


def test_the_seed_of_the_run_is_that_of_its_sections(tmp_path: Path) -> None:
    assert load(tmp_path, seed=7).sections["split"].seed == 7
    assert load(tmp_path, seed=7, split={"seed": 8}).sections["split"].seed == 8


def test_another_seed_for_a_saved_configuration_is_that_of_its_sections_too(tmp_path: Path) -> None:
    load(tmp_path, filter=None, split={"eval_share": 0.1}, report={"seed": 5}).save(tmp_path / PREPARE_CONFIG_FILE)
    again = load_prepare_config([str(tmp_path / PREPARE_CONFIG_FILE), "--seed", "7"])
    assert (again.sections["split"].seed, again.sections["report"].seed) == (7, 5)


def test_limits_without_the_step_that_measures_for_them_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        load(tmp_path, "--filter", "HQ", measure=None, filter={"min_lyrics_coverage": 0.5})
    for part in (
        "filter.min_vocal_energy: its value is not measured; switch measure on",
        "filter.max_transcript_edit_distance: its value is not measured; switch transcribe on",
        "filter.min_clap_score: its value is not measured; switch score on",
    ):
        assert part in str(error.value), str(error.value)
    with pytest.raises(ValueError, match="set transcribe.agreement_model"):
        load(tmp_path, transcribe={"model": "./a"}, filter={"max_transcript_edit_distance": 5.0})
    both = {"model": "./a", "agreement_model": "./b"}
    assert load(tmp_path, transcribe=both, filter={"max_transcript_edit_distance": 5.0}).sections["filter"]


def test_columns_of_an_input(tmp_path: Path) -> None:
    config = load(tmp_path, inputs=[{"name": "a", "columns": {"caption": "text"}, "max_rows": 3}])
    assert config.inputs[0].columns == {"caption": "text"} and config.inputs[0].max_rows == 3
    with pytest.raises(ValueError, match="inputs 1: columns.captoin: unknown key; did you mean caption?"):
        load(tmp_path, inputs=[{"name": "a", "columns": {"captoin": "text"}}])


def test_sections_are_inherited_key_by_key(tmp_path: Path) -> None:
    write_config(tmp_path / "base" / "base.json", take_in={"min_seconds": 2, "max_seconds": 60}, voice=None, workers=4)
    config = load(tmp_path, base="base/base.json", take_in={"min_seconds": 3}, voice={"threshold": 0.5})
    assert (config.sections["take_in"].min_seconds, config.sections["take_in"].max_seconds) == (3.0, 60.0)
    assert config.sections["voice"].threshold == 0.5 and config.settings.workers == 4
    assert [Path(source).name for source in config.sources] == ["base.json", "config.json"]


def test_the_saved_configuration_is_the_same_again(tmp_path: Path) -> None:
    config = load(tmp_path, voice=None, export={"formats": ["ace"]}, inputs=["a", {"name": "b", "use_for": "eval"}])
    config.save(tmp_path / "saved.json")
    again = load_prepare_config([str(tmp_path / "saved.json")])
    assert (again.settings, again.inputs, again.sections) == (config.settings, config.inputs, config.sections)


def test_settings_are_imported_from_a_run_or_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "earlier").mkdir()
    load(tmp_path, voice=None, workers=2, take_in={"min_seconds": 7}).save(tmp_path / "earlier" / PREPARE_CONFIG_FILE)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training_config.json").write_text(json.dumps({"save_to_disk": "./earlier_tokens"}))
    for folder in ("earlier", "run"):
        config = load(tmp_path, "--import_settings", folder, output_dir="new", take_in={"max_seconds": 50})
        assert config.sections["voice"] is None and config.settings.output_dir == "new"
        assert (config.sections["take_in"].min_seconds, config.sections["take_in"].max_seconds) == (7.0, 50.0)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="import_settings: there is no prepare.json in other"):
        load(tmp_path, import_settings="other")


def test_the_help_names_every_key() -> None:
    text = help_text()
    for name, section in SECTIONS.items():
        for key in keys_of(name, section.options):
            assert f"--{name}.{key.name} " in text and len(key.help) > 10
    for key in keys_of("", PrepareSettings):
        assert f"--{key.name} " in text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_can_be_used(path: Path) -> None:
    config = load_prepare_config([str(path)])
    assert config.sources[-1] == str(path)


def test_what_does_not_change_the_data_set_is_no_part_of_its_meaning(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert load(tmp_path, workers=5, voice={"device": "cpu"}).meaning() == config.meaning()
    assert load(tmp_path, voice={"threshold": 0.9}).meaning() != config.meaning()


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    inputs = ["~/a", {"name": "~/b", "annotations": "~/c.jsonl"}]
    config = load(tmp_path, "--output_dir=~/out", inputs=inputs, audio_roots=["~/d"])
    assert [(source.name, source.annotations) for source in config.inputs] == [
        (f"{tmp_path}/a", None),
        (f"{tmp_path}/b", f"{tmp_path}/c.jsonl"),
    ]
    assert config.settings.output_dir == f"{tmp_path}/out" and config.settings.audio_roots == [f"{tmp_path}/d"]
