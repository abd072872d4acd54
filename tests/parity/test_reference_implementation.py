"""Our model against the naive one in every kind of configuration, and the naive one against the published numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from naive_model import LAYOUTS, PADDING, Clip, NaiveModel, Settings, lay_out
from reference_cases import CASES, DATA, conditions, model_folder, settings, tensors
from safetensors.torch import load_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from songgen.generation.decoding import generate_codes
from songgen.generation.options import GenerationOptions
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration
from songgen.models.modeling_songgen import CONDITION_KEYWORDS

LOGITS_TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-5
CODEBOOKS, CODES, WIDTH, HEADS, LYRICS_HEADS = 3, 20, 32, 4, 2
TEXT_WIDTH, VOICE_LAYERS, VOICE_WIDTH, LYRICS_IDS = 10, 3, 6, 30
FRAMES = (6, 4)
WEIGHTS = [0.5, 0.3, 0.2]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rotary": {"rotary": True, "rotary_base": 500.0},
    "grouped": {"key_value_heads": 2, "cross_key_value_heads": 1},
    "grouped_cross_alone": {"cross_key_value_heads": 2},
    "prefix": {"lyrics_in_memory": False},
    "bare_prefix": {"lyrics_in_memory": False, "lyrics_encoded": False},
    "everything": {
        "rotary": True,
        "key_value_heads": 2,
        "cross_key_value_heads": 2,
        "lyrics_in_memory": False,
        "every_eos": True,
    },
}


def case_of(layout: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {"key_value_heads": HEADS, "cross_key_value_heads": HEADS, **changes}
    return Settings(layout, CODEBOOKS, CODES, HEADS, lyrics_heads=LYRICS_HEADS, codebook_weights=WEIGHTS, **values)


def model_of(case: Settings) -> SongGenForConditionalGeneration:
    """Ours, with weights that let every part matter."""
    decoder = DecoderConfig(
        vocab_size=CODES + 64,
        num_codebooks=CODEBOOKS,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=case.key_value_heads,
        num_cross_attention_key_value_heads=case.cross_key_value_heads,
        ffn_dim=40,
        rope_embeddings=case.rotary,
        rope_theta=case.rotary_base,
    )
    config = SongGenConfig(
        track_pattern=case.layout,
        decoder=decoder,
        lyrics_encoder=LyricsEncoderConfig(24, LYRICS_HEADS, 28, 2),
        lyrics_vocab_size=LYRICS_IDS,
        prompt_cross_attention=case.lyrics_in_memory,
        add_prenet=case.lyrics_encoded,
        add_vocal_loss=case.layout == "mixed_pro",
        train_every_eos=case.every_eos,
        text_hidden_size=TEXT_WIDTH,
        voice_num_layers=VOICE_LAYERS,
        voice_hidden_size=VOICE_WIDTH,
    )
    torch.manual_seed(0)
    model = SongGenForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_clips(case: Settings, *, voice: str, prefix_padding: str = "right") -> list[Clip]:
    """Two clips of different lengths, texts with padding; `voice`: "one" (the second has none), "none" or "silent"."""
    generator = torch.Generator().manual_seed(1)
    clips = []
    for place, frames in enumerate(FRAMES):
        codes = {
            track: torch.randint(0, CODES, (CODEBOOKS, frames), generator=generator).tolist()
            for track in ("mix", "vocal", "acc")
        }
        mask = [1, 1, 1, 1, 1] if place == 0 else [1, 1, 1, 0, 0]
        clips.append(
            Clip(
                codes=codes,
                text=torch.randn(4, TEXT_WIDTH, generator=generator),
                text_mask=[1, 1, 1, 1] if place else [1, 1, 0, 0],
                lyrics=torch.randint(0, LYRICS_IDS, (5,), generator=generator).tolist(),
                lyrics_mask=mask if prefix_padding == "right" else mask[::-1],
                voice=None if voice == "none" else torch.randn(VOICE_LAYERS, 3, VOICE_WIDTH, generator=generator),
                voice_is_silent=voice == "silent" or place == 1,
            )
        )
    lay_out(case, clips)
    return clips


def our_inputs(case: Settings, clips: list[Clip], voice: str) -> dict[str, Any]:
    """The same clips as the model's keywords."""
    tracks = [track for track, _, _ in LAYOUTS[case.layout]["tracks"]]
    codes = torch.full((len(clips), len(tracks), CODEBOOKS, max(FRAMES)), PADDING)
    vocal = torch.full((len(clips), 1, CODEBOOKS, max(FRAMES)), PADDING)
    for b, (clip, frames) in enumerate(zip(clips, FRAMES, strict=True)):
        vocal[b, 0, :, :frames] = torch.tensor(clip.codes["vocal"])
        for n, track in enumerate(tracks):
            codes[b, n, :, :frames] = torch.tensor(clip.codes[track])
    inputs: dict[str, Any] = {
        "codes": codes,
        "frames": torch.tensor(FRAMES),
        "auxiliary_codes": vocal,
        "text_hidden_states": torch.stack([clip.text for clip in clips]),
        "attention_mask": torch.tensor([clip.text_mask for clip in clips]),
        "prompt_input_ids": torch.tensor([clip.lyrics for clip in clips]),
        "prompt_attention_mask": torch.tensor([clip.lyrics_mask for clip in clips]),
        "codebook_weights": torch.tensor(WEIGHTS),
    }
    if voice != "none":
        samples = torch.ones(len(clips), 9)
        for row, clip in zip(samples, clips, strict=True):
            row *= not clip.voice_is_silent
        inputs["ref_voice_values"] = samples
        inputs["voice_hidden_states"] = torch.stack([clip.voice for clip in clips if clip.voice is not None])
    return inputs


