import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from songgen.config import DataArguments, ModelArguments, RunConfig, TrainingArguments
from songgen.config.checks import PHASE_KEYS, PHASES
from songgen.config.foreign.ignored import ALIASES, SECRET_KEYS
from songgen.config.keys import all_keys
from songgen.config.model_arguments import TrackPattern
from songgen.config.types import PositiveInt, coerce, parse_text
from songgen.data.curriculum.order import ORDERS, PHASE_KINDS, Phase
from songgen.tasks import TASKS
from songgen.train.optimization.schedules import SCHEDULES

REQUIRED = {"model_name_or_path": "m", "output_dir": "o", "save_to_disk": "d"}
PUBLISHED = json.loads((Path(__file__).parent / "published_keys.json").read_text(encoding="utf-8"))


def config(**values: Any) -> RunConfig:
    return RunConfig.from_dict({**REQUIRED, **values})


def problems(**values: Any) -> list[str]:
    with pytest.raises(ValueError) as caught:
        config(**values)
    return str(caught.value).split("\n  - ")[1:]


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(SECRET_KEYS)))
def test_every_published_key_is_read_with_its_published_default(name: str) -> None:
    key = all_keys()[name]
    default = PUBLISHED[name]["default"]
    if default is not None:
        assert coerce(default, key.annotation) == default
    if PUBLISHED[name]["type"] in ("str", "int", "float", "bool") and key.group == "ignored":
        with pytest.raises(ValueError):
            coerce({"a": 1}, key.annotation)


def test_every_key_is_explained() -> None:
    assert len(all_keys()) > 140
    assert not [key.name for key in all_keys().values() if len(key.help) < 10]


def test_defaults_have_their_own_type() -> None:
    for key in all_keys().values():
        assert coerce(key.default, key.annotation) == key.default, key.name


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        learning_rat=1e-4, warmup_steps="ten", dtype="int8", save_total_limit=1, max_steps=5, warmup_ratio=2
    )
    assert len(found) == 5
    text = "\n".join(found)
    assert "learning_rat: unknown key; did you mean learning_rate?" in text
    assert 'warmup_steps: "ten" is not valid, expected int >= 0' in text
    assert 'dtype: "int8"' in text and '"bfloat16"' in text
    assert "save_total_limit: 1 is not valid, expected int >= 2, or null" in text


def test_quoted_numbers_are_named_as_such() -> None:
    assert problems(learning_rate="1e-4") == [
        'learning_rate: "1e-4" is not valid, expected float > 0; write it without quotes'
    ]


def test_contradictions_of_unreadable_values_stay_out() -> None:
    assert len(problems(do_eval=True, eval_strategy="steps", eval_steps="many")) == 1


def test_keys_of_other_programs_lead_to_ours() -> None:
    assert problems(bf16=True) == ['bf16: unknown key; use "dtype": "bfloat16"']


@pytest.mark.parametrize("name", SECRET_KEYS)
def test_credentials_are_refused_and_not_repeated(name: str) -> None:
    (message,) = problems(**{name: "hf_secret"})
    assert name in message and "hf auth login" in message and "secret" not in message
    config(**{name: None})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("wandb_run_name", "try {}"),
        ("model_name_or_path", "https://user:{}@example.org/model"),
        ("audio_codec", {"type": "xcodec", "path": "{}"}),
        ("learning_rate", "{}"),
    ],
)
def test_tokens_are_refused_wherever_they_stand_and_not_repeated(key: str, value: Any) -> None:
    token = "hf_" + "aB3" * 12
    given = json.loads(json.dumps(value).replace("{}", token))
    (message,) = problems(**{key: given})
    assert key in message and "hf auth login" in message and token not in message


