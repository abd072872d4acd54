"""From tokens to an exported model by clicking: configure, train, change the learning rate, stop, resume, export."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import Browser
from page_process import PageProcess, page_process
from training_fakes import write_dataset, write_model_folder

pytestmark = pytest.mark.faults

MODEL, TOKENS, RUN = "outputs/model", "datasets/tokens", "outputs/by_hand"
VALUES = {
    "model_name_or_path": MODEL, "save_to_disk": TOKENS, "output_dir": RUN, "num_train_epochs": 400,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "logging_steps": 1, "save_steps": 5000,
    "learning_rate": 1e-3, "dtype": "float32", "do_eval": True, "every_plot_step": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page") / "workspace"
    write_model_folder(root / MODEL)
    write_dataset(root / TOKENS, root / MODEL, 7, 3)
    (root / "outputs" / "configs").mkdir(parents=True)
    (root / "outputs" / "configs" / "by_hand.json").write_text(json.dumps(VALUES))
    return root


@pytest.fixture(scope="module")
def server(workspace: Path, browser: Browser) -> Iterator[PageProcess]:
    with page_process(workspace) as server:
        browser.open(server.url)
        browser.language("en")
        browser.resize(1280, 900)
        yield server
        browser.open("about:blank")


def state(browser: Browser) -> str:
    return browser.text("#state")


def test_a_run_from_its_configuration_to_its_export(browser: Browser, server: PageProcess, workspace: Path) -> None:
    """Every step is a click, and is checked in the files that it leaves."""
    browser.open(f"{server.base}/train?config={quote('outputs/configs/by_hand.json', safe='')}")
    browser.settle()
    browser.press_button("Start")
    run = f"{server.base}/train/run/{quote(RUN, safe='')}"
    browser.wait(lambda: (workspace / RUN / "metrics.jsonl").is_file(), "the first line of metrics")
    browser.open(run)
    browser.wait(lambda: state(browser) == "running", "the run")
    browser.fill("Learning rate", "5e-4")
    browser.press_button("Set learning rate")
    browser.wait(lambda: "lr" in browser.text("#journal tbody"), "the command in the journal")
    assert "0.0005" in browser.text("#journal tbody"), browser.text("#journal tbody")
    browser.press_button("Save, then stop")
    browser.wait(lambda: state(browser) == "stopped", "the end of the run")
    steps = list((workspace / RUN).glob("checkpoint-*"))
    assert steps
    browser.press_button("Resume", "#resume")
    browser.wait(lambda: state(browser) == "running", "the resumed run")
    usable = "return !document.querySelector('[data-command-text=quit]').disabled"
    browser.wait(lambda: browser.run(usable), "the commands of the resumed run")
    browser.press_button("Save, then stop")
    browser.wait(lambda: state(browser) in ("stopped", "finished"), "the second end of the run")
    assert len(list((workspace / RUN).glob("checkpoint-*"))) > len(steps)
    browser.open(f"{server.base}/models/{quote(RUN, safe='')}")
    browser.settle()
    browser.run("for (const details of document.querySelectorAll('main details')) details.open = true")
    browser.fill("New folder", "outputs/exported")
    browser.press_button("Export", "form")
    browser.wait(lambda: (workspace / "outputs" / "exported" / "config.json").is_file(), "the exported model")
