import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from songgen.conditioning import VoiceEncoder, load_voice_encoder, read_voice_sample_rate


def make(norm: str = "layer", seed: int = 0) -> VoiceEncoder:
    return VoiceEncoder.small(hidden_size=16, num_layers=2, num_heads=2, feat_extract_norm=norm, seed=seed)


@pytest.fixture(params=["layer", "group"])
def encoder(request: pytest.FixtureRequest) -> VoiceEncoder:
    return make(request.param)


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(4, 4000, generator=generator) * 0.1 + 0.02
    samples[2] = 0
    return samples, torch.tensor([4000, 2500, 4000, 0])


def test_shapes_masks_and_silence(encoder: VoiceEncoder, clips: tuple[Tensor, Tensor]) -> None:
    states, mask = encoder.encode(*clips)
    assert states.shape == (4, 3, int(encoder.num_frames(4000)), 16)
    assert states.shape[1] == encoder.num_layers and encoder.hidden_size == 16
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [12, int(encoder.num_frames(2500)), 0, 0]
    assert states.isfinite().all() and not states[2:].any() and not states[1, :, ~mask[1]].any()


def test_a_padded_clip_equals_the_unpadded_one(encoder: VoiceEncoder, clips: tuple[Tensor, Tensor]) -> None:
    samples, lengths = clips
    states, mask = encoder.encode(samples, lengths)
    alone, alone_mask = encoder.encode(samples[1:2, :2500])
    frames = alone.shape[2]
    assert alone_mask.all() and mask[1, :frames].all()
    torch.testing.assert_close(states[1:2, :, :frames], alone, atol=1e-4, rtol=1e-4)


def test_what_stands_behind_a_clip_is_not_heard(encoder: VoiceEncoder, clips: tuple[Tensor, Tensor]) -> None:
    samples, lengths = clips
    noisy = samples.clone()
    noisy[1, 2500:], noisy[3] = 7.0, 7.0
    for found, expected in zip(encoder.encode(noisy, lengths), encoder.encode(samples, lengths), strict=True):
        assert torch.equal(found, expected)


def test_neighbours_do_not_matter(encoder: VoiceEncoder, clips: tuple[Tensor, Tensor]) -> None:
    samples, lengths = clips
    reversed_states, _ = encoder.encode(samples.flip(0), lengths.flip(0))
    torch.testing.assert_close(reversed_states.flip(0), encoder.encode(samples, lengths)[0], atol=1e-4, rtol=1e-4)


def test_clips_without_a_frame(encoder: VoiceEncoder) -> None:
    assert encoder.min_samples == 400 and encoder.num_frames(torch.tensor([399, 400, 72000])).tolist() == [0, 1, 224]
    states, mask = encoder.encode(torch.ones(2, 399), torch.tensor([399, 5]))
    assert states.shape[2] == 1 and not mask.any() and not states.any()
    states, mask = encoder.encode(torch.zeros(1, 0))
    assert not mask.any()


def test_loudness_and_offset_do_not_matter(encoder: VoiceEncoder, clips: tuple[Tensor, Tensor]) -> None:
    samples, lengths = clips
    louder = torch.where(samples == 0, 0.0, samples * 5 + 0.3)
    torch.testing.assert_close(
        encoder.encode(louder, lengths)[0], encoder.encode(samples, lengths)[0], atol=2e-3, rtol=0
    )


def test_hidden_states_are_the_input_of_each_layer_and_the_normed_output(clips: tuple[Tensor, Tensor]) -> None:
    """Against a naive loop over the layers of the stable layer norm layout."""
    encoder = make()
    model, samples = encoder._model, clips[0][:1]
    normalized = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
    with torch.no_grad():
        states = model.feature_projection(model.feature_extractor(normalized).transpose(1, 2))
        states = states + model.encoder.pos_conv_embed(states)
        expected = [states]
        for layer in model.encoder.layers:
            states = layer(states)
            expected.append(states)
        expected[-1] = model.encoder.layer_norm(states)
    torch.testing.assert_close(encoder.encode(samples)[0], torch.stack(expected, dim=1), atol=1e-5, rtol=1e-5)


