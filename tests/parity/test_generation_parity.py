"""Greedy codes of the published implementation, reproduced exactly."""

from pathlib import Path

import pytest
import torch
from reference_cases import conditions, load, settings, tensors
from torch import Tensor

from songgen.generation.decoding import generate_codes
from songgen.generation.options import GenerationOptions
from songgen.models import SongGenForConditionalGeneration


def greedy_codes(name: str, folder: Path) -> tuple[SongGenForConditionalGeneration, list[Tensor]]:
    """Generate a case's songs greedily, as long as its configuration allows."""
    model, case = load(name, folder), settings(name)
    options = GenerationOptions(do_sample=False, max_length=case["max_length"], min_new_tokens=case["min_new_tokens"])
    with torch.no_grad():
        return model, generate_codes(model, model.encode_conditions(**conditions(tensors(name))), options=options)


@pytest.mark.parametrize("name", ["mixed", "mixed_pro", "interleaving_A_V"])
def test_greedy_codes_are_the_published_ones(name: str, tmp_path: Path) -> None:
    model, songs = greedy_codes(name, tmp_path)
    order = ("vocal", "acc") if len(model.layout.tracks) > 1 else ("mix",)
    ours = [song[model.layout.tracks.index(track)] for track in order for song in songs]
    expected = [value for key, value in sorted(tensors(name).items()) if key.startswith("out.generated_")]
    assert len(ours) == len(expected)
    for own, published in zip(ours, expected, strict=True):
        assert torch.equal(own, published)


def test_the_layout_in_which_the_published_code_crashes_generates(tmp_path: Path) -> None:
    model, songs = greedy_codes("parallel_std", tmp_path)
    for song in songs:
        assert song.shape == (2, 8, 22)
        assert song.max() < model.vocabulary.codebook_size
