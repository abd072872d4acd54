"""Configure: a training configuration as a form, what it needs, and the saved ones."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from songgen.planning.fixes import other_forms
from songgen.runtime.json_files import parse_json_object
from songgen.ui.commands import command_text
from songgen.ui.configuring import earlier, files
from songgen.ui.configuring.dependencies import meaningful_keys
from songgen.ui.configuring.form_values import effective_values, shown_text, with_typed
from songgen.ui.configuring.labels import GOALS, PRESETS, label_of, without_links
from songgen.ui.configuring.numbers import MAX_CLIPS, number_of, processes_of
from songgen.ui.configuring.problems import field_of, own_fields, problems_of, without_name
from songgen.ui.configuring.sections import COMMON, PATH_KEYS, bounds_text, form_keys, form_sections
from songgen.ui.configuring.units import unit_notes
from songgen.ui.configuring.worker import Worker
from songgen.ui.folders.library import searched_folders
from songgen.ui.site import FieldProblem, Site, as_json, body_of, text_of
from songgen.ui.workspace import CONFIGS_FOLDER
from songgen.web.answers import json_response
from songgen.web.application import PageRoute

UNNAMED = "unnamed"
"""Name of a configuration that has none yet."""


class Planner(Protocol):
    """The process that answers questions about planned runs."""

    def ask(self, kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """See `songgen.ui.configuring.worker.Worker.ask`."""


class ConfigurePart:
    """The endpoints of configurations."""

    def __init__(self, site: Site, planner: Planner | None = None) -> None:
        """Remember the site.

        Args:
            site: frame of the page.
            planner: process that answers questions about planned runs; None to start one.
        """
        self._site = site
        self._workspace = site.workspace
        self._planner = planner or Worker(site.workspace.root)

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        api = self._site.api
        return [
            PageRoute("/configure", self._site.page(self.index)),
            PageRoute("/api/configure/state", api(self.state), methods=["POST"]),
            PageRoute("/api/configure/check", api(self.check), methods=["POST"]),
            PageRoute("/api/configure/open", api(self.open), methods=["POST"]),
            PageRoute("/api/configure/presets", api(self.presets), methods=["POST"]),
            PageRoute("/api/configure/adapters", api(self.adapters), methods=["POST"]),
            PageRoute("/api/configure/last", api(self.last), methods=["POST"]),
            PageRoute("/api/configure/states", api(self.states), methods=["POST"]),
            PageRoute("/api/configure/places", api(self.places)),
            PageRoute("/api/configure/saved", api(self.saved)),
            PageRoute("/api/configure/save", api(self.save), methods=["POST"]),
            PageRoute("/api/configure/delete", api(self.delete), methods=["POST"]),
        ]

    def index(self, request: Request) -> Response:
        """Return the page; `?config=FILE`, `?run=FOLDER`, `?data=FOLDER` and `?model=FOLDER` are read by its script."""
        return self._site.render(
            request,
            "configure.html",
            sections=form_sections(),
            labels={name: label_of(name) for name in form_keys()},
            common=COMMON,
            path_keys=PATH_KEYS,
            adapters=files.adapter_presets(),
            goals=GOALS,
            without_links=without_links,
            bounds={name: bounds_text(name) for name in form_keys()},
            defaults={name: shown_text(name, key.default) for name, key in form_keys().items()},
        )

    def state(self, request: Request) -> Response:
        """Return what follows from the content of a file and what was typed.

        The body has `values`, or `json` with their text; optionally `typed` (key -> text of its field), `changes` (key
        -> value, of a suggestion), `adapter` (name of a shipped one), `name`, `processes`, and what the last check has
        counted: `clips` and `steps_per_epoch`.
        """
        path, values = self._content(request)
        problems: dict[str, list[str]] = {}
        t = self._site.language(request)
        try:
            standard = files.standard_values(self._workspace, path, values)
            values = self._changed(request, values, standard, problems)
            merged = files.merged_values(self._workspace, path, values)
        except ValueError as error:
            standard, merged = effective_values({}), values
            problems.setdefault("", []).append(str(error))
        else:
            for name, message in problems_of(merged):
                problems.setdefault(name, []).append(message)
        effective = effective_values(merged)
        shown = meaningful_keys(effective)
        given = {name for name in effective_values({}) if name in own_fields(values)}
        return json_response(
            {
                "values": values,
                "json": as_json(values),
                "texts": {name: shown_text(name, value) for name, value in effective.items()},
                "inherited": {
                    name: shown_text(name, value) for name, value in standard.items()
                    if value != form_keys()[name].default
                },
                "given": sorted(given),
                "shown": sorted(shown),
                "problems": {
                    name: [without_name(t.message(text), name) for text in texts] for name, texts in problems.items()
                },
                "units": self._units(request, effective),
                "commands": self._commands(request, path, effective),
            }
        )  # fmt: skip

    def check(self, request: Request) -> Response:
        """Return what `songgen check` says, with translated findings.

        With `automatic` nothing is said of a model that is not a folder here: it would be looked for on the hub.
        """
        path, values = self._content(request)
        merged = files.merged_values(self._workspace, path, values)
        if body_of(request).get("automatic") is True and not self._is_folder(merged.get("model_name_or_path")):
            return json_response({"skipped": True})
        asked = {"path": str(path), "values": values, "processes": processes_of(request)}
        answer = self._planner.ask("check", asked)
        t = self._site.language(request)
        for finding in answer["findings"]:
            finding["key"] = field_of((finding["key"],), finding["message"]) or finding["key"]
            finding["message"] = without_name(t.message(finding["message"]), finding["key"])
        if "machine" in answer:
            answer["machine"] = t.message(answer["machine"])
        if answer.get("memory"):
            answer["memory"]["parts"] = [
                {"name": t.message(name), **part} for name, part in answer["memory"]["parts"].items()
            ]
        return json_response(answer)

    def open(self, request: Request) -> Response:
        """Return a configuration to start from: `{"kind": KIND, ...}`."""
        kind = text_of(request, "kind")
        starts: dict[str, Callable[[], files.Start]] = {
            "advice": lambda: self._advice(request),
            "preset": lambda: files.from_preset(
                text_of(request, "preset"), model=self._inside(request, "model"), data=self._inside(request, "data")
            ),
            "saved": lambda: files.from_saved(self._workspace, text_of(request, "path")),
            "run": lambda: earlier.from_run(
                self._workspace, text_of(request, "path"), number_of(request, "more_epochs")
            ),
            "data": lambda: earlier.from_data(
                self._workspace, text_of(request, "path"), number_of(request, "more_epochs")
            ),
            "empty": lambda: files.Start({}),
        }
        if kind not in starts:
            raise ValueError(f"kind: one of {', '.join(starts)} is expected")
        start = starts[kind]()
        t = self._site.language(request)
        return json_response(
            {
                "values": dict(start.values),
                "name": start.name,
                "notice": t(start.notice) if start.notice else "",
                "reasons": {name: t.message(reason) for name, reason in (start.reasons or {}).items()},
                "is_saved": start.is_saved,
            }
        )

    def presets(self, request: Request) -> Response:
        """Return every shipped configuration with its memory: `{"model": FOLDER, "data": FOLDER}`."""
        names = {"model": self._inside(request, "model"), "data": self._inside(request, "data")}
        if not self._is_folder(names["model"]) or not self._is_folder(names["data"]):
            listed = [{"name": name, "memory": None, "problem": ""} for name in files.training_presets()]
            answer: dict[str, Any] = {"presets": listed, "free": None}
        else:
            answer = self._planner.ask("presets", {**names, "processes": processes_of(request)})
        t = self._site.language(request)
        for entry in answer["presets"]:
            entry["problem"] = t.message(entry["problem"])
            entry["summary"] = t(PRESETS.get(entry["name"], ""))
        return json_response(answer)

    def adapters(self, request: Request) -> Response:
        """Return every shipped adapter with its memory in the present configuration."""
        path, values = self._content(request)
        files.require_values_inside(self._workspace, path, values)
        asked = {"path": str(path), "values": values, "processes": processes_of(request)}
        return json_response(self._planner.ask("adapters", asked))

    def last(self, request: Request) -> Response:
        """Return a run with its last checkpoint: `{"run": FOLDER}`, or `{"data": FOLDER}` for the newest run on it."""
        names = {name: text_of(request, name) for name in ("run", "data")}
        return json_response({"run": earlier.last_state(self._workspace, **names)})

    def states(self, request: Request) -> Response:
        """Return the checkpoints that a run in an output folder can resume from: `{"folder": FOLDER}`."""
        return json_response({"states": earlier.states_of(self._workspace, text_of(request, "folder"))})

    def places(self, request: Request) -> Response:
        """Return the data sets, models and runs that there are."""
        roots = [self._workspace.shown(folder) for folder in searched_folders(self._workspace)]
        within = [str(folder) for folder in self._workspace.folders]
        return json_response(self._planner.ask("places", {"roots": roots, "within": within}))

    def saved(self, request: Request) -> Response:
        """Return the saved configurations."""
        return json_response({"saved": files.saved_configs(self._workspace)})

    def save(self, request: Request) -> Response:
        """Write a configuration; `{"exists": true}` if it exists and `overwrite` is not given."""
        _, values = self._content(request)
        overwrite = body_of(request).get("overwrite") is True
        path = files.save_config(self._workspace, text_of(request, "name"), values, overwrite=overwrite)
        return json_response({"exists": path is None, "file": "" if path is None else str(path)})

    def delete(self, request: Request) -> Response:
        """Move a saved configuration to the trash folder."""
        path = self._workspace.root / files.config_path(self._workspace, text_of(request, "name"))
        if not path.is_file():
            raise ValueError(f"there is no configuration {path.stem}; it may have been deleted already")
        return json_response({"moved_to": self._workspace.shown(self._workspace.move_to_trash(path))})

    def _content(self, request: Request) -> tuple[Path, dict[str, Any]]:
        """Return the path that a configuration is or will be saved at, and its content.

        Raises:
            ValueError: if the name or the text is not right.
        """
        body = body_of(request)
        name = text_of(request, "name") or UNNAMED
        path = files.config_path(self._workspace, name) if files.NAME.fullmatch(name) else CONFIGS_FOLDER / UNNAMED
        values = body.get("values", {})
        if "json" in body:
            try:
                values = parse_json_object(text_of(request, "json"))
            except ValueError as error:
                raise ValueError(f"not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError("values: a table of keys is expected")
        return path, values

    def _changed(
        self, request: Request, values: dict[str, Any], standard: dict[str, Any], problems: dict[str, list[str]]
    ) -> dict[str, Any]:
        """Return the content after what was typed, chosen or suggested.

        Raises:
            ValueError: if the body has something else than texts and values.
        """
        body = body_of(request)
        typed, changes = body.get("typed", {}), body.get("changes", {})
        if not isinstance(typed, dict) or not isinstance(changes, dict):
            raise ValueError("typed: a table is expected")
        for name, text in typed.items():
            if not isinstance(text, str):
                raise ValueError(f"{name}: a text is expected")
            try:
                values = with_typed(values, standard, {name: text})
            except ValueError as error:
                problems.setdefault(name, []).append(str(error))
        if text_of(request, "adapter"):
            values = files.with_adapter(values, text_of(request, "adapter"))
        replaced = other_forms(changes)
        return {name: value for name, value in values.items() if name not in replaced} | changes

    def _advice(self, request: Request) -> files.Start:
        """Return the choices of `songgen configure`.

        Raises:
            ValueError: if there is no such data set.
            FieldProblem: if no model is named, and none or several fit it.
        """
        data = body_of(request).get("data")
        if not isinstance(data, list) or not data or not all(isinstance(folder, str) for folder in data):
            raise ValueError("data: choose a tokenized data set")
        folders = [self._workspace.shown(self._workspace.existing_folder(folder, "data")) for folder in data]
        goal = text_of(request, "goal")
        if goal and goal not in GOALS:
            raise ValueError(f"goal: one of {', '.join(GOALS)} is expected")
        asked = {
            "data": folders,
            "model": self._inside(request, "model"),
            "goal": goal,
            "hours": number_of(request, "hours"),
            "processes": processes_of(request),
        }
        answer = self._planner.ask("advise", asked)
        if "fitting" in answer:
            fitting = [self._workspace.shown(self._workspace.root / model) for model in answer["fitting"]]
            if not fitting:
                raise FieldProblem(f"no model fits {folders[0]}: choose one under 'Model to start from'", "start-model")
            listed = ", ".join(fitting)
            raise FieldProblem(
                f"several models fit {folders[0]} ({listed}): choose one under 'Model to start from'", "start-model"
            )
        values, reasons = answer["values"], answer["reasons"]
        preset = values.get("lora_config_path")
        if preset in files.adapter_presets():  # as fields, which can be changed
            values = files.with_adapter(values, preset)
            reasons["lora"] = reasons.pop("lora_config_path")
        return files.Start(values, f"{Path(folders[0]).name}-{answer['goal']}", reasons=reasons)

    def _inside(self, request: Request, name: str) -> str:
        """Return a text of the body, which must not be a path outside of the folders.

        Raises:
            ValueError: if it is one.
        """
        text = text_of(request, name)
        self._workspace.require_inside(text, name)
        return text

    def _is_folder(self, value: Any) -> bool:
        return isinstance(value, str) and bool(value) and self._workspace.path(value, "model").is_dir()

    def _units(self, request: Request, effective: dict[str, Any]) -> dict[str, Any]:
        """Return steps and epochs for each other, once the number of clips is known."""
        body = body_of(request)
        clips, measured = body.get("clips"), body.get("steps_per_epoch")
        if not isinstance(clips, int) or not 0 < clips < MAX_CLIPS:
            return {}
        known = measured if isinstance(measured, int) and 0 < measured < MAX_CLIPS else None
        try:
            return unit_notes(effective, clips=clips, processes=processes_of(request), measured_steps=known)
        except OverflowError:  # such as 1e308 epochs
            return {}

    def _commands(self, request: Request, path: Path, effective: dict[str, Any]) -> list[str]:
        """Return the commands that check and run the file."""
        launch = [f"--num_processes={processes_of(request)}"] if processes_of(request) > 1 else []
        if effective["preprocessing_only"] is True:
            return [command_text(["songgen", "tokenize", str(path), *launch])]
        return [command_text(["songgen", name, str(path), *launch]) for name in ("check", "train")]
