"""Model families: how a model is opened, checked against data, trained and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from songgen.adapters.folder import AdapterRecipe
from songgen.config import RunConfig
from songgen.data.dataset import SongDataset
from songgen.families.costs import ModelCosts
from songgen.families.encoding import Encoders
from songgen.families.model_facts import ModelFacts
from songgen.families.objective import DataNeeds, Objective
from songgen.families.songs import Processes, TrainingData
from songgen.families.trainable import Trainable
from songgen.families.use.generating import SongCommand
from songgen.runtime.model_folders import ModelFiles
from songgen.tasks import Task

Model = TypeVar("Model", bound=nn.Module)

UsedRecipe = tuple[Path, AdapterRecipe]
"""Folder of an adapter, and how it was made."""


@dataclass(frozen=True)
class Family(Generic[Model]):
    """Everything that the trainer needs to know about a kind of model, in the order in which it is used.

    `Model` is the class of the model. Functions get it before it is moved to a device and wrapped, unless they say
    otherwise.
    """

    name: str
    """Name of the family in messages."""
    target_kind: str
    """Kind of target that its models read and write: one of `songgen.data.schema.TARGET_KINDS`."""
    open_model: Callable[[RunConfig, Task | None], Model]
    """Open `model_name_or_path` as the configuration says. The task of the launching script is a hint that a
    family without tasks ignores (None: no task was given).

    Raises a ValueError if the folder is not such a model, or does not fit the configuration or the task."""
    objective: Callable[[RunConfig, Model], Objective]
    """Build the objective of a run."""
    check_data: Callable[[RunConfig, Model, SongDataset, DataNeeds], None]
    """Compare clips with the model, which is not changed.

    Raises a ValueError that lists everything that does not agree."""
    prepare_model: Callable[[RunConfig, Model, TrainingData], None]
    """Prepare a checked model for training: set options of its computation, and record what it is trained on."""
    choose_trained: Callable[[RunConfig, Model], Trainable]
    """Freeze what is not trained, and return what is.

    Raises a ValueError if the configuration names parameters that the model does not have."""
    frozen_content: Callable[[Model, Trainable], Mapping[str, str]]
    """Return hashes of the weights that the run uses and does not train, those of frozen networks included; a
    checkpoint does not hold them."""
    start: Callable[[RunConfig, Model, Sequence[TrainingData], Processes], None]
    """Called once before the first step, when the model is on its device and wrapped: for frozen networks, which
    wrapping does not move, and for features that are computed once."""
    describe: Callable[[RunConfig, Model], str]
    """Return one line about the model, for the summary of a run."""
    write_model: Callable[[Model, Mapping[str, Tensor], RunConfig, Path], None]
    """Write a trained model into a folder, complete and able to be moved: the next run starts from it. The weights are
    whole ones by name, since those of the model may be sharded over processes."""
    model_files: ModelFiles
    """Files of a model folder."""
    model_facts: Callable[[Path], ModelFacts]
    """Read what a model card says about the model in a folder.

    Raises a ValueError if the folder does not hold a model."""
    open_encoders: Callable[[str, str, torch.device], Encoders] | None = None
    """Open what encodes songs and texts for its models, given a folder or hub id, its revision, and the device; None
    for codec and tokenizers, which may also be named without a model.

    Raises a ValueError if the model does not have them."""
    costs: Callable[[RunConfig], ModelCosts] | None = None
    """Compute the costs of a run's model before it is opened; None if that is not known for the family.

    Raises a ValueError if its configuration cannot be read."""
    open_base: Callable[[Path, Sequence[UsedRecipe], torch.dtype | None], Model] | None = None
    """Open a model to use it, in evaluation mode, in the form that the adapters with these recipes were trained with,
    and in a precision (None: float32).

    Raises a ValueError if it cannot be opened, or the recipes do not agree."""
    adapter_root: str = ""
    """Name of the module of the model that adapters are attached to, and that their names of layers and fingerprints
    are about; empty for the whole model."""
    songs: SongCommand | None = None
    """Songs of `songgen generate`; None if it does not generate with models of the family."""
    stored_precisions: Callable[[Path], Mapping[str, torch.dtype]] | None = None
    """Return the precisions in which the weights of a model's folder are stored, by their names in the model."""
    write_merged: Callable[[Model, Mapping[str, Tensor], Path, Mapping[str, str]], None] | None = None
    """Write a model that was opened with other weights into a folder, which is then complete; the texts are for the
    headers of its weight files."""
