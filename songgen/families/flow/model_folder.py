"""Contents of a flow model's folder, a diffusers pipeline: its files, and facts for its model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songgen.families.flow.pipeline import AUTOENCODER, COMPONENTS, CONDITION_ENCODER, TRANSFORMER, read_index
from songgen.families.model_facts import ModelFacts
from songgen.runtime.file_hashes import checked
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import PIPELINE_FILE, ModelFiles, part_files
from songgen.runtime.tensor_files import DIFFUSERS_STEM, MODEL_CONFIG_FILE, weight_files

TRAINED_PARTS = (TRANSFORMER, CONDITION_ENCODER)
"""Components that are modules of the model; the others serve it and are not trained."""

_TURBO = "turbo"

LICENSE_FILE = "LICENSE"
"""File that a model made from this one carries on."""


def _weights(folder: Path) -> list[str]:
    """Return the paths of the trained weights in a folder; the usual names of those that it lacks."""
    names = []
    for part in TRAINED_PARTS:
        found = weight_files(folder / part, DIFFUSERS_STEM) or [f"{DIFFUSERS_STEM}.safetensors"]
        names += [f"{part}/{name}" for name in found]
    return names


MODEL_FILES = ModelFiles(
    weights=_weights,
    files=(LICENSE_FILE,),
    folders=tuple(COMPONENTS),
    config=PIPELINE_FILE,
)
"""Files of a model folder."""


def require_own_files(folder: Path) -> None:
    """Check that all files of a pipeline are in its folder, so that a run can write them again at its end.

    Raises:
        ValueError: if a link leads out of the folder.
    """
    for part in read_index(folder):
        part_files(folder / part, folder)


def is_turbo(transformer: Mapping[str, Any]) -> bool:
    """Return whether a transformer was distilled to few steps without guidance, by its configuration."""
    return bool(transformer.get("is_turbo")) or transformer.get("model_version") == _TURBO


def model_facts(folder: Path) -> ModelFacts:
    """Read what a model card says about the model in a folder.

    Raises:
        ValueError: if the folder does not hold a model.
    """
    read_index(folder)
    transformer, encoder, autoencoder = (
        read_json_object(checked(folder / part / MODEL_CONFIG_FILE)) for part in (*TRAINED_PARTS, AUTOENCODER)
    )
    guidance = "distilled into the weights (turbo)" if is_turbo(transformer) else "by a null condition at generation"
    lyrics, timbre = (encoder.get(f"num_{name}_encoder_hidden_layers") for name in ("lyric", "timbre"))
    rows = [
        (
            "transformer",
            f"{transformer.get('num_hidden_layers')} layers, width {transformer.get('hidden_size')}, guidance "
            f"{guidance}",
        ),
        ("condition encoder", f"{lyrics} layers for lyrics, {timbre} for timbre"),
        ("autoencoder (frozen)", f"{autoencoder.get('decoder_input_channels')} channels, stereo"),
    ]
    if (folder / LICENSE_FILE).is_file():
        rows.append(("licence", f"[{LICENSE_FILE}]({LICENSE_FILE})"))
    return ModelFacts(
        tags=("flow-matching", "ace-step", *((_TURBO,) if is_turbo(transformer) else ())),
        introduction=(
            "A text-to-song model: a transformer that takes noise to the latents of an audio autoencoder by flow "
            "matching, from a caption, lyrics and optionally the timbre of a reference. A folder of diffusers "
            "(`AceStepPipeline.from_pretrained`)."
        ),
        size_name="parameters (without the frozen networks)",
        head=(("sample rate", f"{autoencoder.get('sampling_rate')} Hz"),),
        rows=tuple(rows),
    )
