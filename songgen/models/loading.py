"""Reading and writing model folders: our own, published ones, and those of another layout (warm start)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from songgen.codecs.dac_weights import is_native
from songgen.conditioning import TextEncoder, VoiceEncoder
from songgen.layout import TokenLayout
from songgen.models.configuration_songgen import SongGenConfig
from songgen.models.decoder import Attention
from songgen.models.folder import (
    CAPTION_TOKENIZER_FOLDER,
    FROZEN_PARTS,
    local_parts,
    read_config,
)
from songgen.runtime.file_hashes import checked
from songgen.runtime.files import remove_file
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import resolve_folder
from songgen.runtime.tensor_files import (
    MODEL_CONFIG_FILE,
    WEIGHTS_FILE,
    non_finite_tensors,
    opened_tensors,
    shape_problems,
    weight_files,
    weight_precisions,
)

_Model = TypeVar("_Model", bound=nn.Module)
"""A class of `songgen.models.modeling_songgen`, which is above this module and so is not named here."""

logger = logging.getLogger(__name__)

_FROZEN_PREFIXES = {"text_encoder": "text_encoder.", "voice_encoder": "mert_model.", "audio_codec": "audio_encoder."}
"""Published folders hold the frozen networks' weights, under these prefixes."""

_SIZE_GIVING = (
    "lyrics_encoder.after_norm.weight",
    "lyrics_encoder.encoders.0.self_attn.pos_bias_u",
    "lyrics_encoder.encoders.0.feed_forward.w_1.weight",
    "enc_to_dec_proj.weight",
    "mert_layer_agg.weight",
    "audio_mert_to_dec_proj.weight",
)
"""Weights whose shapes tell what published configurations leave out."""

_POSITION_TABLE = "decoder.model.decoder.embed_positions.weights"

_STREAM_WEIGHT = re.compile(r"^(decoder\.lm_heads|decoder\.model\.decoder\.embed_tokens)\.(\d+)\.")


def load_model(
    cls: type[_Model],
    name: str | Path,
    *,
    attn_implementation: str = "sdpa",
    dtype: torch.dtype | None = None,
    track_pattern: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    config_overrides: Mapping[str, Any] | None = None,
) -> _Model:
    """Load a model, in evaluation mode.

    Args:
        cls: the class to build; the general one takes either task.
        name: folder or hub id.
        attn_implementation: "sdpa" or "eager".
        dtype: precision of the trained weights (None: float32, whatever is stored).
        track_pattern: layout to use; where the folder holds another one, heads and embeddings are mapped (logged).
        revision: branch, tag or commit of a hub repository.
        cache_dir: where downloads are kept.
        config_overrides: fields of `SongGenConfig` (or `decoder.FIELD`) to replace, such as `decoder.dropout`.

    Raises:
        ValueError: if it is not a model folder, or has changed since it was written; for unknown options, or weights
            that do not fit (all are listed).
    """
    if attn_implementation not in ("sdpa", "eager"):
        raise ValueError(f"attn_implementation {attn_implementation!r} is not one of sdpa, eager")
    folder = resolve_folder(name, revision=revision, cache_dir=cache_dir, marks=(MODEL_CONFIG_FILE,))
    tensors = _read_tensors(folder)
    config = SongGenConfig.from_dict(_completed_by_tensors(read_config(folder), tensors))
    frozen = _split_off_frozen(tensors)
    stored_layout = config.layout
    if track_pattern is not None and track_pattern != config.track_pattern:
        config = config.with_layout(track_pattern)
        tensors = map_layout(tensors, stored_layout, config.layout)
    config = _override(config, config_overrides or {})
    if not config.add_prenet:
        logger.warning(
            "%s was trained with bare lyrics embeddings in front of the song and is used that way (add_prenet false); "
            "published models and new ones encode and project the lyrics first",
            folder,
        )
    is_warm_start = stored_layout.name != config.track_pattern
    # Compared before anything is allocated: the sizes in the configuration may have nothing to do with the weights.
    with torch.device("meta"):
        _require_fit(cls(config, folder=folder), tensors, f"{folder}", warm_start=is_warm_start)
    model: Any = cls(config, folder=folder)
    for module in model.modules():
        if isinstance(module, Attention):
            module.eager = attn_implementation == "eager"
    if _POSITION_TABLE in tensors:
        model.decoder.model.decoder.embed_positions.adopt(tensors.pop(_POSITION_TABLE))
    model.load_state_dict(dict(tensors), strict=False)  # only vocal heads may be new
    if frozen.get("text_encoder") and "path" not in config.text_encoder:
        model.attach("text_encoder", TextEncoder.from_state_dict(config.text_encoder, frozen["text_encoder"]))
    if frozen.get("voice_encoder") and "path" not in config.voice_encoder:
        model.attach("voice_encoder", VoiceEncoder.from_state_dict(config.voice_encoder, frozen["voice_encoder"]))
    loaded: _Model = (model if dtype is None else model.to(dtype)).eval()
    return loaded


