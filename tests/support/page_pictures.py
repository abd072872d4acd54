"""Make the pictures of docs/ui.md: every part of the page, in both languages, from a workspace with the demo's results.

Run, after `make demo`, in the repository:
    python tests/support/page_pictures.py . docs/pictures

Songs, runs and data sets are those of the workspace; a song of two models is generated first, unless there is one.
"""

import argparse
import sys
import time
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent))

from browser import Browser, open_browser
from page_process import page_process

LANGUAGES = ("en", "zh")
WIDTH, HEIGHT = 1280, 900


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workspace", type=Path, help="folder with datasets/ and outputs/")
    parser.add_argument("out", type=Path, help="folder of the pictures")
    parser.add_argument("--data", default="datasets/demo_tokens", help="tokenized data set to configure for")
    parser.add_argument("--run", default="outputs/demo/dual_step3", help="run to show")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    shown = {
        "data": ("/data", "table"),
        "configure": (f"/configure?data={quote(arguments.data, safe='')}", "main"),
        "train": (f"/train/run/{quote(arguments.run, safe='')}", "main"),
        "listen": ("/listen", "main"),
        "models": ("/models", "table"),
    }
    with open_browser() as browser, page_process(arguments.workspace.resolve()) as server:
        browser.watch()
        browser.open(server.url)
        browser.resize(WIDTH, HEIGHT)
        for language in LANGUAGES:
            browser.language(language)
            for name, (address, selector) in shown.items():
                browser.open(server.base + address)
                browser.wait(lambda: browser.run("return document.querySelector(arguments[0])", selector), name)
                browser.settle()
                arrange(browser, name)
                browser.screenshot(arguments.out / f"ui_{name}_{language}.png")


def arrange(browser: Browser, name: str) -> None:
    """Bring the page into the state that the picture shows."""
    if name == "configure":
        browser.run("document.querySelector('#advise, form button.main').click()")
        browser.settle()
        time.sleep(8)  # the first advice imports torch
        browser.settle()
    if name == "train":
        browser.wait(lambda: browser.run("return document.querySelectorAll('.js-plotly-plot').length > 1"), "charts")
        browser.run("document.querySelector('.js-plotly-plot').closest('section').scrollIntoView()")
        browser.run("window.scrollBy(0, -60)")
    if name == "listen" and browser.run("return Boolean(document.querySelector('#songs article'))"):
        browser.run("document.querySelector('#songs article').scrollIntoView(); window.scrollBy(0, -160)")
        browser.settle()
    time.sleep(1.5)


if __name__ == "__main__":
    main()
