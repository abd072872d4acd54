"""What the scripts of the page do with edits, answers and timers; a browser without a window runs them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import Browser
from page_browser import asynchronous, go, page_in_browser
from training_fakes import write_model_folder

from songgen.jobs.record import JOB_STATUS_FILE, JOBS_FOLDER, LOG_FILE, STOP_FILE, create_job, find_jobs
from songgen.runtime.status import StatusFile

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
    with page_in_browser(root) as browser:
        yield browser


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