def test_remote_code_is_refused() -> None:
    assert "never run" in problems(trust_remote_code=True)[0]
    assert config(trust_remote_code=False).ignored_keys == ("trust_remote_code",)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model_name_or_path": ""}, "model_name_or_path"),
        ({"output_dir": ""}, "output_dir"),
        ({"save_to_disk": None}, "save_to_disk"),
        ({"do_train": False}, "do_train"),
        ({"preprocessing_only": True}, "train_dataset_name"),
        ({"preprocessing_only": True, "train_dataset_name": "a", "save_to_disk": ["a", "b"]}, "save_to_disk"),
        ({"do_eval": True, "eval_strategy": "steps", "eval_steps": None}, "eval_strategy"),
        ({"eval_strategy": "epoch"}, "eval_strategy"),
        ({"eval_generation_steps": 5}, "eval_generation_steps"),
        ({"eval_random_texts": True}, "eval_random_texts"),
        ({"report_to": ["none", "wandb"]}, "report_to"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 100, "warmup_steps": 100}, "warmup_steps"),
        ({"warmup_steps": 1, "warmup_ratio": 0.1}, "warmup_ratio"),
        ({"loss_scale_floor": 65536}, "loss_scale_floor"),
        ({"lr_scheduler_type": "multistep"}, "lr_scheduler_milestones"),
        ({"lr_scheduler_type": "multistep", "lr_scheduler_milestones": [200, 100]}, "lr_scheduler_milestones"),
        ({"lr_scheduler_type": "multistep", "lr_scheduler_milestones": [0.5, 100]}, "lr_scheduler_milestones"),
        (
            {"lr_scheduler_type": "multistep", "lr_scheduler_milestone_epochs": [2, 2]},
            "lr_scheduler_milestone_epochs",
        ),
        (
            {"lr_scheduler_type": "multistep", "lr_scheduler_milestones": [5], "lr_scheduler_milestone_epochs": [2]},
            "lr_scheduler_milestone_epochs",
        ),
        ({"warmup_epochs": 1, "warmup_steps": 5}, "warmup_epochs"),
        ({"warmup_epochs": 3, "num_train_epochs": 3}, "warmup_epochs"),
        (
            {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_restarts": 0, "lr_scheduler_damping": 0.5},
            "lr_scheduler_damping",
        ),
        ({"loss_milestones": [1, 2]}, "loss_milestones"),
        ({"accuracy_milestones": [0.5, 0.5]}, "accuracy_milestones"),
        ({"weights_dtype": "bfloat16"}, "weights_dtype"),
        ({"weights_dtype": "bfloat16", "dtype": "float16"}, "weights_dtype"),
        ({"freeze_text_encoder": False}, "freeze_text_encoder"),
        ({"codebook_weights_start": [0, 0]}, "codebook_weights_start"),
        ({"codebook_weights_start": [1], "codebook_weights_end": [1, 1]}, "codebook_weights_end"),
        ({"codebook_weights_end": [1, 1], "codebook_weighting": False}, "codebook_weights_end"),
        ({"min_duration_in_seconds": 30, "max_duration_in_seconds": 30}, "min_duration_in_seconds"),
        ({"train_dataset_name": "a+b", "train_split_name": ["x", "y", "z"]}, "train_split_name"),
        ({"train_dataset_name": "a", "train_dataset_samples": "many"}, "train_dataset_samples"),
        ({"voice_choices": {"drums": 1}}, "voice_choices"),
        ({"voice_choices": {"vocal": 0, "none": 0}}, "voice_choices"),
        ({"add_vocal_loss": True, "track_pattern": "interleaving_A_V"}, "add_vocal_loss"),
        ({"order": []}, "order"),
        ({"order": [{"by": "speaker"}]}, "order"),
        ({"order": [{"by": "random", "epochs": 2}]}, "order"),
        ({"order": [{"by": "duration"}, {"by": "random"}]}, "order"),
        ({"order": [{"by": "duration", "epochs": 1.5}, {"by": "random"}]}, "order"),
        ({"order": [{"by": "balanced"}]}, "order"),
        ({"order": [{"by": "random", "column": "singer"}]}, "order"),
        ({"order": [{"by": "random", "length": 3}]}, "order"),
    ],
)
def test_contradictions_are_found(values: dict[str, Any], key: str) -> None:
    found = problems(**values)
    assert len(found) == 1 and found[0].startswith(f"{key}: ")


def test_construction_in_python_is_checked_too() -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        RunConfig(
            model=ModelArguments(model_name_or_path="m"),
            data=DataArguments(save_to_disk="d"),
            training=TrainingArguments(output_dir="o", learning_rate=-1.0),
        )


def test_preprocessing_needs_no_model_and_no_output() -> None:
    RunConfig.from_dict({"preprocessing_only": True, "train_dataset_name": "a.jsonl", "save_to_disk": "d"})


def test_a_saved_configuration_loads_back_equal(tmp_path: Path) -> None:
    original = config(
        report_to=["wandb"],
        voice_choices={"vocal": 2, "none": 1},
        audio_codec={"type": "xcodec", "path": "ä/b", "bandwidth": 4},
        codebook_weights_start=[1, 2],
        save_total_limit=None,
        label_atype="acc+vocal",
    )
    original.save(tmp_path / "run.json")
    values = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    again = RunConfig.from_dict(values)
    assert again == original
    assert again.ignored_keys == () and original.ignored_keys == ("label_atype",)
    assert again != config(report_to=["wandb"])


