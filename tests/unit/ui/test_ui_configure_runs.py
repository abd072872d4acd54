"""Earlier runs that a configuration can start from, two that are saved at once, and the process that answers."""

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint_fakes import contents, manager

from songgen.runtime.records import VERSION_KEY
from songgen.runtime.status import RUN_STATUS_FILE
from songgen.train.checkpoints.state import SAVED_CONFIG_VERSION
from songgen.ui.configuring import files, worker
from songgen.ui.configuring.earlier import from_data, from_run, last_state, newest_run_on, states_of
from songgen.ui.configuring.worker import Worker
from songgen.ui.workspace import CONFIGS_FOLDER, Workspace

DATA = "datasets/songs"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / DATA).mkdir(parents=True)
    (tmp_path / DATA / "dataset.json").write_text("{}")
    return Workspace(tmp_path.resolve())


def write_run(workspace: Workspace, folder: str, *, time: float = 0.0, **keys: Any) -> Path:
    """Write the folder of a run that has stopped."""
    run = workspace.root / folder
    run.mkdir(parents=True, exist_ok=True)
    config = {
        "model_name_or_path": "models/base",
        "save_to_disk": DATA,
        "output_dir": folder,
        "num_train_epochs": 25,
        **keys,
    }
    (run / "training_config.json").write_text(json.dumps(config))
    status = {"status": "stopped", "run_id": "1", "rank": 0, "step": 2, "total_steps": 9, "exit_code": 0,
              "reason": None, "time": 1.0}  # fmt: skip
    (run / RUN_STATUS_FILE).write_text(json.dumps(status))
    if time:
        os.utime(run / RUN_STATUS_FILE, (time, time))
    return run


def add_checkpoints(run: Path, *steps: int) -> list[Path]:
    """Write checkpoints, each with the configuration of the run, as a run does."""
    config = json.loads((run / "training_config.json").read_text())
    folders = [manager(run).save(replace(contents(step), config=config)) for step in steps]
    return [folder for folder in folders if folder is not None]


def test_a_checkpoint_is_not_a_run(workspace: Workspace) -> None:
    run = write_run(workspace, "outputs/adapter", seed=1, time=100.0)
    checkpoint = add_checkpoints(run, 1, 2)[-1]
    assert from_data(workspace, DATA).values["output_dir"] == "outputs/adapter-2"
    shown = workspace.shown(checkpoint)
    assert from_run(workspace, shown).values["output_dir"] == "outputs/adapter-2"
    more = from_run(workspace, shown, 25).values
    assert (more["output_dir"], more["num_train_epochs"]) == ("outputs/adapter", 50)


def test_runs_are_found_wherever_the_part_train_finds_them(workspace: Workspace) -> None:
    """Not only in `outputs`, and deeper than two folders."""
    write_run(workspace, "outputs/old", time=100.0)
    newest = write_run(workspace, "work/a/b/mine", time=200.0)
    write_run(workspace, "outputs/of_other_data", save_to_disk="datasets/other", time=300.0)
    (workspace.root / "outputs" / "damaged").mkdir()
    (workspace.root / "outputs" / "damaged" / RUN_STATUS_FILE).write_text("{}")
    (workspace.root / "outputs" / "damaged" / "training_config.json").write_text("[")
    assert newest_run_on(workspace, workspace.root / DATA) == newest
    assert newest_run_on(workspace, workspace.root / "datasets") is None


def test_a_data_set_offers_to_continue_its_last_run_and_says_where_it_is(workspace: Workspace) -> None:
    assert last_state(workspace, data=DATA) is None
    with pytest.raises(ValueError, match="none to continue"):
        from_data(workspace, DATA, 5)
    run = write_run(workspace, "outputs/mine")
    assert (last_state(workspace, data=DATA) or {})["checkpoint"] is None
    add_checkpoints(run, 1, 2)
    last = last_state(workspace, data=DATA)
    assert last is not None and (last["folder"], last["state"], last["total_steps"]) == ("outputs/mine", "stopped", 9)
    assert last["checkpoint"]["step"] == 2 and last == last_state(workspace, run="outputs/mine")
    more = from_data(workspace, DATA, 5)
    assert more.values["output_dir"] == "outputs/mine" and more.values["num_train_epochs"] == 30
    assert "resumes" in more.notice and "new run" in from_data(workspace, DATA).notice


