"""Publishing a model on a hub: chosen files in one commit, private unless asked otherwise.

What is uploaded is listed here; everything else in a run's folder (checkpoints, logs, trackers, original recordings)
stays where it is.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from songgen.families.family import MODEL_CONFIG_FILE, ModelFiles
from songgen.families.registry import family_of
from songgen.train.checkpoints.files import CONFIG_FILE as RESOLVED_CONFIG_FILE
from songgen.train.publishing.model_card import model_card, published_config
from songgen.train.reporting.trackers import SAMPLES_FOLDER

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "README.md"
LICENSE_FILE = "LICENSE"

COPIED_ENDINGS = frozenset({".json", ".safetensors", ".txt", ".model", ".md"})
"""Endings of the files of a model's folders that are uploaded: formats that hold data alone, and so never a pickle."""

MAX_SAMPLES = 8
MAX_SAMPLE_BYTES = 20 * 1024**2

_TRAINING_STATE = re.compile(r"optimizer|scheduler|random_states?|rng_state|trainer_state|training_args|checkpoint-")
_GENERATED_SAMPLES = "step_*/*_generated_*.wav"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """A file to upload."""

    name: str
    """Path in the repository."""
    source: Path | bytes
    """The file, or its content."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class HubPush:
    """What was, or would be, uploaded."""

    repo_id: str
    """Name of the repository."""
    files: list[HubFile]
    """All files of it, in the order of their names."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Files in the places that are looked at which are not uploaded -> why."""
    revision: str | None = None
    """The commit; None if nothing was uploaded."""
    url: str | None = None
    """Page of the commit."""


def push_to_hub(
    folder: Path,
    repo_id: str | None = None,
    *,
    private: bool = True,
    dry_run: bool = False,
    license_name: str | None = None,
) -> HubPush:
    """Upload a model folder in one commit. The account is that of HF_TOKEN or `hf auth login`.

    Args:
        folder: of the model, such as a run's output folder.
        repo_id: "account/name", or the name alone for the logged-in account; None: the folder's name.
        private: make a new repository private, and refuse one that is public already.
        dry_run: choose the files and upload nothing; needs no account and no network.
        license_name: identifier of the licence, stated in the model card.

    Raises:
        ValueError: the folder is not a complete model, nobody is logged in, or the upload failed; says what to do.
    """
    name = repo_id or folder.resolve().name
    if dry_run:
        files, left_out = select_files(folder, repo_id=name, license_name=license_name)
        return HubPush(name, files, left_out)
    api = _client()
    try:
        name = name if "/" in name else f"{api.whoami()['name']}/{name}"
        files, left_out = select_files(folder, repo_id=name, license_name=license_name)
        return _upload(api, HubPush(name, files, left_out), private=private)
    except ValueError:
        raise
    except Exception as error:  # the client's errors, its HTTP library's and the system's have no common base
        reason = str(error) if error.__cause__ is None else f"{error} {error.__cause__}"
        raise ValueError(f"the upload of {folder} to {name} failed: {type(error).__name__}: {reason}") from error


def require_account() -> None:
    """Check that somebody is logged in, without asking the hub.

    Raises:
        ValueError: nobody is.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise ValueError("no account for the hub: run `hf auth login`, or set HF_TOKEN in the environment")


def publish(folder: Path, repo_id: str | None, *, private: bool) -> str | None:
    """Upload a run's final model; a failure is logged and ends nothing, for the model is on the disk.

    Returns:
        the commit, or None.
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
    folder: Path, *, repo_id: str | None = None, license_name: str | None = None
) -> tuple[list[HubFile], dict[str, str]]:
    """Choose what is uploaded.

    Args:
        folder: of the model.
        repo_id: named in the model card.
        license_name: stated in the model card.

    Returns:
        the files in the order of their names, and those left out -> why.

    Raises:
        ValueError: the folder is not a complete model; all problems at once.
    """
    contents = _require_complete(folder)
    copied = (MODEL_CONFIG_FILE, *contents.weights(folder), *contents.files, LICENSE_FILE)
    candidates = [folder / name for name in dict.fromkeys(copied)]
    for name in contents.folders:
        candidates += sorted(path for path in (folder / name).rglob("*") if not path.is_dir())
    samples = _newest_samples(folder)
    files, left_out = [], {}
    for path in [*candidates, *samples]:
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        if (reason := _reason_to_leave_out(path, folder, contents)) is None:
            files.append(HubFile(name, path))
        else:
            left_out[name] = reason
    run_file = folder / RESOLVED_CONFIG_FILE
    if run_file.is_file():
        shown = published_config(json.loads(run_file.read_text(encoding="utf-8")))
        files.append(HubFile(RESOLVED_CONFIG_FILE, (json.dumps(shown, indent=2) + "\n").encode()))
    if (folder / CARD_FILE).is_file():
        files.append(HubFile(CARD_FILE, folder / CARD_FILE))
    else:
        audio = [file.name for file in files if file.name.startswith(f"{SAMPLES_FOLDER}/")]
        card = model_card(folder, repo_id=repo_id, license_name=license_name, samples=audio)
        files.append(HubFile(CARD_FILE, card.encode()))
    return sorted(files, key=lambda file: file.name), left_out


