import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from tiny_flow import write_tiny_pipeline

from songgen.config import RunConfig, load_run_config, read_config_file
from songgen.config.keys import all_keys
from songgen.families.flow.family import FLOW

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "helpers" / "training_configs"
FILES = sorted(path for path in FOLDER.rglob("*.json") if not path.stem.endswith("base"))
ACCELERATE_FILES = sorted((ROOT / "helpers" / "accelerate_configs").glob("*.yaml"))


def load(name: str) -> RunConfig:
    return load_run_config([str(FOLDER / f"{name}.json")], description="")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_shipped_file_loads_without_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_run_config([str(path)], description="")
    assert not caplog.records
    assert RunConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*base.json")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_base_is_used_and_known(path: Path) -> None:
    assert set(json.loads(path.read_text(encoding="utf-8"))) - {"base"} <= set(all_keys())
    users = [file for file in FILES if str(path) in read_config_file(file)[1]]
    assert users


def test_the_chain_of_stages_is_whole() -> None:
    """Every stage starts from a folder that an earlier one writes, an untrained model, or a published one."""
    runs = [load_run_config([str(path)], description="") for path in FILES if "data" not in path.stem]
    outputs = [run.training.output_dir for run in runs]
    assert len(set(outputs)) == len(outputs) == 21
    for run in runs:
        start = run.model.model_name_or_path
        assert start in outputs or "untrained" in start or "acestep" in start


@pytest.mark.parametrize(
    ("name", "start", "rate", "warmup", "epochs", "cross", "voice", "max_length", "every"),
    [
        ("mixed_pro/step1", "untrained-mixed_pro", 1e-4, 50_000, 100, False, 1, 1500, (20_000, 10_000)),
        ("mixed_pro/step2_a", "mixed_pro/step1", 5e-5, 20_000, 40, True, 2 / 3, 1500, (20_000, 10_000)),
        ("mixed_pro/step2_b", "mixed_pro/step2_a", 5e-5, 20_000, 60, False, 1 / 2, 1500, (20_000, 10_000)),
        ("mixed_pro/step3", "mixed_pro/step2_b", 5e-5, 0, 5, False, 1 / 2, 1500, (2_643, 1_321)),
        ("inter_A_V/step1_5", "mixed_pro/step1", 1e-4, 40_000, 50, True, 1, 3000, (20_000, 10_000)),
        ("inter_A_V/step2_a", "inter_A_V/step1_5", 5e-5, 20_000, 40, True, 2 / 3, 3000, (20_000, 10_000)),
        ("inter_A_V/step2_b", "inter_A_V/step2_a", 5e-5, 20_000, 60, False, 1 / 2, 3000, (20_000, 10_000)),
        ("inter_A_V/step3", "inter_A_V/step2_b", 5e-5, 0, 5, False, 1 / 2, 3000, (2_643, 1_321)),
    ],
)
def test_stages_follow_the_published_recipe(
    name: str,
    start: str,
    rate: float,
    warmup: int,
    epochs: float,
    cross: bool,
    voice: float,
    max_length: int,
    every: tuple[int, int],
) -> None:
    logging = 264 if name.endswith("step3") else 2_000
    config = load(name)
    model, data, training = config.model, config.data, config.training
    assert model.model_name_or_path == f"./outputs/{start}"
    assert training.output_dir == f"./outputs/{name}"
    assert (training.learning_rate, training.warmup_steps, training.num_train_epochs) == (rate, warmup, epochs)
    assert training.freeze_cross is cross
    assert data.voice_probabilities()["vocal"] == pytest.approx(voice)
    # The published intervals, with as many clips as were published: 128 of 541,253 a step.
    num_steps = round(4_229 * epochs)
    intervals = training.eval_interval(num_steps, 4_229), training.save_interval(num_steps, 4_229)
    assert intervals == every and training.logging_interval(num_steps, 4_229) == logging
    assert model.max_length == max_length
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (4, 4)
    assert (training.adam_beta1, training.adam_beta2, training.weight_decay) == (0.9, 0.99, 1e-4)
    assert (training.lr_scheduler_type, training.dtype, training.seed) == ("cosine", "bfloat16", 456)
    assert data.group_by_length and training.freeze_text_encoder and training.codebook_weighting
    assert training.add_vocal_loss is name.startswith("mixed")
    assert (data.min_duration_in_seconds, data.max_duration_in_seconds, data.ref_dur_sec) == (2, 30, 3)


@pytest.mark.parametrize("name", ["turbo_lora", "base_lora", "full"])
@pytest.mark.parametrize("is_turbo", [False, True])
def test_flow_recipes_fit_the_models_that_they_are_for(tmp_path: Path, name: str, is_turbo: bool) -> None:
    """On a tiny pipeline of the same kind; a recipe with guidance is refused for a turbo model."""
    model = write_tiny_pipeline(tmp_path / "model", is_turbo=is_turbo)
    config = RunConfig.from_dict(load(f"flow/{name}").to_dict() | {"model_name_or_path": str(model)})
    if is_turbo and name != "turbo_lora":
        with pytest.raises(ValueError, match="is a turbo model, which is used without guidance"):
            FLOW.open_model(config, None)
        return
    core = FLOW.open_model(config, None)
    trainable = FLOW.choose_trained(config, core)
    assert trainable.entries and FLOW.objective(config, core)


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "demo"], ids=lambda path: path.stem)
def test_demo_files_need_neither_gpu_nor_account(path: Path) -> None:
    config = load_run_config([str(path)], description="")
    assert config.training.dtype == "float32"
    assert config.training.trackers() == [] and not config.training.push_to_hub
    assert all(folder.startswith("./datasets/demo_") for folder in config.data.dataset_folders())
    assert config.training.output_dir.startswith("./outputs/demo/") or config.training.preprocessing_only


