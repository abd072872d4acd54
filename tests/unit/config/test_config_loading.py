import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from songgen.config import load_run_config, read_config_file
from songgen.config.checks import ConfigError

REQUIRED = {"model_name_or_path": "m", "output_dir": "o", "save_to_disk": "d"}


def write(path: Path, **values: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)


def load(*argv: str) -> Any:
    return load_run_config(list(argv), description="Trains.")


def test_the_nearer_file_wins_and_the_command_line_over_all(tmp_path: Path) -> None:
    write(tmp_path / "common.json", **REQUIRED, learning_rate=1, weight_decay=1, seed=1, warmup_steps=9)
    write(tmp_path / "shared" / "base.json", base="../common.json", learning_rate=2, weight_decay=2)
    stage = write(tmp_path / "stage.json", base="shared/base.json", learning_rate=3, eval_steps=None)
    config = load(stage, "--adam_beta1", "0.5", "--warmup-steps=4")
    training = config.training
    assert (training.learning_rate, training.weight_decay, training.seed) == (3, 2, 1)
    assert (training.adam_beta1, training.warmup_steps) == (0.5, 4)
    assert [Path(source).name for source in config.sources] == ["common.json", "base.json", "stage.json"]


def test_a_circle_of_bases_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.json", base="./b.json")
    first = write(tmp_path / "b.json", base="../" + tmp_path.name + "/a.json")
    with pytest.raises(ValueError, match="circle"):
        read_config_file(first)


def test_a_missing_base_is_named_with_the_file_that_asks(tmp_path: Path) -> None:
    stage = write(tmp_path / "stage.json", base="nothing.json")
    with pytest.raises(ValueError, match=r"nothing\.json \(the \"base\" of .*stage\.json\)"):
        read_config_file(stage)


def test_an_alias_in_a_stage_replaces_the_real_name_in_its_base(tmp_path: Path) -> None:
    write(tmp_path / "base.json", **REQUIRED, do_eval=True, eval_strategy="no", eval_steps=3)
    stage = write(tmp_path / "stage.json", base="base.json", evaluation_strategy="steps")
    assert load(stage).training.eval_strategy == "steps"
    both = write(tmp_path / "both.json", evaluation_strategy="steps", eval_strategy="no")
    with pytest.raises(ValueError, match="another name"):
        load(both)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ('{"seed": 1, "seed": 2}', "given twice: seed"),
        ('{"learning_rate": NaN}', "NaN is not a JSON number"),
        ("[1]", "one JSON object"),
        ('{"base": ["a.json"]}', "path of one JSON file"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"bad.json.*{reason}"):
        read_config_file(tmp_path / "bad.json")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"seed": 3}).encode())
    assert read_config_file(tmp_path / "bom.json")[0] == {"seed": 3}


def test_problems_of_file_and_command_line_come_together(tmp_path: Path) -> None:
    stage = write(tmp_path / "stage.json", **REQUIRED, lerning_rate=1, seed="x")
    with pytest.raises(ConfigError) as caught:
        load(stage, "--optimiser", "adamw", "--dtype", "bfloat", "--warmup_steps", "--do_eval", "other.json")
    message = str(caught.value)
    for part in ("did you mean learning_rate", "did you mean optimizer", "--warmup_steps: needs a value", '"bfloat"'):
        assert part in message
    assert 'seed: "x"' in message and message.count("\n  - ") == 6
    assert {key for problem in caught.value.problems for key in problem.keys} == {
        "lerning_rate", "seed", "optimiser", "dtype", "warmup_steps", "do_eval",
    }  # fmt: skip


def test_a_refusal_names_the_files_and_the_command_line_that_were_read(tmp_path: Path) -> None:
    write(tmp_path / "base.json", **REQUIRED)
    stage = write(tmp_path / "stage.json", base="base.json", seed="x")
    files = f"{tmp_path / 'base.json'} > {stage}"
    for arguments, source in (((), files), (("--dtype", "bfloat16"), f"{files} and the command line")):
        with pytest.raises(ConfigError) as caught:
            load(stage, *arguments)
        assert str(caught.value).startswith(f"{source} cannot be used (1 problem):\n  - seed: ")
    with pytest.raises(ConfigError, match=r"^the command line cannot be used \(4 problems\)"):
        load("--max_steps", "0")


def test_switches_and_values_on_the_command_line(tmp_path: Path) -> None:
    stage = write(tmp_path / "stage.json", **REQUIRED)
    config = load(stage, "--do_eval", "--codebook_weighting", "false", "--report_to", '["wandb"]', "--ema_decay=none")
    assert config.training.do_eval and not config.training.codebook_weighting
    assert config.training.report_to == ["wandb"] and config.training.ema_decay is None
    with pytest.raises(ValueError, match=r"other\.json: unexpected"):
        load(stage, "other.json")


def test_negative_numbers_are_values(tmp_path: Path) -> None:
    assert load(write(tmp_path / "s.json", **REQUIRED, max_steps=5), "--max_steps", "-1").training.max_steps == -1


def test_no_file_is_needed() -> None:
    config = load("--model_name_or_path", "m", "--output_dir", "o", "--save_to_disk", "d")
    assert config.model.model_name_or_path == "m" and config.sources == ()


def test_secrets_on_the_command_line_are_not_repeated(tmp_path: Path) -> None:
    stage = write(tmp_path / "stage.json", **REQUIRED)
    with pytest.raises(ValueError, match="hf auth login") as caught:
        load(stage, "--token", "hf_abc")
    assert "hf_abc" not in str(caught.value)


def test_keys_without_effect_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = write(
        tmp_path / "stage.json", **REQUIRED, label_atype="labels", bandwidth=4, include_inputs_for_metrics=True
    )
    with caplog.at_level(logging.WARNING):
        load(stage)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert all(name in message for name in ("label_atype", "bandwidth", "include_inputs_for_metrics"))
    caplog.clear()
    monkeypatch.setenv("RANK", "1")
    load(stage)
    assert not caplog.records


def test_half_precision_needs_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = write(tmp_path / "stage.json", **REQUIRED, dtype="float16")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match="does not train on a CPU"):
        load(stage)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert load(stage).training.dtype == "float16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(ValueError, match="does not train on a CPU"):
        load(stage)


def test_help_prints_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load("--help")
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert printed.startswith("Trains.")
    assert "--learning_rate  float > 0 (default 5e-05)" in printed and "Peak learning rate" in printed


def test_the_home_folder_is_expanded_wherever_a_path_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.json").write_text(json.dumps({"train_dataset_name": "~/a.jsonl+~/b", "audio_roots": ["~/c"]}))
    values = {"base": "~/base.json", "audio_codec": {"type": "dac", "path": "~/codec"}, "preprocessing_only": True}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = load_run_config(["~/config.json", "--save_to_disk=~/out", "--model_name_or_path", "~"], description="")
    assert [source.name for source in config.data.train_sources()] == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b"]
    assert config.data.audio_roots == [f"{tmp_path}/c"] and config.data.dataset_folders() == [f"{tmp_path}/out"]
    assert config.model.audio_codec == {"type": "dac", "path": f"{tmp_path}/codec"}
    assert config.model.model_name_or_path == str(tmp_path)
