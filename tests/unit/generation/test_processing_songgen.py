import json
import logging

import numpy as np
import pytest
import soundfile
import torch

from songgen.conditioning import VoiceEncoder, train_caption_tokenizer
from songgen.generation import processing_songgen, separation
from songgen.generation.processing_songgen import SongGenProcessor
from songgen.lyrics import train_lyrics_tokenizer

RATE = 24_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder as far as the processor reads it."""
    path = tmp_path_factory.mktemp("model")
    captions = ["a calm folk song with guitar", "a fast rock song with drums", "a male voice sings", "soft piano"]
    train_caption_tokenizer(captions, 320, path / "caption_tokenizer")
    lines = [("la la the sun is up", "en"), ("we sing along the road", "en"), ("die sonne scheint", "de")]
    train_lyrics_tokenizer(lines, 320).save_pretrained(path)
    VoiceEncoder.small(hidden_size=16, num_layers=1, sample_rate=RATE).save(path / "voice_encoder")
    config = {
        "model_type": "songgen",
        "caption_tokenizer": "caption_tokenizer",
        "voice_encoder": {"path": "voice_encoder"},
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def processor(folder):
    return SongGenProcessor(folder, "cpu")


@pytest.fixture
def voice_file(tmp_path):
    """5 s of stereo at 44.1 kHz: 1 s of silence, then the mean of two channels is 0.25."""
    samples = np.zeros((5 * 44_100, 2), dtype=np.float32)
    samples[44_100:, 0], samples[44_100:, 1] = 0.4, 0.1
    path = tmp_path / "voice.wav"
    soundfile.write(path, samples, 44_100, subtype="FLOAT")
    return path


def test_one_song_becomes_the_models_keywords(processor, voice_file):
    inputs = processor(text="a calm folk song", lyrics="la la the sun", ref_voice_path=voice_file, start=1)
    assert list(inputs) == [
        "input_ids",
        "attention_mask",
        "prompt_input_ids",
        "prompt_attention_mask",
        "ref_voice_values",
        "ref_voice_lengths",
    ]
    assert inputs["input_ids"][0, -1] == processor.caption_tokenizer.eos_token_id
    assert inputs["prompt_input_ids"][0, 0] == 261 and inputs["prompt_input_ids"][0, -1] == 0
    assert inputs["prompt_input_ids"][0].tolist() == processor.lyrics_tokenizer.encode_lyrics("la la the sun", "en")
    assert inputs["ref_voice_values"].shape == (1, 3 * RATE)
    assert inputs["ref_voice_lengths"].tolist() == [3 * RATE]
    assert torch.allclose(inputs["ref_voice_values"][0, 1000:-1000], torch.tensor(0.25), atol=1e-2)
    for name in ("attention_mask", "prompt_attention_mask"):
        assert inputs[name].all() and inputs[name].dtype == torch.int64


def test_a_voice_that_ends_early_keeps_its_length(processor, voice_file):
    inputs = processor(lyrics="la", ref_voice_path=voice_file, start=4)
    assert inputs["ref_voice_lengths"].tolist() == [RATE]
    assert inputs["ref_voice_values"].shape == (1, RATE)


def test_without_a_voice_there_are_no_samples(processor):
    inputs = processor(text="soft piano", lyrics="la")
    assert inputs["ref_voice_values"].shape == (1, 0)
    assert inputs["ref_voice_lengths"].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silence", "too quiet from 0 s on"),
        ("near_silence", "energy 1; training uses voices from 200"),
        ("cancelling", "cancel each other"),
        ("three_samples", "at least 0.25 s"),
        ("integer_scale", "out_of_scale"),
    ],
)
def test_what_training_would_not_use_as_a_voice_is_refused(processor, tmp_path, name, reason):
    tone = 0.2 * np.sin(np.arange(24_000) / 10)
    samples = {
        "silence": np.zeros(24_000),
        "near_silence": tone / 8000,
        "cancelling": np.stack([tone, -tone], axis=1),
        "three_samples": tone[100:103],
        "integer_scale": tone * 32768,
    }[name]
    soundfile.write(tmp_path / "voice.wav", samples, 24_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=reason):
        processor(lyrics="la", ref_voice_path=tmp_path / "voice.wav")


def test_batches_pad_and_single_values_hold_for_all(processor, voice_file):
    inputs = processor(
        text="soft piano",
        lyrics=["la la the sun is up", "die sonne", ""],
        ref_voice_path=[voice_file, None, voice_file],
        language=["en", "de", "en"],
    )
    assert inputs["input_ids"].shape[0] == 3
    assert torch.equal(inputs["input_ids"][0], inputs["input_ids"][2])
    for song, (text, language) in enumerate([("la la the sun is up", "en"), ("die sonne", "de"), ("", "en")]):
        ids = processor.lyrics_tokenizer.encode_lyrics(text, language)
        length = int(inputs["prompt_attention_mask"][song].sum())
        assert inputs["prompt_input_ids"][song, :length].tolist() == ids
        assert not inputs["prompt_input_ids"][song, length:].any()
    assert inputs["ref_voice_lengths"].tolist() == [3 * RATE, 0, 3 * RATE]
    assert not inputs["ref_voice_values"][1].any()


def test_lyrics_or_caption_alone_are_the_empty_forms_of_training(processor):
    instrumental = processor(text="soft piano")
    assert instrumental["prompt_input_ids"].tolist() == [[261, 0]]
    uncaptioned = processor(lyrics="la la")
    assert uncaptioned["input_ids"].tolist() == [[1]] and uncaptioned["attention_mask"].tolist() == [[1]]
    with pytest.raises(ValueError, match="caption .*lyrics"):
        processor()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ["a", "b"], "lyrics": ["x"]}, "text has 2, lyrics has 1"),
        ({"text": []}, "at least 1"),
        ({"lyrics": "la", "language": "klingon"}, "klingon"),
        ({"lyrics": "la", "ref_voice_path": "/nowhere/voice.wav"}, "does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_a_bad_voice_file_or_start_is_refused(processor, voice_file, tmp_path):
    with pytest.raises(ValueError, match="after its end"):
        processor(lyrics="la", ref_voice_path=voice_file, start=6)
    with pytest.raises(ValueError, match="at least 0"):
        processor(lyrics="la", ref_voice_path=voice_file, start=-1)
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match="unreadable_audio"):
        processor(lyrics="la", ref_voice_path=tmp_path / "text.wav")
    broken = np.zeros(24_000, dtype=np.float32)
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 24_000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not_finite"):
        processor(lyrics="la", ref_voice_path=tmp_path / "nan.wav")


def test_pieces_outside_the_vocabulary_are_named(processor, caplog):
    with caplog.at_level(logging.WARNING):
        processor(lyrics="la 漢 la")
    assert "漢" in caplog.text


def test_a_published_folder_takes_the_vocabulary_by_argument(folder, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "songgen", "text_encoder": {"model_type": "t5"}}))
    with pytest.raises(ValueError, match="lyrics_vocab="):
        SongGenProcessor(tmp_path)
    asked = []
    monkeypatch.setattr(processing_songgen, "load_caption_tokenizer", asked.append)
    processor = SongGenProcessor(tmp_path, lyrics_vocab=folder / "lyrics_tokenizer.json")
    assert asked == ["google/flan-t5-large"]
    assert processor.voice_sample_rate == 24_000
    SongGenProcessor(folder)
    assert asked[-1] == folder / "caption_tokenizer"


class HalfSeparator:
    """Returns half of the mean of the channels, and remembers what it was given."""

    def __init__(self):
        self.heard = []

    def separate(self, samples, sample_rate):
        self.heard.append(samples.shape)
        return samples.mean(axis=1) / 2


def test_a_separator_hears_the_surroundings_and_the_cut_stays_in_place(folder, voice_file):
    separator = HalfSeparator()
    processor = SongGenProcessor(folder, separator=separator)
    inputs = processor(lyrics="la", ref_voice_path=voice_file, start=1, separate=True)
    assert separator.heard == [(5 * 44_100, 2)]
    assert inputs["ref_voice_lengths"].tolist() == [3 * RATE]
    assert torch.allclose(inputs["ref_voice_values"][0, 1000:-1000], torch.tensor(0.125), atol=1e-2)
    processor(lyrics="la", ref_voice_path=voice_file, separate=False)
    assert len(separator.heard) == 1


def test_separation_without_demucs_says_how_to_install_it(folder, voice_file, monkeypatch):
    separation.load_separator.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "demucs.apply", None)
    with pytest.raises(ValueError, match="pip install"):
        SongGenProcessor(folder)(lyrics="la", ref_voice_path=voice_file, separate=True)


def test_demucs_separates_a_voice():
    """The real network, small and untrained: shapes, rates and channels fit."""
    htdemucs = pytest.importorskip("demucs.htdemucs")
    model = htdemucs.HTDemucs(
        ["drums", "vocals"], channels=16, depth=2, t_layers=1, t_heads=2, nfft=512, samplerate=8000, segment=1
    )
    separator = separation.VocalSeparator(model.eval())
    samples = np.random.default_rng(0).normal(size=(11_025, 1)).astype(np.float32)
    vocals = separator.separate(samples, 11_025)
    assert vocals.ndim == 1 and abs(len(vocals) - 11_025) <= 2 and np.isfinite(vocals).all()
    with pytest.raises(ValueError, match="vocals"):
        separation.VocalSeparator(htdemucs.HTDemucs(["drums"], channels=16, depth=2, t_layers=1, t_heads=2))
