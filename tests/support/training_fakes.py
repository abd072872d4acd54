"""A tiny model folder, a tiny tokenized data set and batches out of nothing, for tests of training."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from songgen.codecs.spectral import SpectralCodec, SpectralSettings
from songgen.conditioning import TextEncoder, VoiceEncoder
from songgen.data.collate import Batch
from songgen.data.schema import DATASET_FILE, EVAL_SPLIT, TRAIN_SPLIT, DatasetInfo, ShardInfo, arrow_schema
from songgen.families.tokens.codebook_weights import CodebookWeights
from songgen.families.tokens.objective import TokenObjective
from songgen.lyrics import VoiceBpeTokenizer, train_lyrics_tokenizer
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration

CODEBOOKS, CODES = 3, 16
TEXT_IDS, LYRICS_IDS = 40, 300
VOICE_RATE = 24000
TEXT_WIDTH, VOICE_WIDTH, VOICE_LAYERS = 8, 8, 1


def tiny_config(track_pattern: str = "mixed_pro", *, dropout: float = 0.0, **fields: Any) -> SongGenConfig:
    """A model that trains in milliseconds."""
    return SongGenConfig(
        track_pattern=track_pattern,
        decoder=DecoderConfig(
            vocab_size=CODES + 64,
            num_codebooks=CODEBOOKS,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            ffn_dim=32,
            dropout=dropout,
            initializer_factor=0.2,
        ),
        lyrics_encoder=LyricsEncoderConfig(
            output_size=8, attention_heads=2, linear_units=16, num_blocks=1, dropout=dropout
        ),
        lyrics_vocab_size=LYRICS_IDS,
        add_vocal_loss=track_pattern == "mixed_pro",
        text_hidden_size=TEXT_WIDTH,
        voice_num_layers=VOICE_LAYERS + 1,
        voice_hidden_size=VOICE_WIDTH,
        text_encoder={"path": "text_encoder"},
        voice_encoder={"path": "voice_encoder"},
        audio_codec={"path": "audio_codec", "type": "spectral"},
        caption_tokenizer="caption_tokenizer",
        **fields,
    )


def tiny_codec() -> SpectralCodec:
    """A codec that nothing was fitted to."""
    settings = SpectralSettings(
        window_length=640, num_mels=8, num_codebooks=CODEBOOKS, codebook_size=CODES, griffin_lim_iterations=1
    )
    return SpectralCodec(settings, torch.rand(CODEBOOKS, CODES, 8, generator=torch.Generator().manual_seed(0)))


def tiny_model(track_pattern: str = "mixed_pro", **fields: Any) -> SongGenForConditionalGeneration:
    """A model with its frozen encoders."""
    torch.manual_seed(0)
    model = SongGenForConditionalGeneration(tiny_config(track_pattern, **fields))
    model.attach("text_encoder", TextEncoder.small(TEXT_IDS, d_model=TEXT_WIDTH, num_layers=1, num_heads=2))
    model.attach("voice_encoder", VoiceEncoder.small(hidden_size=VOICE_WIDTH, num_layers=VOICE_LAYERS, num_heads=2))
    model.attach("audio_codec", tiny_codec())
    return model


def write_model_folder(folder: Path, track_pattern: str = "mixed_pro", **fields: Any) -> Path:
    """A folder that opens as a model, encoders and lyrics tokenizer included."""
    model = tiny_model(track_pattern, **fields)
    for name, part in model.attached().items():
        part.save(folder / name)
    model.folder = folder
    model.save_pretrained(folder)
    lines = [("la la la", "en"), ("words of a song", "en")]
    train_lyrics_tokenizer(lines, LYRICS_IDS).save_pretrained(folder)
    return folder


def make_rows(count: int, *, seed: int = 0, prefix: str = "song") -> list[dict[str, Any]]:
    """Rows with random codes of all tracks, a voice, two further descriptions and a singer; more rows only add some."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        frames = int(generator.integers(3, 9))
        row: dict[str, Any] = {
            "id": f"{prefix}{index}",
            "caption": f"caption {index}",
            "lyrics": f"lyrics {index}",
            "language": "en",
            "caption_ids": [*generator.integers(2, TEXT_IDS, size=2 + index % 3).tolist(), 1],
            "lyrics_ids": [261, *generator.integers(262, LYRICS_IDS, size=1 + index % 4).tolist(), 0],
            "duration": frames / 50,
            "num_frames": frames,
            "voice_samples": generator.integers(-3000, 3000, size=1200).tolist(),
            "caption_variant_ids": [2 + index % 9, 7, 1, 2 + index % 9, 1],
            "caption_variant_lengths": [3, 2],
            "singer": "Ann" if index % 3 else f"singer {index}",
        }
        for track in ("mix", "vocal", "acc"):
            row[f"codes_{track}"] = generator.integers(0, CODES, size=CODEBOOKS * frames).tolist()
            row[f"energy_{track}"] = 1000.0
        rows.append(row)
    return rows


