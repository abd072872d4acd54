"""Publishing a model on the Hugging Face Hub: selected files in one commit, private unless asked otherwise.

Only the files listed here are uploaded. Everything else in a run's folder (checkpoints, logs, tracker files, original
recordings) is not.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.adapters.choice import find_adapter, has_adapter
from songgen.families.registry import family_of
from songgen.runtime.file_hashes import HASHES_FILE, checked_folder
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import COPIED_ENDINGS, MODEL_CONFIG_FILES, ModelFiles, model_config_file
from songgen.runtime.pretrained import is_inside
from songgen.train.checkpoints.files import RUN_CONFIG_FILE
from songgen.train.publishing.adapter_files import published_adapter
from songgen.train.publishing.model_card import adapter_card, model_card, published_config
from songgen.train.reporting.trackers import SAMPLES_FOLDER

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "README.md"
LICENSE_FILE = "LICENSE"

MAX_SAMPLES = 8
MAX_SAMPLE_BYTES = 20 * 1024**2

_TRAINING_STATE = re.compile(
    r"optimizer|scheduler(?!_config\.json)|random_states?|rng_state|trainer_state|training_args|checkpoint-"
)
_GENERATED_SAMPLES = "step_*/*_generated_*.wav"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """A file to upload."""

    name: str
    """Path in the repository."""
    source: Path | bytes
    """Path of the file, or its content."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class HubPush:
    """Upload that was made, or would be made."""

    repo_id: str
    """Name of the repository."""
    files: list[HubFile]
    """Files of the upload, sorted by name."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Files that are not uploaded -> reason."""
    revision: str | None = None
    """Id of the commit; None if nothing was uploaded."""
    url: str | None = None
    """Page of the commit."""


def push_to_hub(
    folder: Path,
    repo_id: str | None = None,
    *,
    private: bool = True,
    dry_run: bool = False,
    license_name: str | None = None,
    base_model: str | None = None,
) -> HubPush:
    """Upload a model folder or an adapter in one commit. The account is that of HF_TOKEN or `hf auth login`.

    Args:
        folder: folder of a model or an adapter, such as a run's output folder.
        repo_id: "account/name", or only the name for the logged-in account; None for the folder's name.
        private: whether a new repository is private, and an existing public one is refused.
        dry_run: whether to select the files only; needs no account and no network.
        license_name: identifier of the licence, stated in the model card.
        base_model: hub id of an adapter's base, if the adapter names a folder.

    Raises:
        ValueError: if the folder is not a complete model, no account is logged in, or the upload failed; the message
            says what to do.
    """
    name = repo_id or folder.resolve().name
    require_repository_name(name)
    if dry_run:
        files, left_out = select_files(folder, repo_id=name, license_name=license_name, base_model=base_model)
        return HubPush(name, files, left_out)
    api = _client()
    try:
        name = name if "/" in name else f"{api.whoami()['name']}/{name}"
        files, left_out = select_files(folder, repo_id=name, license_name=license_name, base_model=base_model)
        return _upload(api, HubPush(name, files, left_out), private=private)
    except ValueError:
        raise
    except Exception as error:  # the client's errors, its HTTP library's and the system's have no common base
        reason = str(error) if error.__cause__ is None else f"{error} {error.__cause__}"
        raise ValueError(f"the upload of {folder} to {name} failed: {type(error).__name__}: {reason}") from error


