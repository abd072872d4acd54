"""A voice encoder of 16 kHz: tokenizing, the check before training, and generation use its rate."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from preprocess_fakes import options_for, write_corpus
from training_fakes import write_model_folder

from songgen.conditioning import VoiceEncoder, load_voice_encoder, train_caption_tokenizer
from songgen.data.dataset import SongDataset, check_against_model
from songgen.doctor.hashes import accept
from songgen.generation.processing_songgen import SongGenProcessor
from songgen.models import SongGenForConditionalGeneration
from songgen.runtime.file_hashes import HASHES_FILE
from songgen.tokenize.run import tokenize_data

VOICE_RATE = 16_000


def write_model(folder: Path, encoder: Path) -> Path:
    """Write a model whose voice encoder is another folder's."""
    write_model_folder(folder)
    VoiceEncoder.small(hidden_size=8, num_layers=1, num_heads=2, sample_rate=VOICE_RATE).save(encoder)
    train_caption_tokenizer(["a song, number", "a calm song"], 300, folder / "caption_tokenizer")
    accept(folder)
    return folder


def test_another_voice_encoder_is_heard_at_its_own_rate(tmp_path: Path) -> None:
    model_folder = write_model(tmp_path / "model", tmp_path / "model" / "voice_encoder")
    manifest = write_corpus(tmp_path / "corpus", 3)
    options = options_for(manifest, tmp_path / "songs", model_name_or_path=str(model_folder))
    info = tokenize_data(options)
    assert info.voice_sample_rate == VOICE_RATE

    songs = SongDataset.open(tmp_path / "songs", "train")
    row = songs.row(0)
    assert len(row.voice_samples) == round(row.duration * VOICE_RATE)
    model = SongGenForConditionalGeneration.from_pretrained(model_folder)
    rate = model.voice_encoder.sample_rate
    check_against_model(songs, target_tracks=model.task.target_tracks, voice_sample_rate=rate)

    soundfile.write(tmp_path / "voice.wav", np.linspace(-0.5, 0.5, 3 * 44_100), 44_100)
    inputs = SongGenProcessor(model_folder)(lyrics="la la", ref_voice_path=tmp_path / "voice.wav")
    assert inputs["ref_voice_lengths"].tolist() == [3 * VOICE_RATE]
    memory = model.encode_conditions(**inputs).memory
    assert memory.shape[1] > int(model.voice_encoder.num_frames(3 * VOICE_RATE))


def test_an_encoder_that_a_run_names_counts_more_than_the_models(tmp_path: Path) -> None:
    model_folder = write_model(tmp_path / "model", tmp_path / "other")
    manifest = write_corpus(tmp_path / "corpus", 1)
    options = options_for(manifest, tmp_path / "songs", model_name_or_path=str(model_folder))
    assert tokenize_data(options).voice_sample_rate == 24_000
    options = options_for(
        manifest, tmp_path / "more", model_name_or_path=str(model_folder), voice_encoder=str(tmp_path / "other")
    )
    assert tokenize_data(options).voice_sample_rate == load_voice_encoder(str(tmp_path / "other")).sample_rate


def test_the_processor_finds_an_encoder_under_another_name_in_the_models_folder(tmp_path: Path) -> None:
    """And none outside of it, which the folder of a stranger could name."""
    model_folder = write_model(tmp_path / "model", tmp_path / "model" / "other")
    config = (model_folder / "config.json").read_text()
    for path in ("other", f"{tmp_path}/model/other"):
        (model_folder / "config.json").write_text(config.replace('"path": "voice_encoder"', f'"path": "{path}"'))
        (model_folder / HASHES_FILE).unlink(missing_ok=True)
        if path == "other":
            assert SongGenProcessor(model_folder).voice_sample_rate == VOICE_RATE
        else:
            with pytest.raises(ValueError, match="outside of the model folder"):
                SongGenProcessor(model_folder)
