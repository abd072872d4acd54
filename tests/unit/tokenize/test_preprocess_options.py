import json
from pathlib import Path

import pytest

from songgen.config import RunConfig, load_run_config
from songgen.data.manifests.sources import ManifestSpec
from songgen.tokenize import options_of

PUBLISHED = {
    "model_name_or_path": "./outputs/untrained-mixed_pro",
    "feature_extractor_name": "xcodec",
    "description_tokenizer_name": "google/flan-t5-large",
    "prompt_tokenizer_name": "google/flan-t5-large",
    "bandwidth": 4,
    "train_dataset_name": "./datasets/MusicCaps_Test_Song/metadata_abspath.jsonl",
    "train_dataset_config_name": "default",
    "train_split_name": "train",
    "eval_dataset_name": "./datasets/MusicCaps_Test_Song/metadata_abspath.jsonl",
    "eval_dataset_config_name": "default",
    "eval_split_name": "train",
    "target_audio_column_name": "audio_abspath",
    "ref_audio_column_name": ["vocal_abspath", "acc_abspath", "drum_abspath"],
    "description_column_name": "caption",
    "prompt_column_name": "lyrics",
    "preprocessing_num_workers": 1,
    "max_eval_samples": 24,
    "max_duration_in_seconds": 30,
    "min_duration_in_seconds": 2.0,
    "max_text_length": 600,
    "preprocessing_only": True,
    "id_column_name": "fname",
    "save_to_disk": "./datasets/MusicCaps_Test_Song/musiccaps_SingTest_vectorized/",
    "temporary_save_to_disk": "./datasets/MusicCaps_Test_Song/musiccaps_SingTest_code/",
    "loading_method": "json",
    "audio_encoder_per_device_batch_size": 1,
    "output_dir": "./outputs/data",
}


def configure(folder: Path, *arguments: str, **changes: object) -> RunConfig:
    path = folder / "data.json"
    path.write_text(json.dumps({key: value for key, value in {**PUBLISHED, **changes}.items() if value is not None}))
    return load_run_config([str(path), *arguments], description="")


def test_published_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = options_of(configure(tmp_path))
    spec = ManifestSpec("./datasets/MusicCaps_Test_Song/metadata_abspath.jsonl", "default", "train", method="json")
    assert options.splits == {"train": (spec,), "eval": (spec,)} and options.max_rows == {"eval": 24}
    assert options.output_folder == tmp_path.resolve() / "datasets/MusicCaps_Test_Song/musiccaps_SingTest_vectorized"
    assert options.work_folder.name == "musiccaps_SingTest_vectorized.work"
    assert options.tracks == ("mix", "vocal", "acc", "drum")
    columns = options.manifests.columns
    assert options.manifests.kept_columns == ("variants", "tempo", "key", "analysis")
    assert (columns.id, columns.target, columns.caption, columns.lyrics) == (
        "fname",
        "audio_abspath",
        "caption",
        "lyrics",
    )
    assert (options.min_seconds, options.max_seconds, options.max_text_length) == (2.0, 30.0, 600)
    assert (options.batch_size, options.num_workers, options.store_voice) == (1, 1, True)


def test_several_sources_and_overrides(tmp_path: Path) -> None:
    config = configure(
        tmp_path,
        "--train_dataset_name",
        "a.jsonl+b.jsonl",
        "--train_dataset_samples",
        "5+7",
        "--voice_storage",
        "none",
        eval_dataset_name=None,
    )
    options = options_of(config)
    assert [(spec.name, spec.max_rows) for spec in options.splits["train"]] == [("a.jsonl", 5), ("b.jsonl", 7)]
    assert list(options.splits) == ["train"] and not options.store_voice


def test_what_a_training_file_lacks_is_said_at_once(tmp_path: Path) -> None:
    changes = {"preprocessing_only": False, "do_train": True, "save_to_disk": ["a", "b"]}
    config = configure(tmp_path, train_dataset_name=None, eval_dataset_name=None, **changes)
    with pytest.raises(ValueError) as error:
        options_of(config)
    for key in ("train_dataset_name", "save_to_disk"):
        assert key in str(error.value)


def test_a_model_or_a_codec_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_name_or_path: name the model"):
        options_of(configure(tmp_path, model_name_or_path=None))
    options_of(configure(tmp_path, model_name_or_path=None, audio_codec="hf-audio/xcodec-hubert-general-balanced"))
