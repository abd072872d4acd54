"""Recognition of a folder by its files, and the diagnosis of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from songgen.data.schema import DATASET_FILE
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
from songgen.runtime.status import PREPARE_STATUS_FILE, RUN_STATUS_FILE, TOKENIZE_STATUS_FILE
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE
from songgen.tokenize.workspace import CHUNK_FOLDER, PLAN_FOLDER, SETTINGS_FILE, WORK_LOCK_FILE, replaced_folder
from songgen.train.checkpoints.files import MANIFEST_FILE, RUN_CONFIG_FILE
from songgen.train.checkpoints.folders import checkpoint_folders, leftovers
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
        folder: Output folder of a run, checkpoint, data set (or the future name of an unfinished one), model, or part
            of a model (codec, frozen encoder, tokenizers); or a file with a lyrics vocabulary.
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

    if has(MANIFEST_FILE, TRAINER_STATE_FILE) or folder in checkpoint_folders(folder.parent) + leftovers(folder.parent):
        return Kind.CHECKPOINT
    signs = {**SIGNS, **(SIGNS_OF_WORK if folder.name.endswith(WORK_ENDING) else {})}
    for kind, names in signs.items():
        if has(*names):
            return kind
    if has(RUN_STATUS_FILE, METRICS_FILE, RUN_LOCK_FILE) or checkpoint_folders(folder) or leftovers(folder):
        return Kind.RUN
    part = kind_of_part(folder)
    if part in (Kind.CODEC, Kind.ENCODER):
        return part
    if has(MODEL_CONFIG_FILE):
        return Kind.MODEL
    if has(RUN_CONFIG_FILE):
        return Kind.RUN
    if part is not None:
        return part
    raise ValueError(
        f"{folder} is neither an output folder of a run, nor a checkpoint, a data set, a model or a part of one: it "
        f"contains none of {RUN_STATUS_FILE}, {METRICS_FILE}, {MANIFEST_FILE}, {DATASET_FILE}, {INFO_FILE}, "
        f"{MODEL_CONFIG_FILE}, {', '.join((*VOCABULARY_FILES, *CAPTION_TOKENIZER_FILES))}"
    )


def _findings(folder: Path, kind: Kind, *, deep: bool) -> Iterator[Finding]:
    """Examine a folder of a known kind."""
    if kind is Kind.RUN:
        return examine_run(folder, deep=deep)
    if kind is Kind.CHECKPOINT:
        return examine_checkpoint(folder)
    if kind is Kind.DATASET:
        return examine_dataset(folder, deep=deep)
    if kind is Kind.WORK:
        return examine_work(folder)
    if kind is Kind.PREPARED:
        return examine_prepared(folder, deep=deep)
    if kind is Kind.PREPARING:
        return examine_preparing(folder)
    if kind is Kind.CODEC:
        return chain(examine_hashes(folder), examine_codec(folder, deep=deep))
    if kind is Kind.ENCODER:
        return chain(examine_hashes(folder), examine_encoder(folder, deep=deep))
    if kind is Kind.TOKENIZERS:
        return chain(examine_hashes(folder), examine_tokenizers(folder))
    return examine_model(folder, deep=deep)
