"""Contents of a token model's folder, for publishing it: facts for its model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songgen.families.model_facts import ModelFacts, escaped, without_folders
from songgen.models.configuration_songgen import SongGenConfig
from songgen.models.folder import read_config


def model_facts(folder: Path) -> ModelFacts:
    """Read what a model card says about the model in a folder.

    Raises:
        ValueError: if the folder does not hold a model.
    """
    config = SongGenConfig.from_dict(read_config(folder))
    decoder, layout = config.decoder, config.layout
    tracks = " and ".join(f"`{track}`" for track in layout.tracks)
    return ModelFacts(
        tags=(config.task.name.replace("_", "-"),),
        introduction=(
            "A text-to-song model: an autoregressive transformer that writes the tokens of an audio codec "
            f"({'track' if len(layout.tracks) == 1 else 'tracks'} {tracks}) from a caption, lyrics and optionally "
            "a few seconds of a reference voice."
        ),
        size_name="parameters (without the frozen networks)",
        head=(
            ("task", config.task.name.replace("_", " ")),
            ("token layout", f"{config.track_pattern}, {layout.num_heads} heads"),
        ),
        rows=(
            ("decoder", f"{decoder.num_hidden_layers} layers, width {decoder.hidden_size}"),
            (
                "audio codec",
                f"{_network(config.audio_codec)}, {decoder.num_codebooks} codebooks, {config.sampling_rate} Hz",
            ),
            ("text encoder (frozen)", _network(config.text_encoder)),
            ("voice encoder (frozen)", _network(config.voice_encoder)),
            ("lyrics tokenizer", f"byte pairs, {config.lyrics_vocab_size} entries in the model's table"),
        ),
    )


def _network(spec: Mapping[str, Any]) -> str:
    """Return path and type of a frozen network."""
    path = without_folders(str(spec.get("path", "in the weights of this model")))
    kind = spec.get("type")
    return escaped(f"{path} ({kind})" if kind else str(path))