PUBLISHED_STAGE: dict[str, Any] = {
    "model_name_or_path": "./outputs/inter_A_V/step1",
    "feature_extractor_name": "xcodec",
    "description_tokenizer_name": "google/flan-t5-large",
    "prompt_tokenizer_name": "google/flan-t5-large",
    "save_to_disk": ["./datasets/a", "./datasets/b"],
    "ref_voice_column_name": ["mert_input", "mert_input", "none"],
    "label_atype": "acc+vocal",
    "track_pattern": "interleaving_A_V",
    "prompt_cross_attention": True,
    "attn_implementation": "sdpa",
    "freeze_text_encoder": True,
    "freeze_cross": True,
    "bandwidth": 4,
    "max_length": 3000,
    "ref_dur_sec": 3,
    "max_duration_in_seconds": 30,
    "min_duration_in_seconds": 2.0,
    "max_text_length": 600,
    "max_eval_samples": 24,
    "preprocessing_num_workers": 16,
    "preprocessing_only": False,
    "pad_to_multiple_of": 2,
    "add_audio_samples_to_wandb": True,
    "wandb_project": "songgen_pub",
    "wandb_run_name": "inter_A_V_step1_5",
    "id_column_name": "id",
    "loading_method": "json",
    "codebook_weighting": True,
    "dtype": "bfloat16",
    "overwrite_output_dir": False,
    "output_dir": "./outputs/inter_A_V/step1_5",
    "do_eval": True,
    "do_train": True,
    "group_by_length": True,
    "seed": 456,
    "dataloader_num_workers": 8,
    "ddp_timeout": 10800,
    "report_to": ["wandb"],
    "num_train_epochs": 50,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 0.0001,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "weight_decay": 0.0001,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 40000,
    "logging_steps": 2000,
    "predict_with_generate": True,
    "include_inputs_for_metrics": True,
    "evaluation_strategy": "steps",
    "eval_steps": 20000,
    "save_steps": 10000,
}


def test_a_file_in_the_published_form_loads_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "stage.json"
    path.write_text(json.dumps(PUBLISHED_STAGE), encoding="utf-8")
    config = load_run_config([str(path)], description="")
    assert config.data.dataset_folders() == ["./datasets/a", "./datasets/b"]
    assert config.data.voice_probabilities() == pytest.approx({"vocal": 2 / 3, "none": 1 / 3})
    assert config.training.eval_interval(200, 100) == 20_000
    assert set(config.ignored_keys) == {
        "feature_extractor_name",
        "prompt_tokenizer_name",
        "label_atype",
        "bandwidth",
        "pad_to_multiple_of",
        "include_inputs_for_metrics",
    }


def test_a_data_file_in_the_published_form_loads_unchanged(tmp_path: Path) -> None:
    manifest = "./datasets/MusicCaps_Test_Song/metadata_abspath.jsonl"
    values = {
        "model_name_or_path": "./outputs/untrained-mixed_pro",
        "train_dataset_name": manifest,
        "train_dataset_config_name": "default",
        "train_split_name": "train",
        "eval_dataset_name": manifest,
        "eval_dataset_config_name": "default",
        "eval_split_name": "train",
        "target_audio_column_name": "audio_abspath",
        "ref_audio_column_name": ["vocal_abspath", "acc_abspath", "drum_abspath"],
        "ref_voice_column_name": "vocal_abspath",
        "id_column_name": "fname",
        "preprocessing_only": True,
        "temporary_save_to_disk": "./datasets/MusicCaps_Test_Song/musiccaps_SingTest_code/",
        "save_to_disk": "./datasets/MusicCaps_Test_Song/musiccaps_SingTest_vectorized/",
        "loading_method": "json",
        "audio_encoder_per_device_batch_size": 1,
        "preprocessing_num_workers": 1,
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    config = load_run_config([str(path)], description="")
    assert [source.name for source in config.data.train_sources()] == [manifest]
    assert config.data.ref_audio_columns() == ["vocal_abspath", "acc_abspath", "drum_abspath"]
    assert config.ignored_keys == ("temporary_save_to_disk",)


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path: Path) -> None:
    config = load_config_from_file(str(path))
    processes = {"cpu_2_processes": 2, "single_gpu": 1, "two_nodes": 16}.get(path.stem, 8)
    assert config.num_processes == processes
    assert config.num_machines == (2 if path.stem == "two_nodes" else 1)


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.stem)
def test_models_say_themselves_which_layers_are_sharded(path: Path) -> None:
    """One file serves all families: `test_sharded_runs` and `test_flow_training` see that the layers are."""
    config = load_config_from_file(str(path))
    sharding = getattr(config, "fsdp_config", None) or {}
    assert "fsdp_transformer_layer_cls_to_wrap" not in sharding
    assert sharding.get("fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP") == "TRANSFORMER_BASED_WRAP"
