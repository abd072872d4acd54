"""The page of a run and the list of runs in a real browser: what is shown, chosen, kept and sent."""

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from browser import Browser
from page_process import PageProcess
from ui_workspace import RUN

from songgen.jobs.record import JOB_STATUS_FILE, create_job
from songgen.runtime.folder_lock import RUN_LOCK_FILE, locked
from songgen.runtime.status import RunStatus, StatusFile
from songgen.train.reporting.trackers import METRICS_FILE, samples_folder
from songgen.ui.workspace import Workspace

pytestmark = pytest.mark.faults

PAGE = f"/train/run/{quote(RUN, safe='')}"
SONG_SECONDS = 60
POLL_SECONDS = 6.0
"""Time in which the page has asked for everything again."""

ANSWER = """{
const send = window.fetch;
window.sent = [];
window.fetch = async (address, options) => {
  if (options?.method === "POST") window.sent.push([address, options.body]);
  for (const [part, method, values, seconds] of arguments[0]) {
    if (address.endsWith(part) && (options?.method ?? "GET") === method) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      return new Response(JSON.stringify(values), { headers: { "Content-Type": "application/json" } });
    }
  }
  return send(address, options);
};
}"""
"""Answers requests in place of the server: end of an address, method, answer, seconds before it."""


def opened(browser: Browser, server: PageProcess, address: str = PAGE, answers: list[list[Any]] | None = None) -> None:
    script = ANSWER.replace("arguments[0]", json.dumps(answers or []))
    added = browser.devtools("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    browser.language("en")
    browser.resize(1280, 900)
    browser.open(server.base + address)
    browser.settle()
    browser.devtools("Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]})


def sample(folder: Path, step: int, *kinds: str) -> None:
    place = samples_folder(folder, step)
    place.mkdir(parents=True)
    for kind in kinds:
        soundfile.write(place / f"song_{kind}_mix.wav", np.zeros(SONG_SECONDS * 8_000), 8_000)


def choices(browser: Browser) -> list[list[Any]]:
    return list(browser.run(
        "return [...document.querySelectorAll('#songs [aria-label=\"Version you hear\"] button')]"
        ".map((button) => [button.textContent, button.ariaPressed])"
    ))  # fmt: skip


def samplings(browser: Browser) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll('#sampling option')].map((option) => option.value)"))


def test_guides_of_an_axis_with_a_fixed_end_are_drawn(
    browser: Browser, server: PageProcess, workspace: Workspace
) -> None:
    """Also far above the curve; and what the evaluations say is shown, with words for tracks and codebooks."""
    with (workspace.root / RUN / METRICS_FILE).open("a") as file:
        for step, loss in ((21, 7.0), (22, 7.2), (23, 7.5), (24, 7.6)):
            tracks = {f"eval/{track}/loss": loss for track in ("vocal", "acc")} | {"eval/acc/codebook_1/loss": loss}
            file.write(json.dumps({"step": step, "eval/accuracy": 0.15, "eval/loss": loss, **tracks}) + "\n")
    opened(browser, server)
    find = (
        "const panel = [...document.querySelectorAll('.panel')].find((each) => each.textContent.includes('accuracy'));"
    )
    drawn = f"{find} panel?.scrollIntoView(); return panel?.querySelector('.js-plotly-plot')"
    browser.wait(lambda: browser.run(drawn), "the panel")
    shapes = browser.run(f"{find} return panel.querySelector('.plot').layout.shapes.map((shape) => shape.y0)")
    assert shapes == [0.7]
    browser.wait_for_text("has risen since step 20", "#health")
    browser.wait_for_text("No checkpoint of that step is there.", "#health")
    browser.wait_for_text("The run is finished", "#banners")
    titles = browser.run("return [...document.querySelectorAll('.panel')].map((panel) => panel.textContent).join()")
    assert "accompaniment" in titles and "acc (" not in titles


def test_a_new_sampling_does_not_end_what_is_being_listened_to(
    browser: Browser, server: PageProcess, workspace: Workspace
) -> None:
    folder = workspace.root / RUN
    sample(folder, 0, "original")
    sample(folder, 10, "generated")
    opened(browser, server)
    browser.wait(lambda: samplings(browser) == ["10"] and choices(browser), "the songs")
    assert choices(browser) == [["original, mix", "false"], ["generated, mix", "true"]]
    browser.run("document.querySelector('#songs .player-play').scrollIntoView({block: 'center'})")
    browser.click("#songs .player-play")
    playing = "return document.querySelector('#songs .player-play').getAttribute('aria-label')"
    browser.wait(lambda: browser.run(playing) == "Pause", "the sound")
    browser.run("window.player = document.querySelector('#songs .player')")
    sample(folder, 20, "generated")
    browser.wait(lambda: samplings(browser) == ["20", "10"], "the new sampling")
    assert browser.value("#sampling") == "10" and browser.run("return window.player.isConnected")
    assert browser.run(playing) == "Pause"
    sample(folder, 30, "generated")
    browser.wait(lambda: samplings(browser) == ["30", "20", "10"], "another one")
    assert browser.value("#sampling") == "10" and browser.run("return window.player.isConnected")
    browser.fill("After step", "20")
    browser.wait(lambda: not browser.run("return window.player.isConnected"), "the songs that were chosen")
    assert browser.value("#sampling") == "20"


def test_a_run_is_resumed_once_and_as_it_was_launched(
    browser: Browser, server: PageProcess, workspace: Workspace
) -> None:
    command = ["songgen", "train", "--num_processes=8", "--config_file=fsdp2_8_gpus.yaml", "--gpu_ids=0,1", "x.json"]
    job = create_job(workspace.jobs, command, title="train", cwd=workspace.root, subject=RUN)
    StatusFile(job, JOB_STATUS_FILE, "x").put(RunStatus("finished", "x", exit_code=0))
    checkpoint = {"name": "checkpoint-20", "folder": f"{RUN}/checkpoint-20", "time": 1e9, "serial": 1, "problem": "",
                  "step": 20, "total_steps": 20, "epoch": 1, "is_best": True, "processes": 8, "bytes": 5, "loss": 1.0,
                  "evaluation_loss": 1.0}  # fmt: skip
    started = {"job": {"id": "20260101-000000-train-0000", "subject": RUN}}
    answers = [
        ["/results", "GET", {"checkpoints": [checkpoint], "samplings": []}, 0],
        ["/api/jobs", "POST", started, 1],
    ]
    opened(browser, server, answers=answers)
    browser.wait(lambda: browser.value("#resume [name=gpu_ids]") == "0,1", "the launch of the job")
    browser.run("document.querySelector('#resume .preview').open = true")
    browser.wait_for_text("--config_file=fsdp2_8_gpus.yaml", "#resume [data-preview]")
    browser.run("document.querySelector('#resume [type=submit]').click()")
    browser.run("document.querySelector('#resume [type=submit]').click()")
    browser.wait(lambda: browser.run("return document.querySelector('#resume').hidden"), "the form to go")
    (sent,) = [json.loads(body) for address, body in browser.run("return window.sent") if address == "/api/jobs"]
    values = sent["values"]
    assert (values["num_processes"], values["config_file"], values["gpu_ids"]) == (8, "fsdp2_8_gpus.yaml", "0,1")
    assert values["keys"] == {"output_dir": RUN, "resume": "auto"} and sent["subject"] == RUN


def test_a_button_waits_for_its_command_and_the_command_of_a_terminal_is_shown(
    browser: Browser, server: PageProcess, workspace: Workspace
) -> None:
    folder = workspace.root / RUN
    StatusFile(folder, "run_status.json", "x").put(RunStatus("running", "x", started=time.time()))
    sent = {"text": "save", "state": "done", "answer": "saved", "in_terminal": f"songgen ctl {RUN} save"}
    disabled = "return document.querySelector('[data-command-text=save]').disabled"
    with locked(folder, RUN_LOCK_FILE):
        (folder / "control").mkdir(exist_ok=True)
        opened(browser, server, answers=[["/commands", "POST", sent, 4]])
        browser.wait(lambda: not browser.run(disabled), "the commands")
        browser.press_button("Save a checkpoint")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert browser.run(disabled), "the page has asked for the state meanwhile"
            time.sleep(0.1)
        browser.wait_for_text(f"songgen ctl {RUN} save", "#terminal-command")
        assert not browser.run(disabled)
        # Ending at once asks first.
        browser.run("window.confirm = (text) => { window.asked = text; return false; }")
        browser.run("const button = document.querySelector('#end-job'); button.hidden = false; button.click()")
        assert "are lost" in browser.run("return window.asked")
        assert not any(address.endswith("/stop") for address, _ in browser.run("return window.sent"))
    StatusFile(folder, "run_status.json", "x").put(RunStatus("finished", "x", step=20, total_steps=20, exit_code=0))


def test_the_list_of_runs_keeps_the_focus_and_a_result_goes_when_the_form_changes(
    browser: Browser, server: PageProcess, workspace: Workspace
) -> None:
    report = {"machine": {"description": "a machine", "devices": 0}, "total_steps": None, "memory": None,
              "seconds": None, "disk": None, "processes": 1, "findings": []}  # fmt: skip
    answers = [["/api/train/check", "POST", report, 0]]
    opened(browser, server, "/train?config=outputs/configs/small.json", answers)
    browser.run("window.link = document.querySelector('#run-rows a'); window.link.focus()")
    browser.wait_for_text("(clips)", "#batch")
    browser.press_button("Check memory, time and settings")
    browser.wait_for_text("a machine", "#check-result")
    browser.fill("Number of processes, one for each GPU", "2")
    browser.wait_for_text("divide gradient_accumulation_steps", "#batch")
    assert browser.text("#check-result") == ""
    browser.run("window.link.focus()")
    time.sleep(POLL_SECONDS)
    assert browser.run("return document.activeElement === window.link && window.link.isConnected")
