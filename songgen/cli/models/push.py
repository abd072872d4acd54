"""`songgen push`: upload selected files of a model folder or an adapter to a hub."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from songgen.train.publishing.hub import HubPush


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen push`."""
    parser.add_argument("folder", type=Path, help="folder of a model or an adapter, such as the output_dir of a run")
    parser.add_argument(
        "repository", nargs="?", help="account/name, or a name of the logged-in account (if left out: the folder's)"
    )
    parser.add_argument("--dry_run", action="store_true", help="only show what would be uploaded")
    parser.add_argument("--public", action="store_true", help="make a new repository public, accept a public one")
    parser.add_argument("--base", help="of an adapter: hub id of its base model, if the adapter names a folder")
    parser.add_argument("--license", help="identifier of the licence for the model card, such as apache-2.0")


def run(arguments: argparse.Namespace) -> int:
    """Upload the model, or show what would be uploaded.

    Raises:
        ValueError: if something needs the user's attention.
    """
    from songgen.train.publishing.hub import CARD_FILE, push_to_hub

    push = push_to_hub(
        arguments.folder,
        arguments.repository,
        private=not arguments.public,
        dry_run=arguments.dry_run,
        license_name=arguments.license,
        base_model=arguments.base,
    )
    print("\n".join(describe(push, private=not arguments.public)))
    if arguments.dry_run:
        card = next(file for file in push.files if file.name == CARD_FILE)
        content = card.source if isinstance(card.source, bytes) else card.source.read_bytes()
        print(f"\n{CARD_FILE}:\n{content.decode('utf-8', errors='replace')}")
    return 0


def describe(push: "HubPush", *, private: bool) -> list[str]:
    """Return names and sizes of the files that were, or would be, uploaded, and those left out."""
    lines = [f"{file.size:>15,}  {file.name}" for file in push.files]
    lines += [f"{'left out':>15}  {name} ({reason})" for name, reason in push.left_out.items()]
    total = sum(file.size for file in push.files)
    visibility = "private" if private else "public"
    summary = f"{len(push.files)} files, {total:,} bytes"
    if push.revision is None:
        return [*lines, f"{summary} would go to {push.repo_id} ({visibility} if it is new); nothing was uploaded"]
    return [*lines, f"{summary} uploaded to {push.repo_id}, revision {push.revision}", str(push.url)]
