"""What every codec promises, whatever its kind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from songgen.codecs import AudioCodec, load_codec
from songgen.codecs.network import NetworkCodec

MakeSong = Callable[[int, int], Tensor]


@pytest.fixture
def codec(codec_folder: Path) -> AudioCodec:
    return load_codec(str(codec_folder))


def alone(codec: AudioCodec, clip: Tensor) -> Tensor:
    """The codes of one clip by itself, `K x T`."""
    return codec.encode(clip[None, None], torch.tensor([len(clip)]))[0][0]


def test_codes_depend_on_neither_the_batch_nor_the_padding(codec: AudioCodec, make_song: MakeSong) -> None:
    hop = codec.hop_length
    lengths = [9 * hop + 5, 4 * hop, 9 * hop + 5, 13 * hop, 9 * hop + 6, 1, 0]
    clips = [make_song(seed, length) for seed, length in enumerate(lengths)]
    # What lies past a clip's end is not its business: here it is loud noise.
    batch = torch.randn(len(clips), 1, 15 * hop)
    for row, clip in enumerate(clips):
        batch[row, 0, : len(clip)] = clip
    codes, frames = codec.encode(batch, torch.tensor(lengths))
    assert frames.tolist() == [10, 4, 10, 13, 10, 1, 0]
    assert codes.dtype == frames.dtype == torch.int64
    for row, clip in enumerate(clips):
        torch.testing.assert_close(codes[row, :, : frames[row]], alone(codec, clip), rtol=0, atol=0)
        assert not codes[row, :, frames[row] :].any()


def test_codes_tell_clips_apart(codec: AudioCodec, make_song: MakeSong) -> None:
    first, second = (alone(codec, make_song(seed, 20 * codec.hop_length)) for seed in (0, 1))
    assert (first != second).any()
    assert len(first.unique()) > 3


def test_frames_follow_from_the_number_of_samples(codec: AudioCodec) -> None:
    hop = codec.hop_length
    assert codec.frame_rate == codec.sample_rate / hop
    for length in (1, hop - 1, hop, hop + 1, 2 * hop - 1, 5 * hop + hop // 2, 31 * hop + 7):
        codes, frames = codec.encode(torch.zeros(1, 1, length), torch.tensor([length]))
        assert frames.item() == codec.num_frames(length) == -(-length // hop)
        assert codes.shape == (1, codec.num_codebooks, frames.item())
        assert codes.min() >= 0 and codes.max() < codec.codebook_size


def test_decode_is_silent_past_the_frames_and_depends_on_nothing_else(codec: AudioCodec, make_song: MakeSong) -> None:
    clips = torch.stack([make_song(seed, 12 * codec.hop_length) for seed in range(3)])[:, None]
    codes, _ = codec.encode(clips, torch.full((3,), clips.shape[-1]))
    sound = codec.decode(codes, torch.tensor([12, 7, 0]))
    assert sound.shape == (3, 1, 12 * codec.hop_length) and sound.dtype == torch.float32
    assert sound.isfinite().all()
    assert not sound[1, :, 7 * codec.hop_length :].any() and not sound[2].any()
    torch.testing.assert_close(sound[:1], codec.decode(codes[:1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        sound[1:2, :, : 7 * codec.hop_length], codec.decode(codes[1:2, :, :7]), rtol=1e-4, atol=1e-5
    )
    assert sound[0].abs().max() > 0


def test_mixed_precision_of_training_does_not_reach_the_codec(codec: AudioCodec, make_song: MakeSong) -> None:
    clip = make_song(0, 30 * codec.hop_length)
    expected = alone(codec, clip)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(alone(codec, clip), expected)


def test_networks_neither_learn_nor_drop_out(codec: AudioCodec, make_song: MakeSong) -> None:
    if isinstance(codec, NetworkCodec):
        assert not any(module.training for module in codec.model.modules())
        assert not any(parameter.requires_grad for parameter in codec.model.parameters())
    codes, _ = codec.encode(make_song(0, 640)[None, None].requires_grad_(), torch.tensor([640]))
    assert not codec.decode(codes).requires_grad
    # Codes must be good for an embedding that does learn, so they may not be inference tensors.
    assert not codes.is_inference()


def test_a_saved_codec_is_the_same_codec(codec: AudioCodec, tmp_path: Path, make_song: MakeSong) -> None:
    codec.save(tmp_path / "copy")
    again = load_codec(str(tmp_path / "copy"))
    reopened = load_codec(json.loads(json.dumps(codec.spec)))
    clip = make_song(4, 10 * codec.hop_length)
    for other in (again, reopened):
        assert other.fingerprint == codec.fingerprint
        assert torch.equal(alone(other, clip), alone(codec, clip))
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert not [name for name in names if not name.endswith((".json", ".safetensors"))]


def test_the_fingerprint_follows_the_weights(codec_folder: Path, tmp_path: Path) -> None:
    before = load_codec(str(codec_folder))
    weights = load_file(codec_folder / "model.safetensors")
    name = max((name for name in weights if weights[name].is_floating_point()), key=lambda name: weights[name].numel())
    weights[name].view(-1)[-1] += 1e-3
    (tmp_path / "config.json").write_bytes((codec_folder / "config.json").read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    after = load_codec(str(tmp_path))
    assert after.fingerprint != before.fingerprint


def test_a_relative_path_is_looked_for_in_the_base_folder(codec_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "audio_codec").symlink_to(codec_folder)
    spec = {"type": codec_folder.name, "path": "audio_codec"}
    opened = load_codec(spec, base_folder=tmp_path / "model")
    assert opened.fingerprint == load_codec(str(codec_folder)).fingerprint
    # The spec opens it again without the base folder.
    assert load_codec(opened.spec).fingerprint == opened.fingerprint


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((2, 2, 640), [640, 640], "mono"),
        ((1, 640), [640], "batch x 1 x samples"),
        ((2, 1, 640), [640], "2 numbers of samples"),
        ((1, 1, 640), [641], "from 0 to 640"),
    ],
)
def test_wrong_shapes_are_refused(codec: AudioCodec, shape: tuple[int, ...], lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.encode(torch.zeros(shape), torch.tensor(lengths))


def test_special_tokens_are_no_codes(codec: AudioCodec) -> None:
    codes = torch.zeros(1, codec.num_codebooks, 3, dtype=torch.int64)
    codes[0, 0, 2] = codec.codebook_size
    codec.decode(codes, torch.tensor([2]))
    with pytest.raises(ValueError, match="special tokens"):
        codec.decode(codes)
    with pytest.raises(ValueError, match="codebooks"):
        codec.decode(codes[:, :1])


def test_an_empty_batch_is_empty(codec: AudioCodec) -> None:
    codes, frames = codec.encode(torch.zeros(0, 1, 100), torch.zeros(0, dtype=torch.int64))
    assert codes.shape == (0, codec.num_codebooks, 0) and frames.shape == (0,)
    assert codec.decode(codes).shape == (0, 1, 0)
