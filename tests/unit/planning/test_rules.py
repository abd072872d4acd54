"""Every rule of `songgen check`, with the change that brings it out."""

import json
from pathlib import Path
from typing import Any

import pytest
from planning_fakes import BIG, FactsOf, gpus

from songgen.config import RunConfig
from songgen.planning import resource_rules
from songgen.planning.check import check_run, report_lines, report_record, three_lines
from songgen.planning.findings import Finding, Severity
from songgen.planning.machine import Machine, low_precision_problem
from songgen.planning.memory import Processes

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


def of_key(findings: list[Finding], key: str) -> list[Finding]:
    return [finding for finding in findings if finding.key == key]


def test_a_sensible_run_has_no_finding_above_a_note(facts_of: FactsOf) -> None:
    facts = facts_of()
    assert not facts.problems
    assert not [finding for finding in check_run(facts) if finding.severity is not NOTE]
    assert facts.length is not None and (facts.length.steps_per_epoch, facts.length.total_steps) == (5, 250)


@pytest.mark.parametrize(
    ("keys", "severity", "key", "suggestion"),
    [
        (
            {"per_device_train_batch_size": 30},
            WARNING,
            "per_device_train_batch_size",
            {"per_device_train_batch_size": 20},
        ),
        (
            {"gradient_accumulation_steps": 8},
            WARNING,
            "gradient_accumulation_steps",
            {"gradient_accumulation_steps": 5},
        ),
        ({ACCUMULATION: 2}, NOTE, ACCUMULATION, {}),
        ({"num_train_epochs": 2}, NOTE, "num_train_epochs", {}),
        ({"max_steps": 120}, NOTE, "max_steps", {}),
        (
            {"warmup_ratio": 0.0, "warmup_steps": 999},
            WARNING,
            "warmup_steps",
            {"warmup_steps": 0, "warmup_ratio": 0.05},
        ),
        ({"save_steps": 10_000}, WARNING, "save_steps", {"save_steps": "auto"}),
        ({"save_epochs": 400.0}, WARNING, "save_steps", {"save_steps": "auto", "save_epochs": None}),
        ({"eval_steps": 900}, WARNING, "eval_steps", {"eval_steps": "auto"}),
        ({"logging_steps": 900}, WARNING, "logging_steps", {"logging_steps": "auto"}),
        ({"plot_epochs": 400.0}, WARNING, "every_plot_step", {"every_plot_step": "auto", "plot_epochs": None}),
        ({"do_eval": False, "eval_strategy": "no"}, NOTE, "do_eval", {}),
        ({"max_eval_samples": 2}, NOTE, "eval_split_name", {}),
        ({"per_device_eval_batch_size": 9}, NOTE, "per_device_eval_batch_size", {"per_device_eval_batch_size": 5}),
        (
            {"predict_with_generate": True, "num_generated_samples": 9},
            WARNING,
            "num_generated_samples",
            {"num_generated_samples": 5},
        ),
        ({"resume": "nowhere/checkpoint-5"}, ERROR, "resume", {"resume": "auto"}),
        ({"voice_min_energy": 1e6}, WARNING, "voice_choices", {"voice_choices": {"none": 1}}),
        ({"max_frames_per_batch": 100}, NOTE, "per_device_train_batch_size", {}),
        ({"dataloader_num_workers": 40}, WARNING, "dataloader_num_workers", {"dataloader_num_workers": 2}),
        ({"min_duration_in_seconds": 20.0}, ERROR, "save_to_disk", {}),
        ({"lora": {}, "lora_learning_rate": 0.1}, WARNING, "lora_learning_rate", {"lora_learning_rate": 4e-4}),
        ({"lora": {}, "learning_rate": 1e-7}, WARNING, "learning_rate", {"learning_rate": 1e-4}),
    ],
)
def test_a_rule_finds_what_it_is_about(
    facts_of: FactsOf, keys: dict[str, Any], severity: Severity, key: str, suggestion: dict[str, Any]
) -> None:
    findings = of_key(check_run(facts_of(**keys)), key)
    assert [(finding.severity, dict(finding.suggestion)) for finding in findings] == [(severity, suggestion)]
    # What is suggested is a valid configuration, and the finding is gone with it.
    if suggestion:
        again = of_key(check_run(facts_of(**keys | suggestion)), key)
        assert not [finding for finding in again if finding.suggestion == suggestion]


def test_memory_that_is_short_suggests_what_fits(facts_of: FactsOf) -> None:
    roomy = facts_of(gpus(1, 80e9), per_device_train_batch_size=16)
    assert roomy.memory is not None and not of_key(check_run(roomy), "memory")
    free = (roomy.memory.total - 20e3) / resource_rules.TIGHT
    (finding,) = of_key(check_run(facts_of(gpus(1, free), per_device_train_batch_size=16)), "memory")
    assert finding.severity is WARNING and finding.suggestion["gradient_checkpointing"] is True
    smaller = facts_of(gpus(1, free), **{"per_device_train_batch_size": 16} | dict(finding.suggestion))
    assert smaller.memory is not None and smaller.memory.total < roomy.memory.total
    (finding,) = of_key(check_run(facts_of(gpus(1, 1e6))), "memory")
    assert finding.severity is ERROR and not finding.suggestion, "nothing makes a CUDA context smaller"


def test_a_smaller_micro_batch_keeps_the_clips_of_a_step(facts_of: FactsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_rules, "low_precision_problem", lambda kind, machine: "none here")
    facts = facts_of(gradient_checkpointing=True, per_device_train_batch_size=16)
    tried = list(resource_rules._smaller(facts))
    products = {change["per_device_train_batch_size"] * change["gradient_accumulation_steps"] for change in tried}
    assert products == {16} and tried[-1]["per_device_train_batch_size"] == 1


