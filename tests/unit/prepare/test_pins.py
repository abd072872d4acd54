"""Networks of the hub stay those that a preparation began with."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from songgen.prepare import preparation as pipeline
from songgen.prepare.config import PrepareConfig, config_of_values
from songgen.prepare.pins import PINS_FILE, find_commits, pinned

OLD, NEW = "a" * 40, "b" * 40


class Hub:
    """Names the commit that a branch leads to; a repository that it does not know is an error."""

    def __init__(self, commit: str) -> None:
        self.commit = commit
        self.asked: list[tuple[str, str]] = []

    def download(self, model: str, file: str, *, revision: str) -> str:
        self.asked.append((model, revision))
        if "absent" in model:
            raise OSError("404")
        return f"/cache/models--x/snapshots/{self.commit}/{file}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(OLD)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


def config_in(folder: Path, **values: Any) -> PrepareConfig:
    (folder / "out.work").mkdir(exist_ok=True)
    return config_of_values({"inputs": [str(folder)], "output_dir": str(folder / "out"), **values})


def run(config: PrepareConfig) -> PrepareConfig:
    find_commits(config)
    return pinned(config)


def test_the_commit_behind_a_branch_is_kept_although_the_branch_moves(tmp_path: Path, hub: Hub) -> None:
    config = config_in(tmp_path, transcribe={"model": "x/one", "agreement_model": "x/two"}, score={"model": "x/clap"})
    sections = run(config).sections
    assert sections["transcribe"] is not None and sections["score"] is not None
    assert (sections["transcribe"].revision, sections["transcribe"].agreement_revision, sections["score"].revision) == (
        OLD,
    ) * 3
    hub.commit = NEW
    assert run(config).sections == sections and len(hub.asked) == 3
    assert run(config).meaning() != config.meaning()
    renewed = run(config_in(tmp_path, score={"model": "x/clap", "revision": "main"})).sections["score"]
    assert renewed is not None and renewed.revision == NEW
    assert json.loads((tmp_path / "out.work" / PINS_FILE).read_text())["x/clap@"] == OLD


def test_folders_commits_and_what_the_hub_does_not_know_stay_as_they_are(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "clap").mkdir()
    config = config_in(
        tmp_path,
        score={"model": str(tmp_path / "clap")},
        transcribe={"model": "x/one", "revision": NEW, "agreement_model": "x/absent"},
        tag={"backend": "server", "url": "http://127.0.0.1:1/v1"},
    )
    assert run(config).sections == config.sections and hub.asked == [("x/absent", "main")]
    assert not (tmp_path / "out.work" / PINS_FILE).exists()


def test_a_run_works_with_the_commits(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "songs").mkdir()
    config = config_in(tmp_path, inputs=[str(tmp_path / "songs")], score={"model": "x/clap"})
    given: list[PrepareConfig] = []
    monkeypatch.setattr(pipeline, "read_songs", lambda config: pipeline.TakenIn())
    monkeypatch.setattr(pipeline, "run_steps", lambda config, *_: given.append(config))
    monkeypatch.setattr(pipeline, "finish", lambda config, *_: given.append(config))
    pipeline.prepare(config)
    assert [made.sections["score"] and made.sections["score"].revision for made in given] == [OLD, OLD]
