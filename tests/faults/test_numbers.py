"""Losses and gradients that go wrong: found before the weights change, by every process alike, and written down."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_numbers import NO_TARGETS, Fault, break_steps, noted_steps
from checkpoint_fakes import contents, manager
from forked import before_each_step, fork_run, saved_files, stop_at
from launching import make_world, records, write_config
from run_forms import ADAPTER_WITHOUT_DROPOUT, WEIGHTS_FILES, in_both_forms
from safetensors.torch import load_file, save_file

from songgen.doctor.hashes import accept
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_NON_FINITE
from songgen.runtime.status import read_run_status
from songgen.train import final_model
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import TrainerState, read_trainer_state
from songgen.train.optimization.anomalies import LOSS_SPIKES_FILE, NON_FINITE_FILE, NonFiniteError
from songgen.train.trainer import Trainer

NUM_SONGS = 5
Train = Callable[..., str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"), NUM_SONGS)


@pytest.fixture
def form() -> str:
    """Form of what `train` trains; tests with `in_both_forms` replace it."""
    return "model"


@pytest.fixture
def train(world: Path, tmp_path: Path, form: str) -> Train:
    """Run training in processes of its own, with faults in some steps, and return what it printed."""

    def run(
        output: str,
        returncode: int = EXIT_DONE,
        *,
        processes: int = 1,
        faults: Any = None,
        hook: Any = None,
        **keys: Any,
    ) -> str:
        settings: dict[str, Any] = {"do_eval": False, "per_device_train_batch_size": 2, "save_steps": None}
        settings |= (ADAPTER_WITHOUT_DROPOUT if form == "adapter" else {}) | keys
        config = write_config(world, output_dir=str(tmp_path / output), **settings)
        broken = break_steps(tmp_path / f"{output}-notes", faults or {})

        def hooks(rank: int) -> None:
            broken(rank)
            if hook is not None:
                hook(rank)

        return fork_run(config, tmp_path / f"{output}.log", processes=processes, hook=hooks).finish(returncode)

    return run


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def saved(folder: Path) -> TrainerState:
    """The state of the only checkpoint."""
    (checkpoint,) = folder.glob("checkpoint-*")
    return read_trainer_state(checkpoint)


def of_both(notes: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What two processes did in each step."""
    return list(zip(noted_steps(notes, 0), noted_steps(notes, 1), strict=True))


@pytest.mark.case(17)
@in_both_forms
def test_nan_on_one_process_stops_both_before_the_update_and_the_run_goes_on_from_there(
    train: Train, world: Path, tmp_path: Path
) -> None:
    nan = {3: Fault("nan", ranks=(1,))}
    printed = train("run", EXIT_NON_FINITE, processes=2, faults=nan, max_steps=6)
    assert "step 3: loss or gradients are not finite" in printed and NON_FINITE_FILE in printed
    notes = of_both(tmp_path / "run-notes")
    for first, second in notes:
        assert first["after"] == second["after"] and first["outcome"] == second["outcome"]
    assert [first["outcome"] for first, _ in notes] == ["UPDATED"] * 3 + ["NON_FINITE"]
    assert notes[3][0]["before"] == notes[3][0]["after"]
    (record,) = lines(tmp_path / "run", NON_FINITE_FILE)
    assert record["step"] == 3 and record["losses"][1] == "nan" and float(record["losses"][0]) > 0
    assert record["clips"] == [entry["clips"] for entry in notes[3]] and any(record["clips"])
    assert record["data_sets"] == [str(world / "data")]
    state = saved(tmp_path / "run")
    assert (state.step, state.updates) == (3, 3)
    train("run", processes=2, max_steps=6)
    train("straight", processes=2, max_steps=6)
    assert saved_files(tmp_path / "run" / "checkpoint-6") == saved_files(tmp_path / "straight" / "checkpoint-6")


