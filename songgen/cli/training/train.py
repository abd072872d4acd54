"""`songgen train`: train a model, in one process or in several."""

import argparse
from typing import TYPE_CHECKING

from songgen.cli.run_arguments import add_config_arguments, add_launch_options, launch_command, split_off_launch
from songgen.config.loading import keys_text, load_run_config
from songgen.tasks import TASKS, Task, task_of_layout

if TYPE_CHECKING:
    from songgen.config import RunConfig

USAGE = "songgen train [CONFIG] [--key value ...] [--num_processes N | --config_file FILE]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `songgen train`."""
    add_config_arguments(parser, USAGE, "mixed_pro/step1.json", keys_text, is_optional=True)
    add_task_option(parser)
    add_launch_options(parser)


def add_task_option(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names the task."""
    parser.add_argument(
        "--task", choices=list(TASKS), help="what the model writes (if left out: the task of its token layout)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, and return the exit code of the run.

    Raises:
        ValueError: if the configuration or the launch options cannot be used; nothing was started.
    """
    words, options = split_off_launch(arguments, add_task_option)
    config = load_run_config(words, description=USAGE, warn=False)
    task = TASKS[arguments.task] if arguments.task else task_of(config)
    if options.are_needed:
        return launch_command(["train", *([] if task is None else ["--task", task.name]), *words], options)

    from songgen.planning.forecast import forecast_run
    from songgen.train.launch import run_training

    return run_training(words, task, description=USAGE, forecaster=forecast_run)


def task_of(config: "RunConfig") -> Task | None:
    """Return the task of a run: that of the configured token layout, or of the model's own; None of a pipeline.

    Raises:
        ValueError: if the layout is not configured and the model's configuration cannot be read.
    """
    model = config.model
    if model.track_pattern is not None:
        return task_of_layout(model.track_pattern)

    from songgen.runtime.model_folders import MODEL_CONFIG_FILES, PIPELINE_FILE, resolve_folder

    folder = resolve_folder(model.model_name_or_path, revision=model.model_revision, patterns=MODEL_CONFIG_FILES)
    if (folder / PIPELINE_FILE).is_file():
        return None

    from songgen.models.configuration_songgen import SongGenConfig
    from songgen.runtime.json_files import read_json_object
    from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

    return SongGenConfig.from_dict(read_json_object(folder / MODEL_CONFIG_FILE)).task