def compare(case: Settings, *, voice: str = "one", prefix_padding: str = "right", eager: bool = False) -> None:
    """Logits of every step that belongs to a clip, all losses, and the targets that are counted."""
    model, clips = model_of(case), random_clips(case, voice=voice, prefix_padding=prefix_padding)
    for layer in model.decoder.model.decoder.blocks:
        layer.self_attn.eager = layer.encoder_attn.eager = eager
    naive = NaiveModel(model.state_dict(), case)
    with torch.no_grad():
        output = model(**our_inputs(case, clips, voice))
    check_logits(output.logits, naive.logits(clips))
    loss, means = naive.losses(clips)
    check_losses(output.loss, output.codebook_losses, loss, means)
    assert (output.vocal_loss is not None) == (case.layout == "mixed_pro")
    if output.vocal_loss is not None:
        check_losses(output.vocal_loss, output.vocal_codebook_losses, *naive.losses(clips, vocal=True))


def check_logits(ours: Tensor | None, naive: list[list[Tensor]]) -> None:
    assert ours is not None
    expected = torch.stack([torch.stack(heads) for heads in naive])
    assert expected.abs().max() > 1, "weights so small that nothing could be seen"
    torch.testing.assert_close(ours.double(), expected, atol=LOGITS_TOLERANCE, rtol=0)


