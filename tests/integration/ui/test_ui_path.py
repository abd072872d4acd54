"""The whole path by clicking and typing: from songs to a model, an adapter and songs, without a terminal."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser import Browser
from page_process import ROOT, PageProcess, page_process

pytestmark = pytest.mark.faults

DATA, TOKENS, CODEC, MODEL = "datasets/songs_prepared", "datasets/tokens", "outputs/codec", "outputs/untrained-mixed_pro"


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


class Path_:
    """placeholder"""


def address(folder: str) -> str:
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
    browser.press_button("Take this folder", "#chooser")


def prepare(browser: Browser, base: str, root: Path) -> None:
    browser.open(f"{base}/data")
    browser.press_button("Choose or upload songs")
    browser.settle()
    choose(browser, "add-path", str(root.resolve()), "songs")
    browser.press_button("Add for training")
    browser.wait_for_text("manifest metadata.jsonl", "#chosen")
    browser.wait(lambda: browser.value("#output-dir") == DATA, "a name for the result")
    browser.press_button("Start preparing")
    browser.wait(lambda: browser.address.endswith(f"/data/set/{address(DATA)}"), "the page of the data set")
    browser.wait_for_text("Next steps")
    assert (root / DATA / "data.json").is_file()


def review(browser: Browser, base: str, root: Path) -> None:
    browser.open(f"{base}/data/set/{address(DATA)}")
    browser.press_button("Listen and correct")
    browser.wait(lambda: "/review/" in browser.address, "the review")
    browser.wait(lambda: browser.run("return document.querySelectorAll('#clips li').length") == 7, "the clips")
    browser.click("#clips li")
    browser.wait(lambda: browser.run("return document.querySelector('#clip-pane').checkVisibility()"), "a clip")
    browser.click("#accept")
    browser.wait_for_text("accepted", "#clips li")
    browser.press_button("‹ Data set")
    browser.wait_for_text("Next steps")


def codec(browser: Browser, base: str, root: Path) -> None:
    browser.open(f"{base}/models")
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


def tokenize(browser: Browser, base: str, root: Path) -> None:
    browser.open(f"{base}/data/set/{address(DATA)}")
    browser.press_button("Tokenize", "main")
    browser.press_button("Train the tokenizers")
    browser.wait(lambda: (root / "outputs" / "tokenizers").is_dir(), "the tokenizers")
    browser.wait_for_text("First: an untrained model")
    form = "form[data-command=init]"
    browser.wait(lambda: not browser.run("return document.body.innerText.includes('First: tokenizers')"), "next")
    browser.press_button("Options init", form)
    browser.fill("preset", "small", form)
    browser.fill("audio_model", CODEC, form)
    browser.press_button("Make the model", form)
    browser.wait(lambda: (root / MODEL / "config.json").is_file(), "the model")
    browser.wait(lambda: not browser.run("return document.body.innerText.includes('First: an')"), "next")
    browser.fill("Folder of the tokens", TOKENS, "#tokenize")
    browser.press_button("Start tokenizing")
    browser.wait(lambda: browser.address.endswith(f"/data/set/{address(TOKENS)}"), "the page of the tokens")
    browser.press_button("Configure training")
