"""Fields of configurations: what is shown, what depends on what, and that values survive the way there and back."""

from typing import Any, Literal, get_args, get_origin

import pytest

from songgen.config.foreign.ignored import IgnoredArguments
from songgen.config.keys import GROUPS, ConfigKey, all_keys, keys_of
from songgen.config.lora import lora_keys
from songgen.config.types import coerce
from songgen.families.flow.costs import TOKEN_KEYS
from songgen.families.tokens.costs import FLOW_KEYS
from songgen.ui.configuring import sections
from songgen.ui.configuring.dependencies import DEPENDENCIES, meaningful_keys
from songgen.ui.configuring.form_values import effective_values, read_text, shown_text, with_typed
from songgen.ui.configuring.labels import without_links
from songgen.ui.configuring.sections import COMMON, PATH_KEYS, SECTIONS, form_field, form_keys, form_sections

KEYS = sorted(form_keys())

CANDIDATES: tuple[Any, ...] = (
    True, False, 0, 1, 2, 3, 0.25, 0.5, 7.5, "auto", "words of a text", "./a folder/b", ["one", "two"], ["none"],
    [1, 2], [0.1, 0.2], [3.0, 2.0], [], {}, {"vocal": 2, "none": 1}, {"type": "dac", "path": "x"}, [{"by": "random"}],
    None, "", "null", "12", ["single"], '{"a": 1}', "true", "[", " padded ", ["a\nb"], ["[x]"],
)  # fmt: skip


def accepted(key: ConfigKey, value: Any) -> bool:
    try:
        coerce(value, key.annotation)
    except ValueError:
        return False
    return True


def values_of(key: ConfigKey) -> list[Any]:
    """The default of a key, and whatever else of the candidates it accepts, with all its words."""
    words = [choice for part in (key.annotation, *get_args(key.annotation)) if get_origin(part) is Literal
             for choice in get_args(part)]  # fmt: skip
    return [key.default, *(value for value in (*words, *CANDIDATES) if accepted(key, value))]


@pytest.mark.parametrize("name", KEYS)
def test_values_survive_being_shown_and_read(name: str) -> None:
    """From JSON to the form and back, for the default and for everything else that the key may be."""
    key = form_keys()[name]
    tried = [value for value in values_of(key) if name != "lora" or value in (None, {})]
    assert any(value != key.default for value in tried), "add a candidate for this type"
    for value in tried:
        text = shown_text(name, value)
        after = read_text(name, text, value) if text else key.default
        same = [value, [value]] if form_field(name).kind == "choices" else [value]
        assert after in same and (isinstance(after, bool) == isinstance(value, bool)), (value, text, after)


@pytest.mark.parametrize("name", KEYS)
def test_a_field_writes_its_key_and_nothing_else(name: str) -> None:
    """An edit reaches the file; the default, or nothing, takes the key out of it again."""
    key, kept = form_keys()[name], {"base": "b.json", "no_such_key": [1], "seed": 456}
    standard = effective_values({})
    value = {} if name == "lora" else next(value for value in values_of(key) if value not in (key.default, "", None))
    written = with_typed(kept, standard, {name: shown_text(name, value)})
    assert effective_values(written)[name] in (value, [value])
    assert {**written, **kept} == written or name == "seed"
    for text in ("", shown_text(name, key.default)):
        again = with_typed(written, standard, {name: text})
        assert effective_values(again)[name] == key.default
        assert {*again} - {"lora", "seed"} == {*kept} - {"seed"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "fast", "fast"),
        ("learning_rate", "nan", "nan"),
        ("num_train_epochs", "50", 50),
        ("save_total_limit", "null", None),
        ("save_to_disk", "a\n\n b ", ["a", "b"]),
        ("save_to_disk", "a", "a"),
        ("target_modules", "attention", ["attention"]),
        ("dtype", "bf16", "bfloat16"),
        ("model_name_or_path", "<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("seed", "9" * 5000, "9" * 5000),
    ],
)
def test_texts_are_read_as_on_a_command_line(name: str, text: str, value: Any) -> None:
    name = name if name in form_keys() else f"lora.{name}"
    assert read_text(name, text) == value


@pytest.mark.parametrize(("name", "text"), [("voice_choices", '{"vocal": '), ("order", "[1,"), ("freeze", '["a"')])
def test_what_begins_as_json_must_be_json(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name):
        with_typed({}, effective_values({}), {name: text})