def test_only_valid_states_are_offered_to_resume_from(workspace: Workspace) -> None:
    run = write_run(workspace, "outputs/mine")
    folders = add_checkpoints(run, 1, 2, 3)
    (folders[-1] / "manifest.json").write_text("{")
    assert [state["folder"] for state in states_of(workspace, "outputs/mine")] == [
        "outputs/mine/checkpoint-2", "outputs/mine/checkpoint-1",
    ]  # fmt: skip
    assert states_of(workspace, "outputs/new") == []
    with pytest.raises(ValueError, match="outside"):
        states_of(workspace, "/etc")


def test_the_configuration_of_a_run_is_read_as_this_version_writes_it(workspace: Workspace) -> None:
    run = write_run(workspace, "outputs/mine", lora={"r": "many"}, **{VERSION_KEY: SAVED_CONFIG_VERSION})
    values = from_run(workspace, "outputs/mine").values
    assert values["lora"] == {"r": "many"} and VERSION_KEY not in values, "problems are shown by the form"
    config = json.loads((run / "training_config.json").read_text())
    (run / "training_config.json").write_text(json.dumps({**config, VERSION_KEY: SAVED_CONFIG_VERSION + 1}))
    with pytest.raises(ValueError, match="version"):
        from_run(workspace, "outputs/mine")


def test_of_two_browsers_that_save_one_name_one_is_asked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write, both = files.write_text_atomic, threading.Barrier(2)

    def slowly(path: Path, text: str) -> None:
        try:
            both.wait(0.3)  # passed only if both have found that there is no file
        except threading.BrokenBarrierError:
            pass
        write(path, text)

    monkeypatch.setattr(files, "write_text_atomic", slowly)
    with ThreadPoolExecutor(2) as pool:
        saving = [
            pool.submit(files.save_config, workspace, "mine", {"seed": n}, overwrite=False) for n in range(2)
        ]  # fmt: skip
        assert sum(each.result() is None for each in saving) == 1
    assert (workspace.root / CONFIGS_FOLDER / "mine.json").is_file()


ENDS = "import sys; sys.stderr.write('a warning\\nImportError: half a file\\n'); sys.exit(3)"
KILLED = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
ANSWERS = "import sys; sys.stdin.readline(); print('{\"fine\": true}', flush=True)"


def programs(monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[str]:
    """Let these programs be the processes, one after the other; return those that are left."""
    left = [*texts]
    monkeypatch.setattr(worker, "python_module", lambda *_: [sys.executable, "-SEc", left.pop(0)])
    return left


def test_the_last_words_of_a_process_that_ends_are_said_after_a_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = programs(monkeypatch, ENDS, ENDS, ANSWERS)
    with pytest.raises(ValueError, match="exit code 3: ImportError: half a file$"):
        Worker(tmp_path).ask("check", {})
    assert len(left) == 1
    left[:] = [ENDS, ANSWERS]
    again = Worker(tmp_path)
    assert again.ask("check", {}) == {"fine": True} and not left
    again.close()


def test_a_process_that_was_killed_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = programs(monkeypatch, KILLED, ANSWERS)
    with pytest.raises(ValueError, match="lack of memory"):
        Worker(tmp_path).ask("check", {})
    assert left == [ANSWERS]


def test_a_question_does_not_wait_without_limit_for_another_one(tmp_path: Path) -> None:
    asked = Worker(tmp_path, seconds=0.01)
    with asked._lock, pytest.raises(ValueError, match="still being answered"):
        asked.ask("check", {})