def _require_complete(folder: Path) -> ModelFiles:
    """Check that a folder would work elsewhere, and return what a model folder of its family holds.

    Raises:
        ValueError: if files are missing, or the configuration names places of this machine.
    """
    missing, contents = [MODEL_CONFIG_FILE], ModelFiles(weights=lambda folder: ())
    if (folder / MODEL_CONFIG_FILE).is_file():
        contents = family_of(folder).model_files
        missing = [name for name in contents.weights(folder) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is no complete model folder: {', '.join(missing)} missing")
    config = json.loads((folder / MODEL_CONFIG_FILE).read_text(encoding="utf-8"))
    places = {name: config.get(name) for name in contents.folders}
    paths = {name: place.get("path") if isinstance(place, dict) else place for name, place in places.items()}
    foreign = [f"{name}: {path}" for name, path in paths.items() if path and Path(path).is_absolute()]
    if foreign:
        raise ValueError(
            f"{folder / MODEL_CONFIG_FILE} names folders of this machine ({'; '.join(foreign)}); copy them into the "
            "model folder and give their names, or give hub ids"
        )
    return contents


def _newest_samples(folder: Path) -> list[Path]:
    """Generated songs of the latest step at which there are some, whole mixes first; originals are never published."""
    steps: dict[str, list[Path]] = {}
    for path in (folder / SAMPLES_FOLDER).glob(_GENERATED_SAMPLES):
        if path.stat().st_size <= MAX_SAMPLE_BYTES:
            steps.setdefault(path.parent.name, []).append(path)
    newest = steps[max(steps)] if steps else []
    return sorted(newest, key=lambda path: (not path.stem.endswith("_mix"), path.name))[:MAX_SAMPLES]


def _reason_to_leave_out(path: Path, folder: Path, contents: ModelFiles) -> str | None:
    """Why a file is not uploaded, or None."""
    inside = path.relative_to(folder)
    if not path.resolve().is_relative_to(folder.resolve()):
        return "a link to somewhere else"
    if any(part.startswith(".") for part in inside.parts):
        return "hidden"
    if any(_TRAINING_STATE.match(part) for part in inside.parts):
        return "training state"
    if inside.parts[0] in contents.folders and path.suffix not in COPIED_ENDINGS:
        return f"only {', '.join(sorted(COPIED_ENDINGS))} are uploaded"
    return None


def _client() -> HfApi:
    """The hub's client.

    Raises:
        ValueError: nobody is logged in.
    """
    from huggingface_hub import HfApi, constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # its variable is read when the library is imported, which is long ago
    require_account()
    return HfApi()


def _upload(api: HfApi, push: HubPush, *, private: bool) -> HubPush:
    """Make the repository, if it is not there, and commit all files at once.

    Raises:
        ValueError: the repository is public, and should not be.
    """
    from huggingface_hub import CommitOperationAdd

    api.create_repo(push.repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(push.repo_id).private:
        raise ValueError(
            f"{push.repo_id} is public already and a private upload was asked for; choose another name, make it "
            "private on the hub, or say that it may be public (hub_private false, `songgen push --public`)"
        )
    operations = [
        CommitOperationAdd(file.name, file.source if isinstance(file.source, bytes) else str(file.source))
        for file in push.files
    ]
    commit = api.create_commit(push.repo_id, operations, commit_message="Upload model")
    return HubPush(push.repo_id, push.files, push.left_out, revision=commit.oid, url=str(commit.commit_url))
