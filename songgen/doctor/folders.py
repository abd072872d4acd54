"""Recognition of a folder by its files, and the diagnosis of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from songgen.adapters.folder import ADAPTER_CONFIG_FILE, is_adapter_folder
from songgen.data.schema import DATASET_FILE
from songgen.doctor.adapters import examine_adapter
from songgen.doctor.checkpoints import examine_checkpoint
from songgen.doctor.datasets import examine_dataset, examine_replaced, examine_work
from songgen.doctor.findings import Diagnosis, Finding, Kind
from songgen.doctor.hashes import examine_hashes
from songgen.doctor.models import examine_model
from songgen.doctor.parts import (
    CAPTION_TOKENIZER_FILES,
    examine_codec,
    examine_encoder,
    examine_tokenizers,
    kind_of_part,
)
from songgen.doctor.prepared import examine_prepared, examine_preparing
from songgen.doctor.runs import examine_run
from songgen.doctor.work_folders import WORK_ENDING, work_folder_of
from songgen.lyrics import VOCABULARY_FILES
from songgen.prepare.engine.record_files import SONGS_FILE
from songgen.prepare.engine.store import RESULTS_FOLDER
from songgen.prepare.output.writers import INFO_FILE
from songgen.runtime.model_folders import MODEL_CONFIG_FILES, model_config_file
from songgen.runtime.status import PREPARE_STATUS_FILE, RUN_STATUS_FILE, TOKENIZE_STATUS_FILE
from songgen.tokenize.workspace import CHUNK_FOLDER, PLAN_FOLDER, SETTINGS_FILE, WORK_LOCK_FILE, replaced_folder
from songgen.train.checkpoints.files import MANIFEST_FILE, RUN_CONFIG_FILE
from songgen.train.checkpoints.folders import checkpoint_folders, has_checkpoint_name, leftovers
from songgen.train.checkpoints.state import TRAINER_STATE_FILE
from songgen.train.output_folder import RUN_LOCK_FILE
from songgen.train.reporting.trackers import METRICS_FILE

SIGNS = {Kind.DATASET: (DATASET_FILE,), Kind.PREPARED: (INFO_FILE,)}
"""Kind of a data set -> files that only this kind has."""

VOCABULARY_ENDING = ".json"

SIGNS_OF_WORK = {
    Kind.PREPARING: (SONGS_FILE, RESULTS_FOLDER, PREPARE_STATUS_FILE),
    Kind.WORK: (PLAN_FOLDER, CHUNK_FOLDER, SETTINGS_FILE, TOKENIZE_STATUS_FILE, WORK_LOCK_FILE),
}
"""The same for folders with the name of a work folder; one with only a lock has just been started."""


def examine(folder: Path, *, deep: bool = False) -> Diagnosis:
    """Examine a folder. Nothing in it is changed, and no file format that could run code is opened.

    Args:
        folder: Output folder of a run, checkpoint, data set (or the future name of an unfinished one), model, adapter,
            or part of a model (codec, frozen encoder, tokenizers); or a file with a lyrics vocabulary.
        deep: Whether to also read what does not decide whether the folder can be used: older checkpoints, every value
            of the weights, every code of the clips.

    Raises:
        ValueError: if the folder is none of these.
    """
    if not folder.exists() and replaced_folder(folder).is_dir():
        return Diagnosis(folder, Kind.WORK, tuple(examine_replaced(folder)))
    if not folder.exists() and work_folder_of(folder).is_dir():
        return examine(work_folder_of(folder), deep=deep)
    if folder.is_file() and folder.suffix == VOCABULARY_ENDING:
        return Diagnosis(folder, Kind.TOKENIZERS, tuple(examine_tokenizers(folder)))
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    kind = recognize(folder)
    return Diagnosis(folder, kind, tuple(_findings(folder, kind, deep=deep)))


def recognize(folder: Path) -> Kind:
    """Return the kind of a folder.

    Raises:
        ValueError: if the kind is unknown.
    """

    def has(*names: str) -> bool:
        return any((folder / name).exists() for name in names)

    # Its own name, not a list of the folder above: of 2,000 folders next to each other, each would list them all.
    if has(MANIFEST_FILE, TRAINER_STATE_FILE) or (has_checkpoint_name(folder) and folder.is_dir()):
        return Kind.CHECKPOINT
    signs = {**SIGNS, **(SIGNS_OF_WORK if folder.name.endswith(WORK_ENDING) else {})}
    for kind, names in signs.items():
        if has(*names):
            return kind
    if has(RUN_STATUS_FILE, METRICS_FILE, RUN_LOCK_FILE) or checkpoint_folders(folder) or leftovers(folder):
        return Kind.RUN
    if (found := _kind_of_model(folder)) is not None:
        return found
    raise ValueError(
        f"{folder} is neither an output folder of a run, nor a checkpoint, a data set, a model, an adapter or a "
        f"part of one: it contains none of {RUN_STATUS_FILE}, {METRICS_FILE}, {MANIFEST_FILE}, {DATASET_FILE}, "
        f"{INFO_FILE}, {', '.join(MODEL_CONFIG_FILES)}, {ADAPTER_CONFIG_FILE}, "
        f"{', '.join((*VOCABULARY_FILES, *CAPTION_TOKENIZER_FILES))}"
    )


def _kind_of_model(folder: Path) -> Kind | None:
    """Return the kind of a folder with a model, a part of one, an adapter, or a run that wrote nothing else yet."""
    part = kind_of_part(folder)
    if part in (Kind.CODEC, Kind.ENCODER):
        return part
    if model_config_file(folder) is not None:
        return Kind.MODEL
    if is_adapter_folder(folder):
        return Kind.ADAPTER
    return Kind.RUN if (folder / RUN_CONFIG_FILE).exists() else part


def _findings(folder: Path, kind: Kind, *, deep: bool) -> Iterator[Finding]:
    """Examine a folder of a known kind."""
    if kind in _EXAMINED_AT_ONCE:
        return _EXAMINED_AT_ONCE[kind](folder)
    if kind in _HASHED_PARTS:
        return chain(examine_hashes(folder), _HASHED_PARTS[kind](folder, deep=deep))
    return _EXAMINED[kind](folder, deep=deep)


_EXAMINED_AT_ONCE: dict[Kind, Callable[[Path], Iterator[Finding]]] = {
    Kind.CHECKPOINT: examine_checkpoint,
    Kind.WORK: examine_work,
    Kind.PREPARING: examine_preparing,
    Kind.ADAPTER: examine_adapter,
}
"""Kinds that are always examined as a whole."""

_HASHED_PARTS: dict[Kind, Callable[..., Iterator[Finding]]] = {
    Kind.CODEC: examine_codec,
    Kind.ENCODER: examine_encoder,
    Kind.TOKENIZERS: lambda folder, *, deep: examine_tokenizers(folder),
}
"""Parts of models, whose files are compared with their hashes first."""

_EXAMINED: dict[Kind, Callable[..., Iterator[Finding]]] = {
    Kind.RUN: examine_run,
    Kind.DATASET: examine_dataset,
    Kind.PREPARED: examine_prepared,
    Kind.MODEL: examine_model,
}
"""The other kinds."""
