import pytest
import torch

from songgen.codecs.spectral import SpectralCodec, SpectralSettings
from songgen.generation.decoding import CodeChunk
from songgen.generation.pipeline import generate, model_stream
from songgen.generation.song_audio import decode_songs
from songgen.generation.streaming import ChunkDecoder, frames_of_chunk
from songgen.layout import get_layout

LAYOUT = get_layout("interleaving_A_V", 3)


def join(pieces):
    """All pieces of each song and track, cut to what belongs to the song."""
    songs = range(len(pieces[0].lengths))
    return [
        {
            name: torch.cat([piece.tracks[name][song, : piece.lengths[song]] for piece in pieces])
            for name in pieces[0].tracks
        }
        for song in songs
    ]


def chunks_of(codes, lengths, size):
    """Cut songs (B x N x K x T) into chunks as the decoding loop does."""
    longest = max(lengths)
    for first in range(0, longest, size):
        end = min(first + size, longest)
        frames = (torch.tensor(lengths) - first).clamp(0, end - first)
        valid = torch.arange(end - first) < frames[:, None]
        piece = torch.where(valid[:, None, None], codes[..., first:end], 0)
        yield CodeChunk(first, piece, frames, is_last=end == longest)


@pytest.mark.parametrize("size", [1, 5, 16, 100])
@pytest.mark.parametrize("lengths", [[64, 64], [64, 21], [3, 64], [1, 2]])
def test_pieces_joined_are_the_song_decoded_at_once(toy_codec, size, lengths):
    codes = torch.randint(16, (2, 2, 3, 64), generator=torch.Generator().manual_seed(0))
    songs = [song[..., :length] for song, length in zip(codes, lengths, strict=True)]
    whole = decode_songs(toy_codec, LAYOUT, songs)
    decoder = ChunkDecoder(toy_codec, LAYOUT, context_frames=4, fade_frames=2)
    pieces = [audio for chunk in chunks_of(codes, lengths, size) if (audio := decoder.feed(chunk)) is not None]
    for song, joined in enumerate(join(pieces)):
        for name, samples in joined.items():
            assert len(samples) == lengths[song] * toy_codec.hop_length
            assert torch.allclose(samples, whole.tracks[name][song, : len(samples)], atol=1e-5)
    lasting = torch.stack([piece.lengths for piece in pieces]).sum(dim=0)
    assert torch.equal(lasting, whole.lengths)


class OverlappingCodec:
    """Every decoded window has an offset of its own, as a codec without a bounded view might."""

    sample_rate, hop_length, frame_rate, device = 100, 10, 10.0, torch.device("cpu")

    def __init__(self):
        self.calls = 0

    def decode(self, codes, frames=None):
        self.calls += 1
        return torch.full((len(codes), 1, codes.shape[-1] * self.hop_length), float(self.calls % 2))


def test_pieces_of_a_codec_that_looks_further_fade_into_each_other():
    codec = OverlappingCodec()
    codes = torch.zeros(1, 2, 3, 40, dtype=torch.long)
    decoder = ChunkDecoder(codec, LAYOUT, context_frames=4, fade_frames=4)
    pieces = [audio for chunk in chunks_of(codes, [40], 10) if (audio := decoder.feed(chunk)) is not None]
    sound = join(pieces)[0]["vocal"]
    assert len(pieces) > 2 and len(sound) == 400
    assert sound.diff().abs().max() < 1 / (4 * codec.hop_length)


def test_pieces_of_the_spectral_codec_do_not_click():
    """Griffin-Lim finds other phases for every window: at the borders, too, no step is larger than in one window."""
    settings = SpectralSettings(
        sample_rate=1600, hop_length=32, window_length=128, num_mels=8, num_codebooks=3, codebook_size=16
    )
    codebooks = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    codebooks[:, 0] = 0
    codec = SpectralCodec(settings, codebooks)
    codes = torch.randint(16, (1, 2, 3, 1), generator=torch.Generator().manual_seed(0)).repeat(1, 1, 1, 120)
    whole = decode_songs(codec, LAYOUT, [codes[0]]).tracks["vocal"][0]
    decoder = ChunkDecoder(codec, LAYOUT)
    pieces = [audio for chunk in chunks_of(codes, [120], 25) if (audio := decoder.feed(chunk)) is not None]
    joined = join(pieces)[0]["vocal"]
    assert len(joined) == len(whole) and len(pieces) > 3
    assert joined.diff().abs().max() <= 1.5 * whole.diff().abs().max()


def test_a_piece_needs_no_code_that_is_not_drawn_yet(toy_codec):
    """Songs that differ from some frame on sound alike in all pieces handed out before that frame was drawn."""
    codes = torch.randint(16, (1, 2, 3, 60), generator=torch.Generator().manual_seed(0))
    other = codes.clone()
    other[..., 30:] = 15 - other[..., 30:]
    first, second = ChunkDecoder(toy_codec, LAYOUT, 4, 2), ChunkDecoder(toy_codec, LAYOUT, 4, 2)
    handed_out = 0
    pairs = zip(chunks_of(codes, [60], 10), chunks_of(other, [60], 10), strict=True)
    for chunk, changed in list(pairs)[:3]:
        audio, changed_audio = first.feed(chunk), second.feed(changed)
        for name in audio.tracks:
            assert torch.equal(audio.tracks[name], changed_audio.tracks[name])
        handed_out += int(audio.lengths)
    assert handed_out == (30 - 4) * toy_codec.hop_length


@pytest.mark.parametrize("layout", ["mixed", "parallel_V_A", "interleaving_A_V"])
def test_the_stream_of_a_model_is_what_it_generates(make_model, make_inputs, layout):
    model = make_model(layout)
    keywords = {**make_inputs(), "max_frames": 80, "seed": 5, "min_new_tokens": 40}
    whole = generate(model, return_songs=True, **keywords)
    steps = []
    pieces, steps_at_piece = [], []
    for piece in model_stream(model, chunk_seconds=1.0, on_step=lambda *done: steps.append(done), **keywords):
        pieces.append(piece)
        steps_at_piece.append(len(steps))
    assert torch.equal(torch.stack([piece.lengths for piece in pieces]).sum(dim=0), whole.lengths)
    for song, joined in enumerate(join(pieces)):
        for name, samples in joined.items():
            assert torch.allclose(samples, whole.tracks[name][song, : len(samples)], atol=1e-5)
    if len(pieces) > 1:
        assert steps_at_piece[0] < steps[-1][0]
    codes = [torch.cat([piece.codes[song] for piece in pieces], dim=-1) for song in range(3)]
    for song, expected in zip(codes, whole.codes, strict=True):
        assert torch.equal(song, expected)


def test_bad_settings_of_a_stream_are_refused(toy_codec):
    with pytest.raises(ValueError, match="chunk_seconds"):
        frames_of_chunk(toy_codec, 0.0)
    with pytest.raises(ValueError, match="fade_frames"):
        ChunkDecoder(toy_codec, LAYOUT, context_frames=2, fade_frames=3)
