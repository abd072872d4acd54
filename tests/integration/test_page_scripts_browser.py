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
from checkpoint_fakes import saved

from songgen.jobs.record import JOB_STATUS_FILE, JOBS_FOLDER, create_job
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


REFUSE = """
const [path, count, status] = arguments;
const real = window.fetch;
let left = count;
window.asked = [];
window.fetch = (address, options) => {
  if (!String(address).startsWith(path)) return real(address, options);
  window.asked.push(JSON.parse(options.body));
  if (left === 0) return real(address, options);
  left -= 1;
  if (status === 0) return Promise.reject(new TypeError("no connection"));
  return Promise.resolve(new Response('{"error": "busy"}', { status }));
};
"""
"""Let the next requests to an address fail: without an answer (status 0), or with one."""


def save_as(browser: Browser, name: str) -> None:
    browser.run("document.getElementById('config-name').value = arguments[0]", name)
    browser.click("#save")
    browser.wait(lambda: not browser.run("return document.getElementById('save').disabled"), "the button")


@pytest.mark.parametrize("status", [0, 500])
def test_what_is_typed_while_requests_fail_is_not_lost(browser: Browser, root: Path, status: int) -> None:
    """It is not saved without it, and is saved with it once the server answers again."""
    name = f"typed_{status}"
    go(browser, "/configure")
    browser.wait(lambda: browser.run("return document.getElementById('json').value") == "{}", "the form")
    browser.run(REFUSE, "/api/configure/state", 2, status)
    browser.write("#key-learning_rate", "0.25", clear=True)
    browser.wait(lambda: browser.run("return window.asked.length"), "the first request")
    save_as(browser, name)
    file = root / CONFIGS_FOLDER / f"{name}.json"
    assert not file.exists() and "Nothing was saved" in browser.text("#problem-text")
    assert "Not saved" in browser.text("#save-state")
    browser.write("#key-num_train_epochs", "7", clear=True)
    save_as(browser, name)
    browser.wait(file.is_file, "the file")
    assert json.loads(file.read_text()) == {"learning_rate": 0.25, "num_train_epochs": 7}


def test_a_lost_connection_does_not_make_json_invalid(browser: Browser, root: Path) -> None:
    go(browser, "/configure")
    browser.wait(lambda: browser.run("return document.getElementById('json').value") == "{}", "the form")
    browser.run(REFUSE, "/api/configure/state", 1, 0)
    browser.run("document.getElementById('config-name').value = 'again'")
    enter_json_and_save(browser, '{"learning_rate": 0.125}')
    browser.wait_for_text("Nothing was saved", "#problem")
    assert browser.run("return document.getElementById('json-problem').hidden")
    save_as(browser, "again")
    file = root / CONFIGS_FOLDER / "again.json"
    browser.wait(file.is_file, "the file")
    assert json.loads(file.read_text()) == {"learning_rate": 0.125}


