"""The table `lora`, and the forms of other programs that are turned into it."""

import json
from pathlib import Path
from typing import Any

import pytest

from songgen.config import AdapterArguments, LoraArguments, RunConfig, load_run_config
from songgen.config.lora import completed, lora_keys
from songgen.config.recipes import ADAPTING, find_recipe
from songgen.train.checkpoints.state import upgraded_config

REQUIRED = {"model_name_or_path": "m", "output_dir": "o", "save_to_disk": "d"}
PRESETS = sorted((Path(__file__).resolve().parents[3] / "helpers" / "lora_configs").glob("*.json"))

# As ACE-Step ships it, without `speaker_embedder`, which no model here has.
ACE_STEP = {
    "r": 256, "lora_alpha": 32, "target_modules": ["linear_q", "linear_k", "linear_v"], "use_rslora": True,
}  # fmt: skip


def config(**values: Any) -> RunConfig:
    return RunConfig.from_dict({**REQUIRED, **values})


def lora_of(**values: Any) -> LoraArguments:
    found = config(**values).adapter.lora_arguments()
    assert found is not None
    return found


def problems(**values: Any) -> list[str]:
    with pytest.raises(ValueError) as caught:
        config(**values)
    return str(caught.value).split("\n  - ")[1:]


def written(folder: Path, content: Any) -> str:
    path = folder / "lora.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_without_a_table_the_model_itself_is_trained() -> None:
    assert config().adapter == AdapterArguments() and config().adapter.lora_arguments() is None
    assert lora_of(lora={}) == LoraArguments()


def test_the_resolved_configuration_holds_the_whole_table() -> None:
    resolved = config(lora={"r": 8, "lora_dropout": 0})
    assert resolved.to_dict()["lora"] == completed({"r": 8, "lora_dropout": 0.0})
    assert set(resolved.to_dict()["lora"]) == set(lora_keys())
    assert RunConfig.from_dict(resolved.to_dict()) == resolved


def test_all_problems_of_the_table_are_reported_at_once() -> None:
    found = problems(lora={"rnk": 8, "r": 0, "lora_dropout": 1, "use_doura": True, "quantization": "nf"}, max_steps=0)
    assert len(found) == 6
    text = "\n".join(found)
    for expected in (
        "lora.rnk: unknown key; known are r, lora_alpha",
        "lora.r: 0 is not valid, expected int >= 1",
        "lora.lora_dropout: 1",
        "lora.use_doura: unknown key; did you mean use_dora?",
        'lora.quantization: "nf" is not valid, expected "none" or "nf4" or "int8"; did you mean "nf4"?',
        "max_steps",
    ):
        assert expected in text
    assert "target_modules: empty" in problems(lora={"target_modules": []})[0]
    assert "does not work with quantization" in problems(lora={"use_dora": True, "quantization": "int8"})[0]
    assert "lora: 3 is not valid" in problems(lora=3)[0]


def test_learning_rates_of_an_adapter_need_one() -> None:
    assert [line.split(":")[0] for line in problems(lora_learning_rate=1e-4, lora_plus_ratio=16)] == [
        "lora_learning_rate", "lora_plus_ratio",
    ]  # fmt: skip
    assert config(lora={}, lora_learning_rate=1e-4, lora_plus_ratio=16).adapter.lora_plus_ratio == 16.0


def test_a_file_of_ace_step_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, {**ACE_STEP, "lora_learning_rate": 3e-4})
    read = config(lora_config_path=path)
    assert read.adapter.lora_arguments() == LoraArguments(**ACE_STEP)
    assert read.adapter.lora_learning_rate == 3e-4 and read.adapter.lora_config_path is None
    assert config(lora_config_path=path, lora_learning_rate=1e-4).adapter.lora_learning_rate == 1e-4
    assert load_run_config(
        ["--model_name_or_path", "m", "--output_dir", "o", "--save_to_disk", "d", "--lora_config_path", path],
        description="",
    ).adapter.lora_arguments() == LoraArguments(**ACE_STEP)  # fmt: skip


def test_a_file_of_peft_is_read(tmp_path: Path) -> None:
    from peft import LoraConfig

    LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["heads"]).save_pretrained(tmp_path)
    read = lora_of(lora_config_path=str(tmp_path / "adapter_config.json"))
    assert (read.r, read.lora_alpha, read.target_modules, read.modules_to_save) == (4, 8, ["q_proj"], ["heads"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"r": 4, "bias": "all"}, "bias 'all' is not supported"),
        ({"r": 4, "peft_type": "LOHA"}, "peft_type 'LOHA' is not supported"),
        ({"r": 4, "init_lora_weights": "pissa"}, "init_lora_weights 'pissa' is not supported"),
        ({"r": 4, "trainable_token_indices": [1]}, "lora.trainable_token_indices: unknown key"),
        ({"r": "4"}, 'lora.r: "4" is not valid'),
        ([4], "does not hold a JSON object"),
    ],
)
def test_what_a_file_asks_for_and_is_not_possible_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    (found,) = problems(lora_config_path=written(tmp_path, content))
    assert found.startswith("lora_config_path: ") and message in found


def test_a_missing_file_is_named() -> None:
    assert "r17.json" in problems(lora_config_path="r17.json")[0]


def test_the_block_of_vall_e_is_read() -> None:
    block = [
        {"name": "old", "rank": 8, "alpha": 8, "training": False},
        {"name": "new", "rank": 128, "alpha": 128, "training": True, "rvq_levels": []},
    ]
    read = config(loras=block)
    assert read.adapter.lora_arguments() == LoraArguments(r=128, lora_alpha=128)
    assert read.adapter.loras == []


def test_one_adapter_is_trained_at_a_time() -> None:
    two = [{"name": name, "rank": 8, "alpha": 8, "training": True} for name in ("first", "second")]
    assert '"training" is true for first, second' in problems(loras=two)[0]
    assert '"training" is true for none' in problems(loras=[{"rank": 8}])[0]
    assert "rvq_levels [1] is not supported" in problems(loras=[{"rank": 8, "training": True, "rvq_levels": [1]}])[0]


def test_two_forms_at_once_are_refused(tmp_path: Path) -> None:
    (found,) = problems(lora={"r": 4}, lora_config_path=written(tmp_path, ACE_STEP))
    assert "both are given" in found
    assert lora_of(lora=None, lora_config_path=written(tmp_path, ACE_STEP)).r == 256


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_found_by_its_name(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(path.name, ADAPTING).samefile(path)
    assert lora_of(lora_config_path=path.name) == LoraArguments(**json.loads(path.read_text(encoding="utf-8")))


def test_the_published_sizes_are_among_the_presets() -> None:
    pairs = {(read.r, read.lora_alpha) for path in PRESETS if (read := lora_of(lora_config_path=str(path)))}
    assert {(16, 32), (128, 128), (256, 32)} <= pairs


def test_a_checkpoint_of_an_earlier_version_lacks_only_defaults() -> None:
    then = upgraded_config({"lora": {"r": 8}}, "training_config.json")
    assert then["lora"] == completed({"r": 8}) == config(lora={"r": 8}).to_dict()["lora"]
