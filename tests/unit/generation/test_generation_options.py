import pytest
import torch

from songgen.config.keys import all_keys
from songgen.config.types import coerce
from songgen.generation.options import MAX_GUIDANCE_SCALE, MAX_TEMPERATURE, MIN_TEMPERATURE, GenerationOptions
from songgen.generation.sampling import TokenSampler
from songgen.layout import LAYOUT_NAMES, get_layout


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "do_sample=False is greedy"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e-42}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"guidance_scale": 1e39}, "guidance_scale"),
        ({"num_return_sequences": 10**9}, "num_return_sequences"),
        ({"max_seconds": 1e12}, "max_seconds"),
        ({"max_frames": 10**12}, "max_frames"),
        ({"max_length": 10**12}, "max_length"),
        ({"seed": 1.5}, "1.5"),
        ({"seed": "12"}, "seed"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"max_length": 10, "max_frames": 10}, "max_length and max_frames"),
        ({"max_frames": 0}, "max_frames"),
        ({"max_seconds": float("inf")}, "max_seconds"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": []}, "empty"),
        ({"seed": [1, "2"]}, "'2'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**values)


def test_all_problems_are_named_at_once():
    with pytest.raises(ValueError) as error:
        GenerationOptions(temperature=-1, top_p=2, seed=-5, max_frames=-2)
    for name in ("temperature", "top_p", "seed", "max_frames"):
        assert name in str(error.value)


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("max_length", range(17, 60))
def test_max_length_counts_decoder_steps_with_the_start_column(layout: str, max_length: int) -> None:
    """As many frames as have all their codes once the column of the last step is drawn, counted one by one."""
    token_layout = get_layout(layout, 8)
    drawn_steps = max_length - 1
    frames = 0
    while token_layout.stride * frames + token_layout.max_offset < drawn_steps:
        frames += 1
    assert GenerationOptions(max_length=max_length).num_frames(token_layout, 50.0) == frames


@pytest.mark.parametrize(
    ("layout", "max_length", "frames"),
    [
        ("mixed", 30, 22),
        ("interleaving_A_V", 40, 12),
        ("interleaving_A_V", 41, 13),
        ("interleaving_A_V", 42, 13),
        ("interleaving_A_V", 43, 14),
    ],
)
def test_max_length_gives_the_frames_of_the_published_code(layout: str, max_length: int, frames: int) -> None:
    """Interleaved, the published code cuts to an odd length and keeps half of the steps but for the codebooks' wait."""
    assert GenerationOptions(max_length=max_length).num_frames(get_layout(layout, 8), 50.0) == frames
    if layout.startswith("interleaving"):
        odd = max_length - (max_length % 2 == 0)
        assert frames == (odd - 1) // 2 + 1 - 8


def test_seconds_become_frames_of_the_codec():
    layout = get_layout("mixed", 8)
    assert GenerationOptions(max_seconds=2.5).num_frames(layout, 50.0) == 125
    assert GenerationOptions(max_seconds=0.3).num_frames(layout, 50.0) == 15
    assert GenerationOptions().num_frames(layout, 50.0) == 1500
    with pytest.raises(ValueError, match="shorter than one frame"):
        GenerationOptions(max_seconds=0.001).num_frames(layout, 50.0)


def test_a_length_without_room_for_a_frame_says_how_much_is_needed():
    with pytest.raises(ValueError, match="at least 9 decoder steps"):
        GenerationOptions(max_length=8).num_frames(get_layout("mixed", 8), 50.0)
    assert GenerationOptions(max_length=9).num_frames(get_layout("mixed", 8), 50.0) == 1
    with pytest.raises(ValueError, match="at least 17 decoder steps"):
        GenerationOptions(max_length=16).num_frames(get_layout("interleaving_V_A", 8), 50.0)
    assert GenerationOptions(max_length=17).num_frames(get_layout("interleaving_V_A", 8), 50.0) == 1


def test_seeds_belong_to_songs_and_not_to_places():
    options = GenerationOptions(seed=[7, 9], num_return_sequences=3)
    seeds = options.sequence_seeds(2)
    assert len(set(seeds)) == 6
    assert seeds[3:] == GenerationOptions(seed=9, num_return_sequences=3).sequence_seeds(1)
    assert seeds[0] == 7
    with pytest.raises(ValueError, match="2 seeds for 3 inputs"):
        options.sequence_seeds(3)


def test_without_a_seed_torch_decides():
    torch.manual_seed(3)
    first = GenerationOptions().song_seeds(4)
    torch.manual_seed(3)
    assert GenerationOptions().song_seeds(4) == first
    assert len(set(first)) == 4


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, MAX_TEMPERATURE])
@pytest.mark.parametrize("top_p", [None, 1e-300, 1.0])
def test_the_ends_of_the_ranges_can_be_sampled(temperature: float, top_p: float | None) -> None:
    options = GenerationOptions(temperature=temperature, top_p=top_p, top_k=10**30, guidance_scale=MAX_GUIDANCE_SCALE)
    logits = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0)) * 1e4
    sampled = TokenSampler(options, 10, 3, [1, 2], torch.device("cpu"))(logits)
    assert sampled.shape == (2, 3) and int(sampled.max()) < 10


@pytest.mark.parametrize(
    ("key", "lowest", "highest", "beyond"),
    [
        ("temperature", MIN_TEMPERATURE, MAX_TEMPERATURE, (MIN_TEMPERATURE / 2, MAX_TEMPERATURE * 2)),
        ("guidance_scale", 0.0, MAX_GUIDANCE_SCALE, (-1.0, MAX_GUIDANCE_SCALE + 1)),
        ("top_p", 1e-9, 1.0, (0.0, 1.1)),
    ],
)
def test_a_run_takes_the_same_ranges_for_its_evaluation(
    key: str, lowest: float, highest: float, beyond: tuple[float, float]
) -> None:
    """An evaluation in the middle of a run must not be the first to refuse a value."""
    annotation = all_keys()[key].annotation
    for value in (lowest, highest):
        assert coerce(value, annotation) == value
        GenerationOptions(**{key: value})
    for value in beyond:
        with pytest.raises(ValueError):
            coerce(value, annotation)
        with pytest.raises(ValueError, match=key):
            GenerationOptions(**{key: value})
