"""`songgen init` of a flow model: a folder with random weights that the whole path works with."""

import warnings
from pathlib import Path

import pytest
import torch

from songgen.cli.main import main
from songgen.doctor import Level, examine
from songgen.exit_codes import EXIT_DONE, EXIT_USAGE
from songgen.families.flow.initialize import END_OF_TEXT, train_tokenizer
from songgen.families.flow.model import FlowModel
from songgen.families.registry import family_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("init")
    texts = place / "texts.txt"
    texts.write_text("a slow ballad\na slow song\n" * 20, encoding="utf-8")
    words = ["init", str(place / "model"), "--preset", "flow_small", "--turbo", "--texts", str(texts)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # those of libraries tell a user nothing
        assert main(words) == EXIT_DONE
    return place / "model"


def test_the_folder_is_whole_and_generates(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert {finding.level for finding in examine(folder, deep=True).findings} == {Level.OK}
    assert family_of(folder).name == "flow matching"
    core = FlowModel.open(folder)
    assert core.is_turbo and core.num_channels == 16
    assert core.silence(20_000).std(dim=1).max() == 0, "silence is the same in every frame"
    with torch.random.fork_rng():
        pipeline = core.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        song = pipeline(prompt="a slow song", lyrics="la", audio_duration=0.5, num_inference_steps=1).audios[0]
    assert song.shape[0] == 2 and song.isfinite().all()


def test_the_tokenizer_learns_the_prompt_and_the_given_texts() -> None:
    plain, taught = train_tokenizer(), train_tokenizer(["a slow ballad"] * 20)
    words = "a slow ballad of quite another kind: ÄÖÜ 東京"
    assert len(taught(words).input_ids) < len(plain(words).input_ids)
    assert taught.decode(taught(words).input_ids) == words, "every text is known"
    assert plain(f"la{END_OF_TEXT}").input_ids[-1] == plain.pad_token_id == plain.eos_token_id


def test_options_of_the_other_kind_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", str(tmp_path / "model")]
    assert main([*words, "--preset", "flow_small", "--rope_embeddings", "--text_model", "x"]) == EXIT_USAGE
    assert "--text_model, --rope_embeddings: not for flow-matching models" in capsys.readouterr().err
    assert main([*words, "--preset", "small", "--turbo"]) == EXIT_USAGE
    assert "--turbo and --texts are for flow-matching models" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