def check_losses(loss: Tensor, per_head: Tensor | None, expected: float, means: list[float]) -> None:
    assert per_head is not None
    assert abs(float(loss) - expected) < LOSS_TOLERANCE
    torch.testing.assert_close(per_head.double(), torch.tensor(means, dtype=torch.float64), atol=LOSS_TOLERANCE, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_in_every_variant(layout: str, variant: str) -> None:
    compare(case_of(layout, **VARIANTS[variant]))


@pytest.mark.parametrize("voice", ["none", "silent"])
@pytest.mark.parametrize("layout", ["mixed_pro", "parallel_V_A", "interleaving_V_A"])
@pytest.mark.parametrize("variant", ["plain", "everything"])
def test_without_a_reference_voice(layout: str, voice: str, variant: str) -> None:
    compare(case_of(layout, **VARIANTS[variant]), voice=voice)


@pytest.mark.parametrize("variant", ["prefix", "everything"])
@pytest.mark.parametrize("eager", [False, True])
def test_a_prefix_padded_in_front(variant: str, eager: bool) -> None:
    compare(case_of("interleaving_A_V", **VARIANTS[variant]), prefix_padding="left", eager=eager)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_end_is_trained_where_asked(layout: str) -> None:
    compare(case_of(layout, every_eos=True), eager=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("variant", "prefix_padding"), [("plain", "right"), ("prefix", "right"), ("prefix", "left"), ("everything", "left")]
)
def test_greedy_songs(layout: str, variant: str, prefix_padding: str) -> None:
    """Drawn side by side with a cache, and one by one from the whole sequence at every step."""
    case, frames = case_of(layout, **VARIANTS[variant]), 3
    model, clips = model_of(case), random_clips(case, voice="one", prefix_padding=prefix_padding)
    inputs = {name: value for name, value in our_inputs(case, clips, "one").items() if name in CONDITION_KEYWORDS}
    options = GenerationOptions(do_sample=False, max_frames=frames, min_new_tokens=1000)
    with torch.no_grad():
        songs = generate_codes(model, model.encode_conditions(**inputs), options=options)
    naive = NaiveModel(model.state_dict(), case)
    for song, clip in zip(songs, clips, strict=True):
        expected = naive.greedy(clip, frames)
        assert {track: song[n].tolist() for n, track in enumerate(model.layout.tracks)} == expected


def published_clips(io: dict[str, Tensor], text: Tensor) -> list[Clip]:
    """The clips of a published case."""
    return [
        Clip(
            codes={track: io[f"out.codes_{track}_{b}"].tolist() for track in ("mix", "vocal", "acc")},
            text=text[b],
            text_mask=io["in.attention_mask"][b].tolist(),
            lyrics=io["in.prompt_input_ids"][b].tolist(),
            lyrics_mask=io["in.prompt_attention_mask"][b].tolist(),
            voice=io["out.voice_hidden_states"][b],
            voice_is_silent=not bool(io["in.ref_voice_values"][b].any()),
        )
        for b in range(len(text))
    ]


def published_settings(name: str, **changes: Any) -> Settings:
    """What the weights of a published case do not tell."""
    published = settings(name)
    decoder = published["decoder"]
    return Settings(
        layout=published["track_pattern"],
        codebooks=decoder["num_codebooks"],
        codebook_size=published["codebook_size"],
        heads=decoder["num_attention_heads"],
        key_value_heads=decoder["num_key_value_heads"],
        cross_key_value_heads=decoder["num_cross_attention_key_value_heads"],
        lyrics_heads=published["lyrics_encoder"]["attention_heads"],
        **changes,
    )


def published_text(name: str) -> Tensor:
    """States of a published case's text encoder."""
    weights, io = load_file(DATA / f"{name}.weights.safetensors"), tensors(name)
    encoder = T5EncoderModel(T5Config(**settings(name)["text_encoder"])).eval()
    text_weights = {
        key.removeprefix("text_encoder."): value for key, value in weights.items() if key.startswith("text_encoder.")
    }
    encoder.load_state_dict(text_weights, strict=False)
    with torch.no_grad():
        return encoder(input_ids=io["in.input_ids"], attention_mask=io["in.attention_mask"]).last_hidden_state


@pytest.mark.parametrize("name", CASES)
def test_the_naive_model_gives_the_published_numbers(name: str) -> None:
    io, case = tensors(name), published_settings(name)
    weights = load_file(DATA / f"{name}.weights.safetensors")
    clips, naive = published_clips(io, published_text(name)), NaiveModel(weights, case)
    lay_out(case, clips)
    assert torch.equal(torch.tensor([clip.labels for clip in clips]).transpose(1, 2), io["in.labels"])
    logits = torch.stack([torch.stack(heads) for heads in naive.logits(clips)]).flatten(0, 1)
    torch.testing.assert_close(logits, io["out.logits"].double(), atol=LOGITS_TOLERANCE, rtol=0)
    check_losses(io["out.loss"][0], io["out.codebook_losses"], *naive.losses(clips))
    if "in.vocal_labels" in io:
        vocal = torch.tensor([clip.vocal_labels for clip in clips]).transpose(1, 2)
        assert torch.equal(vocal, io["in.vocal_labels"])
        check_losses(io["out.vocal_loss"][0], io["out.vocal_codebook_losses"], *naive.losses(clips, vocal=True))


@pytest.mark.parametrize("name", CASES)
def test_a_published_folder_with_prepended_lyrics(name: str, tmp_path: Path) -> None:
    """The published weights with `prompt_cross_attention` false: lyrics are encoded and projected there too."""
    frames, io, case = 3, tensors(name), published_settings(name, lyrics_in_memory=False)
    model = SongGenForConditionalGeneration.from_pretrained(model_folder(name, tmp_path, prompt_cross_attention=False))
    naive = NaiveModel(load_file(DATA / f"{name}.weights.safetensors"), case)
    clips = published_clips(io, published_text(name))
    lay_out(case, clips)
    with torch.no_grad():
        output = model(labels=io["in.labels"], **conditions(io))
    check_logits(output.logits, naive.logits(clips))
    options = GenerationOptions(do_sample=False, max_frames=frames, min_new_tokens=1000)
    songs = generate_codes(model, model.encode_conditions(**conditions(io)), options=options)
    for song, clip in zip(songs, clips, strict=True):
        expected = naive.greedy(clip, frames)
        assert {track: song[n].tolist() for n, track in enumerate(model.layout.tracks)} == expected
