"""The part Configure: starting points, state of the form, checks, saving, and what may not be reached."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_pages import Answer, Client, serving
from planning_fakes import world
from starlette.responses import HTMLResponse

from songgen.config.recipes import TRAINING, recipe_folder
from songgen.data.batch_plan import BatchPlan
from songgen.runtime.json_files import read_json_object
from songgen.ui.configuring import planner
from songgen.ui.configuring.files import Start, adapter_presets, from_preset, saved_configs, training_presets
from songgen.ui.configuring.form_values import effective_values
from songgen.ui.configuring.labels import GOALS, LABELS, MEMORY_PARTS, PRESETS
from songgen.ui.configuring.planner import answer
from songgen.ui.configuring.sections import SECTIONS, form_keys
from songgen.ui.configuring.units import steps_per_epoch, unit_notes
from songgen.ui.configuring.worker import Worker
from songgen.ui.parts.configure import ConfigurePart
from songgen.ui.site import Site
from songgen.ui.translation import translator
from songgen.ui.workspace import CONFIGS_FOLDER, Workspace
from songgen.web.application import PageRoute

__all__ = ["world"]


class InThisProcess:
    """Answers without a process of its own, which would take seconds to start."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(kind)
        found: dict[str, Any] = json.loads(json.dumps(answer(kind, json.loads(json.dumps(request)))))
        return found


class Page:
    """The page of a workspace."""

    def __init__(self, root: Path, client: Client, planner: InThisProcess) -> None:
        self.root, self.client, self.planner = root, client, planner

    def send(self, action: str, /, **body: Any) -> Answer:
        return self.client.post(f"/api/configure/{action}", body)

    def ask(self, action: str, /, **body: Any) -> Any:
        answered = self.send(action, **body)
        assert answered.status == 200, answered.body
        return answered.json

    def refusal(self, action: str, /, **body: Any) -> str:
        answered = self.send(action, **body)
        assert answered.status == 422, answered.body
        return str(answered.json["error"])

    def run_config(self, **keys: Any) -> dict[str, Any]:
        return {"model_name_or_path": "model", "save_to_disk": "data", "output_dir": "outputs/run", **keys}