def test_aliases_are_read() -> None:
    for alias, name in ALIASES.items():
        assert config(**{alias: "no"}).to_dict()[name] == "no"
    assert len(problems(evaluation_strategy="steps", eval_strategy="epoch", do_eval=True, eval_steps=2)) == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"vocal": 1.0}),
        ({"ref_voice_column_name": "mert_input"}, {"vocal": 1.0}),
        ({"ref_voice_column_name": ["mert_input", "mert_input", "none"]}, {"vocal": 2 / 3, "none": 1 / 3}),
        ({"ref_voice_column_name": ["mert_input", "none"]}, {"vocal": 0.5, "none": 0.5}),
        ({"ref_voice_column_name": "none"}, {"none": 1.0}),
        ({"ref_voice_column_name": "x", "voice_choices": {"vocal": 3, "none": 1}}, {"vocal": 0.75, "none": 0.25}),
    ],
)
def test_voice_is_drawn_as_published(values: dict[str, Any], expected: dict[str, float]) -> None:
    assert config(**values).data.voice_probabilities() == pytest.approx(expected)


def test_several_data_sets_keep_what_is_theirs() -> None:
    sources = config(
        train_dataset_name="a+b",
        train_dataset_samples="500+2000",
        train_split_name="train+clean",
        train_metadata_dataset_name=["x", "y"],
        train_dataset_config_name="default",
    ).data.train_sources()
    assert [dataclasses.astuple(source) for source in sources] == [
        ("a", "default", "train", 500, "x"),
        ("b", "default", "clean", 2000, "y"),
    ]


def test_a_list_of_data_sets_may_hold_a_plus() -> None:
    assert [source.name for source in config(eval_dataset_name=["a+b.jsonl"]).data.eval_sources()] == ["a+b.jsonl"]


def test_factors_of_the_learning_rate_name_groups_and_are_positive() -> None:
    factors = {"heads": 0.1, "cross": 2}
    assert config(learning_rate_factors=factors).training.learning_rate_factors == {"heads": 0.1, "cross": 2.0}
    for wrong in ({"heads": 0}, {"heads": "much"}, ["heads"]):
        with pytest.raises(ValueError, match="learning_rate_factors"):
            config(learning_rate_factors=wrong)


def test_intervals_in_epochs_win_over_steps() -> None:
    training = config(save_steps=10, save_epochs=0.5, do_eval=True, eval_strategy="epoch", logging_steps=4).training
    assert intervals(training, 800, 8) == (4, 4, 8)
    assert training.save_interval(100, 1) == 1
    for every_plot_step in ("auto", 100, None):
        plotted = config(every_plot_step=every_plot_step, plot_epochs=2.0).training
        assert plotted.plot_interval(800, 8) == 16
        assert config(every_plot_step=every_plot_step).training.plot_interval(800, 8) == (
            50 if every_plot_step == "auto" else every_plot_step
        )
    assert config(save_steps=None).training.save_interval(800, 8) is None
    assert config(do_eval=True).training.eval_interval(800, 8) is None


def intervals(training: TrainingArguments, num_steps: int, steps_per_epoch: int = 100) -> tuple[int | None, ...]:
    read = (training.logging_interval, training.save_interval, training.eval_interval)
    return tuple(interval(num_steps, steps_per_epoch) for interval in read)


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [(1, (1, 1, 1)), (20, (1, 1, 2)), (200, (2, 12, 25)), (6_300, (78, 393, 787)), (422_900, (2_000, 10_000, 20_000))],
)
def test_intervals_follow_the_length_of_the_run_unless_they_are_given(
    num_steps: int, expected: tuple[int, ...]
) -> None:
    evaluation = {"do_eval": True, "eval_strategy": "steps"}
    assert intervals(config(**evaluation).training, num_steps) == expected
    given = config(**evaluation, logging_steps=7, save_steps=8, eval_steps=9)
    assert intervals(given.training, num_steps) == (7, 8, 9)


def test_automatic_intervals_on_the_command_line() -> None:
    for text, expected in (("auto", "auto"), ("10", 10), ("null", None), ("none", None)):
        assert parse_text(text, PositiveInt | Literal["auto"] | None) == expected
    for wrong in ("0", "1.5", "often", ""):
        with pytest.raises(ValueError, match=r'int >= 1, or "auto", or null'):
            parse_text(wrong, PositiveInt | Literal["auto"] | None)


