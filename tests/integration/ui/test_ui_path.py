"""The whole path by clicking and typing: from songs to a model, an adapter and songs, without a terminal."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import Browser
from page_process import ROOT, PageProcess, page_process

pytestmark = pytest.mark.faults

DATA, TOKENS, CODEC, MODEL = (
    "datasets/songs_prepared",
    "datasets/tokens",
    "outputs/codec",
    "outputs/untrained-mixed_pro",
)
RUN, ADAPTER = "outputs/by_hand", "outputs/adapter"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with songs, and nothing else."""
    pytest.importorskip("parselmouth", reason="praat-parselmouth (demo extra) is not installed")
    pytest.importorskip("espeakng_loader", reason="espeakng-loader (demo extra) is not installed")
    sys.path.insert(0, str(ROOT / "helpers" / "demo"))
    from build_songs import build_songs

    root = tmp_path_factory.mktemp("page") / "workspace"
    assert build_songs(root / "songs", num_songs=8, seed=0)
    return root


@pytest.fixture(scope="module")
def server(workspace: Path, browser: Browser) -> Iterator[PageProcess]:
    with page_process(workspace) as server:
        browser.open(server.url)
        browser.language("en")
        browser.resize(1280, 900)
        yield server
        browser.open("about:blank")


def address(folder: str) -> str:
    """A folder as it is in addresses."""
    return quote(folder, safe="")


def job_ends(browser: Browser, what: str, within: str = "") -> None:
    """Wait until the panel of a job says that it has finished."""
    state = f"{within} [data-job] [data-part=state]"
    browser.wait(lambda: browser.run("return document.querySelector(arguments[0])?.textContent", state) in
                 ("finished", "failed", "lost"), what)  # fmt: skip
    assert browser.text(state) == "finished", browser.text(f"{within} [data-job]")


def choose(browser: Browser, beside: str, *names: str) -> None:
    """Choose a folder in the dialog that the button beside an input opens."""
    browser.click(f"[data-choose={beside}]")
    for name in names:
        browser.press_button(f"📁 {name}", "#chooser")
    browser.press_button("Use this folder", "#chooser")


def prepare(browser: Browser, root: Path) -> None:
    """Songs are chosen in the dialog, one of them is held out, and the recipe without a network is used."""
    browser.press_button("Data", "nav")
    browser.press_button("Choose or upload songs")
    browser.settle()
    choose(browser, "add-path", str(root.resolve()), "songs")
    browser.press_button("Add for training")
    browser.wait_for_text("manifest metadata.jsonl", "#chosen")
    browser.wait(lambda: browser.value("#output-dir") == DATA, "a name for the result")
    browser.fill("Number held out", "1")
    browser.press_button("Start preparing")
    browser.wait(lambda: browser.address.endswith(f"/data/set/{address(DATA)}"), "the page of the data set")
    browser.wait_for_text("Next steps")
    assert (root / DATA / "data.json").is_file()


def review(browser: Browser, root: Path) -> None:
    """One clip is opened and accepted."""
    browser.press_button("Listen and correct")
    browser.wait(lambda: "/review/" in browser.address, "the review")
    browser.wait(lambda: browser.run("return document.querySelectorAll('#clips li').length") == 7, "the clips")
    browser.click("#clips li")
    browser.wait(lambda: browser.run("return document.querySelector('#clip-pane').checkVisibility()"), "a clip")
    browser.click("#accept")
    browser.wait_for_text("accepted", "#clips li")
    browser.press_button("‹ Data set")
    browser.wait_for_text("Next steps")


def codec(browser: Browser, root: Path) -> None:
    """A codec of these songs, in place of a published one."""
    browser.press_button("Models", "nav")
    browser.press_button("New model")
    browser.press_button("Codec of your own songs")
    form = "form[data-command=codec]"
    browser.fill("Manifests", f"{DATA}/metadata.jsonl", form)
    browser.fill("New folder", CODEC, form)
    browser.press_button("More options", form)
    browser.fill("Codes in a codebook", "64", form)
    browser.press_button("Fit the codec", form)
    job_ends(browser, "the codec")
    assert (root / CODEC).is_dir()


