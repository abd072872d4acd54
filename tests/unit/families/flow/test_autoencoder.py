"""Songs of any length through the autoencoder: what a window gives is what the whole song gives."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderOobleck
from tiny_flow import CHANNELS, HOP_LENGTH, SAMPLE_RATE, tiny_pipeline

from songgen.families.flow import autoencoder
from songgen.families.flow.autoencoder import WINDOW_FRAMES, LatentAutoencoder, windows

FRAMES = 3 * WINDOW_FRAMES - 100
INCOMPLETE = 37
"""Samples of the last frame."""


@pytest.fixture(scope="module")
def network() -> AutoencoderOobleck:
    return tiny_pipeline().vae


@pytest.fixture
def encoder(network: AutoencoderOobleck) -> LatentAutoencoder:
    return LatentAutoencoder(network)


def noise(frames: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (0.3 * generator.standard_normal((2, frames * HOP_LENGTH))).astype(np.float32)


@pytest.fixture(scope="module")
def song() -> np.ndarray:
    return noise(FRAMES)[:, : INCOMPLETE - HOP_LENGTH]


@torch.no_grad()
def test_windows_give_what_the_whole_song_gives(
    network: AutoencoderOobleck, encoder: LatentAutoencoder, song: np.ndarray
) -> None:
    filled = torch.from_numpy(np.pad(song, ((0, 0), (0, HOP_LENGTH - INCOMPLETE))))
    whole = network.encode(filled[None]).latent_dist.parameters[0]
    torch.testing.assert_close(encoder.posterior(song), whole, rtol=0, atol=5e-6)
    [latents] = encoder.encode(["a"], [song])
    assert latents.dtype == np.float16 and latents.shape == (CHANNELS, FRAMES)
    audio = network.decode(torch.from_numpy(latents.astype(np.float32))[None]).sample[0]
    np.testing.assert_allclose(encoder.decode(latents), audio.numpy(), rtol=0, atol=5e-6)


@torch.no_grad()
def test_less_overlap_than_the_reach_would_be_heard(
    network: AutoencoderOobleck, encoder: LatentAutoencoder, song: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above can fail."""
    right = encoder.posterior(song)
    latents = right[:CHANNELS].numpy().astype(np.float16)
    audio = encoder.decode(latents)
    monkeypatch.setattr(encoder, "encoder_reach", encoder.encoder_reach // 2)
    monkeypatch.setattr(encoder, "decoder_reach", encoder.decoder_reach // 2)
    assert (encoder.posterior(song) - right).abs().max() > 1e-4
    assert np.abs(encoder.decode(latents) - audio).max() > 1e-4


@pytest.mark.parametrize("ratios", [[2, 4, 4, 6, 10], [2, 4, 4, 8, 8], [3, 5]])
def test_the_reach_follows_from_the_ratios(ratios: list[int]) -> None:
    """Change one frame of the input: outside of the reach nothing changes. Ratios of published autoencoders."""
    network = AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=ratios, channel_multiples=[1] * len(ratios), decoder_channels=2,
        decoder_input_channels=2, audio_channels=1, sampling_rate=48_000,
    )  # fmt: skip
    encoder = LatentAutoencoder(network)
    middle, hop = 25, encoder.hop_length
    with torch.no_grad():
        sound = torch.randn(1, 1, (2 * middle + 1) * hop)
        other = sound.clone()
        other[..., middle * hop : (middle + 1) * hop] += 1
        found = [network.encode(each).latent_dist.parameters for each in (sound, other)]
        changed = (found[0] != found[1]).any(dim=1)[0].nonzero()
        assert int((changed - middle).abs().max()) <= encoder.encoder_reach
        latents = torch.randn(1, 2, 2 * middle + 1)
        moved = latents.clone()
        moved[..., middle] += 1
        sounds = [network.decode(each).sample for each in (latents, moved)]
        changed = (sounds[0] != sounds[1])[0, 0].nonzero()
        assert int(changed.min()) >= (middle - encoder.decoder_reach) * hop
        assert int(changed.max()) < (middle + 1 + encoder.decoder_reach) * hop


def test_memory_does_not_grow_with_the_song(
    network: AutoencoderOobleck, encoder: LatentAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest window that the networks are given is the same for one minute and for ten."""
    encoded: list[int] = []
    decoded: list[int] = []

    def encode(sound: torch.Tensor) -> torch.Tensor:
        encoded.append(sound.shape[-1])
        return torch.zeros(1, 2 * CHANNELS, sound.shape[-1] // HOP_LENGTH)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        decoded.append(latents.shape[-1])
        return torch.zeros(1, 2, latents.shape[-1] * HOP_LENGTH)

    monkeypatch.setattr(network.encoder, "forward", encode)
    monkeypatch.setattr(network.decoder, "forward", decode)
    largest = []
    for minutes in (1, 10):
        samples = minutes * 60 * SAMPLE_RATE
        posterior = encoder.posterior(np.zeros((2, samples), np.float32))
        audio = encoder.decode(posterior[:CHANNELS].numpy())
        assert posterior.shape[1] == minutes * 60 * 25 and audio.shape == (2, samples)
        largest.append((max(encoded), max(decoded)))
    assert largest[0] == largest[1] == (WINDOW_FRAMES * HOP_LENGTH, WINDOW_FRAMES)


@pytest.mark.parametrize("frames", [1, 5, WINDOW_FRAMES, WINDOW_FRAMES + 1, 1000])
@pytest.mark.parametrize("reach", [0, 7, 200])
def test_windows_keep_every_frame_once(frames: int, reach: int) -> None:
    kept = [frame for window in windows(frames, reach) for frame in range(window.kept, window.kept_stop)]
    assert kept == list(range(frames))
    for window in windows(frames, reach):
        assert window.start in (0, window.kept - reach)
        assert window.stop == frames or window.stop >= window.kept_stop + reach
    assert len({window.stop - window.start for window in list(windows(frames, reach))[:-1]}) <= 2


def test_latents_follow_from_the_id_and_not_from_the_neighbours(encoder: LatentAutoencoder) -> None:
    first, second = noise(4), noise(6, seed=1)
    torch.manual_seed(0)
    together = encoder.encode(["a", "b"], [first, second])
    torch.manual_seed(1)
    np.testing.assert_array_equal(encoder.encode(["b"], [second])[0], together[1])
    assert not np.array_equal(encoder.encode(["c"], [first])[0], together[0])
    spread = np.std(together[0].astype(np.float32) - encoder.posterior(first)[:CHANNELS].numpy())
    assert spread > 0.1, "a sample of the posterior, not its mean"


def test_latents_that_cannot_be_stored_are_refused(encoder: LatentAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (float("nan"), float("inf"), 7e4):
        monkeypatch.setattr(encoder, "sample", lambda posterior, seed, value=value: torch.full((CHANNELS, 3), value))
        with pytest.raises(ValueError, match="latents reach .* 65504 can be stored"):
            encoder.encode(["a"], [noise(3)])


def test_the_fingerprint_is_that_of_weights_and_settings(network: AutoencoderOobleck) -> None:
    known = LatentAutoencoder(network).fingerprint
    assert LatentAutoencoder(tiny_pipeline().vae).fingerprint == known
    assert LatentAutoencoder(tiny_pipeline(seed=1).vae).fingerprint != known
    settings = autoencoder._settings(network.config)
    assert {"sampling_rate", "downsampling_ratios"} <= settings.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"audio_channels": 6}, "6 channels of audio"), ({"encoder_hidden_size": 4}, "returns 4 values a frame")],
)
def test_an_autoencoder_of_another_form_is_refused(changes: dict[str, int], message: str) -> None:
    sizes = {"encoder_hidden_size": 6, "decoder_channels": 2, "decoder_input_channels": 3}
    network = AutoencoderOobleck(**sizes | changes, downsampling_ratios=[2], channel_multiples=[1])
    with pytest.raises(ValueError, match=message):
        LatentAutoencoder(network)