def require_account() -> None:
    """Check that an account is logged in, without asking the hub.

    Raises:
        ValueError: if none is.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise ValueError("no account for the hub: run `hf auth login`, or set HF_TOKEN in the environment")


def require_repository_name(name: str) -> None:
    """Check that the hub accepts a name, without asking it.

    Args:
        name: "account/name", or only the name.

    Raises:
        ValueError: if it does not.
    """
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        if not all(part.isascii() for part in name.split("/")):
            raise ValueError("letters other than A-Z and a-z")
    except ValueError as error:  # the client's error is of this kind
        raise ValueError(
            f"the hub has no repositories of the name {name!r}: give account/name or only the name, at most 96 "
            "letters, digits, '-', '_' and '.', without '--' and '..', not ending in '.git', and without '-' or '.' at "
            "either end"
        ) from error


def publish(folder: Path, repo_id: str | None, *, private: bool) -> str | None:
    """Upload a run's final model. A failure is only logged, since the model is on the disk.

    Returns:
        The id of the commit; None after a failure.
    """
    try:
        push = push_to_hub(folder, repo_id, private=private)
    except ValueError as error:
        visibility = "" if private else " --public"
        command = f"songgen push {folder} {repo_id or ''}".rstrip() + visibility
        logger.error("%s\nThe model is in %s; try again with `%s`", error, folder, command)
        return None
    logger.info("uploaded %d files to %s, revision %s", len(push.files), push.repo_id, push.revision)
    return push.revision


def select_files(
    folder: Path, *, repo_id: str | None = None, license_name: str | None = None, base_model: str | None = None
) -> tuple[list[HubFile], dict[str, str]]:
    """Select the files to upload.

    Args:
        folder: folder of a model or an adapter.
        repo_id: hub id for the model card.
        license_name: licence for the model card.
        base_model: hub id of an adapter's base.

    Returns:
        The files sorted by name, and those left out -> reason.

    Raises:
        ValueError: if the folder is neither a complete model nor a complete adapter; the message lists all problems.
    """
    published, contents, own = None, ModelFiles(weights=lambda folder: ()), list[str]()
    copied: tuple[str, ...] = (LICENSE_FILE, CARD_FILE)
    if has_adapter(folder) and model_config_file(folder) is None:
        published = published_adapter(find_adapter(folder), base_model)
    elif base_model is not None:
        raise ValueError(f"--base names the base model of an adapter, and {folder} is a whole model: leave it out")
    else:
        contents = _require_complete(folder)
        own = [contents.config, *contents.weights(folder), *contents.files]
        copied = (*own, HASHES_FILE, *copied)
    files, left_out = _existing(folder, contents, copied)
    if lost := [f"{name} ({left_out[name]})" for name in own if name in left_out]:
        raise ValueError(f"{folder} is not a complete model folder: {', '.join(lost)}")
    files += [HubFile(name, content) for name, content in (published.files if published else {}).items()]
    run_file = folder / RUN_CONFIG_FILE
    if run_file.is_file() and is_inside(run_file, folder):
        shown = published_config(read_json_object(run_file))
        files.append(HubFile(RUN_CONFIG_FILE, (json.dumps(shown, indent=2) + "\n").encode()))
    if CARD_FILE not in {file.name for file in files}:
        audio = [file.name for file in files if file.name.startswith(f"{SAMPLES_FOLDER}/")]
        options: dict[str, Any] = {"repo_id": repo_id, "license_name": license_name, "samples": audio}
        card = adapter_card(folder, published, **options) if published else model_card(folder, **options)
        files.append(HubFile(CARD_FILE, card.encode()))
    return sorted(files, key=lambda file: file.name), left_out


def _existing(folder: Path, contents: ModelFiles, names: Sequence[str]) -> tuple[list[HubFile], dict[str, str]]:
    """Return the files of a folder that are uploaded as they are, its newest samples too, and those left out."""
    candidates = [folder / name for name in names]
    for name in contents.folders:
        candidates += sorted(path for path in (folder / name).rglob("*") if not path.is_dir())
    files, left_out = [], {}
    for path in dict.fromkeys([*candidates, *_newest_samples(folder)]):
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        if (reason := _reason_to_leave_out(path, folder, contents)) is None:
            files.append(HubFile(name, path))
        else:
            left_out[name] = reason
    return files, left_out


def _require_complete(folder: Path) -> ModelFiles:
    """Check that a model folder would work on another machine, and return the files of its family's model folders.

    Raises:
        ValueError: if files are missing or have changed since they were written, or the configuration names places
            outside of the folder.
    """
    if model_config_file(folder) is None:
        raise ValueError(f"{folder} is not a complete model folder: {' or '.join(MODEL_CONFIG_FILES)} missing")
    family = family_of(folder)
    contents = family.model_files
    if missing := [name for name in contents.weights(folder) if not (folder / name).is_file()]:
        raise ValueError(f"{folder} is not a complete model folder: {', '.join(missing)} missing")
    checked_folder(folder)
    family.model_facts(folder)  # reads the configuration, and refuses one that leads out of the folder
    return contents


def _newest_samples(folder: Path) -> list[Path]:
    """Return the generated songs of the latest step that has some, mixes first. Originals are never uploaded."""
    steps: dict[str, list[Path]] = {}
    for path in (folder / SAMPLES_FOLDER).glob(_GENERATED_SAMPLES):
        if path.stat().st_size <= MAX_SAMPLE_BYTES:
            steps.setdefault(path.parent.name, []).append(path)
    newest = steps[max(steps)] if steps else []
    return sorted(newest, key=lambda path: (not path.stem.endswith("_mix"), path.name))[:MAX_SAMPLES]


def _reason_to_leave_out(path: Path, folder: Path, contents: ModelFiles) -> str | None:
    """Return why a file is not uploaded; None if it is."""
    inside = path.relative_to(folder)
    if not is_inside(path, folder):
        return "a link to somewhere else"
    if any(part.startswith(".") for part in inside.parts):
        return "hidden"
    own = inside.parts[0] in contents.folders  # a component of a pipeline is a scheduler, too
    if any(_TRAINING_STATE.match(part) for part in inside.parts[own:]):
        return "training state"
    if own and path.suffix not in COPIED_ENDINGS:
        return f"only {', '.join(sorted(COPIED_ENDINGS))} are uploaded"
    return None


def _client() -> HfApi:
    """Return a client of the hub.

    Raises:
        ValueError: if no account is logged in.
    """
    from huggingface_hub import HfApi, constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # its environment variable is only read at the library's import
    require_account()
    return HfApi()


def _upload(api: HfApi, push: HubPush, *, private: bool) -> HubPush:
    """Create the repository if it does not exist, and commit all files at once.

    Raises:
        ValueError: if the repository is public and a private upload was asked for.
    """
    from huggingface_hub import CommitOperationAdd

    api.create_repo(push.repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(push.repo_id).private:
        raise ValueError(
            f"{push.repo_id} is public already and a private upload was asked for; choose another name, make it "
            "private on the hub, or allow a public one (hub_private false, `songgen push --public`)"
        )
    operations = [
        CommitOperationAdd(file.name, file.source if isinstance(file.source, bytes) else str(file.source))
        for file in push.files
    ]
    commit = api.create_commit(push.repo_id, operations, commit_message="Upload model")
    return HubPush(push.repo_id, push.files, push.left_out, revision=commit.oid, url=str(commit.commit_url))
