"""Work folder of an unfinished data set: one owner at a time, one codec and one pair of tokenizers."""

import logging
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from songgen.data.schema import DATASET_FILE, REJECTED_FILE, REPORT_FILE, REPORT_TEXT_FILE, DatasetInfo
from songgen.runtime.files import read_regular, remove_temporaries, write_text_atomic
from songgen.runtime.folder_lock import locked
from songgen.runtime.json_files import MAX_JSON_BYTES
from songgen.runtime.json_lines import seal, unseal
from songgen.runtime.status import TOKENIZE_STATUS_FILE

logger = logging.getLogger(__name__)

WORK_LOCK_FILE = "lock.json"
SETTINGS_FILE = "settings.json"
PLAN_FOLDER = "plan"
CHUNK_FOLDER = "chunks"
EMBEDDED_AUDIO_FOLDER = "audio"
"""Audio that was stored inside of a data set."""
CODEC_FOLDER = "audio_codec"


def lock_workspace(work_folder: Path) -> AbstractContextManager[None]:
    """Lock the work folder in this context (main process only); see `songgen.runtime.folder_lock.locked`."""
    return locked(work_folder, WORK_LOCK_FILE)


def require_free_output(output_folder: Path, *, key: str = "save_to_disk", mark: str = DATASET_FILE) -> None:
    """Check that a data set may be written to a folder, after undoing an interrupted replacement.

    Args:
        output_folder: folder to check.
        key: configuration key of the folder.
        mark: file that every data set of this kind has.

    Raises:
        ValueError: if the folder holds something that is not such a data set.
    """
    replaced = replaced_folder(output_folder)
    if replaced.is_dir() and not output_folder.exists():
        replaced.rename(output_folder)
    if output_folder.is_dir() and any(output_folder.iterdir()) and not (output_folder / mark).is_file():
        raise ValueError(f"{key}: {output_folder} holds something that is not a data set; name another folder")
    if output_folder.exists() and not output_folder.is_dir():
        raise ValueError(f"{key}: {output_folder} is a file; name another folder")


def staging_folder(output_folder: Path) -> Path:
    """Return the folder in which a new data set is assembled before it gets its final name."""
    return output_folder.with_name(f".{output_folder.name}.staging")


def replaced_folder(output_folder: Path) -> Path:
    """Return the folder of the previous data set during its replacement, on systems that cannot exchange folders.

    A kill at that moment leaves no data set; the next run restores the previous one.
    """
    return output_folder.with_name(f".{output_folder.name}.replaced")


def remove_leftovers(output_folder: Path) -> None:
    """Remove temporary folders that this run or a killed one left next to a finished data set."""
    for folder in (staging_folder(output_folder), replaced_folder(output_folder)):
        shutil.rmtree(folder, ignore_errors=True)


def require_same_meaning(output_folder: Path, work_folder: Path, meaning: dict[str, Any]) -> None:
    """Check that existing tokens have the same meaning as those to be written, and record the meaning.

    Args:
        output_folder: folder of a finished data set, if there is one.
        work_folder: folder of unfinished work, if there is any.
        meaning: fingerprints of codec and tokenizers.

    Raises:
        ValueError: if a fingerprint differs; the message has a suggested fix.
    """
    fix = "name another save_to_disk, or remove that folder to start again"
    info = read_finished(output_folder)
    if info is not None:
        _compare({name: getattr(info, name) for name in meaning}, meaning, output_folder, fix)
    settings = work_folder / SETTINGS_FILE
    if settings.is_file():
        try:
            _compare(read_settings(work_folder), meaning, work_folder, fix)
        except DamagedSettings as error:
            # The keys of the finished chunks contain the same fingerprints, so nothing else is reused in any case.
            logger.warning("%s; it is written again", error)
    write_text_atomic(settings, seal(meaning))


class DamagedSettings(ValueError):
    """The recorded fingerprints of a work folder cannot be read."""


def read_settings(work_folder: Path) -> dict[str, Any]:
    """Return the fingerprints of codec and tokenizers that a work folder was begun with.

    Raises:
        DamagedSettings: if they cannot be read.
    """
    path = work_folder / SETTINGS_FILE
    try:
        # Earlier versions wrote the fingerprints without a checksum.
        return unseal(
            read_regular(path, MAX_JSON_BYTES), lambda plain: all(isinstance(value, str) for value in plain.values())
        )
    except (OSError, ValueError) as error:
        raise DamagedSettings(f"{path} is damaged ({error})") from error


def read_finished(output_folder: Path) -> DatasetInfo | None:
    """Return the description of the data set in the output folder; None if none can be read."""
    try:
        return DatasetInfo.read(output_folder)
    except ValueError:
        return None


def _compare(found: dict[str, Any], wanted: dict[str, Any], folder: Path, fix: str) -> None:
    names = [name for name in wanted if found.get(name) != wanted[name]]
    different = [f"{name} {found.get(name)} there, {wanted[name]} now" for name in names]
    if different:
        raise ValueError(f"{folder} was written with other tokens ({'; '.join(different)}): {fix}")


def remove_workspace(work_folder: Path) -> None:
    """Remove the files of tokenizing from the work folder, and the folder itself if it is empty then."""
    for name in (PLAN_FOLDER, CHUNK_FOLDER, EMBEDDED_AUDIO_FOLDER, CODEC_FOLDER):
        shutil.rmtree(work_folder / name, ignore_errors=True)
    for name in (SETTINGS_FILE, WORK_LOCK_FILE, TOKENIZE_STATUS_FILE, REPORT_FILE, REPORT_TEXT_FILE, REJECTED_FILE):
        (work_folder / name).unlink(missing_ok=True)
        remove_temporaries(work_folder / name)
    if work_folder.is_dir() and not any(work_folder.iterdir()):
        work_folder.rmdir()
