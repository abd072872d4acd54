"""Folder of a diffusers pipeline: which networks it holds, and how each of them is opened.

    FOLDER/
      model_index.json        class of the pipeline, and library and class of each component
      transformer/            config.json, diffusion_pytorch_model.safetensors (or several files with an index)
      condition_encoder/, vae/, audio_tokenizer/, audio_token_detokenizer/   likewise
      text_encoder/           config.json, model.safetensors
      tokenizer/              tokenizer.json, tokenizer_config.json
      scheduler/              scheduler_config.json

The index does not decide which code runs: each component has one class here, and an index that names another one is
refused.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from songgen.runtime.file_hashes import checked, checked_folder
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import DOWNLOADED, PIPELINE_FILE
from songgen.runtime.network_sizes import require_sane_sizes
from songgen.runtime.pretrained import FOREIGN_ERRORS, find_folder
from songgen.runtime.tensor_files import DIFFUSERS_STEM, MODEL_CONFIG_FILE, require_finite, weight_files

PIPELINE_CLASS = "AceStepPipeline"

_CLASS_KEY, _QUANTIZATION_KEY = "_class_name", "quantization_config"
_EXTRA = 'models of this kind need diffusers: pip install -c constraints.txt -e ".[flow]"'


@dataclass(frozen=True)
class Component:
    """Component of the pipeline."""

    module: str
    """Module with its class."""
    opener: str
    """Class that opens it."""
    classes: tuple[str, ...]
    """Names of classes that the index may state."""
    is_optional: bool = False
    """Whether a pipeline may lack it."""


_ACE_STEP = "diffusers.pipelines.ace_step"
TRANSFORMER, CONDITION_ENCODER, AUTOENCODER = "transformer", "condition_encoder", "vae"
TEXT_ENCODER, TOKENIZER, SCHEDULER = "text_encoder", "tokenizer", "scheduler"
COVER_PARTS = ("audio_tokenizer", "audio_token_detokenizer")

COMPONENTS = {
    TRANSFORMER: Component("diffusers", "AceStepTransformer1DModel", ("AceStepTransformer1DModel",)),
    CONDITION_ENCODER: Component(_ACE_STEP, "AceStepConditionEncoder", ("AceStepConditionEncoder",)),
    AUTOENCODER: Component("diffusers", "AutoencoderOobleck", ("AutoencoderOobleck",)),
    TEXT_ENCODER: Component("transformers", "Qwen3Model", ("Qwen3Model", "AutoModel")),
    TOKENIZER: Component(
        "transformers",
        "AutoTokenizer",
        ("TokenizersBackend", "PreTrainedTokenizerFast", "Qwen2TokenizerFast", "Qwen2Tokenizer", "AutoTokenizer"),
    ),
    SCHEDULER: Component("diffusers", "FlowMatchEulerDiscreteScheduler", ("FlowMatchEulerDiscreteScheduler",)),
    "audio_tokenizer": Component(_ACE_STEP, "AceStepAudioTokenizer", ("AceStepAudioTokenizer",), is_optional=True),
    "audio_token_detokenizer": Component(
        _ACE_STEP, "AceStepAudioTokenDetokenizer", ("AceStepAudioTokenDetokenizer",), is_optional=True
    ),
}
"""Name of the folder of each component -> its class."""


def find_pipeline(name: str | Path, *, revision: str | None = None, parts: Collection[str] = ()) -> Path:
    """Return the folder of a pipeline given by path or hub id, downloading the latter.

    Args:
        name: diffusers folder, or hub id.
        revision: branch, tag or commit of a hub repository.
        parts: components that are needed; all if empty.

    Raises:
        ValueError: if there is no such folder, it is not a diffusers folder of this kind, or it lacks components.
    """
    patterns = [PIPELINE_FILE, *(f"{part}/{pattern}" for part in parts for pattern in DOWNLOADED)]
    folder = find_folder(name, patterns=patterns if parts else DOWNLOADED, revision=revision)
    read_index(folder, parts)
    return folder


def read_index(folder: Path, parts: Collection[str] = ()) -> dict[str, Component]:
    """Read which components a pipeline has.

    Args:
        folder: folder of the pipeline.
        parts: components whose folders must be there; all if empty.

    Raises:
        ValueError: if the index is missing or damaged, names another class, or lacks a component.
    """
    path = folder / PIPELINE_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a diffusers folder: it holds no {PIPELINE_FILE}")
    index = read_json_object(checked(path))
    if index.get(_CLASS_KEY) != PIPELINE_CLASS:
        raise ValueError(f"{path} is of a {index.get(_CLASS_KEY)!r}; this program trains {PIPELINE_CLASS}")
    present, problems = {}, []
    for name, component in COMPONENTS.items():
        stated = index.get(name)
        stated_class = stated[1] if isinstance(stated, list) and len(stated) == 2 else None
        if stated_class is None:
            if not component.is_optional:
                problems.append(f"{name} is missing")
        elif stated_class not in component.classes:
            problems.append(f"{name} is a {stated_class!r}, expected {' or '.join(component.classes)}")
        elif (name in parts or not parts) and not (folder / name).is_dir():
            problems.append(f"the folder {name} is missing")
        else:
            present[name] = component
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    return present


def component_class(name: str) -> Any:
    """Return the class that opens a component.

    Raises:
        ValueError: if diffusers is not installed.
    """
    component = COMPONENTS[name]
    try:
        return getattr(importlib.import_module(component.module), component.opener)
    except ImportError as error:
        raise ValueError(_EXTRA) from error


def empty_component(folder: Path, name: str) -> Any:
    """Return a network of the sizes that its configuration states, without weights (on the meta device).

    Args:
        folder: folder of the pipeline.
        name: key of `COMPONENTS`, of a network.

    Raises:
        ValueError: if the configuration is missing or damaged, or states sizes that no network has.
    """
    config, opener, path = _network_config(folder, name), component_class(name), folder / name / MODEL_CONFIG_FILE
    try:
        with quiet_networks(), torch.device("meta"):
            if COMPONENTS[name].module == "transformers":
                return opener(opener.config_class.from_dict(config))
            return opener.from_config(config)
    except FOREIGN_ERRORS as error:
        raise ValueError(f"{path} is not the configuration of a {COMPONENTS[name].opener}: {error}") from error


def _network_config(folder: Path, name: str) -> dict[str, Any]:
    """Read the configuration of a network.

    Raises:
        ValueError: if it is missing or damaged, states sizes that no network has, or quantized weights, for which the
            libraries would load further packages.
    """
    path = folder / name / MODEL_CONFIG_FILE
    config = read_json_object(checked(path))
    require_sane_sizes(config, str(path))
    if config.get(_QUANTIZATION_KEY):
        raise ValueError(f"{path} states quantized weights; only whole ones are read")
    return config


def weights_of(folder: Path, name: str) -> list[Path]:
    """Return the weight files of a network: one, or those that its index lists.

    Raises:
        ValueError: if there are none in a format that is read, or the index is damaged or leads elsewhere.
    """
    stem = "model" if COMPONENTS[name].module == "transformers" else DIFFUSERS_STEM
    names = weight_files(folder / name, stem)
    if not names:
        raise ValueError(f"{folder / name} holds no {stem}.safetensors; other weight formats are not read")
    return [folder / name / file for file in names]


def open_component(folder: Path, name: str) -> Any:
    """Open one component on the CPU: a network in float32 and evaluation mode, the tokenizer, or the scheduler.

    Args:
        folder: folder of the pipeline.
        name: key of `COMPONENTS`.

    Raises:
        ValueError: if diffusers is not installed, or the component is missing, damaged, changed since it was written,
            or not complete.
    """
    opener, place = component_class(name), checked_folder(folder / name)
    keywords: dict[str, Any] = {"torch_dtype": torch.float32}
    if COMPONENTS[name].module == "transformers":
        # PyTorch's attention, since a configuration could name code of the hub instead.
        keywords = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    if name not in (TOKENIZER, SCHEDULER):
        _network_config(folder, name)
    try:
        if name == TOKENIZER:
            return opener.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        if name == SCHEDULER:
            return opener.from_pretrained(place, local_files_only=True)
        # Some classes sample first weights, which must not change what a run samples after it has opened a network.
        with quiet_networks(), torch.random.fork_rng(devices=[]):
            network, found = opener.from_pretrained(
                place, use_safetensors=True, local_files_only=True, output_loading_info=True, **keywords
            )
    except FOREIGN_ERRORS as error:
        raise ValueError(f"{place} cannot be opened: {error}") from error
    # Without these checks, weights that a file lacks would be random ones.
    problems = [
        f"{what.removesuffix('_keys')} weights: {', '.join(sorted(map(str, found[what]))[:3])}"
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if found.get(what)
    ]
    if problems:
        raise ValueError(f"{place} does not hold the weights of a {COMPONENTS[name].opener}: {'; '.join(problems)}")
    require_finite(network.state_dict(), str(place))
    return network.eval()


@contextmanager
def quiet_networks() -> Iterator[None]:
    """Make, open or write networks without progress bars on a console, or warnings that a user can do nothing about."""
    from transformers.utils import logging

    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*weight_norm.*", category=FutureWarning)
            yield
    finally:
        if had_bar:
            logging.enable_progress_bar()
