from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from songgen.generation.decoding import generate_codes, stream_codes
from songgen.generation.guidance import guided_logits, unconditional_conditions
from songgen.generation.options import GenerationOptions
from songgen.layout import LAYOUT_NAMES
from songgen.models import SongGenForConditionalGeneration

CODES = 16

ModelMaker = Callable[..., SongGenForConditionalGeneration]
InputMaker = Callable[..., dict[str, Tensor]]


def encode(model, inputs):
    with torch.no_grad():
        return model.encode_conditions(**inputs)


def one(inputs, song):
    """One song of a batch, its padding cut off."""
    caption, lyrics = inputs["attention_mask"][song].sum(), inputs["prompt_attention_mask"][song].sum()
    widths = {"input_ids": caption, "attention_mask": caption, "prompt_input_ids": lyrics}
    return {name: value[song : song + 1, : widths.get(name, lyrics)] for name, value in inputs.items()}


def assert_same(first, second):
    assert len(first) == len(second)
    for one_song, other in zip(first, second, strict=True):
        assert torch.equal(one_song, other)


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layout_and_precision_gives_codes_of_equal_length(make_model, make_inputs, layout, dtype):
    model = make_model(layout, dtype)
    options = GenerationOptions(max_frames=12, seed=3, min_new_tokens=0)
    songs = generate_codes(model, encode(model, make_inputs()), options=options)
    assert len(songs) == 3
    for song in songs:
        assert song.shape[:2] == (len(model.layout.tracks), model.layout.num_codebooks)
        assert 1 <= song.shape[2] <= 12
        assert song.dtype == torch.int64 and song.min() >= 0 and song.max() < CODES


