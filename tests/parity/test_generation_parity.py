"""Greedy codes of the published implementation, reproduced exactly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from songgen.conditioning import TextEncoder
from songgen.generation.decoding import generate_codes
from songgen.generation.options import GenerationOptions
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration

DATA = Path(__file__).parent / "data"
SPECIAL_KEYS = {"pad_token_id", "eos_token_id", "bos_token_id"}
POSITIONS = "decoder.model.decoder.embed_positions.weights"


def load_case(name):
    case = json.loads((DATA / f"{name}.json").read_text())
    weights = load_file(DATA / f"{name}.weights.safetensors")
    lyrics_encoder = {key: value for key, value in case["lyrics_encoder"].items() if key != "input_size"}
    decoder = {key: value for key, value in case["decoder"].items() if key not in SPECIAL_KEYS}
    config = SongGenConfig(
        track_pattern=case["track_pattern"],
        decoder=DecoderConfig(**decoder),
        lyrics_encoder=LyricsEncoderConfig(**lyrics_encoder),
        lyrics_vocab_size=case["lyrics_vocab_size"],
        add_vocal_loss=case["add_vocal_loss"],
        text_hidden_size=case["text_encoder"]["d_model"],
        voice_num_layers=case["voice_layers"],
        voice_hidden_size=case["voice_hidden_size"],
    )
    model = SongGenForConditionalGeneration(config)
    text = {key.removeprefix("text_encoder."): weights.pop(key) for key in list(weights) if "text_encoder." in key}
    model.attach("text_encoder", TextEncoder.from_state_dict(case["text_encoder"], text))
    if POSITIONS in weights:
        model.decoder.model.decoder.embed_positions.adopt(weights.pop(POSITIONS))
    model.load_state_dict(weights, strict=False)
    return case, model.eval(), load_file(DATA / f"{name}.io.safetensors")


def greedy_codes(name):
    case, model, tensors = load_case(name)
    inputs = {key.removeprefix("in."): value for key, value in tensors.items() if key.startswith("in.")}
    with torch.no_grad():
        conditions = model.encode_conditions(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            prompt_input_ids=inputs["prompt_input_ids"],
            prompt_attention_mask=inputs["prompt_attention_mask"],
            ref_voice_values=inputs["ref_voice_values"],
            voice_hidden_states=tensors["out.voice_hidden_states"],
        )
    options = GenerationOptions(do_sample=False, max_length=case["max_length"], min_new_tokens=case["min_new_tokens"])
    return model, generate_codes(model, conditions, options=options), tensors


@pytest.mark.parametrize("name", ["mixed", "mixed_pro", "interleaving_A_V"])
def test_greedy_codes_are_the_published_ones(name):
    model, songs, tensors = greedy_codes(name)
    order = ("vocal", "acc") if len(model.layout.tracks) > 1 else ("mix",)
    ours = [song[model.layout.tracks.index(track)] for track in order for song in songs]
    expected = [value for key, value in sorted(tensors.items()) if key.startswith("out.generated_")]
    assert len(ours) == len(expected)
    for own, published in zip(ours, expected, strict=True):
        assert torch.equal(own, published)


def test_the_layout_in_which_the_published_code_crashes_generates():
    model, songs, _ = greedy_codes("parallel_std")
    for song in songs:
        assert song.shape == (2, 8, 22)
        assert song.max() < model.vocabulary.codebook_size
