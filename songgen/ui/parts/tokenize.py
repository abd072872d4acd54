"""Tokenize: what is needed first, and the options of the data configuration that `songgen prepare` has written."""

import dataclasses
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from songgen.config.keys import all_keys
from songgen.jobs.record import JobView, find_jobs, newest_job
from songgen.runtime.json_files import read_json_object
from songgen.ui.commands import command_form, command_values
from songgen.ui.configuring.labels import label_of
from songgen.ui.fields import Field, field_of_key
from songgen.ui.parts.jobs import job_values
from songgen.ui.preparing.labels import OPTION_LABELS
from songgen.ui.site import Site
from songgen.web.application import PageRoute

MAIN_KEYS = ("model_name_or_path", "save_to_disk", "min_duration_in_seconds", "max_duration_in_seconds", "long_clips")
"""Keys that are always shown."""

PART_KEYS = ("audio_codec", "description_tokenizer_name", "lyrics_tokenizer", "voice_encoder")
"""Keys that name a part in place of the model's."""

FURTHER_KEYS = (
    "default_language",
    "max_text_length",
    "max_description_token_length",
    "max_prompt_token_length",
    "voice_storage",
    "max_bad_fraction",
    "max_train_samples",
    "max_eval_samples",
    "audio_encoder_per_device_batch_size",
    "preprocessing_num_workers",
    "save_codec_steps",
    "audio_timeout_seconds",
    "audio_memory_gib",
    "keep_columns",
)
"""Other keys that tokenizing reads."""

SHOWN_OPTIONS = {"tokenizer": (), "init": ("out", "preset", "audio_model"), "codec": ("manifest", "out")}
"""Options that are always shown of the commands that make a missing part."""

CODEC_FOLDER = "codec"
"""Name of the folder of a new codec, next to the model."""

LAUNCH_OPTIONS = ("devices", "gpu_ids")
"""Options of the launch that are offered."""


class TokenizePart:
    """The endpoint of tokenizing; the commands are started as every job."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site
        self._workspace = site.workspace

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        return [PageRoute("/data/tokenize", self._site.page(self.index))]

    def index(self, request: Request) -> Response:
        """Return the form: `?data=FOLDER` with a prepared data set."""
        from songgen.prepare.output.next_steps import missing_parts
        from songgen.prepare.output.writers import DATA_CONFIG_FILE

        folder = self._workspace.existing_folder(request.query_params.get("data", ""), "data")
        shown = self._workspace.shown(folder)
        if not (folder / DATA_CONFIG_FILE).is_file():
            raise ValueError(f"{shown} has no {DATA_CONFIG_FILE}: prepare songs first, and choose their data set")
        values = read_json_object(folder / DATA_CONFIG_FILE)
        missing = self._with_codec(missing_parts(shown, values, self._workspace.root), folder)
        views = find_jobs(self._workspace.jobs)
        found = {name: newest_job(views, str(given["out"]), (name,)) for name, given in missing.items()}
        jobs = {name: view for name, view in found.items() if view is not None}
        texts = self._site.language(request)
        return self._site.render(
            request,
            "tokenize.html",
            folder=shown,
            config=f"{shown}/{DATA_CONFIG_FILE}",
            tokens=str(values.get("save_to_disk") or ""),
            needed=[name for name in missing if name != "codec"],
            options={name: _command_fields(name, given | _entered(jobs.get(name))) for name, given in missing.items()},
            shown_options=SHOWN_OPTIONS,
            key_labels={name: label_of(name) for name in (*PART_KEYS, *FURTHER_KEYS)},
            option_labels=OPTION_LABELS,
            targets={name: given["out"] for name, given in missing.items()},
            main=_key_fields(MAIN_KEYS, values),
            part_fields=_key_fields(PART_KEYS, values),
            further=_key_fields(FURTHER_KEYS, values),
            launch=[field for field in command_form("tokenize").fields if field.name in LAUNCH_OPTIONS],
            jobs={name: job_values(view, texts) for name, view in jobs.items()},
        )

    def _with_codec(self, missing: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
        """Add the codec of the user's own songs to what a model is made of: to be fitted, or used if it is there."""
        from songgen.prepare.output.next_steps import folder_beside

        if "init" not in missing:
            return missing
        codec = folder_beside(missing["init"]["out"], CODEC_FOLDER)
        try:
            is_there = self._workspace.path(codec, "codec").exists()
        except ValueError:  # the data set names a model outside of the folders of the page
            return missing
        if is_there:
            return missing | {"init": {**missing["init"], "audio_model": codec}}
        from songgen.prepare.output.writers import METADATA_FILES

        names = [name for name in METADATA_FILES.values() if (folder / name).is_file()]
        manifests = [f"{self._workspace.shown(folder)}/{name}" for name in names[:1]]
        return missing | {"codec": {"manifest": manifests, "out": codec}}


def _entered(view: JobView | None) -> dict[str, Any]:
    """Return what was entered for a command that has not succeeded; nothing for one that has."""
    if view is None or view.state == "finished":
        return {}
    try:
        return command_values(view.job.command)
    except ValueError:  # a job of somebody else
        return {}


def _key_fields(names: tuple[str, ...], values: dict[str, Any]) -> list[Field]:
    """Return the fields of some keys, with what a data configuration gives as defaults."""
    fields = [field_of_key(all_keys()[name]) for name in names]
    fields = [dataclasses.replace(field, default=values.get(field.name, field.default)) for field in fields]
    # Tokenizing writes one folder, although training reads several.
    return [dataclasses.replace(field, kind="text") if field.name == "save_to_disk" else field for field in fields]


def _command_fields(name: str, given: dict[str, Any]) -> list[tuple[Field, Any]]:
    """Return the fields of a command, with the values that are filled in."""
    return [(field, given.get(field.name)) for field in command_form(name).fields]
