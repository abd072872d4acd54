"""Entry point of the training scripts: joins the processes, checks cheap things first, trains, returns an exit code."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from songgen.config import RunConfig, load_run_config
from songgen.data.loader import worker_failure
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_SIGNAL_BASE
from songgen.runtime.control.keyboard import Keyboard
from songgen.runtime.control.requests import EvaluationRequests, RequestFolder
from songgen.runtime.private_names import is_lost_connection
from songgen.runtime.processes.agreement import from_main
from songgen.runtime.processes.commands import Inbox
from songgen.runtime.processes.peers import LostProcess
from songgen.runtime.processes.signals import leaving_on_signals, leaving_with_launcher
from songgen.runtime.processes.start import lost_process_message, start_processes
from songgen.runtime.status import EVALUATION_STATUS_FILE, RUN_STATUS_FILE, RunStatus, read_run_status
from songgen.runtime.terminal import outliving_terminal, say
from songgen.tasks import Task
from songgen.train.build import build_trainer
from songgen.train.checkpoints.files import RUN_CONFIG_FILE
from songgen.train.comparing.at_end import compare_at_end
from songgen.train.forecast import Forecaster, peak_memory_line, show_forecast
from songgen.train.optimization.determinism import use_deterministic_operations
from songgen.train.output_folder import back_up_run, locked, require_outside, require_usable, require_way_back
from songgen.train.publishing.hub import publish, require_account, require_repository_name
from songgen.train.reporting.banner import banner, diagnose
from songgen.train.reporting.console import CONSOLE_FILE, Console, route_logging, route_warnings
from songgen.train.reporting.progress_file import ProgressFile
from songgen.train.same_everywhere import require_same_run
from songgen.train.supervision import Supervision, begin_run

logger = logging.getLogger(__name__)


def run_training(
    arguments: Sequence[str], task: Task | None, *, description: str = "", forecaster: Forecaster | None = None
) -> int:
    """Run a training from command line arguments.

    Args:
        arguments: `CONFIG.json [--key value ...]`.
        task: task that the model is trained for; None for a model without tasks.
        description: description of the program and its exit codes, shown by `--help`.
        forecaster: makes the forecast that is shown at the start of the run; None to show none.

    Returns:
        The exit code, one of `songgen.exit_codes`.
    """
    with outliving_terminal():
        console = Console(enabled=_rank() == 0)
        route_logging(console)
        route_warnings(console)
        try:
            config = load_run_config(arguments, description=description)
            _require_possible(config)
            with Run(config, task) as run:
                _train(run, task, console, forecaster)
        except ValueError as error:
            _say_refusal(error, console)
            return EXIT_ERROR
        except LostProcess as error:
            say(f"error: {error}")
            return error.exit_code
        except KeyboardInterrupt:
            say(f"process {_rank()}: interrupted before the run began; nothing was written")
            return EXIT_SIGNAL_BASE + signal.SIGINT
    return run.exit_code


class Run:
    """One launch of a training run, as seen by one process: its folder, lock, process group and supervision.

    A context manager: on entry it joins the processes, locks the folder and records the start of the run. An exception
    in the block is reported by the supervision and becomes the exit code; it is not raised again.
    """

    def __init__(self, config: RunConfig, task: Task | None) -> None:
        """Keep the configuration; nothing is written or joined before the object is entered.

        Args:
            config: resolved configuration; its folder was checked already.
            task: task that the model is trained for; None for a model without tasks.
        """
        training = config.training
        self.config = config
        self.task = task
        self.folder = Path(training.output_dir)
        self.status_file = RUN_STATUS_FILE if training.do_train else EVALUATION_STATUS_FILE
        self.exit_code = EXIT_ERROR
        self._earlier: RunStatus | None = None
        self._held = ExitStack()
        self._start = ExitStack()
        self._has_joined = False

    def __enter__(self) -> Run:
        """Join the other processes and lock the folder.

        Raises:
            ValueError: if the launch does not fit, or another run uses the folder; nothing was written.
            LostProcess: if another process ended before the supervision began, which explains all later failures.
        """
        # Until commands are accepted. A process that waits for others does not see Ctrl-C by itself, and without its
        # launcher it would wait for those that will never start.
        self._start.enter_context(leaving_on_signals((signal.SIGINT,)))
        self._start.enter_context(leaving_with_launcher("training had not begun"))
        try:
            run_id = self._join()
        except BaseException as error:
            self._release()
            if is_lost_connection(error):
                raise LostProcess(lost_process_message()) from error
            raise
        self.supervision = self._held.enter_context(
            Supervision(
                self.folder,
                rank=self.accelerator.process_index,
                world_size=self.accelerator.num_processes,
                run_id=run_id,
                status_file=self.status_file,
                earlier=self._earlier,
            )
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Report how the run ended and release everything."""
        if error is not None:
            self.exit_code = self.supervision.fail(error)
            if self.supervision.reported:
                step = self.supervision.heartbeat.latest.step if self.supervision.trains else None
                cause = worker_failure(error) or error
                if diagnosis := diagnose(cause, self.config):
                    self.supervision.explain(diagnosis)
                    say(banner(diagnosis, cause, self.folder, step))
        self._release()
        return isinstance(error, Exception | KeyboardInterrupt | SystemExit)

    def _join(self) -> str:
        """Join the other processes, compare them and lock the folder.

        Returns:
            The run's random name.

        Raises:
            ValueError: if the processes were given different runs, or another run uses the folder.
        """
        training = self.config.training
        self.accelerator = start_processes(
            dtype=training.dtype, seed=training.seed, timeout_seconds=training.ddp_timeout, folder=self.folder
        )
        self._has_joined = True
        require_same_run(self.config, "" if self.task is None else self.task.name)
        return str(from_main(self.accelerator.process_index, self._take_folder))

    def take_commands(self, inbox: Inbox, console: Console) -> None:
        """Accept commands until the run has ended, not only while it trains.

        The launcher forwards signals with a delay, and sends one when another process has failed.
        """
        self._start.close()
        self._held.enter_context(inbox)
        if self.accelerator.is_main_process:
            inbox.listen_to(Keyboard(console.info))
            inbox.listen_to(RequestFolder(self.folder, self.supervision.run_id))

    def take_stops(self, inbox: Inbox) -> None:
        """Accept requests to stop, for a run that only evaluates. A signal ends it at once: nothing is to be saved."""
        if self.accelerator.is_main_process:
            inbox.ask(self._held.enter_context(EvaluationRequests(self.folder, self.supervision.run_id)))

    def done(self, step: int, *, stopped: bool) -> None:
        """Record that the run ended without an error."""
        self.supervision.done(step, stopped=stopped)
        self.exit_code = EXIT_DONE

    def _take_folder(self) -> str:
        """Lock the folder, back up an earlier run if asked to, and record the start of the run (main process only).

        Returns:
            The run's random name.
        """
        self._held.enter_context(locked(self.folder))
        if self.config.training.overwrite_output_dir and (backup := back_up_run(self.folder)) is not None:
            logger.warning("the earlier run in %s is in %s now", self.folder, backup)
        # This file marks the folder as a run's. One that exists is kept until the checkpoint to resume was compared
        # with it.
        if not (self.folder / RUN_CONFIG_FILE).exists():
            self.config.save(self.folder / RUN_CONFIG_FILE)
        self._earlier = read_run_status(self.folder, self.status_file)
        return begin_run(self.folder, self.status_file)

    def _release(self) -> None:
        """Release signal handlers, lock and processes."""
        self._start.close()
        self._held.close()
        # An orderly shutdown waits for the other processes, which may be gone after a failure.
        if self._has_joined and (self.exit_code == EXIT_DONE or self.accelerator.num_processes == 1):
            self.accelerator.end_training()


