"""Opening model folders: frozen networks in a published folder's own file, those that a run names, and the hub."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fakes import batch, tiny
from safetensors.torch import save_file
from transformers import T5Config

from songgen.conditioning import TextEncoder, VoiceEncoder
from songgen.generation.processing_songgen import SongGenProcessor
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration, loading
from songgen.runtime.file_hashes import HASHES_FILE

CAPTION_IDS, TEXT_WIDTH, VOICE_WIDTH = 30, 8, 16


def voice_encoder(seed: int) -> VoiceEncoder:
    return VoiceEncoder.small(hidden_size=VOICE_WIDTH, num_layers=1, num_heads=1, seed=seed)


def text_encoder(seed: int) -> TextEncoder:
    return TextEncoder.small(CAPTION_IDS, d_model=TEXT_WIDTH, num_layers=1, num_heads=2, seed=seed)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as the published code writes it: no sizes, no voice encoder in the configuration, all in one file."""
    decoder = DecoderConfig(
        vocab_size=20 + 64, num_codebooks=2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16
    )
    config = SongGenConfig(
        decoder=decoder,
        lyrics_encoder=LyricsEncoderConfig(output_size=12, attention_heads=2, linear_units=20, num_blocks=1),
        lyrics_vocab_size=30,
        text_hidden_size=TEXT_WIDTH,
        voice_num_layers=2,
        voice_hidden_size=VOICE_WIDTH,
    )
    tensors = SongGenForConditionalGeneration(config).state_dict()
    text, voice = text_encoder(1), voice_encoder(1)
    text.save(tmp_path / "t5")
    voice.save(tmp_path / "mert")
    for prefix, part in (("text_encoder.", "t5"), ("mert_model.", "mert")):
        weights = loading._read_tensors(tmp_path / part)
        tensors |= {prefix + name: tensor for name, tensor in weights.items()}
    folder = tmp_path / "published"
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    content: dict[str, Any] = {
        "model_type": "songgen",
        "decoder": {**asdict(decoder), "track_pattern": "mixed_pro", "add_vocal_loss": True},
        "vocab_size": 30,
        "text_encoder": T5Config.from_pretrained(tmp_path / "t5").to_dict(),
    }
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_frozen_networks_in_the_models_own_file_are_used(published: Path, tmp_path: Path) -> None:
    model = SongGenForConditionalGeneration.from_pretrained(published)
    assert model.attached().keys() == {"text_encoder", "voice_encoder"}
    assert model.text_encoder.fingerprint == text_encoder(1).fingerprint
    samples, lengths = torch.randn(1, 4000), torch.tensor([4000])
    torch.testing.assert_close(
        model.voice_encoder.encode(samples, lengths)[0], voice_encoder(1).encode(samples, lengths)[0]
    )
    assert not loading.weight_problems(SongGenForConditionalGeneration, published)
    model.attach("audio_codec", _NoCodec())
    model.save_pretrained(tmp_path / "own")
    again = SongGenForConditionalGeneration.from_pretrained(tmp_path / "own")
    assert again.voice_encoder.fingerprint == model.voice_encoder.fingerprint


class _NoCodec:
    """Stands where a codec would."""

    def to(self, device: torch.device) -> "_NoCodec":
        return self


@pytest.mark.parametrize(("part", "make"), [("text_encoder", text_encoder), ("voice_encoder", voice_encoder)])
def test_a_frozen_network_that_a_run_names_replaces_the_one_in_the_file(
    published: Path, tmp_path: Path, part: str, make: Callable[[int], TextEncoder | VoiceEncoder]
) -> None:
    other = make(2)
    other.save(tmp_path / "other")
    overrides = {part: {"path": str(tmp_path / "other")}}
    model = SongGenForConditionalGeneration.from_pretrained(published, config_overrides=overrides)
    assert part not in model.attached()
    assert getattr(model, part).fingerprint == other.fingerprint


def test_what_the_hub_does_not_hand_over_is_told_with_the_way_out() -> None:
    """The tests have no network: the client finds the repository in no cache."""
    for open_it in (SongGenForConditionalGeneration.from_pretrained, SongGenProcessor):
        with pytest.raises(ValueError, match="'someone/nothing' is not a folder here.*check the spelling, log in"):
            open_it("someone/nothing")
        with pytest.raises(ValueError, match=r"there is no folder '\./someone/nothing'"):
            open_it("./someone/nothing")


def test_the_processor_takes_the_revision_it_is_given(
    published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **keywords: Any) -> str:
        asked.append({"name": name, **keywords})
        return str(published)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ValueError, match="lyrics_vocab="):
        SongGenProcessor("someone/model", revision="v2")
    assert asked[0]["name"] == "someone/model" and asked[0]["revision"] == "v2"
    assert not any("safetensors" in pattern for pattern in asked[0]["allow_patterns"])


def test_prepended_lyrics_are_encoded_but_in_models_that_were_trained_without() -> None:
    """Our own earlier files lack the key `add_prenet`, and prepended bare embeddings."""
    new = tiny(variant="prefix").config
    assert new.add_prenet and SongGenConfig.from_dict(new.to_dict()).add_prenet
    earlier = {key: value for key, value in new.to_dict().items() if key != "add_prenet"}
    assert not SongGenConfig.from_dict(earlier).add_prenet
    assert SongGenConfig.from_dict(earlier | {"prompt_cross_attention": True}).add_prenet
    published = {"model_type": "songgen", "decoder": {"track_pattern": "mixed"}, "vocab_size": 100}
    assert SongGenConfig.from_dict(published | {"prompt_cross_attention": False}).add_prenet
    with pytest.raises(ValueError, match="add_prenet false"):
        SongGenConfig.from_dict(published | {"prompt_cross_attention": False, "add_prenet": False})
    with pytest.raises(ValueError, match="add_prenet false .* needs prompt_cross_attention false"):
        SongGenConfig.from_dict(earlier | {"prompt_cross_attention": True, "add_prenet": False})


def test_an_earlier_model_with_prepended_lyrics_keeps_its_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny(variant="bare_prefix")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["add_prenet"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / HASHES_FILE).unlink()  # an earlier model has none
    opened = SongGenForConditionalGeneration.from_pretrained(tmp_path)
    assert "bare lyrics embeddings" in caplog.text
    inputs = batch(model)
    with torch.no_grad():
        before, after = model(**inputs).logits, opened(**inputs).logits
    assert before is not None and after is not None and torch.equal(before, after)
    overrides = {"prompt_cross_attention": True}
    moved = SongGenForConditionalGeneration.from_pretrained(tmp_path, config_overrides=overrides)
    assert moved.config.add_prenet, "the memory takes encoded lyrics"