def write_dataset(
    folder: Path, model_folder: Path, num_train: int, num_evaluation: int, *, num_shards: int = 1, **info: Any
) -> Path:
    """Write both splits for a model of `write_model_folder`; `info` replaces `DatasetInfo` fields."""
    train, evaluation = make_rows(num_train), make_rows(num_evaluation, seed=1, prefix="held_out")
    splits = {}
    schema = arrow_schema(kept_columns=info.get("kept_columns", ()))
    for split, rows in ((TRAIN_SPLIT, train), (EVAL_SPLIT, evaluation)):
        (folder / split).mkdir(parents=True)
        size = -(-len(rows) // num_shards)
        shards = []
        for number in range(num_shards):
            part = rows[number * size : (number + 1) * size]
            path = folder / split / f"data-{number:05d}.arrow"
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                writer.write_table(pa.Table.from_pylist(part, schema=schema))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            shards.append(ShardInfo(f"{split}/{path.name}", len(part), digest))
        splits[split] = tuple(shards)
    values: dict[str, Any] = {
        "codec_spec": {"type": "spectral", "path": "codec"},
        "codec_fingerprint": tiny_codec().fingerprint,
        "sample_rate": 16000,
        "hop_length": 320,
        "num_codebooks": CODEBOOKS,
        "codebook_size": CODES,
        "lyrics_tokenizer_fingerprint": VoiceBpeTokenizer.from_pretrained(model_folder).fingerprint,
        "caption_tokenizer_fingerprint": "caption",
        "voice_sample_rate": VOICE_RATE,
        "splits": splits,
    }
    (folder / DATASET_FILE).write_text(DatasetInfo(**(values | info)).to_json(), encoding="utf-8")
    return folder


def tiny_objective(
    model: SongGenForConditionalGeneration, *, vocal_loss_weight: float = 0.1, auxiliary: bool = True
) -> TokenObjective:
    """The objective of a tiny model, all codebooks weighted alike."""
    return TokenObjective(
        layout=model.layout,
        train_every_eos=True,
        auxiliary_tracks=("vocal",) if auxiliary else (),
        vocal_loss_weight=vocal_loss_weight,
        codebook_weights=CodebookWeights.build(CODEBOOKS, weighted=False, start=None, end=None),
    )


def make_batch(frames: list[int], *, seed: int = 0, num_tracks: int = 1, auxiliary: bool = True) -> Batch:
    """A micro-batch of random clips without voices; 0 frames make an empty slot."""
    generator = torch.Generator().manual_seed(seed)
    size, longest = len(frames), max([1, *frames])

    def codes(tracks: int) -> torch.Tensor:
        return torch.randint(0, CODES, (size, tracks, CODEBOOKS, longest), generator=generator)

    return Batch(
        ids=[f"clip{seed}_{row}" for row in range(size)],
        codes=codes(num_tracks),
        frames=torch.tensor(frames),
        auxiliary_codes=codes(1) if auxiliary else None,
        input_ids=torch.randint(2, TEXT_IDS, (size, 4), generator=generator),
        attention_mask=torch.ones(size, 4, dtype=torch.long),
        prompt_input_ids=torch.randint(0, LYRICS_IDS, (size, 5), generator=generator),
        prompt_attention_mask=torch.ones(size, 5, dtype=torch.long),
        ref_voice_values=torch.zeros(size, 0),
        ref_voice_lengths=torch.zeros(size, dtype=torch.long),
    )


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    """Some clips of a batch, as a batch of their own; padding stays."""
    picked: dict[str, Any] = {
        name: None if value is None else value[rows] for name, value in batch.model_inputs().items()
    }
    return Batch(ids=[batch.ids[row] for row in rows], **picked)