def test_shares_become_steps() -> None:
    training = config(warmup_ratio=0.1, lr_scheduler_type="multistep", lr_scheduler_milestones=[0.5, 0.75]).training
    assert training.num_warmup_steps(95, 10) == 10
    assert training.milestone_steps(200, 10) == [100, 150]
    in_steps = config(lr_scheduler_type="multistep", lr_scheduler_milestones=[10, 20]).training
    assert in_steps.milestone_steps(5, 1) == [10, 20]


def test_points_of_a_schedule_may_be_given_in_epochs() -> None:
    training = config(
        warmup_epochs=0.25, lr_scheduler_type="multistep", lr_scheduler_milestone_epochs=[1.5, 2]
    ).training
    assert training.num_warmup_steps(300, 90) == 23, "rounded up"
    assert training.milestone_steps(300, 90) == [135, 180]


OPTIONS_OF_SCHEDULES: dict[str, Any] = {
    "warmup_steps": 5, "warmup_ratio": 0.1, "warmup_epochs": 0.5, "lr_min_ratio": 0.1, "lr_scheduler_milestones": [5.0],
    "lr_scheduler_milestone_epochs": [1.0], "lr_scheduler_gamma": 0.1, "lr_scheduler_restarts": 3,
    "lr_scheduler_damping": 0.5,
}  # fmt: skip
DROPS = ["lr_scheduler_gamma", "lr_scheduler_milestone_epochs", "lr_scheduler_milestones"]
RESTARTS = ["lr_scheduler_damping", "lr_scheduler_restarts"]


@pytest.mark.parametrize(
    ("schedule", "refused"),
    [
        ("constant", list(OPTIONS_OF_SCHEDULES)),
        ("constant_with_warmup", [*DROPS, *RESTARTS, "lr_min_ratio"]),
        ("linear", [*DROPS, *RESTARTS]),
        ("cosine", [*DROPS, *RESTARTS]),
        ("cosine_with_restarts", DROPS),
        ("multistep", [*RESTARTS, "lr_min_ratio"]),
    ],
)
def test_each_schedule_has_its_own_options_only(schedule: str, refused: list[str]) -> None:
    for option, value in OPTIONS_OF_SCHEDULES.items():
        values = {"lr_scheduler_type": schedule, option: value}
        if schedule == "multistep" and not option.startswith("lr_scheduler_milestone"):
            values["lr_scheduler_milestones"] = [0.5]
        if option in refused:
            (message,) = problems(**values)
            assert f'{option}: {value} has no effect with lr_scheduler_type "{schedule}"' in message
        else:
            config(**values)


def test_trackers_and_frozen_groups() -> None:
    training = config(
        report_to="wandb", freeze_cross=True, freeze_embed_prompts=True, freeze=["heads", "cross"]
    ).training
    assert training.trackers() == ["wandb"]
    assert training.frozen_groups() == ["cross", "lyrics_embedding", "heads"]
    assert config().training.trackers() == []


def test_choices_are_those_of_the_other_parts() -> None:
    layouts = {layout for task in TASKS.values() for layout in task.layouts}
    assert set(get_args(TrackPattern)) == layouts
    names, _ = get_args(all_keys()["order"].annotation)
    assert set(get_args(names)) == set(ORDERS)
    assert set(PHASES) == set(PHASE_KINDS) and PHASE_KEYS == tuple(Phase.__dataclass_fields__)
    assert set(get_args(all_keys()["lr_scheduler_type"].annotation)) == set(SCHEDULES)


def test_no_setting_is_dead() -> None:
    """Every key that is not declared without effect is read somewhere.

    One is used by the checks alone, and two are turned into `lora`.
    """
    root = Path(__file__).resolve().parents[3]
    methods = ("data_arguments.py", "training_arguments.py", "adapter_arguments.py")
    files = [path for path in (root / "songgen").rglob("*.py") if path.parent.name != "config" or path.name in methods]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    keys = [key.name for key in all_keys().values() if key.group != "ignored"]
    unread = {name for name in keys if not re.search(rf"\.{name}\b", source)}
    assert unread == {"freeze_text_encoder", "lora_config_path", "loras"}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("bf16", "bfloat16"),
        ("fp16", "float16"),
        ("half", "float16"),
        ("FP32", "float32"),
        ("torch.bfloat16", "bfloat16"),
    ],
)
def test_usual_names_of_number_formats(given: str, name: str) -> None:
    assert config(dtype=given).training.dtype == name
