"""Diagnosis of model folders: configuration, weights and all other parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from songgen.codecs import load_codec
from songgen.conditioning import load_caption_tokenizer
from songgen.doctor.findings import Finding, error, ok, warning
from songgen.doctor.hashes import examine_hashes
from songgen.doctor.pipelines import examine_pipeline
from songgen.lyrics import VoiceBpeTokenizer
from songgen.models.configuration_songgen import SongGenConfig
from songgen.models.folder import FROZEN_PARTS, PATH_KEYS
from songgen.models.loading import non_finite_weights, weight_problems
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import PIPELINE_FILE, leaving_paths, part_files
from songgen.runtime.pretrained import local_folder
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

PICKLE_ENDINGS = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz"})
"""Extensions of formats that may contain a pickle."""

SHOWN_PROBLEMS = 8


def examine_model(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Check a model folder of any family: hashes, names and shapes of weights; with `deep`, also their values."""
    yield from examine_hashes(folder)
    yield from (examine_pipeline if (folder / PIPELINE_FILE).is_file() else _token_model)(folder, deep=deep)
    yield from _pickles(folder)


def _token_model(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Check the folder of a token model."""
    try:
        raw = read_json_object(folder / MODEL_CONFIG_FILE)
        config = SongGenConfig.from_dict(raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        fix = "restore it from a copy, or write the model again"
        yield error(MODEL_CONFIG_FILE, f"not a valid model configuration: {problem}", fix)
        return
    yield ok(MODEL_CONFIG_FILE, f"layout {config.track_pattern}, {config.decoder.num_hidden_layers} decoder layers")
    if leaving := leaving_paths(raw, PATH_KEYS):
        what = f"it names places outside of the model folder: {'; '.join(leaving)}"
        yield error(MODEL_CONFIG_FILE, what, "copy them into the folder and give their names there, or give hub ids")
        return
    yield from _weights(folder, deep=deep)
    embedded = set(FROZEN_PARTS) - {name for name in FROZEN_PARTS if "path" in getattr(config, name)}
    for name in FROZEN_PARTS:
        if name in embedded:
            yield ok(name, "its weights are in the model's own file")
        else:
            yield from _part(folder, name, getattr(config, name))
    yield from _codec_fits(folder, config, deep=deep)
    yield from _lyrics_tokenizer(folder, config)
    yield from _caption_tokenizer(folder, config)


def _weights(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Compare the weights with the configuration."""
    try:
        problems = weight_problems(SongGenForConditionalGeneration, folder)
        not_finite = non_finite_weights(folder) if deep else []
    except ValueError as problem:
        yield error("weights", str(problem), "restore them from a copy, or write the model again")
        return
    for misfit in problems[:SHOWN_PROBLEMS]:
        yield error("weights", misfit)
    if len(problems) > SHOWN_PROBLEMS:
        yield error("weights", f"and {len(problems) - SHOWN_PROBLEMS} more mismatches")
    if not_finite:
        listed = ", ".join(not_finite[:SHOWN_PROBLEMS])
        yield error(
            "weights", f"NaN or infinity in {len(not_finite)}: {listed}", "use the weights of an earlier checkpoint"
        )
    if not problems and not not_finite:
        yield ok(
            "weights",
            "names and shapes match the configuration, all values are finite"
            if deep
            else "names and shapes match the configuration",
        )


def _part(folder: Path, name: str, spec: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that a frozen network is there, and report its source."""
    path = str(spec["path"])
    found = local_folder(path, folder)
    if found is None and _may_be_hub_id(path):
        yield ok(name, f"{path}, downloaded from the hub on first use")
    elif found is None:
        yield error(name, f"there is no folder {path}", "copy it into the model folder, or give a hub id")
    elif not (found / MODEL_CONFIG_FILE).is_file():
        yield error(name, f"{found} has no {MODEL_CONFIG_FILE}", "copy the whole folder again")
    elif not any(found.glob("*.safetensors")) and not spec.get("allow_pickle_weights"):
        yield error(name, f"{found} has no weights in safetensors format", "convert them; pickles are not read")
    else:
        try:
            part_files(found, folder)
        except ValueError as problem:
            yield warning(name, str(problem), "no training can start from this model, and this part is not published")
        else:
            yield ok(name, path)


def _codec_fits(folder: Path, config: SongGenConfig, *, deep: bool) -> Iterator[Finding]:
    """With `deep`, open the codec and compare its fingerprint with that of the model's training data."""
    if not deep or config.audio_codec_fingerprint is None or not _is_local(config.audio_codec, folder):
        return
    try:
        found = load_codec(config.audio_codec, base_folder=folder).fingerprint
    except ValueError as problem:
        yield error("audio_codec", str(problem))
        return
    if found == config.audio_codec_fingerprint:
        yield ok("audio_codec", "it is the codec of the model's training data")
    else:
        what = f"its fingerprint is {found}, the model was trained on tokens of {config.audio_codec_fingerprint}"
        yield error("audio_codec", what, "restore the codec that wrote the training data")


def _lyrics_tokenizer(folder: Path, config: SongGenConfig) -> Iterator[Finding]:
    """Check the lyrics tokenizer."""
    try:
        tokenizer = VoiceBpeTokenizer.from_pretrained(folder)
    except ValueError as problem:
        fix = "copy the vocabulary that the model was trained with into the folder, as lyrics_tokenizer.json"
        yield error("lyrics tokenizer", str(problem), fix)
        return
    if len(tokenizer) > config.lyrics_vocab_size:
        what = f"it has {len(tokenizer)} entries, the model's embedding {config.lyrics_vocab_size}"
        yield error("lyrics tokenizer", what, "restore the vocabulary that the model was trained with")
    else:
        yield ok("lyrics tokenizer", f"{len(tokenizer)} entries")


def _caption_tokenizer(folder: Path, config: SongGenConfig) -> Iterator[Finding]:
    """Check the caption tokenizer, if it is in a folder."""
    name = config.caption_tokenizer
    found = local_folder(name, folder)
    if found is None and _may_be_hub_id(name):
        yield ok("caption tokenizer", f"{name}, downloaded from the hub on first use")
    elif found is None:
        yield error("caption tokenizer", f"there is no folder {name}", "copy it into the model folder")
    else:
        try:
            yield ok("caption tokenizer", f"{len(load_caption_tokenizer(found))} entries")
        except ValueError as problem:
            yield error("caption tokenizer", str(problem), "copy the whole folder again")


def _pickles(folder: Path) -> Iterator[Finding]:
    """Report files in formats that may run code when they are opened, without reading them."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in PICKLE_ENDINGS)
    if found:
        listed = ", ".join(found[:SHOWN_PROBLEMS]) + (", ..." if len(found) > SHOWN_PROBLEMS else "")
        what = f"{len(found)} files may contain pickles, which run code when they are opened: {listed}"
        yield warning("pickles", what, "they are not read as model weights; remove them unless you know their origin")
    else:
        yield ok("pickles", "none")


def _is_local(spec: Mapping[str, Any], folder: Path) -> bool:
    """Return whether a frozen network is in the model's folder."""
    return "path" in spec and local_folder(str(spec["path"]), folder) is not None


def _may_be_hub_id(name: str) -> bool:
    """Return whether a name has the form owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))
