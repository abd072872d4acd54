"""A small model folder that generates songs: nothing is taken from a hub."""

import torch

from songgen.codecs.spectral import SpectralCodec, SpectralSettings
from songgen.conditioning import TextEncoder, VoiceEncoder, train_caption_tokenizer
from songgen.lyrics import train_lyrics_tokenizer
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration


def write_complete_model(folder, layout):
    """A small model of ours with everything it needs beside it: no hub is asked."""
    tokenizer = train_caption_tokenizer(["a calm folk song", "a fast rock song"], 320, folder / "caption_tokenizer")
    lyrics_tokenizer = train_lyrics_tokenizer([("la la the sun is up", "en")], 320)
    lyrics_tokenizer.save_pretrained(folder)
    TextEncoder.small(len(tokenizer), d_model=16, num_layers=1).save(folder / "text_encoder")
    voice = VoiceEncoder.small(hidden_size=16, num_layers=1)
    voice.save(folder / "voice_encoder")
    settings = SpectralSettings(
        sample_rate=1600, hop_length=32, window_length=128, num_mels=8, num_codebooks=2, codebook_size=16
    )
    codebooks = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    codebooks[:, 0] = 0
    codec = SpectralCodec(settings, codebooks)
    codec.save(folder / "audio_codec")
    config = SongGenConfig(
        track_pattern=layout,
        decoder=DecoderConfig(
            vocab_size=codec.codebook_size + 64,
            num_codebooks=codec.num_codebooks,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            ffn_dim=32,
            initializer_factor=0.2,
        ),
        lyrics_encoder=LyricsEncoderConfig(output_size=32, attention_heads=4, linear_units=32, num_blocks=1),
        lyrics_vocab_size=lyrics_tokenizer.vocab_size,
        add_vocal_loss=False,
        text_hidden_size=16,
        voice_num_layers=voice.num_layers,
        voice_hidden_size=16,
        text_encoder={"path": "text_encoder"},
        voice_encoder={"path": "voice_encoder"},
        audio_codec={"type": "spectral", "path": "audio_codec"},
        audio_codec_fingerprint=codec.fingerprint,
        caption_tokenizer="caption_tokenizer",
        sampling_rate=codec.sample_rate,
    )
    torch.manual_seed(0)
    SongGenForConditionalGeneration(config).save_pretrained(folder)
    return folder
