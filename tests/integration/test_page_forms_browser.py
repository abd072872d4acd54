"""Nothing that is entered in the forms of the page is lost or taken for something else; a real browser runs them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from checkpoint_fakes import saved
from page_browser import asynchronous, go, page_in_browser

from songgen.prepare.engine.phases import write_phases
from songgen.ui.workspace import CONFIGS_FOLDER

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace").resolve()


@pytest.fixture(scope="module")
def browser(root: Path) -> Iterator[Browser]:
    with page_in_browser(root) as browser:
        yield browser


def enter_json_and_save(browser: Browser, text: str) -> None:
    """Enter a text and press Save at once, before anything is sent."""
    browser.run(
        "const json = document.getElementById('json'); json.value = arguments[0];"
        "json.dispatchEvent(new Event('input', { bubbles: true })); document.getElementById('save').click();", text
    )  # fmt: skip


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
    browser.write("#field-model_name_or_path", "outputs/other", clear=True)
    assert browser.run("return document.getElementById('needed').hidden"), "nothing is missing of another model"


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
