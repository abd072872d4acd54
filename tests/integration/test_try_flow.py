"""`songgen try` of a flow model: the loss of fixed noise falls, and the clip is generated again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_flow import write_latents, write_tiny_pipeline

from songgen.data.dataset import SongDataset
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.families.flow.model import FlowModel


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with latents, and a configuration of a long run."""
    folder = tmp_path_factory.mktemp("world")
    model = write_tiny_pipeline(folder / "model")
    data = write_latents(folder / "data", model)
    values = {
        "model_name_or_path": str(model), "save_to_disk": str(data), "output_dir": str(folder / "run"),
        "learning_rate": 3e-3, "warmup_steps": 500, "max_steps": 10_000,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(values))
    return folder


@pytest.mark.faults
def test_a_configuration_that_learns_brings_the_clip_back(
    world: Path, tmp_path: Path, try_it: Callable[..., tuple[int, str]]
) -> None:
    kept = tmp_path / "kept"
    code, printed = try_it("--keep", str(kept), "--clip_seconds", "0.2")
    assert code == EXIT_DONE, printed
    assert "it learns" in printed and "of the clip comes back when it is generated" in printed
    result = json.loads((kept / "try.json").read_text())
    assert result["known"] >= 0.5 and result["recall"] >= 0.5 and len(result["losses"]) < 500
    assert SongDataset.open(kept / "clip", "train").num_frames.tolist() == [4], "the shortest clip"
    FlowModel.open(kept / "run")
    assert not (world / "run").exists(), "the configuration's own output folder is left alone"


def test_without_data_a_song_is_made_and_tokenized(world: Path, try_it: Callable[..., tuple[int, str]]) -> None:
    code, printed = try_it("--save_to_disk", str(world / "none"), "--steps", "10", "--learning_rate", "1e-9")
    assert code == EXIT_ERROR
    assert "a song made for this, since there is no data set yet" in printed
    assert "learning_rate 1e-09 is too low" in printed
