"""Make the pictures of docs/ui.md: every part of the page, in both languages, from a workspace with the demo's results.

Run, after `make demo` and `songgen prepare` of some songs, in the repository:
    python tests/support/page_pictures.py . docs/pictures

Songs, runs and data sets are those of the workspace; a song of two models is generated first, unless there is one.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent))

from browser import Browser, open_browser
from page_process import PageProcess, page_process

LANGUAGES = ("en", "zh")
WIDTH, HEIGHT = 1280, 900
LYRICS = "[verse]\nsilver river carry me home\nover the hills where the wild birds roam"


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workspace", type=Path, help="folder with datasets/ and outputs/")
    parser.add_argument("out", type=Path, help="folder of the pictures")
    parser.add_argument("--songs", default="datasets/my_songs", help="prepared data set to show")
    parser.add_argument("--data", default="datasets/demo_tokens", help="tokenized data set to configure for")
    parser.add_argument("--run", default="outputs/demo/dual_step3", help="run to show")
    parser.add_argument("--models", nargs=2, default=["outputs/demo/mixed_step1", "outputs/demo/mixed_step3"])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    shown = {
        "data": (f"/data/set/{quoted(arguments.songs)}", "table"),
        "configure": (f"/configure?data={quoted(arguments.data)}&model={quoted(arguments.models[1])}", "main"),
        "train": (f"/train/run/{quoted(arguments.run)}", "main"),
        "listen": ("/listen", "main"),
        "models": ("/models", "table"),
    }
    with open_browser() as browser, page_process(arguments.workspace.resolve()) as server:
        browser.watch()
        browser.open(server.url)
        browser.resize(WIDTH, HEIGHT)
        generate(server, arguments.models)
        browser.settle()
        for language in LANGUAGES:
            browser.language(language)
            for name, (address, selector) in shown.items():
                browser.open(server.base + address)
                browser.find("return document.querySelector(arguments[0])", selector)
                browser.settle()
                arrange(browser, name)
                browser.screenshot(arguments.out / f"ui_{name}_{language}.png")


def generate(server: PageProcess, models: Sequence[str]) -> None:
    """Generate the same song by two models, unless there is a song already."""

    def songs() -> list[dict[str, Any]]:
        return list(json.loads(server.get("/api/songs")[1])["songs"])

    if not songs():
        takes = [{"model": model, "adapter": []} for model in models]
        values = {"caption": "a cheerful pop song with a clear female voice", "lyrics": LYRICS, "seconds": 5, "seed": 7}
        status, answer = server.post("/api/songs", {"values": values, "takes": takes, "ending": ".wav"})
        assert status == 200, answer
    while any(song["state"] == "running" for song in songs()):
        time.sleep(1)


def quoted(folder: str) -> str:
    """Return a folder as one part of an address."""
    return quote(folder, safe="")


def arrange(browser: Browser, name: str) -> None:
    """Bring the page into the state that the picture shows."""
    if name == "configure":
        browser.run("document.querySelector('[data-start=advice] [type=submit]').click()")
        browser.wait(lambda: browser.run("return !document.querySelector('#memory').hidden"), "the estimate")
        browser.run("document.querySelector('#form').scrollIntoView(); window.scrollBy(0, -60)")
    if name == "train":
        # A chart is drawn when it comes into view.
        browser.run("document.querySelector('#curves-title').scrollIntoView()")
        browser.wait(lambda: browser.run("return document.querySelectorAll('.js-plotly-plot').length > 1"), "charts")
        browser.run("window.scrollBy(0, -60)")
    if name == "listen":
        browser.run(
            "const song = document.querySelector('#songs article');"
            "const buttons = [...song.querySelectorAll('button')];"
            "buttons.find((button) => /Spectrogram|频谱/.test(button.textContent)).click();"
        )
        browser.settle()
        browser.run("document.querySelector('#songs-title').scrollIntoView(); window.scrollBy(0, -60)")
    time.sleep(1.5)


if __name__ == "__main__":
    main()
