"""Evaluation against a naive loop over clips, codebooks and frames."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from training_fakes import CODEBOOKS, make_batch, rows_of, tiny_model, tiny_objective

from songgen.data.collate import Batch
from songgen.models import SongGenForConditionalGeneration
from songgen.runtime.processes.commands import Inbox
from songgen.train.evaluation import Evaluator


class Steps:
    """Stands in for the held-out clips."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def steps(self, epoch: int) -> Iterator[list[Batch]]:
        return ([batch] for batch in self.batches)


def evaluate(model: SongGenForConditionalGeneration, batches: list[Batch]) -> dict[str, float]:
    data: Any = Steps(batches)
    sink: Any = None
    return Evaluator(tiny_objective(model), data, None).run(model, model, 0, sink, Inbox())


def naive(model: SongGenForConditionalGeneration, batches: list[Batch]) -> dict[str, float]:
    """Loss and accuracy clip by clip, head by head, step by step."""
    layout, vocabulary = model.layout, model.vocabulary
    head_sums: dict[int, list[float]] = {head: [] for head in range(layout.num_heads)}
    hits: dict[tuple[str, int], list[bool]] = {}
    for batch in batches:
        for row, frames in enumerate(batch.frames.tolist()):
            if not frames:
                continue
            alone = {name: value[row : row + 1] for name, value in batch.model_inputs().items() if value is not None}
            logits = model(**alone).logits[0]
            for track, name in enumerate(layout.tracks):
                for codebook in range(CODEBOOKS):
                    head = layout.heads[track][codebook]
                    for frame in range(frames + 1):
                        step = layout.stride * frame + layout.offsets[track][codebook]
                        code = int(batch.codes[row, track, codebook, frame]) if frame < frames else None
                        target = vocabulary.eos_token_id if code is None else code
                        distribution = logits[head, step].double().log_softmax(-1)
                        head_sums[head].append(-float(distribution[target]))
                        hits.setdefault((name, codebook), []).append(int(distribution.argmax()) == target)
    means = [sum(values) / len(values) for values in head_sums.values()]
    every_hit = [hit for values in hits.values() for hit in values]
    expected = {"loss": sum(means) / len(means), "accuracy": sum(every_hit) / len(every_hit)}
    for (name, codebook), values in hits.items():
        expected[f"{name}/codebook_{codebook}/accuracy"] = sum(values) / len(values)
    return expected


@pytest.mark.parametrize("track_pattern", ["mixed_pro", "parallel_A_V", "interleaving_V_A"])
@torch.no_grad()
def test_evaluation_equals_a_naive_loop(track_pattern: str) -> None:
    model = tiny_model(track_pattern, dropout=0.5)
    num_tracks = len(model.layout.tracks)
    batches = [
        make_batch(frames, seed=seed, num_tracks=num_tracks, auxiliary=num_tracks == 1)
        for seed, frames in enumerate([[4, 1], [6], [0]])
    ]
    model.train()
    found = evaluate(model, batches)
    assert model.training
    expected = naive(model.eval(), batches)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name


@torch.no_grad()
def test_the_split_into_batches_does_not_matter_and_two_runs_agree() -> None:
    model = tiny_model(dropout=0.5).train()
    whole = make_batch([5, 2, 7])
    first, second = evaluate(model, [whole]), evaluate(model, [rows_of(whole, [row]) for row in range(3)])
    assert first == pytest.approx(second, abs=1e-6)
    assert evaluate(model, [whole]) == first


@torch.no_grad()
def test_the_vocal_loss_is_that_of_the_auxiliary_heads() -> None:
    model = tiny_model().eval()
    batch = make_batch([5, 2])
    output = model(**batch.model_inputs())
    assert evaluate(model, [batch])["vocal_loss"] == pytest.approx(float(output.vocal_codebook_losses.mean()), abs=1e-6)
    assert "vocal_loss" not in evaluate(tiny_model("mixed").eval(), [batch])


@torch.no_grad()
@pytest.mark.parametrize("track_pattern", ["mixed_pro", "interleaving_A_V"])
def test_evaluation_and_training_have_one_loss(track_pattern: str) -> None:
    """The terms that evaluation sums by stream are those that the training loss sums by head: bit for bit."""
    model = tiny_model(track_pattern)
    num_tracks = len(model.layout.tracks)
    inputs = make_batch([5, 2], num_tracks=num_tracks, auxiliary=num_tracks == 1).model_inputs()
    trained = model.train()(**inputs, return_logits=False)
    evaluated = model.eval()(**inputs, return_logits=False)
    assert torch.equal(trained.codebook_losses, evaluated.codebook_losses) and trained.target_losses is None
    sums = [evaluated.target_losses[:, head].sum() for head in range(model.layout.num_heads)]
    torch.testing.assert_close(torch.stack(sums) / evaluated.target_counts, trained.codebook_losses)
    plain = model(**inputs)
    torch.testing.assert_close(plain.target_losses, evaluated.target_losses)
    assert torch.equal(plain.target_hits, evaluated.target_hits)