def save_model(
    model: Any,
    folder: Path,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a self-contained model folder: `config.json`, `model.safetensors` and frozen networks that no hub has.

    Args:
        model: a `SongGenForConditionalGeneration`.
        folder: where to write; other files in it stay.
        tensors: whole weights to write (None: the model's state, which must not be sharded).
        metadata: texts for the header of the weights, in addition to the format.

    Raises:
        ValueError: if a link leads out of the model's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replacements: dict[str, Any] = {}
    parts = local_parts(model.config, model.folder)
    if tokenizer := parts.pop("caption_tokenizer", None):
        tokenizer.copy(folder / CAPTION_TOKENIZER_FOLDER)
        replacements["caption_tokenizer"] = CAPTION_TOKENIZER_FOLDER
    for name in FROZEN_PARTS:
        spec = getattr(model.config, name)
        target = folder / name
        if name in parts:
            if weight_files(parts[name].source):
                parts[name].copy(target)
            elif parts[name].source.resolve() != target.resolve():
                getattr(model, name).save(target)  # its weights are a pickle, which is not copied
                spec = {key: value for key, value in spec.items() if key != "allow_pickle_weights"}
            replacements[name] = {**spec, "path": name}
        elif name == "audio_codec" and is_native(str(spec.get("path"))):
            # A weight file of descript-audio-codec: the copy is a folder like that of any other codec.
            getattr(model, name).save(target)
            replacements[name] = {**spec, "path": name}
        elif "path" not in spec and name in model.attached():
            getattr(model, name).save(target)
            replacements[name] = {"path": name}
    replace(model.config, **replacements).save(folder)
    weights = model.state_dict() if tensors is None else tensors
    stored = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    temporary = folder / f"{WEIGHTS_FILE}.tmp"
    try:
        save_file(stored, temporary, metadata={"format": "pt", **(metadata or {})})
        temporary.replace(folder / WEIGHTS_FILE)  # a full disk leaves the earlier weights as they are
    finally:
        remove_file(temporary)


def map_layout(tensors: Mapping[str, Tensor], source: TokenLayout, target: TokenLayout) -> dict[str, Tensor]:
    """Map embeddings and heads from one layout to another (the published warm start of dual-track from mixed).

    A head of the target takes the weights of the source's head that carries the same codebook, of the same track where
    the source has it and otherwise of the source's first track. Vocal heads are left out: no other layout has them.
    """
    mapped = {key: value for key, value in tensors.items() if not _STREAM_WEIGHT.match(key)}
    mapped = {key: value for key, value in mapped.items() if not key.startswith("decoder.vocal_lm_heads.")}
    chosen = []
    for head in range(target.num_heads):
        origin = _source_head(head, source, target)
        chosen.append(origin)
        for prefix in ("decoder.lm_heads", "decoder.model.decoder.embed_tokens"):
            mapped[f"{prefix}.{head}.weight"] = tensors[f"{prefix}.{origin}.weight"].clone()
    logger.info(
        "warm start from layout %s to %s: heads and embeddings 0..%d take those of heads %s",
        source.name, target.name, target.num_heads - 1, chosen,
    )  # fmt: skip
    return mapped


def _source_head(head: int, source: TokenLayout, target: TokenLayout) -> int:
    """Return the source's head that serves a head of the target best."""
    if source.num_codebooks != target.num_codebooks:
        raise ValueError(f"cannot map {source.num_codebooks} codebooks to {target.num_codebooks}")
    track = next(n for n, row in enumerate(target.heads) if head in row)
    name = target.tracks[track]
    origin = source.tracks.index(name) if name in source.tracks else 0
    return source.heads[origin][target.head_codebook[head]]


def _weight_files(folder: Path) -> list[Path]:
    """Return a model's weight files: one, or those that the index lists.

    Raises:
        ValueError: if there are none in a format that is read, or the index is damaged or leads elsewhere.
    """
    names = weight_files(folder)
    if not names:
        raise ValueError(f"{folder} holds no {WEIGHTS_FILE}; other weight formats are not read")
    return [folder / name for name in names]


def _read_tensors(folder: Path, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Read one file or all shards; other formats are refused.

    Args:
        folder: of the model.
        shapes_only: read the files' headers alone, and return tensors without content (on the meta device).

    Raises:
        ValueError: if a file is missing or damaged, or has changed since it was written.
    """
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        with opened_tensors(path if shapes_only else checked(path)) as opened:
            for key in opened.keys():  # noqa: SIM118 - no mapping
                if "rotary_emb." in key:
                    continue
                if shapes_only:
                    tensors[key] = torch.empty(opened.get_slice(key).get_shape(), device="meta")
                else:
                    tensors[key] = opened.get_tensor(key)
    return tensors


def non_finite_weights(folder: Path) -> list[str]:
    """Return the names of weights that hold NaN or infinity; every weight is read, one at a time.

    Raises:
        ValueError: if a weight file cannot be read.
    """
    return sorted(name for path in _weight_files(folder) for name in non_finite_tensors(path))


def stored_precisions(folder: Path) -> dict[str, torch.dtype]:
    """Return the precisions in which a model's weights are stored, by name; only headers are read.

    Raises:
        ValueError: if a weight file cannot be read.
    """
    precisions: dict[str, torch.dtype] = {}
    for path in _weight_files(folder):
        precisions |= weight_precisions(path)
    return precisions


def weight_problems(cls: type[nn.Module], folder: Path) -> list[str]:
    """Say what does not fit between a model folder's configuration and its weights; only headers are read.

    Args:
        cls: class of the model.
        folder: of the model.

    Raises:
        ValueError: if the configuration or a weight file cannot be read at all.
    """
    tensors = _read_tensors(folder, shapes_only=True)
    config = SongGenConfig.from_dict(_completed_by_tensors(read_json_object(folder / MODEL_CONFIG_FILE), tensors))
    _split_off_frozen(tensors)
    tensors.pop(_POSITION_TABLE, None)
    with torch.device("meta"):
        model = cls(config, folder=folder)
    return _misfits(model, tensors)


def stored_config(
    name: str | Path,
    *,
    revision: str | None = None,
    track_pattern: str | None = None,
    config_overrides: Mapping[str, Any] | None = None,
) -> tuple[SongGenConfig, Path]:
    """Return the configuration that `load_model` would give a model, and its folder; of weights, only headers are read.

    Args:
        name: folder or hub id; of a hub repository, the configuration is downloaded.
        revision: branch, tag or commit of a hub repository.
        track_pattern: as in `load_model`.
        config_overrides: as in `load_model`.

    Raises:
        ValueError: if the configuration cannot be read.
    """
    folder = resolve_folder(name, revision=revision, patterns=(MODEL_CONFIG_FILE,), marks=(MODEL_CONFIG_FILE,))
    data = read_config(folder)
    config = SongGenConfig.from_dict(
        data if "lyrics_encoder" in data else _completed_by_tensors(data, _read_tensors(folder, shapes_only=True))
    )
    if track_pattern is not None and track_pattern != config.track_pattern:
        config = config.with_layout(track_pattern)
    return _override(config, config_overrides or {}), folder


def _completed_by_tensors(data: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Add what published configurations leave out and the weights tell: sizes, and a voice encoder among them.

    Raises:
        ValueError: if the weights that tell them are missing.
    """
    if "lyrics_encoder" in data:
        return data
    if missing := [name for name in _SIZE_GIVING if name not in tensors]:
        raise ValueError(
            f"config.json has no lyrics_encoder, and the weights that tell its sizes are missing: {missing}"
        )
    blocks = {key.split(".")[2] for key in tensors if key.startswith("lyrics_encoder.encoders.")}
    if any(key.startswith(_FROZEN_PREFIXES["voice_encoder"]) for key in tensors):
        data = {**data, "voice_encoder": {}}  # without a path, it is the one in the model's own file
    norm, heads, feed_forward, text, layers, voice = (tensors[name].shape for name in _SIZE_GIVING)
    return {
        **data,
        "lyrics_encoder": {
            "output_size": norm[0],
            "attention_heads": heads[0],
            "linear_units": feed_forward[0],
            "num_blocks": len(blocks),
        },
        "text_hidden_size": text[1],
        "voice_num_layers": layers[1],
        "voice_hidden_size": voice[1],
    }


def _split_off_frozen(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Take the frozen networks' weights out of `tensors`; return them by network, prefixes stripped."""
    frozen: dict[str, dict[str, Tensor]] = {}
    for name, prefix in _FROZEN_PREFIXES.items():
        keys = [key for key in tensors if key.startswith(prefix)]
        frozen[name] = {key.removeprefix(prefix): tensors.pop(key) for key in keys}
    return frozen


def _override(config: SongGenConfig, overrides: Mapping[str, Any]) -> SongGenConfig:
    decoder = {key.removeprefix("decoder."): value for key, value in overrides.items() if key.startswith("decoder.")}
    own = {key: value for key, value in overrides.items() if not key.startswith("decoder.")}
    if own.get("prompt_cross_attention"):
        own["add_prenet"] = True  # bare embeddings exist only in front of the song; the memory takes encoded lyrics
    return replace(config, decoder=replace(config.decoder, **decoder), **own)


def _require_fit(model: nn.Module, tensors: Mapping[str, Tensor], where: str, *, warm_start: bool) -> None:
    """Check that all weights fit a model; only vocal heads may be new (a warm start into mixed_pro)."""
    stored = {key: value for key, value in tensors.items() if key != _POSITION_TABLE}
    if problems := _misfits(model, stored, warm_start=warm_start):
        raise ValueError(f"weights of {where} do not fit its configuration:\n  " + "\n  ".join(problems))


def _misfits(model: nn.Module, tensors: Mapping[str, Tensor], *, warm_start: bool = False) -> list[str]:
    """Say which weights are missing, too many, or of another shape."""
    expected = {key: value.shape for key, value in model.state_dict().items() if key != _POSITION_TABLE}
    optional = {key for key in expected if warm_start and key.startswith("decoder.vocal_lm_heads.")}
    return shape_problems({key: tensor.shape for key, tensor in tensors.items()}, expected, optional)
