"""New flow models: a diffusers folder with random weights, to try out the whole path without the published ones.

The autoencoder has random weights too, so that songs are noise; what is shown is that data, training, adapters and
generating work together, and how much memory and time they take.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from songgen.families.flow.model_folder import MODEL_FILES
from songgen.families.flow.pipeline import COMPONENTS, SCHEDULER, TOKENIZER, component_class, quiet_networks
from songgen.runtime.file_hashes import record_hashes
from songgen.runtime.files import new_folder, require_new

END_OF_TEXT = "<|endoftext|>"
"""Token that the pipeline's prompts end with."""

SILENCE_FRAMES = 15_000
"""Frames of silence that a model brings: ten minutes."""

_ENCODED_SECONDS = 2
_VOCABULARY = 2_000


@dataclass(frozen=True)
class FlowPreset:
    """Sizes of a new model, as keys of its components' configurations.

    What is not named is the default of diffusers: the published size.
    """

    layers: dict[str, Any] = field(default_factory=dict)
    """Keys that transformer, condition encoder and tokenizer of audio share."""
    channels: int = 64
    """Values of a latent frame."""
    num_layers: int = 24
    """Layers of the transformer."""
    condition_layers: tuple[int, int] = (8, 4)
    """Layers of the encoders of lyrics and timbre."""
    text_encoder: dict[str, Any] = field(default_factory=dict)
    """Keys of the text encoder."""
    autoencoder: dict[str, Any] = field(default_factory=dict)
    """Keys of the autoencoder."""


PRESETS = {
    "flow_published": FlowPreset(
        text_encoder={
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 128,
        },
        autoencoder={"downsampling_ratios": [2, 4, 4, 6, 10], "sampling_rate": 48_000},
    ),
    "flow_small": FlowPreset(
        layers={
            "hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 64,
        },
        channels=16,
        num_layers=6,
        condition_layers=(2, 2),
        text_encoder={
            "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32,
        },
        autoencoder={
            "decoder_channels": 8, "channel_multiples": [1, 2, 2, 4, 4],
            "downsampling_ratios": [2, 4, 4, 6, 10], "sampling_rate": 48_000,
        },
    ),
}  # fmt: skip
"""`flow_published`: the 2B model. `flow_small`: trains on two cores."""


def create_flow_folder(
    out: Path, preset: str, *, is_turbo: bool = False, texts: Iterable[str] = (), seed: int = 0
) -> str:
    """Write the folder of a new model, and describe it.

    Args:
        out: new folder.
        preset: key of `PRESETS`.
        is_turbo: whether it says that guidance is distilled into it, so that it is trained at eight timesteps.
        texts: captions and lyrics that the tokenizer learns words from; other words become bytes.
        seed: seed of the weights.

    Raises:
        ValueError: if the folder exists, or diffusers is not installed.
    """
    require_new(out)
    component_class(SCHEDULER)  # says what to install
    from diffusers import AceStepPipeline

    with quiet_networks(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = _parts(PRESETS[preset], train_tokenizer(texts), is_turbo=is_turbo)
    pipeline: Any = AceStepPipeline(**parts)
    with new_folder(out) as folder, quiet_networks():
        pipeline.save_pretrained(folder)
        record_hashes(folder, MODEL_FILES.names(folder))
    trained = sum(entry.numel() for name in ("transformer", "condition_encoder") for entry in parts[name].parameters())
    kind = "turbo" if is_turbo else "guided"
    return f"{kind} flow model of {trained / 1e6:.1f} million trained weights, all random; songs of it are noise"


def train_tokenizer(texts: Iterable[str] = ()) -> Any:
    """Train a byte-level tokenizer on texts and on the fixed words of the pipeline's prompts; it knows every text."""
    from diffusers.pipelines.ace_step.pipeline_ace_step import DEFAULT_DIT_INSTRUCTION, SFT_GEN_PROMPT, AceStepPipeline
    from transformers import PreTrainedTokenizerFast

    # Often enough that they become whole tokens: a caption's prompt is cut after 256 of them.
    metadata = AceStepPipeline._build_metadata_string()
    fixed = [SFT_GEN_PROMPT.format(DEFAULT_DIT_INSTRUCTION, "", metadata), "# Languages\nen\n\n# Lyric\n"] * 16
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*fixed, *texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def _parts(preset: FlowPreset, tokenizer: Any, *, is_turbo: bool) -> dict[str, Any]:
    """Return the components, on the CPU and in evaluation mode."""
    from transformers import Qwen3Config

    of = {name: component_class(name) for name in COMPONENTS if name != TOKENIZER}
    channels = preset.channels  # the encoder writes a mean and a scale for each of them
    autoencoder = of["vae"](
        audio_channels=2, encoder_hidden_size=2 * channels, decoder_input_channels=channels, **preset.autoencoder
    )
    encoder = Qwen3Config(vocab_size=len(tokenizer), max_position_embeddings=32_768, **preset.text_encoder)
    lyrics, timbre = preset.condition_layers
    turbo = {"is_turbo": True, "model_version": "turbo"} if is_turbo else {}
    width = {"fsq_dim": preset.layers["hidden_size"]} if preset.layers else {}
    parts: dict[str, Any] = {
        "vae": autoencoder,
        "text_encoder": of["text_encoder"](encoder),
        "transformer": of["transformer"](
            num_hidden_layers=preset.num_layers,
            in_channels=3 * channels,
            audio_acoustic_hidden_dim=channels,
            **preset.layers,
            **turbo,
        ),
        "condition_encoder": of["condition_encoder"](
            text_hidden_dim=encoder.hidden_size,
            timbre_hidden_dim=channels,
            num_lyric_encoder_hidden_layers=lyrics,
            num_timbre_encoder_hidden_layers=timbre,
            **preset.layers,
        ),
        "audio_tokenizer": of["audio_tokenizer"](audio_acoustic_hidden_dim=channels, **width, **preset.layers),
        "audio_token_detokenizer": of["audio_token_detokenizer"](audio_acoustic_hidden_dim=channels, **preset.layers),
    }
    for network in parts.values():
        network.eval()
    parts["condition_encoder"].silence_latent.copy_(_silence(autoencoder))
    scheduler = of[SCHEDULER](num_train_timesteps=1, shift=1.0)
    return parts | {TOKENIZER: tokenizer, SCHEDULER: scheduler}


@torch.no_grad()
def _silence(autoencoder: Any) -> torch.Tensor:
    """Return the latents of silence, 1 x T x C: the middle of an encoded piece, without its edges, again and again."""
    rate = int(autoencoder.config.sampling_rate)
    latents = autoencoder.encode(torch.zeros(1, 2, _ENCODED_SECONDS * rate)).latent_dist.mode().transpose(1, 2)
    middle = latents[:, latents.shape[1] // 2][:, None]
    return middle.expand(-1, SILENCE_FRAMES, -1)