def tokenize(browser: Browser, root: Path) -> None:
    """What is missing is made by the forms that are offered, with the codec of these songs."""
    browser.press_button("Data", "nav")
    browser.press_button(DATA, "main")
    browser.press_button("Tokenize", "main")
    browser.press_button("Train the tokenizers")
    browser.wait(lambda: (root / "outputs" / "tokenizers").is_dir(), "the tokenizers")
    browser.wait_for_text("First: an untrained model")
    form = "form[data-command=init]"
    browser.wait(lambda: not browser.run("return document.body.innerText.includes('First: tokenizers')"), "next")
    browser.fill("Size", "small", form)
    browser.fill("Codec", CODEC, form)
    browser.press_button("Make the model", form)
    browser.wait(lambda: (root / MODEL / "config.json").is_file(), "the model")
    browser.wait(lambda: not browser.run("return document.body.innerText.includes('First: an')"), "next")
    browser.fill("Folder of the tokens", TOKENS, "#tokenize")
    browser.press_button("Start tokenizing")
    browser.wait(lambda: browser.address.endswith(f"/data/set/{address(TOKENS)}"), "the page of the tokens")
    browser.press_button("Configure training")


def configure(browser: Browser, root: Path) -> None:
    """Advice, changes, a batch that is too large, the suggestion that the check makes, and saving."""
    browser.wait(lambda: browser.address.endswith(f"/configure?data={address(TOKENS)}"), "the configuration")
    browser.settle()
    browser.press_button("Get advice")
    browser.wait(lambda: browser.value("#key-model_name_or_path"), "the advice")
    browser.settle()
    for label, value in {
        "Show": "all", "Folder of the run": RUN, "Epochs": "400", "Clips in a batch": "64",
        "Steps between metrics": "1", "Steps between evaluations": "30", "Generate songs": "on",
        "Songs of an evaluation": "1", "Longest song (decoder steps)": "60",
    }.items():  # fmt: skip
        browser.fill(label, value, "#form")
    browser.press_button("Check")
    browser.wait_for_text("every micro-batch is the whole split", "#findings")
    browser.settle()
    browser.press_button("Apply", "#findings .warning")
    browser.wait(lambda: browser.value("#key-per_device_train_batch_size") == "6", "the suggestion in its field")
    browser.fill("Name", "by_hand")
    browser.press_button("Save")
    browser.wait_for_text("Saved:", "#save-state")
    browser.press_button("Train with it", ".save-bar")
    browser.wait(lambda: "/train?config=" in browser.address, "the form that starts a run")


def state(browser: Browser) -> str:
    """State of the run that is shown."""
    return browser.text("#state")


def run_ends(browser: Browser, wanted: str) -> None:
    """Wait until the run that is shown has ended, in this state."""
    browser.wait(lambda: state(browser) in ("finished", "stopped", "failed", "lost"), f"the run to be {wanted}")
    assert state(browser) == wanted, browser.text("#banners")


def drawn(browser: Browser, title: str) -> list[float]:
    """Values of the curve that a panel draws; it draws what is on the screen."""
    return list(browser.run(
        "const panels = [...document.querySelectorAll('.panel')];"
        "const panel = panels.find((each) => each.textContent.startsWith(arguments[0]));"
        "panel?.scrollIntoView({block: 'center'});"
        "const isDrawn = panel?.querySelector('.scatterlayer path.point, .scatterlayer path.js-line');"
        "return isDrawn ? [...panel.querySelector('.plot').data.at(-1).y] : []", title,
    ))  # fmt: skip


def train(browser: Browser, root: Path) -> None:
    """Start, watch the curve, change the learning rate, hear a song, stop."""
    browser.settle()
    browser.press_button("Start")
    browser.wait(lambda: browser.address.endswith(f"/train/run/{address(RUN)}"), "the page of the run")
    browser.wait(lambda: state(browser) == "running", "the run")
    browser.wait(lambda: drawn(browser, "loss"), "the curve of the loss")
    browser.fill("Learning rate", "5e-4")
    browser.press_button("Set learning rate")
    browser.wait(lambda: "0.0005" in browser.text("#journal tbody"), "the command in the journal")
    browser.wait(lambda: 5e-4 in drawn(browser, "learning rate"), "the learning rate in its curve")
    browser.press_button("Sample songs now")
    browser.wait(lambda: browser.run("return document.querySelector('#songs .player') !== null"), "a song")
    browser.press_button("Save, then stop")
    run_ends(browser, "stopped")


