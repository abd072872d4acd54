"""The published implementation's numbers, reproduced from its weights."""

from pathlib import Path

import pytest
import torch
from reference_cases import CASES, DATA, conditions, load, tensors

from songgen import SongGenDualTrackForConditionalGeneration, SongGenMixedForConditionalGeneration
from songgen.models import SongGenForConditionalGeneration, SongGenOutput

LOGITS_TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-5


def check(output: SongGenOutput, io: dict[str, torch.Tensor]) -> None:
    assert output.logits is not None
    torch.testing.assert_close(output.logits.flatten(0, 1), io["out.logits"], atol=LOGITS_TOLERANCE, rtol=0)
    torch.testing.assert_close(output.loss, io["out.loss"][0], atol=LOSS_TOLERANCE, rtol=0)
    torch.testing.assert_close(output.codebook_losses, io["out.codebook_losses"], atol=LOSS_TOLERANCE, rtol=0)
    assert (output.vocal_loss is not None) == ("out.vocal_loss" in io)
    if output.vocal_loss is not None:
        torch.testing.assert_close(output.vocal_loss, io["out.vocal_loss"][0], atol=LOSS_TOLERANCE, rtol=0)
        torch.testing.assert_close(
            output.vocal_codebook_losses, io["out.vocal_codebook_losses"], atol=LOSS_TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_losses(name: str, implementation: str, tmp_path: Path) -> None:
    model, io = load(name, tmp_path, attn_implementation=implementation), tensors(name)
    with torch.no_grad():
        output = model(labels=io["in.labels"], vocal_labels=io.get("in.vocal_labels"), **conditions(io))
    check(output, io)


@pytest.mark.parametrize("name", CASES)
def test_codes_give_the_same_as_laid_out_labels(name: str, tmp_path: Path) -> None:
    model, io = load(name, tmp_path), tensors(name)
    frames = torch.tensor([io[f"out.codes_mix_{b}"].shape[1] for b in range(2)])
    codes = torch.full((2, len(model.layout.tracks), 8, int(frames.max())), -100)
    vocal = torch.full((2, 1, 8, int(frames.max())), -100)
    for b, length in enumerate(frames):
        vocal[b, 0, :, :length] = io[f"out.codes_vocal_{b}"]
        for n, track in enumerate(model.layout.tracks):
            codes[b, n, :, :length] = io[f"out.codes_{track}_{b}"]
    assert torch.equal(model.layout.labels(codes, frames, model.vocabulary).transpose(1, 2), io["in.labels"])
    with torch.no_grad():
        check(model(codes=codes, frames=frames, auxiliary_codes=vocal, **conditions(io)), io)


@pytest.mark.parametrize(
    ("folder", "cls"),
    [
        ("published_mixed_pro", SongGenMixedForConditionalGeneration),
        ("published_interleaving_A_V", SongGenDualTrackForConditionalGeneration),
    ],
)
def test_published_folder_opens(folder: str, cls: type[SongGenForConditionalGeneration], tmp_path: Path) -> None:
    model, io = (
        cls.from_pretrained(DATA / folder, attn_implementation="sdpa"),
        tensors(folder.removeprefix("published_")),
    )
    keywords = {**conditions(io), "labels": io["in.labels"], "vocal_labels": io.get("in.vocal_labels")}
    with torch.no_grad():
        check(model(**keywords), io)
        model.save_pretrained(tmp_path)
        check(cls.from_pretrained(tmp_path)(**keywords), io)


def test_wrong_class_is_refused() -> None:
    with pytest.raises(ValueError, match="dual_track"):
        SongGenMixedForConditionalGeneration.from_pretrained(DATA / "published_interleaving_A_V")
