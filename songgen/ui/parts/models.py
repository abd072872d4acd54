"""Models on the page: everything that there is, one folder with its actions, new models, and the trash."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from songgen.jobs.log import read_log
from songgen.jobs.record import find_jobs, read_job
from songgen.runtime.json_files import parse_json_object
from songgen.ui.commands import command_form
from songgen.ui.folders import trash
from songgen.ui.folders.facts import configurations_of, facts_of, files_of, songs_of
from songgen.ui.folders.library import Item, Library, values_of
from songgen.ui.presets import preset_costs
from songgen.ui.site import Site, text_of
from songgen.ui.translation import Translator
from songgen.ui.workspace import Workspace
from songgen.web.answers import json_response
from songgen.web.application import PageRoute

MODELS_FOLDER = Path("outputs") / "models"
"""Folder of the models that are created and exported on the page, unless another one is named."""

FINDINGS_LINES = 5_000
"""Maximum number of lines of a diagnosis that are read."""

COMPARISON_FILE, PLOTS_FOLDER = "comparison.json", "plots"

KINDS = {
    "run": "Training run",
    "checkpoint": "Checkpoint",
    "tokens": "Tokenized data set",
    "songs": "Prepared songs",
    "model": "Model",
    "adapter": "Adapter",
    "part": "Part of a model",
}
"""Kind of an entry -> its name for a reader."""

ADAPTER_RUN = "Training run of an adapter"

_STEP = re.compile(r"step (\d+) of (\d+)")


class ModelsPart:
    """The endpoints of models and of all other folders."""

    def __init__(self, site: Site, library: Library) -> None:
        """Remember the site, and the list of everything that there is."""
        self._site = site
        self._workspace: Workspace = site.workspace
        self._library = library

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        page, api = self._site.page, self._site.api
        return [
            PageRoute("/models", page(self.index)),
            PageRoute("/models/new", page(self.new)),
            PageRoute("/models/{folder}", page(self.folder_page)),
            PageRoute("/api/models", api(self.listing)),
            PageRoute("/api/models/{folder}/checkpoints", api(self.checkpoints)),
            PageRoute("/api/models/{folder}/delete", api(self.delete), methods=["POST"]),
            PageRoute("/api/presets", api(self.presets)),
            PageRoute("/api/findings/{id}", api(self.findings)),
            PageRoute("/api/trash", api(self.trash)),
            PageRoute("/api/trash/{id}/restore", api(self.restore), methods=["POST"]),
            PageRoute("/api/trash/empty", api(self.empty_trash), methods=["POST"]),
        ]

    def index(self, request: Request) -> Response:
        """Return the page with everything; its script asks for the list, which takes seconds the first time."""
        return self._site.render(request, "models.html")

    def new(self, request: Request) -> Response:
        """Return the page that creates models, tokenizers and codecs."""
        forms = {name: _fields(name) for name in ("init", "tokenizer", "codec")}
        outs = {name: self._workspace.new_name(MODELS_FOLDER, name) for name in ("model", "tokenizers", "codec")}
        return self._site.render(request, "new_model.html", forms=forms, outs=outs)

    def folder_page(self, request: Request) -> Response:
        """Return the page of one folder."""
        folder = self._workspace.existing_folder(request.path_params["folder"])
        item = self._library.item(folder)
        files, hidden_files = files_of(folder, self._workspace)
        comparison = values_of(folder / COMPARISON_FILE) if item is not None and item.is_adapter else {}
        songs, hidden_songs = ([], 0) if comparison else songs_of(folder, self._workspace)
        return self._site.render(
            request,
            "model.html",
            folder=self._workspace.shown(folder),
            name=folder.name,
            item=item,
            kind="" if item is None else kind_name(item, self._site.language(request)),
            detail=detail_text(item.detail, self._site.language(request)) if item is not None else "",
            base_is_here=item is not None and self._is_here(item.base),
            data_is_here=item is not None and self._is_here(item.data),
            facts=facts_of(folder),
            files=files,
            hidden_files=hidden_files,
            configurations=configurations_of(folder, self._workspace),
            songs=songs,
            hidden_songs=hidden_songs,
            comparison=comparison_values(comparison),
            plots=sorted(path.name for path in (folder / PLOTS_FOLDER).glob("*.png")),
            forms={name: _fields(name) for name in ("doctor", "export", "compare", "push", "plot")},
            actions=actions_of(item),
            can_delete=trash.is_deletable(self._workspace, folder, [] if item is None else [item]),
            export_out=self._workspace.new_name(MODELS_FOLDER, folder.name),
        )

    def _is_here(self, name: str) -> bool:
        """Return whether a configuration names a folder that this page can show, and not a hub id or one elsewhere."""
        try:
            return bool(name) and self._workspace.path(name).is_dir()
        except ValueError:
            return False

    def listing(self, request: Request) -> Response:
        """Return everything that there is, newest first."""
        texts = self._site.language(request)
        return json_response({"items": [item_values(item, texts) for item in self._library.items()]})

    def checkpoints(self, request: Request) -> Response:
        """Return the checkpoints of a run."""
        run = self._workspace.existing_folder(request.path_params["folder"])
        texts = self._site.language(request)
        return json_response({"items": [item_values(item, texts) for item in self._library.checkpoints(run)]})

    def presets(self, request: Request) -> Response:
        """Return what training a new model of each preset needs."""
        return json_response({"presets": [dataclasses.asdict(cost) for cost in preset_costs()]})

    def findings(self, request: Request) -> Response:
        """Return the findings that a job `songgen doctor --json` has printed, translated."""
        view = read_job(self._workspace.jobs, request.path_params["id"])
        if view.job.name != "doctor":
            raise ValueError(f"the job {view.job.title} is not a diagnosis")
        text = read_log(view.folder, max_lines=FINDINGS_LINES).text
        return json_response(findings_of(text, self._site.language(request)))

    def delete(self, request: Request) -> Response:
        """Move a folder to the trash: `{"name": NAME}`, its name as the user has typed it."""
        folder = self._workspace.existing_folder(request.path_params["folder"])
        self._library.forget()
        jobs = find_jobs(self._workspace.jobs)
        place = trash.delete(self._workspace, folder, text_of(request, "name"), self._library.items(), jobs)
        self._library.forget()
        return json_response({"trash": self._workspace.shown(place)})

    def trash(self, request: Request) -> Response:
        """Return what is in the trash."""
        return json_response({"items": [dataclasses.asdict(entry) for entry in trash.trashed(self._workspace)]})

    def restore(self, request: Request) -> Response:
        """Move a folder out of the trash to where it was."""
        folder = trash.restore(self._workspace, request.path_params["id"])
        self._library.forget()
        return json_response({"folder": self._workspace.shown(folder)})

    def empty_trash(self, request: Request) -> Response:
        """Remove everything in the trash for good."""
        return json_response({"freed": trash.empty(self._workspace)})


def actions_of(item: Item | None) -> frozenset[str]:
    """Return what can be done with a folder: commands, and links to other parts of the page."""
    if item is None:
        return frozenset()
    actions = {"doctor"}
    if item.kind == "run":
        actions |= {"plot", "train", "configure"}
    if item.is_adapter:
        actions |= {"export", "compare"}
    elif item.checkpoints or item.kind == "checkpoint":
        actions.add("export")
    if item.has_model and item.kind != "checkpoint":
        actions.add("push")
    if item.has_model:
        actions |= {"listen", "base"}
    if item.kind in ("tokens", "songs"):
        actions.add("data")
    return frozenset(actions)


def item_values(item: Item, texts: Translator) -> dict[str, Any]:
    """Return what the list shows of an entry."""
    return {
        **dataclasses.asdict(item),
        "detail": detail_text(item.detail, texts),
        "kind_name": kind_name(item, texts),
    }


def kind_name(item: Item, texts: Translator) -> str:
    """Return the name of the kind of an entry, for a reader."""
    return texts(ADAPTER_RUN if item.kind == "run" and item.is_adapter else KINDS[item.kind])


def detail_text(detail: str, texts: Translator) -> str:
    """Return the details of an entry in the language of the page: step and plan of a run, then the rest."""
    match = _STEP.match(detail)
    if match is None:
        return texts.message(detail) if detail else ""
    rest = detail[match.end() :]
    return texts("step {step} of {total}", step=match[1], total=match[2]) + (
        f", {texts.message(rest.lstrip(',; '))}" if rest else ""
    )


def findings_of(text: str, texts: Translator) -> dict[str, Any]:
    """Return the findings in the output of a diagnosis, in the language of the page.

    Raises:
        ValueError: if the output has none: the diagnosis itself has failed, and says why.
    """
    lines = text.split("\n")
    try:
        # Warnings may be printed around it; the object itself begins and ends with a brace in a line of its own.
        start, end = lines.index("{"), len(lines) - 1 - lines[::-1].index("}")
        found = parse_json_object("\n".join(lines[start : end + 1]))
        findings = [
            {
                "level": str(finding["level"]),
                "where": texts.message(str(finding["where"])),
                "what": texts.message(str(finding["what"])),
                "way_out": texts.message(str(finding["way_out"])) if finding["way_out"] else "",
            }
            for finding in found["findings"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(text.strip()[-2000:] or "the diagnosis has printed nothing") from error
    return {"is_fine": found.get("fine") is True, "findings": findings}


def comparison_values(record: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a comparison; nothing of a record that is not one."""
    losses = [_loss_of(record.get(side)) for side in ("without", "with")]
    if None in losses:
        return {}
    warnings = record.get("warnings")
    return {
        "without": losses[0],
        "with": losses[1],
        "clips": record.get("clips"),
        "warnings": [str(text) for text in warnings] if isinstance(warnings, list) else [],
        "songs": [
            {"id": str(song.get("id", "")), "sides": list(_sides(song["files"]))}
            for song in _tables(record.get("songs"))
            if isinstance(song.get("files"), dict)
        ],
    }


def _sides(files: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield side, track and file of every sound of a compared song."""
    for side in ("original", "without", "with"):
        tracks = files.get(side)
        for track, file in tracks.items() if isinstance(tracks, dict) else ():
            yield {"side": side, "track": str(track), "file": str(file)}


def _tables(value: Any) -> list[dict[str, Any]]:
    """Return the tables of a list, without anything else that a damaged file may have."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _loss_of(side: Any) -> float | None:
    value = side.get("loss") if isinstance(side, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _fields(command: str) -> dict[str, Any]:
    """Return the fields of a command by name."""
    return {field.name: field for field in command_form(command).fields}
