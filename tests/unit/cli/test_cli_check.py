"""`songgen check` as it is typed: the report, its exit code, JSON, and what --fix writes."""

import json
from pathlib import Path

import pytest
from launching import make_world, write_config

from songgen.cli.main import main
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_USAGE


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a data set."""
    return make_world(tmp_path_factory.mktemp("checked"), num_train=20, num_evaluation=5)


def test_the_report_names_every_part_and_the_exit_code_says_whether_it_starts(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(world, output_dir=str(world / "first"))
    assert main(["check", str(config)]) == EXIT_DONE
    printed = capsys.readouterr().out
    for words in (
        "machine: ",
        "size: 20 clips",
        "memory: about",
        "optimizer state",
        "frozen text encoder",
        "time: about",
    ):
        assert words in printed
    assert main(["check", str(config), "--resume", "nowhere"]) == EXIT_ERROR
    assert "error: resume: there is no checkpoint nowhere -> resume 'auto'" in capsys.readouterr().out


def test_fix_writes_only_what_is_suggested_and_keeps_base_and_order(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_config(world, output_dir=str(world / "base"), warmup_steps=500, num_train_epochs=50)
    own = world / "own.json"
    own.write_text('{\n  "save_steps": 5000,\n  "base": "base.json",\n  "output_dir": "o"\n}\n')
    before = base.read_bytes()
    assert main(["check", str(own), "--fix", "--dataloader_num_workers", "0"]) == EXIT_DONE
    printed = capsys.readouterr().out
    written = json.loads(own.read_text())
    assert list(written)[:3] == ["save_steps", "base", "output_dir"] and written["base"] == "base.json"
    assert written["save_steps"] == "auto" and written["warmup_steps"] == 0 and "dataloader_num_workers" not in written
    assert '-  "save_steps": 5000,' in printed and '+  "save_steps": "auto",' in printed
    assert "per_device_eval_batch_size" not in written, "a note suggests it, and notes need no change"
    assert base.read_bytes() == before
    assert main(["check", str(own), "--json"]) == EXIT_DONE
    record = json.loads(capsys.readouterr().out)
    assert not [finding for finding in record["findings"] if finding["severity"] != "note"]
    fixed = own.read_text()
    assert main(["check", str(own), "--fix"]) == EXIT_DONE
    assert own.read_text() == fixed, "nothing was left to write"


def test_a_key_of_the_command_line_is_not_written_into_the_file(world: Path) -> None:
    config = write_config(world, output_dir=str(world / "second"), num_train_epochs=50, save_steps="auto")
    before = json.loads(config.read_text())
    main(["check", str(config), "--fix", "--save_steps", "7000"])
    assert json.loads(config.read_text()) == before


def test_shipped_files_are_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "mixed_pro/step1.json", "--fix"]) == EXIT_USAGE
    assert "is shipped with songgen and is not changed" in capsys.readouterr().err


def test_launch_files_say_what_processes_share(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(world, output_dir=str(world / "third"))
    counted = {}
    for file in ("ddp_8_gpus.yaml", "fsdp2_zero2_8_gpus.yaml", "fsdp2_8_gpus.yaml", "deepspeed_zero2_8_gpus.yaml"):
        main(["check", str(config), "--json", "--config_file", file])
        counted[file] = json.loads(capsys.readouterr().out)["memory"]["parts"]
    weights = {file: parts["trained weights"]["bytes"] for file, parts in counted.items()}
    moments = {file: parts["optimizer state"]["bytes"] for file, parts in counted.items()}
    whole, shard = weights["ddp_8_gpus.yaml"], weights["fsdp2_8_gpus.yaml"]
    assert shard == whole // 8 and weights["fsdp2_zero2_8_gpus.yaml"] == whole
    assert set(moments.values()) == {2 * whole, 2 * whole // 8}
    assert "exchange of gradients" in counted["deepspeed_zero2_8_gpus.yaml"]