def left_padded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same lyrics with their padding in front."""
    moved = dict(inputs)
    for song, length in enumerate(inputs["prompt_attention_mask"].sum(dim=1).tolist()):
        for name in ("prompt_input_ids", "prompt_attention_mask"):
            moved[name] = moved[name].clone()
            moved[name][song] = moved[name][song].roll(moved[name].shape[1] - length)
    return moved


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("lyrics", ["in memory", "in front", "in front, left-padded"])
def test_greedy_codes_are_what_the_whole_sequence_predicts(
    make_model: ModelMaker, make_inputs: InputMaker, layout: str, rotary: bool, lyrics: str
) -> None:
    """The loop with its cache against one pass over the finished songs: layout, shift, cache and padding all count."""
    model = make_model(layout, decoder={"rope_embeddings": rotary}, prompt_cross_attention=lyrics == "in memory")
    inputs = left_padded(make_inputs()) if "left" in lyrics else make_inputs()
    options = GenerationOptions(do_sample=False, max_frames=9, min_new_tokens=1000)
    codes = torch.stack(generate_codes(model, encode(model, inputs), options=options))
    with torch.no_grad():
        logits = model(codes=codes, frames=torch.full((3,), 9), **inputs).logits
    assert logits is not None
    assert torch.equal(model.layout.revert(logits[..., :CODES].argmax(-1), 9), codes)


@pytest.mark.parametrize("layout", ["mixed", "parallel_std", "interleaving_V_A"])
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("lyrics_in_memory", [True, False])
def test_a_song_does_not_depend_on_its_neighbours(
    make_model: ModelMaker, make_inputs: InputMaker, layout: str, do_sample: bool, lyrics_in_memory: bool
) -> None:
    """Lyrics in front of the song count with their padding, so there the width alone is what songs share."""
    model = make_model(layout, prompt_cross_attention=lyrics_in_memory)
    inputs = make_inputs()
    settings = {"do_sample": do_sample, "max_frames": 14, "min_new_tokens": 2, "num_return_sequences": 2}
    together = generate_codes(model, encode(model, inputs), options=GenerationOptions(seed=[4, 5, 6], **settings))
    for song in range(3):
        single = one(inputs, song) if lyrics_in_memory else {name: row[song, None] for name, row in inputs.items()}
        alone = generate_codes(model, encode(model, single), options=GenerationOptions(seed=4 + song, **settings))
        assert_same(together[2 * song : 2 * song + 2], alone)


def test_sequences_of_one_song_differ_and_the_first_is_the_song_alone(make_model, make_inputs):
    model = make_model()
    conditions = encode(model, make_inputs())
    several = generate_codes(
        model, conditions, options=GenerationOptions(max_frames=12, seed=1, num_return_sequences=3)
    )
    single = generate_codes(model, conditions, options=GenerationOptions(max_frames=12, seed=1))
    assert len(several) == 9
    assert_same(several[::3], single)
    assert len({tuple(song[0, 0, :3].tolist()) for song in several[:3]}) == 3


class _WithLogits:
    """A decoder whose logits are tampered with."""

    def __init__(self, decoder, change):
        self.decoder, self.change, self.steps = decoder, change, 0

    def new_cache(self, conditions, max_steps):
        self.steps = 0
        return self.decoder.new_cache(conditions, max_steps)

    def step(self, input_ids, cache):
        self.input_ids = input_ids
        logits = self.change(self.decoder.step(input_ids, cache), self.steps)
        self.steps += 1
        return logits


def tamper(model, change):
    decoder = _WithLogits(model.decoder, change)
    del model.decoder
    model.decoder = decoder
    return decoder


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("do_sample", [False, True])
def test_special_ids_are_never_drawn_even_if_the_model_wants_them(make_model, make_inputs, layout, do_sample):
    model = make_model(layout)

    def want_special(logits, step):
        logits[..., CODES + 1 :] = 1e6
        return logits

    tamper(model, want_special)
    conditions = encode(model, make_inputs())
    for song in generate_codes(model, conditions, options=GenerationOptions(do_sample=do_sample, max_frames=8, seed=0)):
        assert song.max() < CODES


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_the_end_counts_only_on_the_leading_codebook_and_after_the_minimum(make_model, make_inputs, layout):
    """Every head wants to end all the time: the song ends at the first step at which it may."""
    model = make_model(layout)

    def want_the_end(logits, step):
        logits[..., CODES] = 1e6
        return logits

    decoder = tamper(model, want_the_end)
    conditions = encode(model, make_inputs())
    for minimum in (0, 1, 5, 6):
        options = GenerationOptions(max_frames=50, min_new_tokens=minimum, seed=0)
        stride = model.layout.stride
        first_step = max(minimum, stride)
        expected = -(-first_step // stride)
        for song in generate_codes(model, conditions, options=options):
            assert song.shape[-1] == expected
        assert decoder.steps < 50


def test_the_loop_ends_soon_after_every_song_has(make_model, make_inputs):
    model = make_model()

    def end_at_frame_five(logits, step):
        logits[..., CODES] = 1e6 if step == 5 else -1e6
        return logits

    decoder = tamper(model, end_at_frame_five)
    conditions = encode(model, make_inputs())
    songs = generate_codes(model, conditions, options=GenerationOptions(max_frames=500, min_new_tokens=0, seed=0))
    assert [song.shape[-1] for song in songs] == [5, 5, 5]
    assert decoder.steps <= 16


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_streams_read_bos_before_they_open_and_eos_after_the_end(make_model, make_inputs, layout):
    """What is fed back is the layout of the finished song, as in training."""
    model = make_model(layout)
    fed = []

    def end_at_frame_four(logits, step):
        leading = model.layout.stride * 4
        logits[..., CODES] = 1e6 if step == leading else -1e6
        return logits

    decoder = tamper(model, end_at_frame_four)
    step = decoder.step
    decoder.step = lambda ids, cache: (fed.append(ids), step(ids, cache))[1]
    conditions = encode(model, one(make_inputs(), 1))
    (codes,) = generate_codes(model, conditions, options=GenerationOptions(max_frames=30, seed=0, min_new_tokens=0))
    assert codes.shape[-1] == 4
    labels = model.layout.labels(codes[None], torch.tensor([4]), model.vocabulary)
    expected = model.layout.inputs(labels, model.vocabulary)
    steps = min(expected.shape[-1], len(fed))
    assert steps >= model.layout.num_steps(4) - model.layout.stride
    assert torch.equal(torch.cat(fed, dim=-1)[..., :steps], expected[..., :steps])


def test_logits_that_are_not_finite_are_an_error(make_model, make_inputs):
    model = make_model()
    tamper(model, lambda logits, step: logits * torch.nan if step == 3 else logits)
    with pytest.raises(ValueError, match="not finite"):
        generate_codes(model, encode(model, make_inputs()), options=GenerationOptions(max_frames=8, seed=0))


@pytest.mark.parametrize("layout", ["mixed", "interleaving_A_V"])
@pytest.mark.parametrize("lyrics_in_memory", [True, False])
def test_guidance_of_one_is_no_guidance_and_of_zero_no_condition(make_model, make_inputs, layout, lyrics_in_memory):
    model = make_model(layout, prompt_cross_attention=lyrics_in_memory)
    conditions = encode(model, make_inputs())
    plain = generate_codes(model, conditions, options=GenerationOptions(max_frames=10, seed=2))
    almost = generate_codes(
        model, conditions, options=GenerationOptions(max_frames=10, seed=2, guidance_scale=1 + 1e-9)
    )
    assert_same(plain, almost)
    away = generate_codes(model, conditions, options=GenerationOptions(max_frames=10, seed=2, guidance_scale=3.0))
    assert any(not torch.equal(*pair) for pair in zip(plain, away, strict=True))
    if lyrics_in_memory:
        nothing = generate_codes(
            model, conditions, options=GenerationOptions(max_frames=10, seed=2, guidance_scale=0.0)
        )
        with torch.no_grad():
            empty = unconditional_conditions(model).select(torch.zeros(3, dtype=torch.long))
        assert_same(nothing, generate_codes(model, empty, options=GenerationOptions(max_frames=10, seed=2)))


@pytest.mark.parametrize("lyrics_in_memory", [True, False])
def test_guidance_of_a_caption_alone(make_model: ModelMaker, make_inputs: InputMaker, lyrics_in_memory: bool) -> None:
    """Where lyrics would stand in front of the song, the song of nothing has none either."""
    model = make_model(prompt_cross_attention=lyrics_in_memory)
    conditions = encode(model, {name: value for name, value in make_inputs().items() if "prompt" not in name})
    plain, almost, away = (
        generate_codes(model, conditions, options=GenerationOptions(max_frames=10, seed=2, guidance_scale=scale))
        for scale in (1.0, 1 + 1e-9, 3.0)
    )
    assert_same(plain, almost)
    assert any(not torch.equal(*pair) for pair in zip(plain, away, strict=True))


def test_guidance_without_a_place_for_empty_lyrics_is_refused(make_model: ModelMaker, make_inputs: InputMaker) -> None:
    model = make_model(lyrics_vocab_size=261)
    conditions = encode(model, make_inputs())
    with pytest.raises(ValueError, match=r"empty lyrics, ids \[261, 0\], .* has 261 lyrics ids: leave guidance_scale"):
        generate_codes(model, conditions, options=GenerationOptions(max_frames=4, guidance_scale=2.0))
    assert len(generate_codes(model, conditions, options=GenerationOptions(max_frames=4))) == 3


def test_lyrics_in_front_of_the_song_do_not_stand_for_a_caption(
    make_model: ModelMaker, make_inputs: InputMaker
) -> None:
    lyrics = {name: value for name, value in make_inputs().items() if "prompt" in name}
    with pytest.raises(ValueError, match=r"no caption to condition on: .*an empty caption is \[1\]"):
        encode(make_model(prompt_cross_attention=False), lyrics)
    assert encode(make_model(), lyrics).memory.shape[0] == 3
    with pytest.raises(ValueError, match="give a caption"):
        encode(make_model(), {})


def test_guided_logits_go_through_the_conditional_ones():
    conditional, unconditional = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    assert torch.allclose(guided_logits(conditional, unconditional, 1.0), conditional, atol=1e-6)
    assert torch.equal(guided_logits(conditional, unconditional, 0.0), unconditional)
    assert torch.allclose(guided_logits(conditional, unconditional, 2.0), 2 * conditional - unconditional, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("lyrics_in_memory", [True, False])
def test_streamed_chunks_make_up_the_song(
    make_model: ModelMaker, make_inputs: InputMaker, layout: str, lyrics_in_memory: bool
) -> None:
    model = make_model(layout, prompt_cross_attention=lyrics_in_memory)
    conditions = encode(model, make_inputs())
    options = GenerationOptions(max_frames=20, seed=9, min_new_tokens=0)
    whole = generate_codes(model, conditions, options=options)
    steps = []
    chunks = []
    for chunk in stream_codes(
        model, conditions, options=options, chunk_frames=3, on_step=lambda done, total: steps.append(done)
    ):
        chunks.append((chunk, len(steps)))
    assert [chunk.is_last for chunk, _ in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.first_frame for chunk, _ in chunks] == [3 * index for index in range(len(chunks))]
    for chunk, step in chunks[:-1]:
        # A chunk comes as soon as its last codebook has been drawn, and no sooner.
        end = chunk.first_frame + 3
        assert step == model.layout.stride * (end - 1) + model.layout.max_offset + 1
    for song, codes in enumerate(whole):
        pieces = [chunk.codes[song, ..., : chunk.frames[song]] for chunk, _ in chunks]
        assert torch.equal(torch.cat(pieces, dim=-1), codes)
    assert all(chunk.codes.max() < CODES for chunk, _ in chunks)


def test_dropout_is_off_while_drawing_and_the_mode_comes_back(make_model, make_inputs):
    model = make_model(decoder={"dropout": 0.5})
    conditions = encode(model, make_inputs())
    options = GenerationOptions(do_sample=False, max_frames=8)
    expected = generate_codes(model, conditions, options=options)
    model.train()
    assert_same(generate_codes(model, conditions, options=options), expected)
    assert model.training and model.decoder.training
