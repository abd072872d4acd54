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
from training_fakes import write_model_folder

from songgen.jobs.record import JOB_STATUS_FILE, JOBS_FOLDER, LOG_FILE, STOP_FILE, create_job, find_jobs
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

FRAME = """
const done = arguments[0];
import("/assets/page.js").then(async ({ act, formatNumber, poll, request, setText }) => {
  const wait = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
  const button = document.createElement("button");
  document.querySelector("main").append(button);
  button.focus();
  await act(button, () => wait(100)); // long enough for the browser to take the focus away
  const hasFocus = document.activeElement === button;
  await act(button, async () => { await wait(100); document.querySelector("nav a").focus(); });
  const isLeft = document.activeElement !== button;

  const real = { fetch: window.fetch, error: console.error };
  const connection = document.getElementById("connection");
  window.fetch = (path, { signal }) => new Promise((resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason));
  });
  const lost = await request("/api/x", undefined, { seconds: 0.1 }).then(() => null, (error) => error.message);
  const isSaid = !connection.hidden;

  const problem = document.getElementById("problem");
  window.fetch = async () => new Response("{}", { status: 401 });
  let calls = 0;
  const stops = [1, 2].map(() => poll(async () => { calls += 1; await request("/api/x"); }, 0.05));
  await wait(100);
  const isShown = !problem.hidden;
  problem.hidden = true;
  await wait(200);
  const isAgain = !problem.hidden;
  for (const stop of stops) stop();
  window.fetch = real.fetch;

  const errors = [];
  console.error = (error) => errors.push(String(error));
  const stop = poll(() => { throw new TypeError("a fault"); }, 10);
  await wait(20);
  stop();
  console.error = real.error;

  let changes = 0;
  new MutationObserver(() => { changes += 1; }).observe(button, { childList: true, subtree: true });
  for (const text of ["a", "a", "b"]) { setText(button, text); await wait(1); }
  button.remove();
  done({ hasFocus, isLeft, lost, isSaid, isShown, isAgain, calls, errors, changes, zero: formatNumber(0) });
}).catch((error) => done({ error: String(error) }));
"""

KEPT = """
const done = arguments[0];
Promise.all([import("/assets/playback.js"), import("/assets/player.js")]).then(async ([{ Playback }, { fileUrl }]) => {
  const all = Array.from({ length: 8 }, () => new Playback([fileUrl("tone.wav")]));
  for (const playback of all) await playback.load();
  const kept = all.map((playback) => playback.buffers.length);
  const { duration } = all[0];
  await all[0].play();
  const isPlaying = all[0].isPlaying;
  for (const playback of all.slice(1)) await playback.load();
  const stays = all[0].buffers.length;
  all[0].pause();
  done([kept, duration, isPlaying, stays]);
}).catch((error) => done(String(error)));
"""

