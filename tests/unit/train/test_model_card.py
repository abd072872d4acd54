"""The model card says what the folder says, and no more."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_fakes import CODEBOOKS, tiny_model, write_model_folder

from songgen.config import RunConfig
from songgen.train.publishing.model_card import model_card, published_config

LAYOUT = "interleaving_A_V"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the dual-track task."""
    return write_model_folder(tmp_path_factory.mktemp("card") / "model", LAYOUT)


@pytest.fixture
def with_run(folder: Path) -> Any:
    """A function that leaves a configuration and metrics in the folder; they are removed afterwards."""
    files = (folder / "training_config.json", folder / "metrics.jsonl")

    def write(settings: dict[str, Any], records: list[dict[str, Any]]) -> Path:
        needed = {"model_name_or_path": "/data/someone/start", "output_dir": "/data/someone/run", "save_to_disk": "set"}
        RunConfig.from_dict(needed | settings).save(files[0])
        files[1].write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 99, "eval/lo')
        return folder

    yield write
    for path in files:
        path.unlink(missing_ok=True)


def front_matter(card: str) -> dict[str, Any]:
    """The YAML at the card's start."""
    _, text, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def table(card: str, first_cell: str) -> list[str] | None:
    """Cells of the row that starts with a cell."""
    for line in card.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and cells[0] == first_cell:
            return cells
    return None


def test_facts_are_those_of_the_model(folder: Path) -> None:
    card = model_card(folder, repo_id="account/name", license_name="apache-2.0")
    values = front_matter(card)
    assert values["library_name"] == "songgen" and values["license"] == "apache-2.0"
    assert "text-to-song" in values["tags"] and "dual-track" in values["tags"]
    count = sum(tensor.numel() for tensor in tiny_model(LAYOUT).state_dict().values())
    assert table(card, "parameters (without the frozen networks)") == [
        "parameters (without the frozen networks)",
        f"{count:,} (F32)",
    ]
    assert f"{LAYOUT}, " in card and f"{CODEBOOKS} codebooks" in card
    assert "`acc` and `vocal`" in card and "--model account/name" in card


def test_what_is_not_known_is_not_said(folder: Path) -> None:
    card = model_card(folder)
    assert "license" not in front_matter(card)
    for heading in ("## Training", "## Evaluation", "## Samples"):
        assert heading not in card


def test_recipe_and_metrics_are_those_of_the_run(with_run: Any) -> None:
    records = [
        {"step": 1, "epoch": 0.5, "train/loss": 9.0, "eval/loss": 3.0, "eval/loss/acc/0": 2.0},
        {"step": 2, "epoch": 1.0, "eval/loss": 3.5, "eval/mel_distance": None, "eval/loss/acc/0": 2.5},
        {"step": 3, "epoch": 1.5, "train/loss": 1.0},
    ]
    card = model_card(with_run({"learning_rate": 3e-4, "max_steps": 7, "ema_decay": 0.99}, records))
    assert table(card, "`learning_rate`") == ["`learning_rate`", "`0.0003`"]
    assert table(card, "`max_steps`") == ["`max_steps`", "`7`"]
    assert table(card, "`num_train_epochs`") is None
    assert table(card, "`ema_decay`") is not None and "moving average" in card
    assert table(card, "`adam_epsilon`") is None, "a default says nothing"
    assert "after step 3, 1.50 epochs" in card
    assert table(card, "metric") == ["metric", "after step 2", "lowest loss, step 1"]
    assert table(card, "`loss`") == ["`loss`", "3.5", "3"]
    assert table(card, "`loss/acc/0`") == ["`loss/acc/0`", "2.5", "2"]
    assert "mel_distance" not in card, "it was not finite"
    assert "9.0" not in card, "the loss of a training batch is no result"
    assert "someone" not in card


def test_a_run_without_evaluation_claims_none(with_run: Any) -> None:
    card = model_card(with_run({}, [{"step": 1, "epoch": 0.1, "train/loss": 9.0}]))
    assert "## Training" in card and "## Evaluation" not in card
    assert table(card, "`num_train_epochs`") is not None and table(card, "`max_steps`") is None


def test_samples_are_links_that_work(folder: Path) -> None:
    card = model_card(folder, samples=["samples/step_1/a [b] (c)_generated_mix.wav"])
    assert r"[a \[b\] (c)_generated_mix](samples/step_1/a%20%5Bb%5D%20%28c%29_generated_mix.wav)" in card


def test_a_value_cannot_break_the_table(with_run: Any) -> None:
    card = model_card(with_run({"target_audio_column_name": "a|b\n`c`"}, []))
    assert r"| `target_audio_column_name` | `" in card
    row = next(line for line in card.splitlines() if "target_audio_column_name" in line)
    assert row.count("|") - row.count(r"\|") == 3 and row.count("`") == 4


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/data/someone/set", "set"),
        ("~/set", "set"),
        ("C:\\Users\\someone\\set", "set"),
        ("/data/someone/one+/data/someone/two", "one+two"),
        ("relative/set", "relative/set"),
        ("account/name", "account/name"),
        ({"path": ["/data/someone/set"]}, {"path": ["set"]}),
        ("hf_" + "a" * 20, "<redacted>"),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_published_values(value: Any, shown: Any) -> None:
    assert published_config({"key": value}) == {"key": shown}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a model folder: it holds no config\.json"):
        model_card(tmp_path)