def _train(run: Run, task: Task | None, console: Console, forecaster: Forecaster | None) -> None:
    """Build the trainer, train, publish, and record how the run ended.

    Raises:
        Exception: if anything fails; `Run` reports it.
    """
    training = run.config.training
    console.copy_to(run.folder / CONSOLE_FILE)
    forecast = show_forecast(forecaster, run.config, run.accelerator)
    trainer = build_trainer(run.config, task, run.accelerator, console, run.supervision.heartbeat)
    trainer.reporter.peak_memory = partial(peak_memory_line, run.accelerator.device, forecast)
    run.supervision.running(trainer.total_steps)
    if not training.do_train:
        run.take_stops(trainer.inbox)
        trainer.evaluate_only()
        run.done(trainer.state.step, stopped=trainer.stopped)
        return
    run.take_commands(trainer.inbox, console)
    if run.accelerator.is_main_process:
        trainer.reporter.progress_file = ProgressFile(run.folder, trainer.reporter.snapshot)
        run.supervision.also_write(trainer.reporter.progress_file.write)
    state = trainer.train()
    compare_at_end(trainer)
    if not trainer.stopped and training.push_to_hub and run.accelerator.is_main_process:
        publish(run.folder, training.hub_model_id, private=training.hub_private)
    run.done(state.step, stopped=trainer.stopped)


def _require_possible(config: RunConfig) -> None:
    """Run the checks that cost nothing, before any process is joined or file written.

    Raises:
        ValueError: if the run must not or cannot write to its folder, or publish.
    """
    training = config.training
    folder = Path(training.output_dir)
    if training.push_to_hub:
        require_repository_name(training.hub_model_id or folder.resolve().name)
        require_account()
    require_usable(folder, resume=training.resume, overwrite=training.overwrite_output_dir)
    if training.overwrite_output_dir:
        data = {f"save_to_disk {number}": path for number, path in enumerate(config.data.dataset_folders(), 1)}
        require_outside(folder, {"model_name_or_path": config.model.model_name_or_path, **data})
    elif training.resume == "auto" and training.do_train:
        require_way_back(folder)
    if training.deterministic:
        use_deterministic_operations()


def _say_refusal(error: ValueError, console: Console) -> None:
    """Print why a run does not start, once on each machine: its processes share files and environment."""
    if _rank() == 0:
        console.info(f"error: {error}")
    elif os.environ.get("LOCAL_RANK", str(_rank())) == "0":
        say(f"error: process {_rank()}: {error}")


def _rank() -> int:
    """Return the rank of this process, which is in the environment before it joins the others."""
    return int(os.environ.get("RANK", "0"))
