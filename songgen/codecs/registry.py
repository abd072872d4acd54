"""Opening a codec from its spec: a closed list of kinds, each imported on first use."""

import difflib
import importlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from songgen.codecs.base import AudioCodec
from songgen.codecs.dac_weights import find_native_weights, is_native
from songgen.runtime.file_hashes import checked
from songgen.runtime.json_files import read_json_object
from songgen.runtime.network_sizes import require_sane_sizes
from songgen.runtime.pretrained import find_file, local_folder, require_hub_id


@dataclass(frozen=True)
class CodecKind:
    """Implementation of a kind of codec, and the settings that its spec may contain."""

    module: str
    """Module of the class."""
    class_name: str
    """Name of the class, which has `load(path, revision, settings)`."""
    default_path: str | None
    """Hub id to open when a spec has no path."""
    settings: tuple[str, ...]
    """Keys of a spec besides `type`, `path` and `revision`."""


CODEC_KINDS: dict[str, CodecKind] = {
    "xcodec": CodecKind("songgen.codecs.xcodec", "XCodec", "hf-audio/xcodec-hubert-general-balanced", ("bandwidth",)),
    "dac": CodecKind("songgen.codecs.dac", "DacCodec", "descript/dac_16khz", ("num_codebooks",)),
    "encodec": CodecKind("songgen.codecs.encodec", "EncodecCodec", "facebook/encodec_24khz", ("bandwidth",)),
    "spectral": CodecKind("songgen.codecs.spectral", "SpectralCodec", None, ()),
}
"""Kinds by the `type` of a spec, which is also the `model_type` in the codec's config.json."""


def load_codec(
    spec: str | dict[str, Any], *, device: torch.device | str = "cpu", base_folder: Path | None = None
) -> AudioCodec:
    """Open a codec.

    Args:
        spec: A hub id, a folder, or `{"type": ..., "path": id or folder, "revision": ..., "bandwidth": ...}`. Without
            `type` the kind is taken from config.json; without `path` the kind's published model is opened. The path of
            a DAC may also be a weight file of descript-audio-codec, or the folder where that package keeps one.
        device: Device to compute on.
        base_folder: Folder of a model or data set; a relative path is looked up there and nowhere else.

    Raises:
        ValueError: if the spec is wrong or the codec cannot be opened; the message says what to do about it.
    """
    wanted: dict[str, Any] = {"path": spec} if isinstance(spec, str) else dict(spec)
    _check_spec(wanted)
    kind: Any = wanted.pop("type", None)
    path: Any = wanted.pop("path", None) or CODEC_KINDS[kind].default_path
    revision = wanted.pop("revision", None)
    source = _resolve(path, base_folder)
    config: dict[str, Any] = {"model_type": "dac"} if is_native(source) else _read_config(source, revision)
    found: Any = config.get("model_type")
    if kind is None and found not in CODEC_KINDS:
        raise ValueError(
            f"{source} is not a codec: config.json has the model_type {found!r}, not one of {', '.join(CODEC_KINDS)}."
        )
    if kind is not None and found != kind:
        raise ValueError(
            f"{source} is not of the type {kind!r}: its config.json has the model_type {found!r}. Correct the type or "
            "leave it out."
        )
    chosen = CODEC_KINDS[found]
    unknown = sorted(set(wanted) - set(chosen.settings))
    if unknown:
        raise ValueError(f"A codec of the type {found!r} has no setting {', '.join(map(repr, unknown))}.")
    codec_class = getattr(importlib.import_module(chosen.module), chosen.class_name)
    given = {key: value for key, value in wanted.items() if value is not None}
    settings = {**config.get("codec_settings", {}), **given}
    codec: AudioCodec = codec_class.load(str(source), revision, settings)
    return codec.to(device)


def _check_spec(spec: dict[str, Any]) -> None:
    """Raise a `ValueError` that lists every problem in a spec's keys and types."""
    kind = spec.get("type")
    problems = []
    if kind is not None and kind not in list(CODEC_KINDS):
        problems.append(f"the type {kind!r} is not one of {', '.join(CODEC_KINDS)}" + _nearest(kind, list(CODEC_KINDS)))
    settings = (
        CODEC_KINDS[kind].settings
        if kind in list(CODEC_KINDS)
        else {name for known in CODEC_KINDS.values() for name in known.settings}
    )
    keys = ["type", "path", "revision", *sorted(settings)]
    for key in sorted(set(spec) - set(keys)):
        problems.append(f"the key {key!r} is not one of {', '.join(keys)}" + _nearest(key, keys))
    for key in ("path", "revision"):
        if spec.get(key) is not None and not (isinstance(spec[key], str) and spec[key].strip()):
            problems.append(f"{key} must be text, not {spec[key]!r}")
    if not spec.get("path") and (kind is None or kind == "spectral"):
        problems.append("path is missing: give a folder or a hub id, or a type that has a published model")
    if problems:
        raise ValueError(f"The codec spec {json.dumps(spec, default=str)} is wrong: {'; '.join(problems)}.")


def _nearest(name: Any, choices: list[str]) -> str:
    near = difflib.get_close_matches(str(name), choices, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _resolve(path: str, base_folder: Path | None) -> Path | str:
    """The folder or native weight file that `path` names, absolute, or else the hub id that it may be."""
    path = os.path.expanduser(path)
    try:
        folder = local_folder(path, base_folder)
        if (weights := find_native_weights(path if folder is None else str(folder), base_folder)) is not None:
            return weights
        if folder is not None:
            return folder.resolve()
        return require_hub_id(path, base_folder)
    except ValueError as error:
        raise ValueError(f"The codec {path!r} is not there: {error}, which holds the codec's config.json.") from error


def _read_config(source: Path | str, revision: str | None) -> dict[str, Any]:
    """Return a codec's config.json, from its folder or the hub."""
    file = codec_file(source, "config.json", revision)
    try:
        config = read_json_object(file)
        require_sane_sizes(config, str(file))
        return config
    except ValueError as error:
        raise ValueError(f"The config.json of the codec {str(source)!r} is not valid: {error}.") from error


def codec_file(source: Path | str, name: str, revision: str | None) -> Path:
    """Return the local path of a codec's file; from a hub repository it is downloaded, or found in the cache.

    Raises:
        ValueError: if there is no such file, it has changed since it was written, or the hub cannot be reached.
    """
    try:
        return checked(find_file(source, [name], revision=revision))
    except ValueError as error:
        raise ValueError(f"{name} of the codec {str(source)!r} cannot be read: {error}") from error