def test_saved_and_opened(encoder: VoiceEncoder, clips: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    encoder.sample_rate = 16_000
    encoder.save(tmp_path / "voice_encoder")
    opened = load_voice_encoder({"path": "voice_encoder"}, base_folder=tmp_path)
    assert opened.fingerprint == encoder.fingerprint != make(seed=5).fingerprint
    assert opened.sample_rate == 16_000
    assert torch.equal(opened.encode(*clips)[0], encoder.encode(*clips)[0])


def mert_naming(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name weights as MERT's file does: old weight norm, and a parameter of pre-training."""
    renamed = {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    return renamed | {"masked_spec_embed": torch.zeros(16)}


@pytest.mark.parametrize("prefix", ["", "mert_model.", "hubert."])
def test_merts_own_names_and_a_configuration_of_its_own(
    prefix: str, encoder: VoiceEncoder, clips: tuple[Tensor, Tensor]
) -> None:
    tensors = {prefix + name: tensor for name, tensor in mert_naming(encoder._tensors()).items()}
    config = json.loads(encoder._model.config.to_json_string(use_diff=False))
    config |= {"model_type": "mert_model", "auto_map": {"AutoModel": "x.Y"}, "attention_relax": 32.0, "deepnorm": False}
    opened = VoiceEncoder.from_state_dict(config, tensors)
    assert torch.equal(opened.encode(*clips)[0], encoder.encode(*clips)[0])


def test_a_missing_configuration_is_read_off_the_weights(clips: tuple[Tensor, Tensor]) -> None:
    original = VoiceEncoder.small(hidden_size=128, num_layers=1, num_heads=2)
    opened = VoiceEncoder.from_state_dict({}, original._tensors())
    assert opened.fingerprint == original.fingerprint and opened.sample_rate == 24_000
    assert torch.equal(opened.encode(*clips)[0], original.encode(*clips)[0])


def test_the_sample_rate_is_read_without_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "voice_encoder"
    VoiceEncoder.small(hidden_size=16, num_layers=1, sample_rate=16_000).save(folder)
    (folder / "model.safetensors").unlink()
    for spec in ({"path": "voice_encoder"}, "voice_encoder", {"path": str(folder)}):
        assert read_voice_sample_rate(spec, base_folder=tmp_path) == 16_000
    assert read_voice_sample_rate({"sample_rate": 32_000}) == 32_000, "configuration of one in the model's own file"
    assert read_voice_sample_rate({}) == read_voice_sample_rate("m-a-p/MERT-v1-330M") == 24_000
    assert not caplog.records
    (folder / "preprocessor_config.json").unlink()
    assert read_voice_sample_rate(folder.as_posix()) == 24_000 and "does not state its sample rate" in caplog.text
    config = json.loads((folder / "config.json").read_text()) | {"sample_rate": 22_050}
    (folder / "config.json").write_text(json.dumps(config))
    assert read_voice_sample_rate(folder.as_posix()) == 22_050
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="no-one/nothing"):
        read_voice_sample_rate("no-one/nothing")


def test_options_that_hubert_lacks_are_refused() -> None:
    tensors = make()._tensors()
    with pytest.raises(ValueError, match="feature_extractor_cqt"):
        VoiceEncoder.from_state_dict({"feature_extractor_cqt": True}, tensors)
    with pytest.raises(ValueError, match="not weights of a HuBERT"):
        VoiceEncoder.from_state_dict({}, {"a": torch.zeros(1)})
    del tensors["encoder.layer_norm.weight"]
    with pytest.raises(ValueError, match="encoder.layer_norm.weight: missing"):
        VoiceEncoder.from_state_dict({"num_attention_heads": 2}, tensors)


def test_pickled_weights_only_where_allowed_and_only_tensors(tmp_path: Path, clips: tuple[Tensor, Tensor]) -> None:
    encoder = make()
    encoder.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(mert_naming(encoder._tensors()), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="allow_pickle_weights"):
        load_voice_encoder(str(tmp_path))
    opened = load_voice_encoder({"path": str(tmp_path), "allow_pickle_weights": True})
    assert torch.equal(opened.encode(*clips)[0], encoder.encode(*clips)[0])

    marker = tmp_path / "marker"
    torch.save({"a": Evil(marker)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match="(?i)weights"):
        load_voice_encoder({"path": str(tmp_path), "allow_pickle_weights": True})
    assert not marker.exists()


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.marker,)


def test_specs_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path is required"):
        load_voice_encoder({"revision": "main"})
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_voice_encoder({"path": "a/b", "trust_remote_code": True})
    with pytest.raises(ValueError, match="no folder './none'"):
        load_voice_encoder("./none", base_folder=tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_voice_encoder(str(tmp_path))


def test_shapes_are_checked(encoder: VoiceEncoder) -> None:
    with pytest.raises(ValueError, match="B x samples"):
        encoder.encode(torch.zeros(2, 1, 400))
    with pytest.raises(ValueError, match="lengths B"):
        encoder.encode(torch.zeros(2, 400), torch.tensor([400]))