@pytest.mark.case(17)
@in_both_forms
def test_steps_that_are_not_finite_are_left_out_by_both_processes_and_the_sixth_in_a_row_stops(
    train: Train, tmp_path: Path
) -> None:
    faults = {2: Fault("nan", ranks=(1,)), 4: Fault("infinite gradient", ranks=(0,))}
    faults |= {step: Fault("nan", ranks=(step % 2,)) for step in range(6, 12)}
    train("run", EXIT_NON_FINITE, processes=2, faults=faults, max_steps=20, non_finite="skip", warmup_steps=10)
    notes = of_both(tmp_path / "run-notes")
    assert [first["outcome"] for first, _ in notes] == [
        "NON_FINITE" if step in faults else "UPDATED" for step in range(12)
    ]
    for first, second in notes:
        assert first["after"] == second["after"]
        assert (first["before"] == first["after"]) is (first["step"] in faults or first["rate"] == 0)
    rates = [first["rate"] for first, _ in notes]
    assert rates[2] == rates[3] and rates[4] == rates[5], "a step that is left out moves the learning rate"
    assert rates[:2] + rates[3:4] + rates[5:7] == sorted(set(rates)), "the learning rate rises with every update"
    assert [record["step"] for record in lines(tmp_path / "run", NON_FINITE_FILE)] == list(faults)
    state = saved(tmp_path / "run")
    assert (state.step, state.updates, state.skipped_steps) == (11, 4, 7)


@pytest.mark.case(18)
@pytest.mark.parametrize("policy", ["stop", "skip"])
@in_both_forms
def test_an_infinite_gradient_of_a_finite_loss_is_no_update(train: Train, tmp_path: Path, policy: str) -> None:
    faults = {2: Fault("infinite gradient")}
    code = EXIT_NON_FINITE if policy == "stop" else EXIT_DONE
    train("run", code, faults=faults, max_steps=4, non_finite=policy)
    step = noted_steps(tmp_path / "run-notes")[2]
    assert step["outcome"] == "NON_FINITE" and step["before"] == step["after"] and 0 < step["loss"] < 100
    (record,) = lines(tmp_path / "run", NON_FINITE_FILE)
    assert float(record["losses"][0]) == pytest.approx(step["loss"]) and record["gradient_norm"] in ("inf", "nan")
    state = saved(tmp_path / "run")
    assert (state.step, state.updates, state.skipped_steps) == ((2, 2, 0) if policy == "stop" else (4, 3, 1))


SPIKE = {24: Fault("spike")}


@pytest.mark.case(18)
def test_a_spike_of_the_loss_is_warned_of_with_its_clips_and_training_goes_on(
    train: Train, world: Path, tmp_path: Path
) -> None:
    printed = train("run", faults=SPIKE, max_steps=30)
    notes = noted_steps(tmp_path / "run-notes")
    assert {step["outcome"] for step in notes} == {"UPDATED"} and len(notes) == 30
    (record,) = lines(tmp_path / "run", LOSS_SPIKES_FILE)
    assert record["step"] == 24 and record["clips"] == [notes[24]["clips"]]
    assert record["data_sets"] == [str(world / "data")] and record["deviations"] > 8
    assert record["loss"] == pytest.approx(notes[24]["loss"]) and record["median"] < record["loss"] / 10
    assert "robust deviations above the recent ones; the update is made" in printed


@pytest.mark.case(18)
def test_a_spike_on_one_process_is_left_out_by_both_until_the_budget_is_used_up(train: Train, tmp_path: Path) -> None:
    faults = {step: Fault("spike", ranks=(1,)) for step in (22, 25, 26, 27)}
    settings = {"loss_spike_policy": "skip", "loss_spike_budget": 2, "max_steps": 30}
    train("run", processes=2, faults=faults, **settings)
    notes = of_both(tmp_path / "run-notes")
    left_out = [first["step"] for first, _ in notes if first["outcome"] == "HELD_BACK"]
    assert left_out == [22, 25, 26]
    for first, second in notes:
        assert first["after"] == second["after"] and first["loss"] == second["loss"]
        assert (first["before"] == first["after"]) is (first["step"] in left_out)
    assert notes[22][0]["rate"] == notes[23][0]["rate"]
    actions = [record["action"] for record in lines(tmp_path / "run", LOSS_SPIKES_FILE)]
    assert actions == ["the update is left out (skip)"] * 3 + ["the update is made"]
    assert saved(tmp_path / "run").updates == 27