def resume(browser: Browser, root: Path) -> None:
    """From the list of states, for more epochs than it was started with."""
    first = sorted((root / RUN).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    browser.fill("From checkpoint", f"{RUN}/{first[-1].name}", "#resume")
    browser.fill("Number of epochs of the whole run", "440", "#resume")
    browser.press_button("Resume", "#resume")
    browser.wait(lambda: state(browser) == "running", "the resumed run")
    browser.wait_for_text("/ 440", "#figures")
    browser.wait(lambda: browser.run("return !document.querySelector('[data-command-text=quit]').disabled"), "commands")
    browser.press_button("Save, then stop")
    run_ends(browser, "stopped")


def position(browser: Browser) -> float:
    """Position of the newest song, in seconds."""
    return float(browser.run("return document.querySelector('.song .player-slider').getAttribute('aria-valuenow')"))


def listen(browser: Browser, root: Path) -> None:
    """One seed on the run and on the model that it began with; the switch between them keeps the position."""
    browser.press_button("Listen", "main > .row")
    browser.wait(lambda: "/listen?model=" in browser.address, "the form of a song")
    browser.settle()
    browser.fill("Compare with a second one", "on")
    browser.fill("Second model", MODEL)
    browser.fill("Caption", "sunny pop")
    browser.fill("Lyrics", "[verse]\ngolden river")
    browser.fill("Length in seconds", "2")
    browser.fill("Seed", "7")
    browser.press_button("Generate")
    browser.wait(lambda: browser.run("return document.querySelector('#songs .song .badge')?.textContent") == "finished",
                 "the songs")  # fmt: skip
    browser.wait_for_text("0:02", "#songs .player-time")
    browser.click("#songs .player-play")
    browser.wait(lambda: position(browser) > 0.2, "the sound to be played")
    browser.click("#songs .player-play")
    heard = position(browser)
    first, second = browser.run(
        "return [...document.querySelectorAll('.player [role=group] button')].map((b) => b.textContent)"
    )
    browser.press_button(second, "#songs")
    assert position(browser) == heard > 0
    browser.click("#songs .player-play")
    browser.wait(lambda: position(browser) > heard, "the second one from there on")


def adapter(browser: Browser, root: Path) -> None:
    """A short run of an adapter for the model that was trained. The values that were typed last are saved too."""
    browser.press_button("Models", "nav")
    browser.press_button(RUN, "main")
    browser.press_button("Train it further")
    browser.wait(lambda: "/configure?model=" in browser.address, "the configuration")
    browser.settle()
    browser.wait(lambda: browser.value("#start-model") == RUN, "the model in its field")
    browser.fill("Data set", TOKENS, "[aria-labelledby=start-title]")
    browser.fill("What to train", "lora")
    browser.press_button("Get advice")
    browser.wait(lambda: browser.run("return document.querySelector('#key-lora').checked"), "the advice")
    browser.settle()
    for label, value in {"Folder of the run": ADAPTER, "Epochs": "2"}.items():
        browser.fill(label, value, "#form")
    browser.fill("Name", "adapter")
    browser.press_button("Save")
    browser.wait_for_text("Saved:", "#save-state")
    saved = json.loads((root / "outputs/configs/adapter.json").read_text())
    assert saved["output_dir"] == ADAPTER and saved["num_train_epochs"] == 2, "what was typed last is saved too"
    browser.press_button("Train with it", ".save-bar")
    browser.settle()
    browser.press_button("Start")
    browser.wait(lambda: browser.address.endswith(f"/train/run/{address(ADAPTER)}"), "the page of the run")
    run_ends(browser, "finished")


def export(browser: Browser, root: Path) -> None:
    """The adapter by itself, and merged into a model, in which the check finds nothing wrong."""
    browser.press_button("Models", "nav")
    browser.press_button(ADAPTER, "main")
    browser.press_button("Export", "main")
    for what, folder in {"adapter": "outputs/shared_adapter", "merge": "outputs/merged"}.items():
        browser.fill("What to write", what, "#export")
        browser.fill("New folder", folder, "#export")
        browser.press_button("Export", "#export form")
        browser.wait_for_text(f"Written: {folder}", "#export .outcome")
    assert (root / "outputs/shared_adapter/adapter_model.safetensors").is_file()
    browser.press_button("outputs/merged", "#export .outcome")
    browser.press_button("Check it")
    browser.press_button("Check", "#doctor form")
    browser.wait_for_text("Everything here can be used.", "#doctor .findings")


def test_from_songs_to_a_merged_adapter_without_a_terminal(
    browser: Browser, server: PageProcess, workspace: Path
) -> None:
    for step in (prepare, review, codec, tokenize, configure, train, resume, listen, adapter, export):
        step(browser, workspace)
    assert "Traceback" not in server.errors.read_text()
