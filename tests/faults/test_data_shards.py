"""Case 21: a data set whose files are not those that were written is refused before the first step."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from launching import finish, start, write_config
from training_fakes import write_dataset, write_model_folder

from songgen.data.dataset import REBUILD_HINT
from songgen.data.schema import DATASET_FILE, DatasetInfo
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.tasks import MIXED
from songgen.train.launch import run_training

FIRST, SECOND = "train/data-00000.arrow", "train/data-00001.arrow"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a data set of two shards for it with what `datasets` reads beside them."""
    folder = tmp_path_factory.mktemp("intact")
    write_model_folder(folder / "model")
    write_dataset(folder / "data", folder / "model", 8, 4, num_shards=2)
    (folder / "data" / "dataset_dict.json").write_text('{"splits": ["train", "eval"]}')
    for split in ("train", "eval"):
        for name in ("state.json", "dataset_info.json"):
            (folder / "data" / split / name).write_text("{}")
    return folder


@pytest.fixture
def world(intact: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy that a test may damage."""
    shutil.copytree(intact, tmp_path / "world")
    AcceleratorState._reset_state(True)
    yield tmp_path / "world"
    AcceleratorState._reset_state(True)


def truncate(data: Path) -> None:
    content = (data / SECOND).read_bytes()
    (data / SECOND).write_bytes(content[: len(content) * 6 // 10])


def flip_one_bit(data: Path) -> None:
    content = bytearray((data / SECOND).read_bytes())
    content[len(content) // 2] ^= 1
    (data / SECOND).write_bytes(content)


def swap(data: Path) -> None:
    first, second = (data / FIRST).read_bytes(), (data / SECOND).read_bytes()
    (data / FIRST).write_bytes(second)
    (data / SECOND).write_bytes(first)


def damage_evaluation(data: Path) -> None:
    (data / "eval/data-00001.arrow").write_bytes(b"")


def point_outside(data: Path) -> None:
    shutil.move(data / SECOND, data.parent / "outside.arrow")
    description = data / DATASET_FILE
    description.write_text(description.read_text().replace(SECOND, "../outside.arrow"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, SECOND),
    "one bit flipped": (flip_one_bit, SECOND),
    "swapped": (swap, FIRST),
    "missing": (lambda data: (data / SECOND).unlink(), SECOND),
    "empty": (lambda data: (data / SECOND).write_bytes(b""), SECOND),
    "evaluation": (damage_evaluation, "eval/data-00001.arrow"),
    "state.json missing": (lambda data: (data / "train/state.json").unlink(), "train/state.json"),
    "dataset.json missing": (lambda data: (data / DATASET_FILE).unlink(), DATASET_FILE),
    "outside of the folder": (point_outside, "../outside.arrow"),
}


def train(world: Path, output: Path, **changes: object) -> int:
    return run_training([str(write_config(world, output_dir=str(output), num_train_epochs=1, **changes))], MIXED)


@pytest.mark.case(21)
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_data_set_is_refused_before_the_first_step(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    damage, file = DAMAGES[name]
    damage(world / "data")
    monkeypatch.setattr("songgen.train.build.family_of", lambda *_: pytest.fail("the model was opened"))
    assert train(world, tmp_path / "run") == EXIT_ERROR
    printed = capsys.readouterr()
    message = " ".join((printed.out + printed.err).split())
    assert file in message and "songgen tokenize" in message, message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not list((tmp_path / "run").glob("checkpoint*"))


@pytest.mark.case(21)
def test_every_damaged_shard_is_named_with_the_way_out(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swap(world / "data")
    assert train(world, tmp_path / "run") == EXIT_ERROR
    printed = capsys.readouterr()
    message = " ".join((printed.out + printed.err).split())
    assert FIRST in message and SECOND in message and REBUILD_HINT in message


@pytest.mark.case(21)
def test_an_intact_data_set_is_trained_on_and_the_check_can_be_left_out(world: Path, tmp_path: Path) -> None:
    assert train(world, tmp_path / "run") == EXIT_DONE
    flip_one_bit(world / "data")
    AcceleratorState._reset_state(True)
    torch.manual_seed(0)
    assert train(world, tmp_path / "unverified", verify_data_hashes=False) == EXIT_DONE


@pytest.mark.case(21)
def test_all_processes_stop_when_the_main_one_finds_damage(world: Path, tmp_path: Path) -> None:
    swap(world / "data")
    config = write_config(world, output_dir=str(tmp_path / "run"))
    printed = finish(start("run_training_mixed.py", 2, config), EXIT_ERROR)
    assert " ".join(printed.split()).count(f"{FIRST}: its content is not what was written") == 1
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.case(21)
def test_a_shard_path_cannot_leave_the_data_set(world: Path) -> None:
    point_outside(world / "data")
    with pytest.raises(ValueError, match=r"names files outside of its folder \(\.\./outside\.arrow\)"):
        DatasetInfo.read(world / "data")