@pytest.mark.case(18)
@in_both_forms
def test_a_rewind_puts_the_latest_checkpoint_back_and_goes_on_behind_the_spike(train: Train, tmp_path: Path) -> None:
    faults = {24: Fault("spike"), 27: Fault("spike")}
    settings = {"loss_spike_policy": "rewind", "loss_spike_budget": 1, "save_steps": 10, "max_steps": 30}
    printed = train("run", faults=faults, save_total_limit=None, **settings)
    notes = noted_steps(tmp_path / "run-notes")
    assert [step["outcome"] for step in notes if step["step"] in faults] == ["HELD_BACK", "UPDATED"]
    assert notes[25]["before"] == notes[20]["before"] != notes[24]["before"]
    assert notes[25]["rate"] == notes[20]["rate"]
    assert [step["step"] for step in notes] == list(range(30)), "the data goes on"
    assert "checkpoint-20 (4 updates lost)" in printed
    state = read_trainer_state(tmp_path / "run" / "checkpoint-30")
    assert (state.updates, state.rewinds) == (25, 1)


@pytest.mark.case(18)
def test_a_resumed_run_remembers_the_losses_that_a_spike_is_compared_with(train: Train, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"loss_spike_policy": "skip", "max_steps": 27, "save_steps": 100, "faults": SPIKE}
    train("straight", **settings)
    train("stopped", hook=stop_at(22), **settings)
    assert saved(tmp_path / "stopped").step == 22
    train("stopped", **settings)
    assert [record["step"] for record in lines(tmp_path / "stopped", LOSS_SPIKES_FILE)] == [24]
    final, resumed = (saved_files(tmp_path / name / "checkpoint-27") for name in ("straight", "stopped"))
    assert final == resumed


@pytest.mark.case(19)
@in_both_forms
def test_batches_without_targets_are_no_trouble_on_one_process_and_a_skipped_step_on_all(
    train: Train, tmp_path: Path, form: str
) -> None:
    faults = {1: Fault(NO_TARGETS, ranks=(1,)), 3: Fault(NO_TARGETS, ranks=(0, 1))}
    train("run", processes=2, faults=faults, max_steps=6, warmup_steps=4)
    notes = of_both(tmp_path / "run-notes")
    assert [first["outcome"] for first, _ in notes] == ["UPDATED"] * 3 + ["EMPTY"] + ["UPDATED"] * 2
    for first, second in notes:
        assert first["after"] == second["after"] and 0 <= first["loss"] < float("inf")
    assert notes[3][0]["loss"] == 0 and notes[3][0]["before"] == notes[3][0]["after"]
    assert notes[3][0]["rate"] == notes[4][0]["rate"]
    state = saved(tmp_path / "run")
    assert (state.step, state.updates, state.skipped_steps) == (6, 5, 1)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "run" / WEIGHTS_FILES[form]).values())


@pytest.mark.case(20)
@in_both_forms
def test_fewer_songs_than_a_step_takes_come_once_an_epoch_and_evaluate_as_on_one_process(
    train: Train, tmp_path: Path
) -> None:
    """5 songs in batches of 2, in steps of 6 batches: the only step of an epoch is not full, on either process."""
    settings: dict[str, Any] = {"num_train_epochs": 3, "do_eval": True, "per_device_eval_batch_size": 2}
    train("two", processes=2, gradient_accumulation_steps=3, **settings)
    train("one", processes=1, gradient_accumulation_steps=6, **settings)
    notes = of_both(tmp_path / "two-notes")
    assert len(notes) == 3
    for first, second in notes:
        clips = [clip for clip in first["clips"] + second["clips"] if clip]
        assert sorted(clips) == [f"song{index}" for index in range(NUM_SONGS)]
    one, two = (records(tmp_path / name) for name in ("one", "two"))
    assert [record["step"] for record in two] == [1, 2, 3, 3]
    for name in ("train/loss", "eval/loss", "eval/accuracy"):
        pairs = [(a[name], b[name]) for a, b in zip(one, two, strict=True) if name in a]
        assert pairs and all(a == pytest.approx(b, rel=1e-5) for a, b in pairs), name
    assert saved(tmp_path / "two").samples_seen == 3 * NUM_SONGS


