"""One training step: exact normalization, agreement on bad steps, frozen parts; and the run's folder and signals."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from limits import SAFETY_SECONDS
from training_fakes import CODEBOOKS, make_batch, rows_of, tiny_model, tiny_objective

from songgen.families.tokens.objective import HEADS, VOCAL_HEADS, head_names
from songgen.families.tokens.parameter_groups import TOKEN_GROUPS
from songgen.families.trainable import Trainable
from songgen.models import SongGenForConditionalGeneration
from songgen.runtime.processes import commands
from songgen.runtime.processes.commands import Inbox
from songgen.runtime.processes.start import require_all_processes
from songgen.train.checkpoints.state import TrainerState, capture_random_state, restore_random_state
from songgen.train.optimization.engine import AcceleratedEngine, GradientLimit
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer
from songgen.train.output_folder import back_up_run, require_outside, require_usable
from songgen.train.step import Outcome, TrainingStep
from songgen.train.totals import StepTotals

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def make_step(
    model: SongGenForConditionalGeneration, *, max_norm: float = 1.0, vocal: float = 0.1, by_element: bool = False
) -> TrainingStep:
    accelerator = Accelerator(cpu=True)
    # The large epsilon keeps AdamW from blowing the rounding noise of gradients that are zero up to whole steps.
    options = OptimizerOptions(1e-2, epsilon=1e-4)
    trainable = Trainable.choose(model)
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, trainable, options))
    engine = AcceleratedEngine(accelerator, prepared, optimizer, trainable)
    return TrainingStep(
        accelerator, engine, tiny_objective(model, vocal_loss_weight=vocal), GradientLimit(max_norm, by_element)
    )


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("track_pattern", ["mixed_pro", "parallel_A_V", "interleaving_A_V"])
def test_accumulation_of_unequal_micro_batches_equals_one_batch(track_pattern: str) -> None:
    num_tracks = 1 if track_pattern == "mixed_pro" else 2
    whole = make_batch([9, 2, 5, 1], num_tracks=num_tracks, auxiliary=num_tracks == 1)
    parts = [rows_of(whole, [0]), rows_of(whole, [1, 2]), rows_of(whole, [3])]
    empty = make_batch([0], seed=9, num_tracks=num_tracks, auxiliary=num_tracks == 1)
    one, several = tiny_model(track_pattern), tiny_model(track_pattern)
    first = make_step(one).run([whole], WEIGHTS)
    second = make_step(several).run([*parts, empty], WEIGHTS)
    assert first.outcome is second.outcome is Outcome.UPDATED
    torch.testing.assert_close(first.objective, second.objective)
    torch.testing.assert_close(first.parts, second.parts)
    torch.testing.assert_close(first.gradient_norm, second.gradient_norm)
    assert (first.samples, first.frames, first.targets) == (second.samples, second.frames, second.targets)
    assert (first.samples, first.frames) == (4, 17)
    for name, value in weights_of(one).items():
        torch.testing.assert_close(value, weights_of(several)[name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_objective_is_the_weighted_token_mean_and_a_tenth_of_the_vocal_loss() -> None:
    model = tiny_model()
    batch = make_batch([6, 3])
    expected = model.train()(**batch.model_inputs(), codebook_weights=WEIGHTS)
    result = make_step(model).run([batch], WEIGHTS)
    torch.testing.assert_close(result.objective, (expected.loss + 0.1 * expected.vocal_loss).detach())
    torch.testing.assert_close(result.parts[HEADS], expected.codebook_losses.detach())
    torch.testing.assert_close(result.parts[VOCAL_HEADS], expected.vocal_codebook_losses.detach())


def test_clipping_bounds_the_gradient_but_reports_its_norm() -> None:
    loose, tight = tiny_model(), tiny_model()
    batch = make_batch([6, 3])
    assert make_step(loose, max_norm=1e9).run([batch], WEIGHTS).gradient_norm > 0.05
    step = make_step(tight, max_norm=0.05)
    seen: list[float] = []
    original = step.engine.optimizer.step
    step.engine.optimizer.step = lambda: (
        seen.append(float(torch.stack([p.grad.norm() for p in tight.parameters() if p.grad is not None]).norm())),
        original(),
    )
    result = step.run([batch], WEIGHTS)
    assert result.gradient_norm > 0.05 and seen[0] == pytest.approx(0.05, rel=1e-3)


def test_clipping_by_value_bounds_each_element_of_the_whole_step() -> None:
    """The sums over all micro-batches are clipped: sums of clipped gradients would be larger, or smaller."""
    exact, clipped = tiny_model(), tiny_model()
    batches = [make_batch([6, 3]), make_batch([4], seed=1)]
    seen: list[dict[str, torch.Tensor]] = []
    norms = []
    for model, bound, by_element in ((exact, 1e9, False), (clipped, 1e-3, True)):
        step = make_step(model, max_norm=bound, by_element=by_element)
        original = step.engine.optimizer.step
        step.engine.optimizer.step = lambda model=model, original=original: (
            seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}),
            original(),
        )
        norms.append(step.run(batches, WEIGHTS).gradient_norm)
    assert any(gradient.abs().max() > 1e-3 for gradient in seen[0].values())
    assert any(0 < gradient.abs().min() < 1e-3 for gradient in seen[0].values())
    for name, gradient in seen[0].items():
        assert torch.equal(seen[1][name], gradient.clamp(-1e-3, 1e-3)), name
    assert norms[0] == norms[1], "that before clipping"


@pytest.mark.parametrize("by_element", [False, True])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(where: str, by_element: bool) -> None:
    model = tiny_model()
    step = make_step(model, by_element=by_element)
    step.run([make_batch([5, 3])], WEIGHTS)
    before, state_before = weights_of(model), json.dumps(str(step.engine.optimizer.state_dict()))
    if where == "loss":
        result = step.run([make_batch([5, 3]), make_batch([2], seed=1)], WEIGHTS * float("nan"))
    else:
        handle = model.enc_to_dec_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
        result = step.run([make_batch([5, 3])], WEIGHTS)
        handle.remove()
    assert result.outcome is Outcome.NON_FINITE
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())
    assert json.dumps(str(step.engine.optimizer.state_dict())) == state_before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert step.run([make_batch([5, 3])], WEIGHTS).outcome is Outcome.UPDATED


def test_a_step_without_targets_changes_nothing_and_is_finite() -> None:
    model = tiny_model()
    before = weights_of(model)
    result = make_step(model).run([make_batch([0]), make_batch([0], seed=1)], WEIGHTS)
    assert result.outcome is Outcome.EMPTY and result.objective == 0
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())


def test_frozen_groups_stay_as_they_are() -> None:
    model = tiny_model()
    Trainable.choose(model, TOKEN_GROUPS, frozen=["cross", "vocal_heads"])
    before = weights_of(model)
    step = make_step(model, vocal=0.0)
    for seed in range(3):
        step.run([make_batch([5, 3], seed=seed)], WEIGHTS)
    changed = {
        TOKEN_GROUPS.group_of(name) for name, value in weights_of(model).items() if not torch.equal(value, before[name])
    }
    assert changed == {"audio_embeddings", "decoder", "heads"}


def test_that_there_are_commands_is_reported_at_the_boundary() -> None:
    step = make_step(tiny_model())
    assert not step.run([make_batch([3])], WEIGHTS).has_commands
    assert step.run([make_batch([3])], WEIGHTS, lambda: True).has_commands


def test_totals_average_over_steps_and_leave_out_what_was_not_computed() -> None:
    model = tiny_model()
    step = make_step(model, vocal=0.0)
    totals = StepTotals(step.objective, torch.device("cpu"))
    results = [step.run([make_batch([5, 3], seed=seed)], WEIGHTS) for seed in range(3)]
    bad = step.run([make_batch([5, 3])], WEIGHTS * float("nan"))
    for result in [*results, bad]:
        totals.add(result)
    report = totals.report()
    assert report["loss"] == pytest.approx(sum(float(result.objective) for result in results) / 3)
    assert report["grad_norm"] == pytest.approx(sum(float(result.gradient_norm) for result in results) / 3)
    assert "vocal_loss" not in report and report["tokens_per_second"] > 0
    assert {f"{name}/loss" for name in head_names(model.layout)} <= set(report)
    assert "loss" not in totals.report()


def test_heads_are_named_after_their_track_where_they_have_one() -> None:
    assert head_names(tiny_model().layout) == [f"mix/codebook_{k}" for k in range(CODEBOOKS)]
    assert head_names(tiny_model("interleaving_A_V").layout) == [f"codebook_{k}" for k in range(CODEBOOKS)]
    assert head_names(tiny_model("parallel_std").layout)[::CODEBOOKS] == ["acc/codebook_0", "vocal/codebook_0"]


def test_a_launch_whose_processes_do_not_know_each_other_is_refused() -> None:
    require_all_processes({}, 1)
    require_all_processes({"WORLD_SIZE": "2"}, 2)
    with pytest.raises(ValueError, match="ACCELERATE_USE_CPU=true accelerate launch"):
        require_all_processes({"WORLD_SIZE": "2"}, 1)


def test_the_state_survives_json_and_refuses_what_it_is_not() -> None:
    state = TrainerState(step=3, plan={"seed": 1}, best_metric=0.5)
    assert TrainerState.from_json(state.to_json()) == state
    with pytest.raises(ValueError, match="schema version None"):
        TrainerState.from_json("{}")
    with pytest.raises(ValueError, match="unknown keys \\['extra'\\]"):
        TrainerState.from_json(json.dumps(json.loads(state.to_json()) | {"extra": 1}))


def test_random_state_is_restored_bit_for_bit() -> None:
    import random

    import numpy

    def draw() -> tuple[object, ...]:
        return random.random(), random.gauss(0, 1), numpy.random.randn(), torch.rand(2).tolist()

    random.gauss(0, 1)
    saved = capture_random_state()
    first = draw()
    restore_random_state(saved)
    assert draw() == first


def test_random_state_of_another_kind_of_device_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = capture_random_state()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" not in saved)
    with pytest.raises(ValueError, match=r"resume on such a machine, or start a new output_dir"):
        restore_random_state(saved)


def test_the_first_signal_sets_a_flag_and_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Inbox() as inbox:
        assert not inbox.stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert inbox.stop_requested()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("same_request_seconds", "code"), [(0.0, 128 + signal.SIGTERM), (60.0, 0)])
def test_a_second_signal_ends_the_process_at_once_unless_it_is_the_same_request(
    monkeypatch: pytest.MonkeyPatch, same_request_seconds: float, code: int
) -> None:
    monkeypatch.setattr(commands, "SAME_REQUEST_SECONDS", same_request_seconds)
    child = os.fork()
    if child == 0:
        with Inbox():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            # A thread hears the signals: it needs a moment to end the process.
            time.sleep(SAFETY_SECONDS if code else 1.0)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def test_a_folder_with_foreign_files_is_refused_with_the_way_out(tmp_path: Path) -> None:
    require_usable(tmp_path / "new", resume="auto", overwrite=False)
    require_usable(tmp_path, resume="auto", overwrite=False)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="no training run wrote.*thesis.txt.*overwrite_output_dir"):
        require_usable(tmp_path, resume="auto", overwrite=False)
    require_usable(tmp_path, resume="auto", overwrite=True)
    assert back_up_run(tmp_path) is None
    assert (tmp_path / "thesis.txt").exists()


def test_a_run_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "training_config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    require_usable(tmp_path, resume="auto", overwrite=False)
    with pytest.raises(ValueError, match="holds a run already"):
        require_usable(tmp_path, resume="never", overwrite=False)


def test_a_run_that_is_started_anew_lies_beside_it_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number in (1, 2):
        (folder / "checkpoints").mkdir(parents=True)
        for name in ("training_config.json", "metrics.jsonl", ".run.lock", "checkpoints/one"):
            (folder / name).write_text(f"{number}")
        backup = back_up_run(folder)
        assert backup == tmp_path / f"run.backup-{number}"
        moved = {entry.relative_to(backup).as_posix() for entry in backup.rglob("*") if entry.is_file()}
        assert moved == {"training_config.json", "metrics.jsonl", "checkpoints/one"}
        assert (backup / "checkpoints" / "one").read_text() == str(number)
        assert [entry.name for entry in folder.iterdir()] == [".run.lock"], "which its holder needs"
    assert back_up_run(folder) is None


def test_what_a_run_reads_is_not_moved_away(tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    require_outside(tmp_path / "run", {"model_name_or_path": "someone/hub-model", "save_to_disk": str(tmp_path)})
    with pytest.raises(ValueError, match="reads model_name_or_path .*model there; choose another output_dir"):
        require_outside(tmp_path / "run", {"model_name_or_path": str(tmp_path / "run" / "model")})
