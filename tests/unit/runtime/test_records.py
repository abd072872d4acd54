"""Records that grow: files of earlier versions are read, those of later ones refused with a suggested fix."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from songgen.data.schema import DatasetInfo
from songgen.runtime.json_files import json_sha256, read_json_object
from songgen.runtime.records import Format
from songgen.train.checkpoints import state as checkpoint_state
from songgen.train.checkpoints.files import MANIFEST_FILE, Manifest
from songgen.train.checkpoints.state import TRAINER_STATE_FILE, TrainerState, upgraded_config

KEPT = Path(__file__).resolve().parents[2] / "golden" / "kept"
CHECKPOINTS = sorted(KEPT.glob("kept_runs/*/checkpoint-*"))


@dataclass(frozen=True)
class Part:
    name: str
    size: int = 0


@dataclass(frozen=True)
class Whole:
    step: int
    parts: dict[str, tuple[Part, ...]]
    main: Part | None = None
    rate: float = 1.0
    notes: list[str] = field(default_factory=list)
    schema_version: int = 3


def rename_steps(values: dict[str, Any]) -> dict[str, Any]:
    return {"step": values.pop("steps"), **values}


def name_parts(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"parts": {key: [{"name": name} for name in names] for key, names in values["parts"].items()}}


WHOLE = Format(Whole, 3, fix="make it again", upgrades={1: rename_steps, 2: name_parts}, unversioned=1)
LATEST = Whole(5, {"a": (Part("x", 2), Part("y"))}, Part("m"), 0.5, ["n"])


def test_what_is_written_is_read() -> None:
    assert WHOLE.parse(json.dumps(dataclasses.asdict(LATEST)), "file") == LATEST


def test_fields_that_were_added_take_their_defaults_also_in_parts() -> None:
    text = '{"step": 1, "parts": {"a": [{"name": "x"}]}, "schema_version": 3}'
    assert WHOLE.parse(text, "file") == Whole(1, {"a": (Part("x"),)})


@pytest.mark.parametrize(
    "values", [{"steps": 1, "parts": {"a": ["x"]}}, {"step": 1, "parts": {"a": ["x"]}, "schema_version": 2}]
)
def test_earlier_versions_go_through_every_upgrade_since(values: dict[str, Any]) -> None:
    assert WHOLE.read(values, "file") == Whole(1, {"a": (Part("x"),)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "file: not JSON.*make it again"),
        ("[]", "file holds no JSON object; make it again"),
        ('{"schema_version": 4}', "schema version 4, and .* reads up to 3: update songgen, or make it again"),
        ('{"schema_version": "3"}', "schema version '3'"),
        ('{"schema_version": 0}', "schema version 0, which is not read any more"),
        ('{"step": 1, "schema_version": 3}', r"missing keys \['parts'\].*make it again"),
        ('{"step": 1, "parts": {}, "x": 1, "schema_version": 3}', r"unknown keys \['x'\].*update songgen"),
        ('{"step": 1, "parts": {"a": [{"size": 1}]}, "schema_version": 3}', "does not have the expected form"),
        ('{"step": 1, "parts": ["a"], "schema_version": 3}', "does not have the expected form"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_suggested_fix(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WHOLE.parse(text, "file")


def state_values() -> dict[str, Any]:
    return read_json_object(CHECKPOINTS[0] / TRAINER_STATE_FILE)


def read_manifest_of(values: dict[str, Any]) -> Manifest:
    return Manifest.from_json(json.dumps({"sha256": json_sha256(values), "manifest": values}))


def dataset_of(values: dict[str, Any], folder: Path) -> DatasetInfo:
    (folder / "dataset.json").write_text(json.dumps(values))
    return DatasetInfo.read(folder)


def readers(folder: Path) -> dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]]:
    """Records of files that an earlier version wrote, and what reads them."""
    return {
        "state": (state_values(), lambda values: TrainerState.from_json(json.dumps(values))),
        "manifest": (read_json_object(CHECKPOINTS[0] / MANIFEST_FILE)["manifest"], read_manifest_of),
        "data set": (read_json_object(KEPT / "tokens" / "dataset.json"), lambda values: dataset_of(values, folder)),
        "configuration": (
            read_json_object(CHECKPOINTS[0] / "training_config.json"),
            partial(upgraded_config, where="it"),
        ),
    }


@pytest.mark.parametrize("name", ["state", "manifest", "data set", "configuration"])
def test_kept_files_are_read_and_those_of_a_newer_version_refused(name: str, tmp_path: Path) -> None:
    values, read = readers(tmp_path)[name]
    assert read(values) == read(values)
    with pytest.raises(ValueError, match="schema version 99.*update songgen, or"):
        read(values | {"schema_version": 99})


def test_a_checkpoint_that_lacks_a_field_added_since_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Grown(TrainerState):
        preferences_seen: int = 7

    monkeypatch.setattr(
        checkpoint_state, "_STATE_FORMAT", dataclasses.replace(checkpoint_state._STATE_FORMAT, record=Grown)
    )
    state = Grown.from_json(json.dumps(state_values()))
    assert isinstance(state, Grown) and state.preferences_seen == 7 and state.step == state_values()["step"]


def test_a_state_without_a_field_that_it_always_had_is_damaged() -> None:
    """Its default is the place of a run that begins."""
    names = set(state_values()) - {"schema_version"}
    assert names == checkpoint_state._STATE_FORMAT.required
    for name in names:
        values = {key: value for key, value in state_values().items() if key != name}
        with pytest.raises(ValueError, match=f"missing keys \\['{name}'\\]"):
            TrainerState.from_json(json.dumps(values))
