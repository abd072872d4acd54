"""Prepare: choosing songs, the form of the configuration, saving it; the command is started as every job."""

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from songgen.runtime.files import write_text_atomic
from songgen.ui.commands import command_text
from songgen.ui.preparing.song_count import count_songs
from songgen.ui.site import Site, as_json, body_of, table_of, text_of
from songgen.ui.workspace import CONFIGS_FOLDER
from songgen.web.answers import json_response
from songgen.web.application import PageRoute


class PreparePart:
    """The endpoints of preparing."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site
        self._workspace = site.workspace

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        page, api = self._site.page, self._site.api
        return [
            PageRoute("/data/prepare", page(self.index)),
            PageRoute("/api/prepare/songs", api(self.songs)),
            PageRoute("/api/prepare/start", api(self.start)),
            PageRoute("/api/prepare/check", api(self.check), methods=["POST"]),
            PageRoute("/api/prepare/save", api(self.save), methods=["POST"]),
        ]

    def index(self, request: Request) -> Response:
        """Return the form: `?songs=FOLDER`, `?from=FOLDER` with settings of a data set or run, `?output=FOLDER`."""
        from songgen.ui.preparing.form import SPLIT, recipes, section_forms, top_fields
        from songgen.ui.preparing.labels import LABELS

        sections = section_forms()
        return self._site.render(
            request,
            "prepare.html",
            recipes=recipes(),
            start=request.query_params.get("from", ""),
            songs=request.query_params.get("songs", ""),
            output=request.query_params.get("output", ""),
            labels=LABELS,
            top_fields=top_fields(),
            split=sections[SPLIT],
            sections=[form for name, form in sections.items() if name != SPLIT],
        )

    def songs(self, request: Request) -> Response:
        """Return what is in a folder of songs: `?path=PATH`."""
        return json_response(vars(count_songs(self._workspace.path(request.query_params.get("path", ""), "songs"))))

    def start(self, request: Request) -> Response:
        """Return the value of every field for a recipe, a data set or a run: `?from=NAME`."""
        from songgen.ui.preparing.form import starting_values

        return json_response({"values": starting_values(request.query_params.get("from", ""), self._workspace)})

    def check(self, request: Request) -> Response:
        """Return the file that a form makes, its command, and what is wrong with it."""
        from songgen.ui.preparing.form import checked

        values = self._values(request)
        problem = notice = ""
        try:
            config = checked(values, self._workspace)
            exists = (self._workspace.root / config.settings.output_dir).exists()
            notice = config.settings.output_dir if exists else ""
        except ValueError as error:
            problem = self._site.language(request).message(str(error))
        path = self._config_path(values)
        return json_response(
            {
                "json": as_json(values),
                "command": command_text(["songgen", "prepare", path]),
                "problem": problem,
                "existing": notice,
            }
        )

    def save(self, request: Request) -> Response:
        """Write the file; the answer has the values of the command that uses it."""
        from songgen.ui.preparing.form import checked

        values = self._values(request)
        config = checked(values, self._workspace)
        path = self._config_path(values)
        target = self._workspace.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(target, as_json(values) + "\n")
        folder = self._workspace.path(config.settings.output_dir, "output_dir")
        return json_response({"config": path, "subject": self._workspace.shown(folder)})

    def _values(self, request: Request) -> dict[str, Any]:
        from songgen.ui.preparing.form import configuration

        changes = table_of(request, "values")
        lists = [body_of(request).get(name, []) for name in ("songs", "held_out")]
        if not all(isinstance(entry, list) for entry in lists):
            raise ValueError("songs, held_out: lists of songs are expected")
        songs, held_out = ([str(name) for name in entry] for entry in lists)
        return configuration(text_of(request, "from"), songs, held_out, changes, self._workspace)

    def _config_path(self, values: dict[str, Any]) -> str:
        """Return a path for the file: a new one, unless the same file was written before."""
        name = Path(str(values.get("output_dir") or "songs")).name
        wanted = f"prepare-{name}.json"
        same = self._workspace.root / CONFIGS_FOLDER / wanted
        if same.is_file() and same.read_text(encoding="utf-8") == as_json(values) + "\n":
            return str(CONFIGS_FOLDER / wanted)
        return self._workspace.new_name(CONFIGS_FOLDER, wanted)