def test_what_is_typed_next_to_broken_json_stays_until_it_is_right(browser: Browser) -> None:
    go(browser, "/configure")
    browser.wait(lambda: browser.run("return document.getElementById('json').value") == "{}", "the form")
    enter_json_and_save(browser, '{"seed": 3')
    browser.wait(lambda: not browser.run("return document.getElementById('json-problem').hidden"), "the problem")
    browser.run(REFUSE, "/api/configure/state", 0, 0)
    browser.write("#key-learning_rate", "0.25", clear=True)
    browser.wait(lambda: any("0.25" in str(asked) for asked in browser.run("return window.asked")), "the request")
    browser.run(
        "const json = document.getElementById('json'); json.value += '}';"
        "json.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    browser.wait(lambda: browser.run("return document.getElementById('json-problem').hidden"), "valid JSON")
    browser.run("document.activeElement.blur(); document.getElementById('processes').dispatchEvent(new Event('input'))")
    texts = browser.wait(
        lambda: "learning" in (text := browser.run("return document.getElementById('json').value")) and text, "both"
    )
    assert json.loads(texts) == {"seed": 3, "learning_rate": 0.25}


def test_a_number_that_is_not_one_is_refused_and_says_so(browser: Browser) -> None:
    """Without a word it would be no limit, or a new run."""
    go(browser, "/configure")
    browser.write("#start-data", "tokens")
    browser.write("#start-hours", "1,5")
    browser.run(REFUSE, "/api/configure/open", 1, 0)
    browser.press_button("Get advice")
    browser.wait_for_text("such as 1.5", "#problem")
    assert browser.run("return [document.activeElement.id, window.asked.length]") == ["start-hours", 0]


def test_a_failed_search_is_over(browser: Browser) -> None:
    go(browser, "/configure")
    browser.wait(lambda: "Looking" not in browser.text("#places-note"), "the lists")
    for path in ("/api/configure/places", "/api/configure/presets"):
        browser.run(
            "const [path] = arguments, real = window.fetch; window.fetch = (address, options) =>"
            "(String(address).startsWith(path) ? Promise.reject(new TypeError('no')) : real(address, options))", path,
        )  # fmt: skip
    browser.press_button("Refresh the lists")
    browser.wait_for_text("does not answer", "#places-note")
    browser.press_button("A preset")
    browser.wait_for_text("does not answer", "#presets-state")


def test_the_states_of_a_run_can_be_chosen_to_resume_from(browser: Browser, root: Path) -> None:
    saved(root / "outputs" / "mine", 1, 2)
    go(browser, "/configure")
    browser.wait(lambda: browser.run("return document.getElementById('json').value") == "{}", "the form")
    browser.write("#key-output_dir", "outputs/mine")
    options = "return [...document.querySelector('[data-fill]').options].map((option) => option.value)"
    folder = "outputs/mine/checkpoint-1"
    browser.wait(lambda: folder in browser.run(options), "the states")
    assert browser.run(options) == ["", "auto", "never", "outputs/mine/checkpoint-2", folder]
    browser.run(
        "const select = document.querySelector('[data-fill]'); select.value = arguments[0];"
        "select.dispatchEvent(new Event('change', { bubbles: true }))", folder
    )  # fmt: skip
    browser.wait(lambda: f'"resume": "{folder}"' in browser.run("return document.getElementById('json').value"), "it")


FORM = """
const form = document.createElement("form");
form.innerHTML = `<details><summary>more</summary><details><summary>all</summary>
<input data-kind="number" name="one" type="number" max="3" value="9"></details></details>
<div id="part"><input data-kind="number" name="two" type="number" max="3" value="9"></div><button>go</button>`;
document.body.append(form);
const done = arguments[0];
import("/assets/forms.js").then(async () => {
  const [one, two] = form.elements;
  const part = form.querySelector("#part");
  part.hidden = true;
  await null;
  form.reportValidity();
  const isSeen = one.checkVisibility() && document.activeElement === one;
  one.value = "1";
  const found = [isSeen, two.disabled, form.checkValidity()];
  part.hidden = false;
  await null;
  done([...found, two.disabled, form.checkValidity()]);
});
"""


def test_a_field_that_is_not_right_is_shown_and_a_hidden_one_does_not_matter(browser: Browser) -> None:
    go(browser, "/models/new")
    assert asynchronous(browser, FORM) == [True, True, True, False, False]


def test_copied_is_said_once_and_a_message_is_not_set_again(browser: Browser) -> None:
    go(browser, "/configure")
    browser.wait(lambda: browser.text("#commands"), "the commands")
    browser.run(
        "window.set = 0; const problem = document.getElementById('key-learning_rate-problem');"
        "new MutationObserver((changes) => { window.set += changes.length; }).observe(problem, { childList: true })"
    )
    browser.write("#key-learning_rate", "fast", clear=True)
    browser.wait(lambda: browser.run("return window.set") == 1, "the problem")
    for text in ("5", "6"):
        browser.run(REFUSE, "/api/configure/state", 0, 0)
        browser.write("#key-num_train_epochs", text, clear=True)
        browser.wait(lambda: browser.run("return window.asked.length"), "the request")
    browser.wait(
        lambda: '"num_train_epochs": 6' in browser.run("return document.getElementById('json').value"), "the answer"
    )
    assert browser.run("return window.set") == 1
    browser.run("document.querySelector('#commands + [data-copy]').click()")
    browser.wait(lambda: browser.run("return document.querySelector('[data-copied]')?.textContent"), "the note")
