"""Texts that would like to be scripts, in everything that the page shows; very long texts, and very many jobs."""

import json
import time
from collections.abc import Iterator

import pytest
from browser import Browser
from page_process import PageProcess, page_process
from ui_workspace import make_workspace, page_addresses, write_job, write_run

from songgen.jobs.record import JOBS_FOLDER
from songgen.ui.workspace import CONFIGS_FOLDER, Workspace

pytestmark = pytest.mark.faults

EVIL = (
    "</script><script>window.attacked=1</script>\"><img src=x onerror='window.attacked=1'>t{{7*7}}t${7*7}t"
    "<svg onload=window.attacked=1><a href='javascript:window.attacked=1'>x</a>[x](javascript:window.attacked=1)"
)
EVIL_NAME = "<img src=x onerror=window.attacked=1> & \"'{{7*7}} %2e %00 \u202e#?"
NUM_JOBS = 10_000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which every text attacks, names of files and folders too."""
    root = tmp_path_factory.mktemp("page") / f"w {EVIL_NAME}"
    workspace = make_workspace(root, EVIL)
    evil_run = root / "outputs" / EVIL_NAME
    write_run(evil_run, text=EVIL, names=(f"train/{EVIL}", "train/__proto__", "train/constructor"))
    (root / CONFIGS_FOLDER / f"{EVIL_NAME}.json").write_text(json.dumps({"run_name": EVIL, "output_dir": EVIL}))
    (root / "datasets" / "uploads" / EVIL_NAME).mkdir()
    (root / "datasets" / "uploads" / EVIL_NAME / f"{EVIL_NAME}.wav").write_bytes(b"RIFF")
    write_job(root, EVIL, EVIL + "\n" + "x" * 300_000 + "\n\x1b[31m\x1b]0;title\x07", subject=EVIL_NAME)
    return workspace


@pytest.fixture(scope="module")
def server(hostile: Workspace, browser: Browser) -> Iterator[PageProcess]:
    with page_process(hostile.root) as server:
        browser.open(server.url)
        yield server
        browser.open("about:blank")


def attacks(browser: Browser) -> list[str]:
    """What an attack has left."""
    found = browser.run(
        "const links = [...document.querySelectorAll('a[href]')], all = document.documentElement.outerHTML; return ["
        " window.attacked && 'a script ran', /t49|49t/.test(all) && 'a template ran',"
        " document.querySelector('svg[onload], img[src=\"x\"]') && 'an element was made',"
        " links.some((link) => link.protocol === 'javascript:') && 'a link runs a script']"
    )
    return [text for text in found if text]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_text_becomes_a_script(browser: Browser, server: PageProcess, hostile: Workspace, language: str) -> None:
    complaints = []
    browser.complaints()
    browser.language(language)
    addresses = [address for address in page_addresses(hostile, with_documents=True) if server.get(address)[0] == 200]
    assert any("img" in address for address in addresses), "the folders with evil names are among them"
    for address in addresses:
        browser.open(server.base + address)
        browser.settle()
        found = attacks(browser) + browser.complaints()
        complaints += [f"{address}: {text}" for text in found]
    assert not complaints, "\n".join(complaints)
    assert "Traceback" not in server.errors.read_text()


def test_a_huge_log_and_thousands_of_jobs(browser: Browser, server: PageProcess, hostile: Workspace) -> None:
    jobs = hostile.root / JOBS_FOLDER
    [folder] = [path for path in jobs.iterdir()][:1]
    template = {path.name: path.read_text() for path in folder.iterdir() if path.is_file() and path.suffix == ".json"}
    for number in range(NUM_JOBS):
        name = f"20200101-{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}-doctor-{number:04x}"
        (jobs / name).mkdir()
        for file, text in template.items():
            (jobs / name / file).write_text(text.replace(folder.name, name))
    status, _ = server.get("/api/jobs")  # reads them all
    begin = time.monotonic()
    status, listing = server.get("/api/jobs")
    seconds = time.monotonic() - begin
    assert status == 200 and len(json.loads(listing)["jobs"]) <= 200
    assert seconds < 2, f"{seconds:.1f} s; every page asks for this every five seconds"
    browser.open(f"{server.base}/jobs")
    browser.settle()
    assert not attacks(browser)