def nan_weights_at(step: int) -> Callable[[int], None]:
    """A hook that puts NaN into the weights before a step."""

    def spoil(trainer: Trainer, batches: Any) -> None:
        if trainer.state.step == step:
            with torch.no_grad():
                next(iter(trainer.engine.parameters.values())).view(-1)[0] = float("nan")

    return lambda rank: before_each_step(spoil)


@pytest.mark.case(17)
@pytest.mark.parametrize("processes", [1, 2])
@in_both_forms
def test_weights_that_are_not_finite_are_never_saved_or_finished_with(
    train: Train, tmp_path: Path, processes: int, form: str
) -> None:
    """Also if every step is skipped as not finite, and the run would otherwise end before too many were."""
    settings: dict[str, Any] = {"max_steps": 8, "save_steps": 2, "save_total_limit": 2, "processes": processes}
    run = tmp_path / "run"
    printed = train("run", EXIT_NON_FINITE, hook=nan_weights_at(6), non_finite="skip", **settings)
    assert "step 8 is not saved: NaN or infinity in model: " in printed
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert not (run / WEIGHTS_FILES[form]).exists()
    assert read_run_status(run).exit_code == EXIT_NON_FINITE
    printed = train("run", non_finite="skip", **settings)
    assert f"resumed from {run / 'checkpoint-6'}" in printed
    train("straight", **settings)
    assert saved_files(run / "checkpoint-8") == saved_files(tmp_path / "straight" / "checkpoint-8")


@pytest.mark.case(17)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["model", "optimizer", "average"])
def test_every_part_of_a_checkpoint_must_be_finite(tmp_path: Path, part: str, value: float) -> None:
    checkpoints = manager(tmp_path, limit=1)
    assert checkpoints.save(contents(1)) is not None
    spoiled = contents(2)
    name, tensor = next(iter(getattr(spoiled, part).items()))
    tensor.view(-1)[-1] = value
    with pytest.raises(NonFiniteError, match=f"step 2 is not saved: NaN or infinity in {part}: {name}"):
        checkpoints.save(spoiled)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.case(17)
@in_both_forms
def test_a_checkpoint_that_is_not_finite_is_passed_over_and_pushes_no_other_out(
    train: Train, tmp_path: Path, form: str
) -> None:
    """Earlier versions saved such ones, with hashes that fit."""
    settings: dict[str, Any] = {"save_steps": 2, "save_total_limit": 2}
    run = tmp_path / "run"

    def as_before(rank: int) -> None:
        nan_weights_at(5)(rank)
        CheckpointManager._require_finite = lambda *_: None  # type: ignore[method-assign]
        final_model.non_finite_names = lambda _: []  # type: ignore[assignment]

    train("run", hook=as_before, non_finite="skip", max_steps=8, **{**settings, "save_total_limit": None})
    assert len(list(run.glob("checkpoint-*"))) == 4
    printed = train("run", max_steps=8, non_finite="skip", **settings)
    name = WEIGHTS_FILES[form]
    for step in (8, 6):
        assert f"checkpoint {run / f'checkpoint-{step}'} is not used: {name} holds NaN or infinity in" in printed
    assert f"resumed from {run / 'checkpoint-4'}" in printed
    left = {path.name for path in run.glob("checkpoint-*")}
    assert {"checkpoint-4", "checkpoint-6", "checkpoint-8", "checkpoint-6-2", "checkpoint-8-2"} <= left


@pytest.mark.case(17)
def test_a_run_does_not_start_from_a_model_that_is_not_finite(train: Train, world: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(world / "model", tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["mert_layer_agg.weight"][0] = float("inf")
    save_file(weights, model / "model.safetensors")
    accept(model)
    printed = train("run", EXIT_ERROR, model_name_or_path=str(model), max_steps=2)
    assert f"{model} holds NaN or infinity in mert_layer_agg.weight" in printed