@pytest.fixture(scope="module")
def page(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    root = tmp_path_factory.mktemp("workspace").resolve()
    for name in ("model", "data"):
        (root / name).symlink_to(world / name)
    workspace, planner = Workspace(root, (world.resolve(),)), InThisProcess()
    part = ConfigurePart(Site(workspace), planner)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        with serving([*part.routes(), PageRoute("/", lambda request: HTMLResponse("home"))]) as client:
            yield Page(root, client, planner)


def test_the_page_has_every_field_with_label_and_help(page: Page) -> None:
    html = page.client.get("/configure").body.decode()
    for name in form_keys():
        id = f"key-{name.replace('.', '-')}"
        assert f'id="{id}"' in html and f'id="{id}-help"' in html and f'data-field="{name}"' in html
        assert f'for="{id}"' in html or f'<label class="switch"><input type="checkbox" id="{id}"' in html
    assert "<script>" not in html and "onclick=" not in html and "style=" not in html


def test_every_text_of_the_form_is_translated() -> None:
    t = translator("zh")
    texts = [
        *LABELS.values(),
        *GOALS.values(),
        *MEMORY_PARTS,
        *PRESETS.values(),
        *(section.title for section in SECTIONS),
    ]
    same = {text for text in texts if t(text) == text}
    assert same <= {text for text in texts if text.startswith(("AdamW", "Alpha", "Top"))}
    assert {*LABELS} <= {*form_keys()}, "a label of a key that is gone"
    assert len({*LABELS.values()}) == len(LABELS), "two keys under one name"


def test_what_is_typed_changes_the_file_and_what_is_shown(page: Page) -> None:
    values = page.run_config(lr_min_ratio=0.1, unknown=[1])
    state = page.ask("state", values=values, typed={"lr_scheduler_type": "multistep", "learning_rate": "fast"})
    assert state["values"] == values | {"lr_scheduler_type": "multistep", "learning_rate": "fast"}
    assert json.loads(state["json"]) == state["values"]
    assert "lr_scheduler_gamma" in state["shown"] and "lr_min_ratio" not in state["shown"]
    assert "lr_min_ratio" in state["given"], "hidden, named, and kept"
    assert "float > 0" in state["problems"]["learning_rate"][0]
    assert any("unknown" in text for text in state["problems"][""])
    again = page.ask("state", values=state["values"], typed={"lr_scheduler_type": "", "learning_rate": "1e-4"})
    assert again["values"] == values | {"learning_rate": 1e-4}


def test_the_text_of_the_file_can_be_edited(page: Page) -> None:
    state = page.ask("state", json='{"seed": 7, "other": {"a": 1}, "dtype": "bf16"}')
    assert state["texts"]["seed"] == "7" and state["values"]["other"] == {"a": 1}
    assert page.ask("state", values=state["values"])["values"] == state["values"]
    for text in ('{"seed": ', "[1]", '{"seed": 1, "seed": 2}', '{"a": NaN}', "[" * 50_000):
        assert page.refusal("state", json=text)


def test_what_cannot_be_read_stays_out_of_the_file(page: Page) -> None:
    state = page.ask("state", values={"seed": 7}, typed={"voice_choices": '{"vocal": ', "seed": "8"})
    assert state["values"] == {"seed": 8} and "JSON" in state["problems"]["voice_choices"][0]


def test_a_base_is_kept_and_its_values_are_shown(page: Page) -> None:
    folder = page.root / CONFIGS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.json").write_text('{"learning_rate": 0.5, "lora": {"r": 4}}')
    state = page.ask("state", name="next", values={"base": "mine.json"}, typed={"seed": "3"})
    assert state["values"] == {"base": "mine.json", "seed": 3}
    assert state["inherited"]["learning_rate"] == state["texts"]["learning_rate"] == "0.5"
    assert state["texts"]["lora.r"] == "4" and "learning_rate" not in state["given"]
    assert page.ask("state", values=state["values"], typed={"learning_rate": "0.5"})["values"] == state["values"]
    missing = page.ask("state", values={"base": "no.json"})
    assert missing["problems"][""] and missing["values"] == {"base": "no.json"}
    circle = {"base": "mine.json"}
    (folder / "mine.json").write_text('{"base": "mine.json"}')
    assert page.ask("state", name="next", values=circle)["problems"][""]


def test_the_adapter_is_a_table_of_fields(page: Page) -> None:
    state = page.ask("state", values={}, typed={"lora": "true"})
    assert state["values"] == {"lora": {}} and {"lora.r", "lora_plus_ratio"} <= {*state["shown"]}
    state = page.ask("state", values=state["values"], typed={"lora.r": "64", "lora.target_modules": "heads\nfc1"})
    assert state["values"] == {"lora": {"r": 64, "target_modules": ["heads", "fc1"]}}
    for preset in adapter_presets():
        chosen = page.ask("state", values={"lora_config_path": "x.json"}, adapter=preset)["values"]
        assert chosen["lora"] == page.ask("state", values=chosen)["values"]["lora"] and "lora_config_path" not in chosen
    assert page.ask("state", values=chosen, typed={"lora": "false"})["values"].get("lora") is None
    assert "9z" in page.ask("state", values={}, typed={"lora.r": "9z"})["problems"]["lora.r"][0]


@pytest.mark.parametrize("preset", training_presets())
def test_presets_mean_the_same_without_their_base(page: Page, preset: str) -> None:
    start = page.ask("open", kind="preset", preset=preset, model="model", data="data")
    assert start["values"]["model_name_or_path"] == "model" and start["values"]["save_to_disk"] == "data"
    own = read_json_object(recipe_folder() / TRAINING / preset)
    for name in {*own} & {*form_keys()} - {"model_name_or_path", "save_to_disk", "output_dir"}:
        assert effective_values(start["values"])[name] == own[name]
    assert "base" not in start["values"]


def test_presets_and_adapters_show_their_memory(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def for_short_clips(name: str, **chosen: str) -> Start:
        start = from_preset(name, **chosen)
        return replace(start, values={**start.values, "min_duration_in_seconds": 0.0})

    monkeypatch.setattr(planner, "from_preset", for_short_clips)
    found = page.ask("presets", model="model", data="data")
    assert [entry["name"] for entry in found["presets"]] == training_presets() and {*PRESETS} == {*training_presets()}
    assert all(entry["summary"] for entry in found["presets"])
    assert [name.startswith("demo/") for name in training_presets()] == sorted(
        name.startswith("demo/") for name in training_presets()
    ), "those of the demo are the last"
    assert any((entry["memory"] or 0) > 10**8 for entry in found["presets"])
    assert all(entry["memory"] or entry["problem"] for entry in found["presets"])
    asked = len(page.planner.asked)
    assert page.ask("presets", model="someone/model", data="data")["free"] is None
    assert len(page.planner.asked) == asked, "the hub is not asked"
    adapters = page.ask("adapters", values=page.run_config())["adapters"]
    assert {*adapters} == {*adapter_presets()} and adapters["r8.json"] < adapters["r256.json"]


def test_advice_explains_every_choice(page: Page) -> None:
    start = page.ask("open", kind="advice", data=["data"], model="model", goal="lora", hours=1, processes=2)
    assert {*start["reasons"]} >= {*start["values"]} - {"lora_learning_rate"}
    assert start["values"]["lora"]["r"] == 16 and Path(start["values"]["save_to_disk"]).samefile("data")
    assert "data" in page.refusal("open", kind="advice", data=[])
    assert "goal" in page.refusal("open", kind="advice", data=["data"], goal="rule")
    assert page.refusal("open", kind="advice", data=["data"], hours=-1)


def test_advice_without_a_model_points_to_its_field(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to an option of the command."""
    other = page.root / "outputs" / "other"
    shutil.copytree("model", other)
    several = page.send("open", kind="advice", data=["data"])
    shutil.rmtree(other)
    assert several.status == 422 and several.json["field"] == "start-model", several.body
    assert "several models fit" in several.json["error"] and "outputs/other" in several.json["error"]
    assert "--model" not in several.json["error"]

    def configure(*arguments: Any, **options: Any) -> None:
        raise planner.ModelNotFound("none")

    monkeypatch.setattr(planner, "configure", configure)
    none = page.send("open", kind="advice", data=["data"])
    assert none.status == 422 and none.json["field"] == "start-model" and "no model fits" in none.json["error"]


def test_an_earlier_run_is_repeated_or_continued(page: Page) -> None:
    run = page.root / "outputs" / "first"
    run.mkdir(parents=True)
    keys = page.run_config(output_dir="outputs/first", num_train_epochs=25, seed=1, resume="never")
    (run / "metrics.jsonl").write_text("")
    (run / "training_config.json").write_text(json.dumps(effective_keys(keys)))
    again = page.ask("open", kind="run", path="outputs/first")["values"]
    assert again == page.run_config(output_dir="outputs/first-2", num_train_epochs=25, seed=1)
    more = page.ask("open", kind="run", path="outputs/first", more_epochs=25)
    assert more["values"]["num_train_epochs"] == 50 and more["values"]["output_dir"] == "outputs/first"
    assert more["values"]["allow_config_changes"] is True and "resume" not in more["values"] and more["notice"]
    (run / "training_config.json").write_text('{"num_train_epochs": "many", "output_dir": 3}')
    assert page.ask("open", kind="run", path="outputs/first")["values"]["output_dir"] == "outputs/first-2"
    assert "continued" in page.refusal("open", kind="run", path="outputs/first", more_epochs=1)
    (run / "training_config.json").write_text(json.dumps(effective_keys(keys)))
    data = page.ask("open", kind="data", path="data")
    assert data["values"]["seed"] == 1 and data["values"]["output_dir"] == "outputs/first-2" and data["notice"]
    assert page.refusal("open", kind="run", path="outputs")
    assert page.refusal("open", kind="data", path="model")


def effective_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in effective_values(values).items() if "." not in name}


def test_validate_is_the_check_of_the_command(page: Page) -> None:
    keys = page.run_config(do_eval=True, eval_strategy="steps", num_train_epochs=50, per_device_train_batch_size=64)
    checked = page.ask("check", values=keys, processes=2)
    assert checked["clips"] == 20 and checked["held_out"] == 5 and checked["memory"]["total"] > 10**8
    (finding,) = [each for each in checked["findings"] if each["key"] == "per_device_train_batch_size"]
    assert finding["suggestion"] == {"per_device_train_batch_size": 20} and finding["severity"] == "warning"
    applied = page.ask("state", values=keys, changes=finding["suggestion"])["values"]
    assert applied == keys | {"per_device_train_batch_size": 20}
    assert "timestep_mean" in checked["unused_keys"]
    wrong = page.ask("check", values=keys | {"learning_rate": -1, "lora": {"r": 0}})["findings"]
    assert {each["key"] for each in wrong} == {"learning_rate", "lora.r"}
    assert all(each["severity"] == "error" and not each["message"].startswith(each["key"]) for each in wrong)
    asked = len(page.planner.asked)
    assert page.ask("check", values=keys | {"model_name_or_path": "someone/model"}, automatic=True) == {"skipped": True}
    assert len(page.planner.asked) == asked


def test_a_suggestion_replaces_other_forms_of_an_adapter(page: Page) -> None:
    state = page.ask("state", values={"lora_config_path": "r16_nf4.json"}, changes={"lora": {"r": 16}})
    assert state["values"] == {"lora": {"r": 16}}


def test_nothing_is_enforced_on_save_and_overwriting_asks(page: Page) -> None:
    values = {"learning_rate": "nonsense", "unknown": {"a": ["ü", "\ud83d"]}}
    assert "could not be written" in page.refusal("save", name="first-try", values=values)
    values["unknown"] = {"a": ["ü"]}
    assert page.ask("save", name="first-try", values=values) == {
        "exists": False, "file": "outputs/configs/first-try.json",
    }  # fmt: skip
    assert page.ask("save", name="first-try", values={})["exists"] is True
    assert read_json_object(page.root / CONFIGS_FOLDER / "first-try.json") == values
    assert page.ask("save", name="first-try", values={"seed": 1}, overwrite=True)["exists"] is False
    assert page.ask("open", kind="saved", path="outputs/configs/first-try.json")["values"] == {"seed": 1}
    names = [entry["name"] for entry in page.client.get("/api/configure/saved").json["saved"]]
    assert "first-try" in names
    moved = page.ask("delete", name="first-try")["moved_to"]
    assert read_json_object(page.root / moved) == {"seed": 1}
    assert "first-try" in page.refusal("delete", name="first-try")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-rf", "x\0", "a" * 81, "con fig", "x\n", "/etc/x"])
def test_names_are_names_of_files(page: Page, name: str) -> None:
    assert page.refusal("save", name=name, values={})
    assert page.refusal("delete", name=name)
    assert not list(page.root.glob("*.json")) and not list(page.root.parent.glob("x.json"))


@pytest.mark.parametrize(
    "values",
    [
        {"model_name_or_path": "/etc"},
        {"save_to_disk": ["data", "../.."]},
        {"audio_codec": {"type": "dac", "path": "~/x"}},
        {"lora_config_path": "/etc/passwd"},
        {"lora_config_path": "../../secret.json"},
        {"lora": {"target_modules": "/etc/shadow"}},
        {"base": "/etc/passwd"},
        {"base": "../../../../etc/hosts"},
        {"checkpoint_dir": "/root"},
        {"whatever": [{"deep": ["/etc/passwd"]}]},
        {"resume": "/var"},
    ],
)  # fmt: skip
def test_nothing_outside_of_the_folders_is_read(page: Page, values: dict[str, Any], tmp_path: Path) -> None:
    asked = len(page.planner.asked)
    for action in ("check", "save", "adapters"):
        assert "outside" in page.refusal(action, name="hostile", values=page.run_config() | values)
    assert "outside" in str(page.ask("state", values=values)["problems"][""])
    assert len(page.planner.asked) == asked and not (page.root / CONFIGS_FOLDER / "hostile.json").exists()


def test_configurations_of_prepare_are_not_offered_for_training(tmp_path: Path) -> None:
    folder = tmp_path / CONFIGS_FOLDER
    folder.mkdir(parents=True)
    (folder / "prepare-songs.json").write_text('{"inputs": ["songs"], "output_dir": "data"}')
    (folder / "run.json").write_text('{"save_to_disk": "data"}')
    assert {entry["name"] for entry in saved_configs(Workspace(tmp_path.resolve()))} == {"run"}


def test_a_base_inside_must_not_lead_outside(page: Page) -> None:
    folder = page.root / CONFIGS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.json").write_text('{"base": "/etc/passwd"}')
    (folder / "other.json").write_text('{"save_to_disk": "/etc"}')
    (folder / "link.json").symlink_to("/etc/hosts")
    for base in ("step.json", "other.json", "link.json"):
        assert "outside" in page.refusal("check", values={"base": base}), base
    assert all(entry["name"] != "link" for entry in saved_configs(Workspace(page.root)))
    for kind in ("saved", "run", "data"):
        for path in ("/etc/passwd", "../..", "", "\0"):
            assert page.refusal("open", kind=kind, path=path)


@pytest.mark.parametrize(
    "body",
    [
        {"values": []},
        {"values": {}, "typed": {"seed": 1}},
        {"values": {}, "typed": []},
        {"values": {}, "changes": 1},
        {"values": {}, "processes": True},
        {"values": {}, "processes": 10**9},
        {"json": 1},
        {"values": {}, "adapter": "../x"},
        {"values": {}, "name": 1},
    ],
)
def test_other_bodies_are_refused_with_a_message(page: Page, body: dict[str, Any]) -> None:
    answered = page.send("state", **body)
    assert answered.status == 422 or answered.json["problems"].get("")


@pytest.mark.parametrize("value", ["<script>", [[]], {"a": None}, True, -1, 1e300, "x" * 3_000, None, [None, {}]])
def test_whatever_a_file_contains_is_shown(page: Page, value: Any) -> None:
    names = [name for name in form_keys() if "." not in name and name not in ("lora_config_path", "lora")]
    entries = {name.removeprefix("lora."): value for name in form_keys() if "." in name}
    for values in ({name: value for name in names}, {"lora": entries}, {"lora": value}):
        state = page.ask("state", values=values)
        assert state["values"] == values and state["problems"]
        assert all(isinstance(text, str) for text in state["texts"].values())


@pytest.mark.parametrize(("clips", "batch", "accumulation", "processes"), [(20, 4, 1, 1), (21, 4, 3, 2), (5, 8, 2, 8)])
def test_epochs_are_what_the_trainer_calls_epochs(clips: int, batch: int, accumulation: int, processes: int) -> None:
    plan = BatchPlan([10] * clips, batch_size=batch, max_frames_per_batch=None, world_size=processes,
                     accumulation=accumulation, seed=1, group_by_length=False, order="random")  # fmt: skip
    assert steps_per_epoch(clips, batch, accumulation, processes) == plan.steps_per_epoch(0)


def test_steps_and_epochs_are_shown_for_each_other(page: Page) -> None:
    values = effective_values({
        "num_train_epochs": 2.5, "per_device_train_batch_size": 4, "warmup_ratio": 0.1, "save_epochs": 0.5,
        "eval_strategy": "steps", "do_eval": True, "eval_steps": 10, "learning_rate": "wrong",
    })  # fmt: skip
    notes = unit_notes(values, clips=20, processes=1)
    assert (notes["steps_per_epoch"], notes["total_steps"], notes["clips_per_step"]) == (5, 13, 4)
    assert notes["keys"]["num_train_epochs"]["steps"] == 13 and notes["keys"]["warmup_ratio"]["steps"] == 2
    assert notes["keys"]["save_epochs"]["steps"] == 2 and notes["keys"]["eval_steps"]["epochs"] == 2
    assert unit_notes(values | {"max_frames_per_batch": 100}, clips=20, processes=1) == {}
    by_frames = unit_notes(values | {"max_frames_per_batch": 100}, clips=20, processes=1, measured_steps=7)
    assert by_frames["steps_per_epoch"] == 7 and by_frames["clips_per_step"] is None
    keys = page.run_config(num_train_epochs=2.5, per_device_train_batch_size=3)
    checked = page.ask("check", values=keys, processes=2)
    texts = {"num_train_epochs": "2.5", "per_device_train_batch_size": "3"}
    typed = page.ask("state", values=page.run_config(), typed=texts, processes=2, clips=checked["clips"])
    assert typed["units"]["total_steps"] == checked["total_steps"] == 10
    assert typed["units"]["steps_per_epoch"] == checked["steps_per_epoch"] == 4


def test_commands_are_those_that_do_the_same(page: Page) -> None:
    state = page.ask("state", name="mine", values=page.run_config(), processes=4)
    assert state["commands"] == [
        "songgen check outputs/configs/mine.json --num_processes=4",
        "songgen train outputs/configs/mine.json --num_processes=4",
    ]
    assert "tokenize" in page.ask("state", values={"preprocessing_only": True})["commands"][0]


@pytest.mark.faults
def test_a_process_of_its_own_answers_until_it_takes_too_long(page: Page) -> None:
    """The real one; a question without an end is given up, and the next one is answered by another process."""
    worker = Worker(page.root, idle_seconds=300)
    try:
        within = [str((page.root / "model").resolve())]
        found = worker.ask("places", {"roots": ["model"], "within": within})
        assert [entry["folder"] for entry in found["model"]] == ["model"]
        with pytest.raises(ValueError, match="does not exist|there is no folder"):
            worker.ask("places", {"roots": ["nowhere"], "within": within})
        first = worker._process
        assert first is not None
        worker._seconds = 0.0
        with pytest.raises(ValueError, match="takes longer"):
            worker.ask("check", {"path": "x.json", "values": page.run_config(), "processes": 1})
        assert first.poll() is not None and worker._process is None
    finally:
        worker.close()


@pytest.mark.parametrize("key", ["num_train_epochs", "warmup_epochs", "save_epochs", "logging_epochs", "plot_epochs"])
def test_lengths_beyond_all_numbers_have_no_other_unit(page: Page, key: str) -> None:
    values = page.run_config(warmup_ratio=0.1, **{key: 1e308})
    assert page.ask("state", values=values, clips=1000, processes=3)["units"] == {}
