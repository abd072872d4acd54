from pathlib import Path

import pytest

from songgen.config import load_run_config, read_config_file
from songgen.config.recipes import LAUNCHING, PREPARING, TRAINING, find_recipe
from songgen.prepare.config import load_prepare_config

HELPERS = Path(__file__).resolve().parents[3] / "helpers"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "place"),
    [
        ("mixed_pro/step3.json", TRAINING, "training_configs/mixed_pro/step3.json"),
        ("./mixed_pro/step3.json", TRAINING, "training_configs/mixed_pro/step3.json"),
        ("helpers/training_configs/mixed_pro/step3.json", TRAINING, "training_configs/mixed_pro/step3.json"),
        ("offline.json", PREPARING, "prepare_configs/offline.json"),
        ("ddp_8_gpus.yaml", LAUNCHING, "accelerate_configs/ddp_8_gpus.yaml"),
    ],
)
def test_a_shipped_file_is_found_by_its_name_from_any_folder(name: str, kind: str, place: str) -> None:
    assert find_recipe(name, kind).samefile(HELPERS / place)


def test_a_file_of_that_name_in_the_working_folder_comes_first(tmp_path: Path) -> None:
    (tmp_path / "mixed_pro").mkdir()
    (tmp_path / "mixed_pro" / "step3.json").write_text("{}")
    assert find_recipe("mixed_pro/step3.json", TRAINING) == Path("mixed_pro/step3.json")


@pytest.mark.parametrize("name", ["mixed_pro/step9.json", "/mixed_pro/step3.json", "step3.json", "mixed_pro"])
def test_what_is_not_shipped_stays_as_it_was_given(name: str) -> None:
    assert find_recipe(name, TRAINING) == Path(name)


def test_configurations_are_read_by_name_with_what_they_are_based_on() -> None:
    config = load_run_config(["mixed_pro/step3.json", "--learning_rate", "1e-3"], description="")
    assert [Path(source).name for source in config.sources] == ["base.json", "step3.json"]
    assert (config.training.learning_rate, config.training.output_dir) == (1e-3, "./outputs/mixed_pro/step3")
    demo = read_config_file(find_recipe("demo/mixed_step1.json", TRAINING))[1]
    assert [Path(source).parent.name for source in demo] == ["mixed_pro", "demo", "demo"]
    assert load_prepare_config(["hq.json", "--inputs", "./songs", "--output_dir", "out"]).sections.separate is not None


def test_a_missing_file_is_named_as_it_was_given() -> None:
    with pytest.raises(ValueError, match=r"^mixed_pro/step9\.json: cannot be read"):
        load_run_config(["mixed_pro/step9.json"], description="")
