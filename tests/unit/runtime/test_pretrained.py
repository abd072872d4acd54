"""Folders and hub ids: one resolver for models, encoders, codecs, tokenizers and separators."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from limits import SAFETY_SECONDS

from songgen.runtime.pretrained import find_commit, find_file, find_folder, local_folder, require_hub_id

COMMIT = "0123456789" * 4


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str | None]]:
    """A hub whose one repository has one file; what is asked for is listed."""
    asked: list[tuple[str, str, str | None]] = []
    place = tmp_path / "cache" / COMMIT / "there.json"
    place.parent.mkdir(parents=True)
    place.touch()

    def download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        if repository != "someone/model":
            raise LocalEntryNotFoundError("offline")
        if file != "there.json":
            raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
        return str(place)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


def test_folders_below_the_base_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part").mkdir()
    (tmp_path / "base" / "part").mkdir(parents=True)
    base = tmp_path / "base"
    assert local_folder("part", base) == base / "part" and local_folder("part") == Path("part")
    assert local_folder(str(tmp_path / "part"), base) == tmp_path / "part"
    assert local_folder("absent", base) is None
    assert find_folder("part", patterns=["*"], base_folder=base) == base / "part"


@pytest.mark.parametrize("name", ["./a/b", "/a", "~/a", "a/b/c", "../a", "a b/c", "alone"])
def test_what_can_be_no_hub_id_is_not_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match="there is no folder .*give a folder or a hub id"):
        require_hub_id(name)
    assert require_hub_id("t5-small", bare=True) == "t5-small" and require_hub_id("a.b/c-d_e") == "a.b/c-d_e"


def test_the_first_file_that_is_there(tmp_path: Path, hub: list[tuple[str, str, str | None]]) -> None:
    (tmp_path / "b.json").touch()
    assert find_file(tmp_path, ["a.json", "b.json"]) == tmp_path / "b.json"
    with pytest.raises(ValueError, match=r"no a\.json or c\.json in the folder"):
        find_file(tmp_path, ["a.json", "c.json"])
    assert find_file("someone/model", ["a.json", "there.json"], revision="v1").name == "there.json"
    assert hub == [("someone/model", "a.json", "v1"), ("someone/model", "there.json", "v1")]
    with pytest.raises(ValueError, match=r"no a\.json in the hub repository 'someone/model'"):
        find_file("someone/model", ["a.json"])
    with pytest.raises(ValueError, match=r"'no/one' is not a folder here.*LocalEntryNotFoundError: offline"):
        find_file("no/one", ["a.json"])


def test_the_commit_behind_a_revision(hub: list[tuple[str, str, str | None]]) -> None:
    assert find_commit("someone/model", "", "there.json") == COMMIT and hub[-1][2] == "main"
    assert find_commit("someone/model", "v1") is None and find_commit("no/one", "") is None


def test_finding_loads_no_torch() -> None:
    program = (
        "import sys; import songgen.runtime.files, songgen.runtime.json_files, songgen.runtime.pretrained; "
        "assert 'torch' not in sys.modules and 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=SAFETY_SECONDS)


_OFFLINE = """
import logging, time
logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
logging.getLogger("httpcore").disabled = True
from songgen.generation.separation import load_separator
from songgen.runtime.pretrained import find_folder
for ask in (load_separator, lambda: find_folder("someone/model", patterns=["*"])):
    began = time.monotonic()
    try:
        ask()
    except ValueError as error:
        print(f"{time.monotonic() - began:.0f} s: {error}")
"""


def test_without_a_network_one_message_comes_at_once(tmp_path: Path) -> None:
    """The hub's client tells each of its retries in two lines, for 23 seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    # A name under .invalid is never resolved (RFC 2606), whether there is a network or not.
    environment |= {"HF_ENDPOINT": "https://hub.invalid", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=SAFETY_SECONDS,
    )
    first, second = done.stdout.splitlines()
    assert "the separator 'htdemucs' cannot be loaded" in first and "do not ask for separation" in first
    assert "separate=" not in first and "'someone/model' is not a folder here" in second
    assert int(first.split()[0]) < 10 and int(second.split()[0]) < 10
    assert "Retry" not in done.stderr