def test_a_list_of_one_keeps_its_form() -> None:
    assert read_text("save_to_disk", "b", ["a"]) == ["b"]
    assert read_text("save_to_disk", "b", "a") == "b"


def test_an_alias_is_replaced_by_what_is_typed() -> None:
    assert with_typed({"evaluation_strategy": "epoch"}, effective_values({}), {"eval_strategy": "steps"}) == {
        "eval_strategy": "steps"
    }


def test_every_key_has_one_field() -> None:
    shown = [field.name for _, fields in form_sections() for field in fields]
    expected = [name for name, key in all_keys().items() if key.group in GROUPS]
    assert sorted(shown) == sorted([*expected, *(f"lora.{name}" for name in lora_keys())])
    assert not {*shown} & {key.name for key in keys_of("ignored", IgnoredArguments)}
    assert all(field.help for _, fields in form_sections() for field in fields)


def test_sections_name_keys_that_exist() -> None:
    named = [name for section in SECTIONS for name in section.keys]
    assert len(named) == len({*named}) and {*named} | COMMON | PATH_KEYS <= {*form_keys()}


def test_a_new_key_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    new = ConfigKey("brand_new", "training", int, 3, "Number of new things.")
    monkeypatch.setattr(sections, "form_keys", lambda: {**form_keys(), "brand_new": new})
    assert "brand_new" in [*sections._keys_of(SECTIONS[-1])]


def test_the_table_names_keys_that_exist() -> None:
    for entry in DEPENDENCIES:
        assert {*entry.choices, *entry.keys} <= {*form_keys()}, entry
        outcomes = {
            any(entry.holds(value) for value in values)
            for choice in entry.choices
            for values in ([each] for each in values_of(form_keys()[choice]))
        }
        assert outcomes == {True, False}, f"{entry.choices} decides nothing"


def test_every_key_is_shown_by_some_choice() -> None:
    """With few choices each key of a model, and without contradictions in what is shown at once."""
    choices: list[dict[str, Any]] = [
        {},
        {"preprocessing_only": True},
        {"do_eval": True, "eval_strategy": "steps", "predict_with_generate": True, "report_to": ["wandb"]},
        {"lora": {}, "push_to_hub": True, "add_vocal_loss": True},
        {"lora_config_path": "r16.json", "loss_spike_policy": "skip", "non_finite": "skip", "dtype": "float16"},
        {"lr_scheduler_type": "multistep"},
        {"lr_scheduler_type": "cosine_with_restarts"},
    ]
    shown = [meaningful_keys(effective_values(values)) for values in choices]
    assert frozenset().union(*shown) == {*form_keys()}
    for used in (TOKEN_KEYS, FLOW_KEYS):
        assert used <= frozenset().union(*shown)
    assert not TOKEN_KEYS & FLOW_KEYS, "each key is used by some kind of model"


@pytest.mark.parametrize(
    ("values", "shown", "hidden"),
    [
        ({}, {"lr_min_ratio", "lora", "num_train_epochs"}, {"lr_scheduler_gamma", "lora.r", "eval_steps"}),
        ({"lr_scheduler_type": "multistep"}, {"lr_scheduler_gamma", "lr_scheduler_milestones"}, {"lr_min_ratio"}),
        ({"lr_scheduler_type": "constant"}, {"learning_rate"}, {"warmup_steps", "lr_min_ratio"}),
        ({"lora": {"r": 4}}, {"lora.r", "lora_learning_rate"}, {"lora_config_path", "loras"}),
        ({"lora_config_path": "r8.json"}, {"lora_config_path", "lora_plus_ratio"}, {"lora", "lora.r"}),
        ({"eval_strategy": "steps"}, set(), {"eval_steps", "eval_strategy"}),
        ({"preprocessing_only": True}, {"train_dataset_name", "save_to_disk"}, {"learning_rate", "lora"}),
        ({"max_frames_per_batch": 9}, {"max_frames_per_batch"}, {"per_device_train_batch_size"}),
    ],
)
def test_only_what_means_something_is_shown(values: dict[str, Any], shown: set[str], hidden: set[str]) -> None:
    found = meaningful_keys(effective_values(values))
    assert shown <= found and not hidden & found


def test_links_in_a_help_text_are_text() -> None:
    assert without_links("as `--x`; see [the table `lora`](#the-table-lora)") == "as `--x`; see the table `lora`"
    assert all("](" not in without_links(key.help) for key in form_keys().values())