@pytest.mark.parametrize(
    ("machine", "processes", "keys", "severity", "key"),
    [
        (gpus(2, 80e9), 4, {}, ERROR, "num_processes"),
        (Machine((), 2, 8 * 2**30, 8 * 2**30), 4, {}, WARNING, "num_processes"),
        (Machine((), 64, 2**31, 2**30), 1, {"dataloader_num_workers": 6}, WARNING, "dataloader_num_workers"),
        (gpus(1, 80e9), 1, {}, NOTE, "dtype"),
        (gpus(1, 80e9, capability=(7, 5)), 1, {"dtype": "bfloat16"}, WARNING, "dtype"),
        (gpus(1, 80e9, capability=(6, 1)), 1, {"optimizer": "adamw_8bit"}, ERROR, "optimizer"),
    ],
)
def test_machines(
    facts_of: FactsOf, machine: Machine, processes: int, keys: dict[str, Any], severity: Severity, key: str
) -> None:
    findings = of_key(check_run(facts_of(machine, Processes(processes), **keys)), key)
    assert [finding.severity for finding in findings] == [severity]


def test_a_full_disk_is_an_error(facts_of: FactsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("songgen.planning.facts.free_bytes", lambda folder: 1_200_000)
    (finding,) = of_key(check_run(facts_of(save_total_limit=20)), "output_dir")
    assert finding.severity is ERROR and dict(finding.suggestion) == {"save_total_limit": 2}


def test_8_and_4_bits_are_tried_on_this_machine(facts_of: FactsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bitsandbytes installed they work here, as it computes on CPUs too; without it there is an error."""
    kinds = ("adamw_8bit", "nf4", "int8")
    assert [low_precision_problem(kind, BIG) for kind in kinds] == [None, None, None]
    lora = {"r": 2, "quantization": "nf4"}
    (finding,) = of_key(check_run(facts_of(lora=lora, optimizer="adamw_8bit")), "lora")
    assert finding.severity is NOTE and "works on this machine" in finding.message
    monkeypatch.setattr("songgen.planning.machine.importlib.util.find_spec", lambda name: None)
    findings = check_run(facts_of(lora=lora, optimizer="adamw_8bit"))
    (of_lora,), (of_optimizer,) = of_key(findings, "lora"), of_key(findings, "optimizer")
    assert of_lora.suggestion["lora"]["quantization"] == "none" and of_optimizer.suggestion == {"optimizer": "adamw"}
    assert {of_lora.severity, of_optimizer.severity} == {ERROR}


def test_what_changed_since_the_run_began_is_found_before_it_is_refused(facts_of: FactsOf, tmp_path: Path) -> None:
    config = facts_of(output_dir=str(tmp_path)).config
    config.save(tmp_path / "training_config.json")
    changes = {"output_dir": str(tmp_path), "per_device_train_batch_size": 2, "learning_rate": 5e-4}
    assert not of_key(check_run(facts_of(**changes)), "learning_rate"), "there is no checkpoint yet"
    with pytest.MonkeyPatch.context() as patch:
        saved = type("Saved", (), {"world_size": 2, "step": 5})
        patch.setattr("songgen.planning.run_rules.complete_checkpoints", lambda folder: {tmp_path: saved})
        findings = check_run(facts_of(**changes))
    errors = {finding.key: dict(finding.suggestion) for finding in findings if finding.severity is ERROR}
    assert errors == {
        "learning_rate": {"learning_rate": config.training.learning_rate},
        "per_device_train_batch_size": {"per_device_train_batch_size": 4},
        "num_processes": {"allow_world_size_change": True},
    }


def test_a_model_that_does_not_fit_the_data_is_an_error(facts_of: FactsOf, tmp_path: Path, world: Path) -> None:
    values = json.loads((world / "data" / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(values | {"num_codebooks": 9}))
    (finding,) = of_key(check_run(facts_of(save_to_disk=str(tmp_path))), "save_to_disk")
    assert "codebooks: 3 in the model, 9 in the data" in finding.message


def test_a_model_that_is_not_there_is_an_error_and_nothing_else_is_said_of_it(facts_of: FactsOf) -> None:
    facts = facts_of(model_name_or_path="./nowhere")
    (finding, *notes) = check_run(facts)
    assert (finding.severity, finding.key) == (ERROR, "model_name_or_path")
    assert all(note.severity is NOTE for note in notes)
    assert three_lines(facts)[0] == "size: not known"


def test_three_lines_and_reports_say_the_same(facts_of: FactsOf) -> None:
    facts = facts_of(warmup_steps=999, warmup_ratio=0.0)
    findings = check_run(facts)
    size, memory, time = three_lines(facts)
    assert "20 clips" in size and "50 epochs of 5 steps = 250 steps" in size and "5 held out" in size
    assert memory.startswith("memory: about ") and "program and libraries" in memory
    assert "within a factor of" in time and time.endswith(findings[0].text())
    text, record = "\n".join(report_lines(facts, findings)), report_record(facts, findings)
    assert facts.memory is not None and record["memory"]["total"] == facts.memory.total
    assert all(name in text for name in record["memory"]["parts"])
    assert json.loads(json.dumps(record))["findings"][0]["key"] == "warmup_steps"


def test_every_suggestion_is_a_key_with_a_valid_value(facts_of: FactsOf) -> None:
    wrong = {"save_steps": 9_999, "warmup_steps": 999, "warmup_ratio": 0.0, "per_device_train_batch_size": 40}
    facts = facts_of(**wrong)
    for finding in check_run(facts):
        RunConfig.from_dict(facts.config.to_dict() | dict(finding.suggestion))
