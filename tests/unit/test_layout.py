"""The layouts against a naive loop, and against the published labels."""

import re

import numpy as np
import pytest
import torch

from songgen import layout as layout_module
from songgen.layout import LAYOUT_NAMES, TokenLayout, get_layout
from songgen.vocabulary import IGNORE_INDEX, AudioVocabulary

VOCABULARY = AudioVocabulary(64)


def naive_labels(layout: TokenLayout, codes: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """Place every token by hand, one at a time."""
    batch, num_tracks, num_codebooks, max_frames = codes.shape
    num_steps = layout.stride * max_frames + layout.max_offset + 1
    labels = torch.full((batch, layout.num_heads, num_steps), IGNORE_INDEX)
    for b in range(batch):
        block = layout.stride * frames[b] + layout.max_offset + 1
        for n in range(num_tracks):
            for k in range(num_codebooks):
                head, offset = layout.heads[n][k], layout.offsets[n][k]
                for step in range(offset % layout.stride, block, layout.stride):
                    frame = (step - offset) // layout.stride
                    if step < offset:
                        labels[b, head, step] = VOCABULARY.bos_token_id
                    elif frame < frames[b]:
                        labels[b, head, step] = codes[b, n, k, frame]
                    else:
                        labels[b, head, step] = VOCABULARY.eos_token_id
    return labels


def naive_targets(layout: TokenLayout, labels: torch.Tensor, published: bool) -> torch.Tensor:
    """The published rule (label no BOS and no padding, input no EOS), or the same applied to each stream alone."""
    inputs = layout.inputs(labels, VOCABULARY)
    mask = (labels != VOCABULARY.bos_token_id) & (labels != IGNORE_INDEX)
    if published:
        return mask & (inputs != VOCABULARY.eos_token_id)
    for b, h, s in mask.nonzero().tolist():
        before = labels[b, h, s - layout.stride] if s >= layout.stride else VOCABULARY.bos_token_id
        mask[b, h, s] = before != VOCABULARY.eos_token_id
    return mask


@pytest.fixture(params=LAYOUT_NAMES)
def layout(request: pytest.FixtureRequest) -> TokenLayout:
    return get_layout(request.param, 4)


def random_codes(layout: TokenLayout, frames: list[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (len(frames), len(layout.tracks), layout.num_codebooks, max(frames))
    codes = torch.randint(0, 64, shape, generator=generator)
    for b, length in enumerate(frames):
        codes[b, ..., length:] = IGNORE_INDEX
    return codes


@pytest.mark.parametrize("frames", [[5, 3, 1], [1], [7, 7]])
def test_labels_match_naive_loop(layout: TokenLayout, frames: list[int]) -> None:
    codes = random_codes(layout, frames)
    labels = layout.labels(codes, torch.tensor(frames), VOCABULARY)
    assert torch.equal(labels, naive_labels(layout, codes, frames))


@pytest.mark.parametrize("train_every_eos", [True, False])
def test_target_mask_matches_naive_rule(layout: TokenLayout, train_every_eos: bool) -> None:
    frames = torch.tensor([5, 3, 1])
    labels = layout.labels(random_codes(layout, frames.tolist()), frames, VOCABULARY)
    mask = layout.target_mask(frames, labels.shape[-1], train_every_eos=train_every_eos)
    assert torch.equal(mask, naive_targets(layout, labels, published=not train_every_eos))
    counts = layout.target_counts(frames, train_every_eos=train_every_eos)
    assert torch.equal(counts, mask.sum(dim=(0, 2)))


def test_revert_is_the_inverse(layout: TokenLayout) -> None:
    frames = torch.tensor([6, 4])
    codes = random_codes(layout, frames.tolist())
    labels = layout.labels(codes, frames, VOCABULARY)
    back = layout.revert(labels, 6)
    for b, length in enumerate(frames.tolist()):
        assert torch.equal(back[b, ..., :length], codes[b, ..., :length])


def test_the_table_says_who_stands_where(layout: TokenLayout) -> None:
    stream, frame = layout.stream_table(12)
    found = {(head, step): (int(stream[head, step]), int(frame[head, step])) for head, step in np.ndindex(stream.shape)}
    for track, codebook in np.ndindex(len(layout.tracks), layout.num_codebooks):
        head, offset = layout.heads[track][codebook], layout.offsets[track][codebook]
        for step in range(offset % layout.stride, 12, layout.stride):
            place = (track * layout.num_codebooks + codebook, (step - offset) // layout.stride)
            assert found.pop((head, step)) == place
    assert not found


def test_empty_clip_has_no_target(layout: TokenLayout) -> None:
    frames = torch.tensor([0, 3])
    mask = layout.target_mask(frames, layout.num_steps(3))
    assert not mask[0].any()
    assert torch.equal(layout.target_counts(frames), layout.target_counts(frames[1:]))


def test_colliding_streams_are_refused() -> None:
    with pytest.raises(ValueError, match="head 0"):
        TokenLayout("twice", ("mix",), 2, 1, ((0, 1),), ((0, 0),))
    with pytest.raises(ValueError, match="head 0"):
        TokenLayout("holes", ("mix",), 1, 2, ((0,),), ((0,),))
    with pytest.raises(ValueError, match="known layouts"):
        get_layout("nonsense", 8)


@pytest.mark.parametrize("name", ["interleaving_A_V", "parallel_A_V"])
def test_the_drawings_show_the_labels(name: str) -> None:
    """Letters of the module's drawings: a, b the accompaniment, v, w the vocal, in codebooks 0 and 1."""
    layout = get_layout(name, 2)
    drawing = (layout_module.__doc__ or "").split(f"    {name}: ")[1].split("\n\n")[:2]
    assert f"stride {layout.stride}, offsets {layout.offsets}, heads {layout.heads}" in drawing[0]
    rows = [row.split() for row in re.findall(r"head \d+ (.*)", drawing[1])]
    codes = 10 * torch.arange(4).reshape(1, 2, 2, 1) + torch.arange(3)
    letters = {VOCABULARY.bos_token_id: "<", VOCABULARY.eos_token_id: ">"}
    letters |= {10 * stream + frame: f"{letter}{frame}" for stream, letter in enumerate("abvw") for frame in range(3)}
    labels = layout.labels(codes, torch.tensor([3]), VOCABULARY)[0]
    assert rows == [[letters[token] for token in head] for head in labels.tolist()]
