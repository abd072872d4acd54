"""`songgen configure` and `songgen check` of flow models: keys, goals by memory, and a run with nothing else given."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planning_fakes import BIG, SPEED, gpus
from tiny_flow import write_latents, write_tiny_pipeline

from songgen.cli.main import main
from songgen.config import RunConfig
from songgen.exit_codes import EXIT_DONE
from songgen.families.flow import costs as flow_costs
from songgen.families.flow.costs import FlowCosts
from songgen.planning import choices
from songgen.planning.check import check_run
from songgen.planning.configure import configure
from songgen.planning.facts import gather_facts
from songgen.planning.findings import Severity
from songgen.planning.memory import Processes


@pytest.fixture(scope="module")
def flow_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guided and a turbo model, and latents for them, in folders of their own."""
    folder = tmp_path_factory.mktemp("flow")
    for name, is_turbo in (("guided", False), ("turbo", True)):
        model = write_tiny_pipeline(folder / name / "model", is_turbo=is_turbo)
        write_latents(folder / name / "data", model, train=12)
    return folder


@pytest.mark.parametrize("kind", ["guided", "turbo"])
def test_configure_then_check_then_train_with_nothing_else_given(
    flow_world: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["configure", str(flow_world / kind / "data"), "--hours", "0.00002", "--out", "run.json"]) == EXIT_DONE
    values = json.loads(Path("run.json").read_text())
    assert values["model_name_or_path"] == str(flow_world / kind / "model"), "found next to the data"
    assert values["timestep_sampling"] == {"guided": "logit_normal", "turbo": "discrete"}[kind]
    assert values["condition_dropout"] == {"guided": 0.1, "turbo": 0.0}[kind]
    assert not {"add_vocal_loss", "input_masking", "voice_choices"} & set(values), "keys of token models"
    capsys.readouterr()
    assert main(["check", "run.json", "--json"]) == EXIT_DONE
    record = json.loads(capsys.readouterr().out)
    assert not [finding for finding in record["findings"] if finding["severity"] != "note"], record["findings"]
    assert any("condition encoder" in name for name in record["memory"]["parts"]) and record["clips"] == 12
    if kind == "turbo":
        assert main(["train", "run.json"]) == EXIT_DONE
        assert (Path(values["output_dir"]) / "model_index.json").is_file()


def test_what_does_not_fit_into_memory_becomes_an_adapter(flow_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model counts as a large one here, and a GPU has room for its adapter, or only for that on 4 bits."""
    monkeypatch.setattr(choices, "LARGE_MODEL", 1000)
    monkeypatch.setattr(choices, "FEW_CLIPS", 5)  # so that all weights are the first choice
    real = FlowCosts.weights.func

    def heavy(self: FlowCosts) -> Any:
        counts = real(self)
        factor = 10**5
        return replace(
            counts, trained=counts.trained * factor, frozen=counts.frozen * factor,
            quantized_bytes=counts.quantized_bytes * factor, total=counts.total * factor,
        )  # fmt: skip

    monkeypatch.setattr(flow_costs.FlowCosts, "weights", property(heavy))
    data = [flow_world / "guided" / "data"]
    found = {
        room: configure(data, gpus(1, room * 1e9), model=str(flow_world / "guided" / "model"), speed=SPEED).goal
        for room in (1000, 120, 60)
    }
    assert found == {1000: "full", 120: "lora", 60: "qlora"}


def test_voices_are_not_missed_and_other_data_is_refused(flow_world: Path, world: Path, tmp_path: Path) -> None:
    required = {"output_dir": str(tmp_path / "run"), "model_name_or_path": str(flow_world / "guided" / "model")}
    config = RunConfig.from_dict({**required, "save_to_disk": str(flow_world / "guided" / "data")})
    facts = gather_facts(config, BIG, Processes(), SPEED)
    assert facts.memory is not None and facts.time is not None and facts.disk is not None
    assert not [finding for finding in check_run(facts) if finding.key == "voice_choices"]
    config = RunConfig.from_dict({**required, "save_to_disk": str(world / "data")})
    (problem,) = [
        it for it in check_run(gather_facts(config, BIG, Processes(), SPEED)) if it.severity == Severity.ERROR
    ]
    assert "kind of target: latents in the model, codes in the data" in problem.message


def test_few_clips_are_not_sorted_by_length_and_no_rule_asks_for_it(flow_world: Path, tmp_path: Path) -> None:
    model = flow_world / "turbo" / "model"
    few, many = (
        configure([write_latents(tmp_path / str(count), model, frames=(2, 300), train=count)], BIG,
                  model=str(model), speed=SPEED, goal="lora")
        for count in (7, 40)
    )  # fmt: skip
    chosen = [next(c for c in configured.choices if c.key == "group_by_length") for configured in (few, many)]
    assert [choice.value for choice in chosen] == [False, True]
    assert chosen[0].reason == "too few steps in an epoch to sort the clips"
    assert not [f for configured in (few, many) for f in configured.findings if f.key == "group_by_length"]