PUSH = """
window.sent = [];
window.state = "running";
const real = window.fetch;
window.fetch = async (path, options) => {
  const answer = (values) => new Response(JSON.stringify(values));
  if (path === "/api/jobs" && options?.method === "POST") {
    window.sent.push(JSON.parse(options.body).values);
    return answer({ job: { id: `job-${window.sent.length}` } });
  }
  if (!path.startsWith("/api/jobs/")) return real(path, options);
  const { state } = window;
  const job = { state, is_active: state === "running", created: 1, ended: 2, command: "", reason: "" };
  return answer({ job, log: { text: `model.safetensors of ${path}` } });
};
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


def test_what_every_page_does_with_focus_lost_connections_and_faults(browser: Browser) -> None:
    go(browser, "/help")
    found = asynchronous(browser, FRAME)
    assert "error" not in found, found
    assert found["hasFocus"] and found["isLeft"], "the focus returns, unless the action has moved it"
    assert found["isSaid"] and "does not answer" in found["lost"], "a server that stalls"
    assert found["isShown"] and not found["isAgain"] and found["calls"] > 2, "another token is said once"
    assert found["errors"] == ["TypeError: a fault"]
    assert (found["changes"], found["zero"]) == (2, "0")


def test_only_the_latest_players_keep_their_sound(browser: Browser) -> None:
    kept, duration, is_playing, stays = asynchronous(browser, KEPT)
    assert kept == [0, 0, 1, 1, 1, 1, 1, 1] and duration == pytest.approx(8)
    assert is_playing and stays == 1, "it is decoded again, and stays as long as it plays"


def test_what_is_uploaded_is_what_was_listed(browser: Browser, root: Path) -> None:
    write_model_folder(root / "outputs" / "model")
    (root / "outputs" / "model" / "model.safetensors").touch()
    go(browser, "/models/outputs%2Fmodel")
    browser.run("document.getElementById('push').open = true;" + PUSH)
    shown = "return !document.querySelector('[data-part=upload]').hidden"

    def sent(count: int) -> list[dict[str, Any]]:
        browser.wait(lambda: browser.run("return window.sent.length") == count, "the job")
        values: list[dict[str, Any]] = browser.run("return window.sent")
        return values

    browser.write("#push-repository", "me/first", clear=True)
    browser.click("#push button[type=submit]")
    sent(1)
    browser.write("#push-repository", "me/second", clear=True)
    browser.click("#push-public")
    browser.run("window.state = 'finished'")
    browser.wait_for_text("finished", "#push [data-part=state]")
    assert not browser.run(shown), "the files of another repository were listed"
    browser.run("window.state = 'running'")
    browser.click("#push button[type=submit]")
    sent(2)
    browser.run("window.state = 'finished'")
    browser.wait(lambda: browser.run(shown), "the files")
    assert "me/second, and everyone can see them" in browser.text("[data-part=upload]")
    assert "job-2" in browser.text("[data-part=upload-files]")
    browser.click("[data-part=upload-button]")
    listed, uploaded = sent(3)[1:]
    browser.run("document.getElementById('push-repository').value = ''")
    browser.click("#push button[type=submit]")
    assert "repository" not in sent(4)[-1]
    browser.wait_for_text("to model, and everyone can see them", "[data-part=upload]")
    assert listed == uploaded | {"dry_run": True} and (uploaded["repository"], uploaded["public"]) == (
        "me/second",
        True,
    )


def test_checkpoints_that_are_shown_stay_those_of_the_run(browser: Browser, root: Path) -> None:
    run = root / "outputs" / "run"
    (run / "checkpoint-5").mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    go(browser, "/models")
    browser.wait_for_text("checkpoints: 1", "#rows")
    browser.run("document.querySelector('#rows button').focus()")
    browser.press("Enter")
    inside = "return document.querySelectorAll('#rows tr.inside').length"
    browser.wait(lambda: browser.run(inside) == 1, "the checkpoint")
    focus = "return document.activeElement.textContent"
    browser.wait(lambda: browser.run(focus) == "▾ checkpoints: 1", "the focus")
    (run / "checkpoint-10").mkdir()
    browser.wait(lambda: browser.run(inside) == 2, "the other checkpoint")
    assert browser.run(focus) == "▾ checkpoints: 2"


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


def test_the_end_of_a_job_is_told_once_whatever_is_looked_at_afterwards(browser: Browser, root: Path) -> None:
    folder = create_job(root / JOBS_FOLDER, ("songgen", "doctor", "x"), title="doctor x", cwd=root)
    go(browser, f"/jobs/{folder.name}")
    browser.run(
        "window.ends = 0; document.addEventListener('job', (event) => { if (!event.detail.is_active) ends += 1; })"
    )
    StatusFile(folder, JOB_STATUS_FILE, "r").write("finished", exit_code=0)
    browser.wait(lambda: browser.run("return window.ends"), "the end")
    (folder / LOG_FILE).write_text("a line\n")
    browser.run(
        "const select = document.querySelector('[data-part=lines]'); select.value = '20';"
        "select.dispatchEvent(new Event('change'))"
    )
    browser.wait_for_text("a line", "[data-part=log]")
    assert browser.run("return window.ends") == 1


def test_the_list_of_jobs_is_kept_up_to_date_and_has_their_buttons(browser: Browser, root: Path) -> None:
    shutil.rmtree(root / JOBS_FOLDER, ignore_errors=True)
    go(browser, "/jobs")
    browser.wait_for_text("Nothing has been started yet.", "#no-jobs")
    folder = create_job(root / JOBS_FOLDER, ("songgen", "doctor", "absent"), title="doctor absent", cwd=root)
    browser.wait_for_text("running", "#job-rows .badge")
    browser.run("window.row = document.querySelector('#job-rows tr'); row.querySelector('a').focus()")
    browser.press_button("Stop", "#job-rows")
    browser.wait(lambda: (folder / STOP_FILE).exists(), "the request")
    browser.wait(lambda: browser.run("return row.querySelector('button:enabled') !== null"), "the button")
    browser.run("row.querySelector('button').focus()")
    StatusFile(folder, JOB_STATUS_FILE, "r").write("stopped", exit_code=130)
    browser.wait_for_text("stopped", "#job-rows .badge")
    script = "return document.querySelector('#job-rows tr') === row && document.activeElement.textContent"
    assert browser.run(script) == "doctor absent", "the row is the same, and the button that is hidden leaves its focus"
    browser.press_button("Start again", "#job-rows")
    browser.wait_for_text("failed", "#job-rows .badge")  # there is no such folder
    assert browser.run("return document.querySelectorAll('#job-rows tr').length") == 2
    browser.run("window.confirm = () => true")
    for address in (f"/jobs/{folder.name}", ""):
        browser.press_button("Remove", "#job-rows")
        script = "return [...document.querySelectorAll('#job-rows a')].map((link) => link.getAttribute('href')).join()"
        browser.wait(lambda script=script, address=address: browser.run(script) == address, "the rest")
        browser.wait(lambda: browser.run("return document.activeElement !== document.body"), "the focus")
    assert not find_jobs(root / JOBS_FOLDER)


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
