"""`songgen configure`: what it chooses, and that `train` and `generate` need nothing else."""

import json
from pathlib import Path

import pytest
import soundfile
import training_fakes
from planning_fakes import BIG, SPEED, gpus

from songgen.cli.main import main
from songgen.config import RunConfig
from songgen.data.schema import DatasetInfo
from songgen.exit_codes import EXIT_DONE, EXIT_USAGE
from songgen.families.registry import family_of
from songgen.planning.check import check_run
from songgen.planning.choices import chosen_goals
from songgen.planning.configure import configure
from songgen.planning.facts import gather_facts
from songgen.planning.findings import Severity
from songgen.planning.memory import Processes
from songgen.tasks import VOCAL


def test_configure_then_train_then_generate_with_nothing_else_given(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["configure", str(world / "data"), "--hours", "0.00003"]) == EXIT_DONE
    printed = capsys.readouterr().out
    assert (
        "written: data-full.json, reasons in data-full.md" in printed
        and "next: songgen train data-full.json" in printed
    )
    values = json.loads(Path("data-full.json").read_text())
    table = Path("data-full.md").read_text()
    assert all(f"| `{key}` |" in table and f"\n{key} " in f"\n{printed}" for key in values)
    assert main(["check", "data-full.json", "--json"]) == EXIT_DONE
    record = json.loads(capsys.readouterr().out)
    assert not [finding for finding in record["findings"] if finding["severity"] != "note"]
    assert main(["train", "data-full.json"]) == EXIT_DONE
    errors = capsys.readouterr().err
    assert errors.startswith("size: 20 clips") and "\nmemory: about " in errors and "\ntime: about " in errors
    assert "peak memory after the first step: " in errors and "were estimated for the longest clips" in errors
    words = ["--model", values["output_dir"], "--caption", "calm", "--lyrics", "la la", "--seconds", "0.2"]
    assert main(["generate", *words, "--out", "song.wav"]) == EXIT_DONE
    assert soundfile.info("song.wav").frames > 0


def test_a_file_that_exists_is_not_replaced(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "own.json"
    out.write_text("{}")
    words = ["configure", str(world / "data"), "--out", str(out)]
    assert main(words) == EXIT_USAGE and out.read_text() == "{}"
    assert "exists; give another --out, or --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == EXIT_DONE and json.loads(out.read_text())["save_to_disk"]


def test_adapters_and_one_clip(world: Path) -> None:
    lora = configure([world / "data"], BIG, speed=SPEED, goal="lora")
    values = {choice.key: choice.value for choice in lora.choices}
    assert values["lora_config_path"] == "r16.json" and values["learning_rate"] == 1e-4
    assert lora.facts.costs is not None and lora.facts.costs.weights.frozen > 0
    qlora = configure([world / "data"], BIG, speed=SPEED, goal="qlora")
    assert qlora.facts.costs is not None and qlora.facts.costs.weights.quantized_bytes > 0
    one = configure([world / "data"], BIG, speed=SPEED, goal="try")
    assert one.facts.clips is not None and one.facts.clips.count == 1 and one.facts.held_out is None
    for configured in (lora, qlora, one):
        assert not [finding for finding in configured.findings if finding.severity is not Severity.NOTE]


def test_the_machine_decides_precision_and_batches(world: Path) -> None:
    def chosen(machine: object, **options: object) -> dict[str, object]:
        configured = configure([world / "data"], machine, speed=SPEED, **options)  # type: ignore[arg-type]
        return {choice.key: choice.value for choice in configured.choices}

    assert chosen(BIG)["dtype"] == "float32"
    assert chosen(gpus(1, 80e9))["dtype"] == "bfloat16"
    assert chosen(gpus(1, 80e9))["dataloader_num_workers"] == 2
    two = chosen(gpus(2, 80e9), processes=2)
    assert two["per_device_train_batch_size"] == 2, "a step of four clips, on two GPUs"


def test_clips_without_a_vocal_track_get_no_loss_of_the_vocal_heads(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, missing = training_fakes.make_rows, {"codes_vocal": None, "energy_vocal": None}
    monkeypatch.setattr(training_fakes, "make_rows", lambda *a, **k: [row | missing for row in rows(*a, **k)])
    info = json.loads((world / "data" / "dataset.json").read_text())
    kept = {"caption_tokenizer_fingerprint": info["caption_tokenizer_fingerprint"]}
    data = training_fakes.write_dataset(tmp_path / "data", world / "model", 20, 5, **kept)
    assert VOCAL in DatasetInfo.read(data).tracks, "the column is there, and empty"
    configured = configure([data], BIG, model=str(world / "model"), speed=SPEED)
    values = {choice.key: choice.value for choice in configured.choices}
    assert values["add_vocal_loss"] is False
    assert not [finding for finding in configured.findings if finding.severity is Severity.ERROR]
    config = RunConfig.from_dict(values | {"add_vocal_loss": True})
    (problem,) = check_run(gather_facts(config, BIG, Processes(), SPEED))[:1]
    assert problem.severity is Severity.ERROR and problem.suggestion == {"add_vocal_loss": False}


def test_without_a_model_that_fits_it_says_what_to_do(world: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(world / "data")
    values = json.loads((world / "data" / "dataset.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "dataset.json").write_text(json.dumps(values | {"codebook_size": 99}))
    with pytest.raises(ValueError, match="no model that fits"):
        configure([other], BIG, speed=SPEED)
    with pytest.raises(ValueError, match="codes of a codebook: 16 in the model, 99 in the data"):
        configure([other], BIG, model=str(world / "model"))


def test_few_clips_for_a_large_trained_model_get_an_adapter(world: Path) -> None:
    config = RunConfig.from_dict({"model_name_or_path": str(world / "model"), "save_to_disk": "d", "output_dir": "o"})
    family = family_of(str(world / "model"))
    assert family.costs is not None
    assert chosen_goals(family.costs(config), 10) == ("full",), "the tiny model is trained as a whole"
