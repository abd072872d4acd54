"""What the scripts of the page do with edits, answers and timers; a browser without a window runs them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import Browser, open_browser

from songgen.jobs.record import JOB_STATUS_FILE, JOBS_FOLDER, create_job
from songgen.prepare.engine.phases import write_phases
from songgen.runtime.status import StatusFile
from songgen.ui.page import page_server
from songgen.ui.workspace import CONFIGS_FOLDER, Workspace
from songgen.web.access import make_access

pytestmark = pytest.mark.faults

POLL = """
const done = arguments[0];
import("/assets/page.js").then(async ({ poll }) => {
  let calls = 0;
  let active = 0;
  let most = 0;
  const wait = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
  const stop = poll(async () => {
    calls += 1;
    active += 1;
    most = Math.max(most, active);
    await wait(50);
    active -= 1;
  }, 10);
  for (let i = 0; i < 5; i += 1) document.dispatchEvent(new Event("visibilitychange"));
  await wait(200);
  const first = calls;
  document.dispatchEvent(new Event("visibilitychange"));
  await wait(100);
  stop();
  document.dispatchEvent(new Event("visibilitychange"));
  await wait(100);
  done([first, calls, most]);
});
"""

FRAMES = """
const done = arguments[0];
import("/assets/player.js").then(async ({ fileUrl, makePlayer }) => {
  const player = makePlayer(document.body, { title: "x", tracks: [{ label: "x", url: fileUrl("tone.wav") }] });
  await player.play();
  for (let i = 0; i < 20; i += 1) {
    await player.seek(0.05 * i);
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
  const isPlaying = player.isPlaying;
  const real = window.requestAnimationFrame.bind(window);
  let calls = 0;
  window.requestAnimationFrame = (action) => { calls += 1; return real(action); };
  for (let i = 0; i < 10; i += 1) await new Promise(real);
  window.requestAnimationFrame = real;
  player.remove();
  done([isPlaying, calls]);
});
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspace").resolve()
    soundfile.write(root / "tone.wav", 0.1 * np.sin(np.arange(16_000 * 8) / 5), 16_000)
    return root


@pytest.fixture(scope="module")
def browser(root: Path) -> Iterator[Browser]:
    server = page_server(Workspace(root), make_access("127.0.0.1", None))
    with server.running(), open_browser() as browser:
        browser.open(server.url)
        yield browser


def asynchronous(browser: Browser, script: str) -> Any:
    return browser.command("POST", "/execute/async", {"script": script, "args": []})


def go(browser: Browser, path: str) -> None:
    browser.run("window.onbeforeunload = null; location.href = arguments[0]", path)
    browser.wait(lambda: browser.run("return location.pathname") == path, path)
    browser.wait(lambda: browser.run("return document.readyState") == "complete", path)


def enter_json_and_save(browser: Browser, text: str) -> None:
    """Enter a text and press Save at once, before anything is sent."""
    browser.run(
        "const json = document.getElementById('json'); json.value = arguments[0];"
        "json.dispatchEvent(new Event('input', { bubbles: true })); document.getElementById('save').click();", text
    )  # fmt: skip


def test_calls_of_a_poll_are_one_after_the_other_and_end(browser: Browser) -> None:
    first, all_calls, most = asynchronous(browser, POLL)
    assert (first, all_calls, most) == (1, 2, 1)


def test_a_player_that_is_moved_while_it_plays_draws_each_frame_once(browser: Browser) -> None:
    is_playing, calls = asynchronous(browser, FRAMES)
    assert is_playing and calls <= 12


def test_a_job_that_is_removed_is_said(browser: Browser, root: Path) -> None:
    folder = create_job(root / JOBS_FOLDER, ("songgen", "doctor", "x"), title="doctor x", cwd=root)
    StatusFile(folder, JOB_STATUS_FILE, "r").write("finished", exit_code=0)
    go(browser, f"/jobs/{folder.name}")
    browser.run('window.part = (name) => document.querySelector(`[data-part="${name}"]`)')
    browser.wait(lambda: browser.run("return part('state').textContent") == "finished", "the state")
    (folder / JOB_STATUS_FILE).unlink()  # as if it were about to start
    go(browser, "/jobs")
    go(browser, f"/jobs/{folder.name}")
    browser.run('window.part = (name) => document.querySelector(`[data-part="${name}"]`)')
    browser.wait(lambda: browser.run("return part('state').textContent") == "running", "the state")
    shutil.rmtree(folder)
    browser.wait(lambda: "there is no job" in browser.run("return part('reason').textContent"), "the message")
    assert browser.run("return document.querySelector('[data-action=stop]').hidden")


def test_what_was_entered_a_moment_ago_is_saved_and_broken_json_is_not(browser: Browser, root: Path) -> None:
    go(browser, "/configure")
    browser.wait(lambda: browser.run("return document.getElementById('json').value") == "{}", "the form")
    browser.run("document.getElementById('config-name').value = 'mine'")
    enter_json_and_save(browser, '{"learning_rate": 0.5}')
    file = root / CONFIGS_FOLDER / "mine.json"
    browser.wait(file.is_file, "the file")
    assert json.loads(file.read_text()) == {"learning_rate": 0.5}
    browser.wait(lambda: "Saved" in browser.run("return document.getElementById('save-state').textContent"), "the note")
    browser.wait(lambda: not browser.run("return document.getElementById('save').disabled"), "the button")
    enter_json_and_save(browser, '{"learning_rate": ')
    browser.wait_for_text("not valid JSON", "#problem")
    assert json.loads(file.read_text()) == {"learning_rate": 0.5}
    assert browser.run("return document.getElementById('json').value") == '{"learning_rate": '


def test_what_was_typed_stays_while_a_part_is_made(browser: Browser, root: Path) -> None:
    folder = root / "datasets/typed"
    folder.mkdir(parents=True)
    values = {"model_name_or_path": "./outputs/typed/new", "save_to_disk": "datasets/typed_tokens"}
    (folder / "data.json").write_text(json.dumps(values))
    row = {"fname": "a", "caption": "sunny pop", "lyrics": "golden river", "audio_file_name": "audio/a.wav"}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    go(browser, "/data")
    browser.run("location.href = '/data/tokenize?data=datasets%2Ftyped'")
    browser.wait(
        lambda: browser.run("return document.readyState === 'complete' && !!document.querySelector('#tokenize')")
    )
    browser.run("window.mark = true; document.getElementById('field-save_to_disk').value = 'datasets/mine_alone'")
    browser.press_button("Train the tokenizers")
    browser.wait(lambda: browser.run("return !!document.querySelector('[data-panel=tokenizer] [data-job]')"), "the job")
    browser.wait(lambda: browser.run("return !document.querySelector('[data-needed=tokenizer]')"), "the tokenizers")
    assert (root / "outputs/typed/tokenizers").is_dir()
    assert browser.text("[data-needed=init] h3") == "First: an untrained model"
    assert browser.value("#field-save_to_disk") == "datasets/mine_alone" and browser.run("return window.mark")


def test_the_list_of_data_sets_follows_what_happens(browser: Browser, root: Path) -> None:
    go(browser, "/data")
    folder = root / "datasets/late"
    browser.wait(lambda: browser.run("return document.getElementById('searching').hidden"), "the list")
    folder.mkdir(parents=True)
    (folder / "prepared.json").write_text("{}")
    browser.wait_for_text("datasets/late")


def test_all_steps_of_preparing_are_listed_with_the_bar_at_the_present_one(browser: Browser, root: Path) -> None:
    work = root / "datasets/steps.work"
    work.mkdir(parents=True)
    write_phases(work, ["take_in", "segment", "filter"])
    progress = {"phase": "segment", "done": 3, "total": 12, "unit": "records", "started": 1.0, "seconds_left": 240.0}
    status = {"status": "stopped", "run_id": "x", "progress": progress}
    (work / "prepare_status.json").write_text(json.dumps(status))
    go(browser, "/data")
    browser.run("location.href = '/data/set/datasets%2Fsteps'")
    browser.wait_for_text("3 of 12 songs", "#work-steps [aria-current=step]")
    assert browser.run("return document.querySelector('#work-steps [aria-current] progress').value") == 3
    states = browser.run(
        "return [...document.querySelectorAll('#work-steps .badge')].map((badge) => badge.textContent)"
    )
    assert states == ["finished", "finished", "stopped", "waiting", "waiting"]


def test_files_that_are_added_during_an_upload_are_not_lost_in_silence(browser: Browser, root: Path) -> None:
    go(browser, "/data/prepare")
    browser.run(
        "const send = XMLHttpRequest.prototype.send;"
        "XMLHttpRequest.prototype.send = function (...values) { window.release = () => send.apply(this, values); };"
        "window.add = (name) => { const input = document.getElementById('upload-files');"
        " const files = new DataTransfer(); files.items.add(new File(['la la'], name)); input.files = files.files;"
        " input.dispatchEvent(new Event('change')); }; window.add('a_lyrics.txt')"
    )
    browser.wait(lambda: browser.run("return !!window.release"), "the upload")
    asked = (
        "const event = new Event('beforeunload', {cancelable: true}); window.dispatchEvent(event);"
        "return event.defaultPrevented"
    )
    assert browser.run(asked)
    browser.run("window.add('b_lyrics.txt')")
    browser.wait_for_text("An upload is running", "#problem")
    browser.run("window.release()")
    browser.wait(lambda: not browser.run(asked), "the end of the upload")


def test_the_enter_that_ends_a_composition_adds_no_songs(browser: Browser, root: Path) -> None:
    go(browser, "/data/prepare")
    script = (
        "const input = document.getElementById('add-path'); input.value = 'datasets'; let clicks = 0;"
        "document.getElementById('add-train').addEventListener('click', () => { clicks += 1; });"
        "for (const isComposing of [true, false])"
        " input.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing, cancelable: true}));"
        "return clicks"
    )
    assert browser.run(script) == 1
