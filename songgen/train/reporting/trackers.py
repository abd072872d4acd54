"""Logging of metrics and audio: always to files in the run's folder, and to wandb or TensorBoard if asked for.

Training does not need a tracker, and none can stop it: one that is not installed or fails is left out with a warning.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from songgen.runtime.files import append_whole, write_text_atomic
from songgen.runtime.json_files import parse_json
from songgen.runtime.json_lines import Lines, read_lines, set_damaged_aside

METRICS_FILE = "metrics.jsonl"
SUPERSEDED_FILE = "metrics.superseded.jsonl"
SAMPLES_FOLDER = "samples"
WANDB, TENSORBOARD = "wandb", "tensorboard"

_WANDB_RUN_FILE = "wandb_run_id.txt"
_SECRET_KEY = re.compile(r"(^|_)(api_key|secret|password|(hub|access|auth|hf)_token)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_REDACTED = "<redacted>"
_UNSAFE_IN_FILE_NAMES = re.compile(r"[^\w.-]+")

_logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Destination of metrics and audio."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""

    def log_audio(self, name: str, path: Path, waveform: NDArray[np.float32], sample_rate: int, step: int) -> None:
        """Send a clip (samples x channels), which is also in a file."""

    def close(self) -> None:
        """Finish."""


def samples_folder(folder: Path, step: int) -> Path:
    """Return the folder of the songs of a step, in a run's folder; step 0 holds the originals."""
    return folder / SAMPLES_FOLDER / f"step_{step:08d}"


def audio_file_name(name: str) -> str:
    """Return the name of a clip as it is in a file name: other characters than letters, digits and .-_ become "_"."""
    return _UNSAFE_IN_FILE_NAMES.sub("_", name)


def has_samples(folder: Path, step: int) -> bool:
    """Return whether a run's folder holds songs of a step."""
    return samples_folder(folder, step).is_dir()


def redact(value: Any) -> Any:
    """Return a configuration without secrets: values of keys that name one, and hub tokens anywhere."""
    if isinstance(value, Mapping):
        return {
            key: _REDACTED if _SECRET_KEY.search(str(key)) and item is not None else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return _SECRET_VALUE.sub(_REDACTED, value) if isinstance(value, str) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics file; damaged lines, and one that a killed run left unfinished, are skipped."""
    return metric_lines(path).values


def metric_lines(path: Path) -> Lines[dict[str, Any]]:
    """Read a metrics file, with the numbers of damaged lines."""
    return read_lines(path, read_metric)


def read_metric(line: bytes) -> dict[str, Any]:
    """Parse a line of a metrics file.

    Raises:
        ValueError: if it is damaged; also another of `songgen.runtime.json_lines.LINE_ERRORS`.
    """
    record: dict[str, Any] = parse_json(line, constants=True)  # lists of non-finite steps have such numbers
    if not isinstance(record["step"], int) or isinstance(record["step"], bool):
        raise ValueError("the step is not a number")
    return record


class MetricsFile:
    """JSON lines with step, epoch, time and values; a value that is not finite is null.

    Args:
        folder: folder of the run.
        resume_step: step that the run resumes from; None for a new run. Later lines of an earlier attempt are moved to
            `metrics.superseded.jsonl`, so that the file has every step once.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        """Move damaged and superseded lines aside."""
        self.path = folder / METRICS_FILE
        self._pending: list[str] = []
        self._failed = False
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            set_damaged_aside(self.path, read_metric, "training is not affected")
            records = read_metrics(self.path)
            last_step = -1 if resume_step is None else resume_step
            superseded = [record for record in records if record["step"] > last_step]
            if superseded:
                with (folder / SUPERSEDED_FILE).open("a", encoding="utf-8") as file:
                    file.writelines(_json_line(record) for record in superseded)
            kept = (_json_line(record) for record in records if record["step"] <= last_step)
            write_text_atomic(self.path, "".join(kept))

    def write(self, values: Mapping[str, float], step: int, epoch: float | None) -> None:
        """Append one line. If the disk is full, that is logged once, and the line is written with the next one."""
        record = {"step": step, "epoch": epoch, "time": round(time.time(), 3)} | {
            name: float(value) for name, value in values.items()
        }
        self._pending.append(_json_line(record))
        try:
            append_whole(self.path, "".join(self._pending).encode())
            self._pending.clear()
        except OSError as error:
            if not self._failed:
                self._failed = True
                _logger.warning("metrics cannot be written to %s (%s); training continues", self.path, error)


def _json_line(record: Mapping[str, Any]) -> str:
    """Return a record as one line of strict JSON."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


class WandbTracker:
    """Weights & Biases; offline unless WANDB_MODE says otherwise. Neither code nor git state leaves the machine."""

    def __init__(self, folder: Path, project: str, run_name: str | None, config: Any, resume_step: int | None) -> None:
        """Start a run, or continue the run of this folder."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        id_file = folder / _WANDB_RUN_FILE
        earlier_id = (
            id_file.read_text(encoding="utf-8").strip() if resume_step is not None and id_file.exists() else None
        )
        self._run = wandb.init(
            project=project,
            name=run_name,
            dir=str(folder),
            config=config,
            id=earlier_id,
            resume="allow" if earlier_id and mode == "online" else None,
            mode=mode,
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_code=True,
                disable_git=True,
                x_disable_machine_info=True,
            ),
        )
        id_file.write_text(self._run.id, encoding="utf-8")
        # The axis is our own step: wandb's counter only rises, and rejects the steps that a resumed run repeats.
        self._run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        self._run.log({"step": step, **values})

    def log_audio(self, name: str, path: Path, waveform: NDArray[np.float32], sample_rate: int, step: int) -> None:
        """Send the file."""
        self._run.log({"step": step, name: self._wandb.Audio(str(path))})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class TensorboardTracker:
    """TensorBoard event files under `tensorboard/` in the run's folder."""

    def __init__(self, folder: Path, project: str, run_name: str | None, config: Any, resume_step: int | None) -> None:
        """Open an event file; events of an earlier attempt after the resumed step are marked as replaced."""
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=purge_step)  # type: ignore[no-untyped-call]
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=2, default=str)}\n```")  # type: ignore[no-untyped-call]

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def log_audio(self, name: str, path: Path, waveform: NDArray[np.float32], sample_rate: int, step: int) -> None:
        """Send the first channel, the only one that TensorBoard plays."""
        self._writer.add_audio(name, waveform[None, :, 0], step, sample_rate)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write buffered events and close the file."""
        self._writer.close()  # type: ignore[no-untyped-call]


TRACKERS: dict[str, Callable[[Path, str, str | None, Any, int | None], Tracker]] = {
    WANDB: WandbTracker,
    TENSORBOARD: TensorboardTracker,
}
"""Name in `report_to` -> tracker; its package is imported when it is opened."""


class Trackers:
    """Sends everything to the run's own files and to the chosen trackers.

    Args:
        folder: folder of the run.
        report_to: names from `TRACKERS`.
        project: name of the project, for trackers that have projects.
        run_name: name of the run in trackers; None for the name of the folder.
        config: resolved configuration, sent without secrets.
        resume_step: step that the run resumes from; None for a new run.
        enabled: False on all but the main process; then nothing is opened or written.
        send_audio: whether audio samples are sent to the trackers; they are written to files in any case.

    Raises:
        ValueError: if a name is unknown.
    """

    def __init__(
        self,
        folder: Path,
        report_to: Iterable[str] = (),
        *,
        project: str = "songgen",
        run_name: str | None = None,
        config: Mapping[str, Any] | None = None,
        resume_step: int | None = None,
        enabled: bool = True,
        send_audio: bool = True,
    ) -> None:
        """Open the metrics file and the trackers."""
        names = tuple(report_to)
        if unknown := [name for name in names if name not in TRACKERS]:
            raise ValueError(f"report_to: unknown {', '.join(unknown)}; known: {', '.join(TRACKERS)}, or none")
        self.folder = folder
        self.enabled = enabled
        self.send_audio = send_audio
        self._open: dict[str, Tracker] = {}
        if not enabled:
            return
        self._metrics = MetricsFile(folder, resume_step)
        shown_config = json.loads(json.dumps(redact(config or {}), default=str))
        for name in names:
            try:
                self._open[name] = TRACKERS[name](folder, project, run_name or folder.name, shown_config, resume_step)
            except ImportError as error:
                _logger.warning(
                    "%s cannot be used (%s): install it with `pip install %s`; all metrics are in %s",
                    *(name, error, name, self._metrics.path),
                )
            except Exception as error:  # a tracker must not stop a run, whatever it raises
                _logger.warning("%s does not start (%s); all metrics are in %s", name, error, self._metrics.path)

    def log(self, values: Mapping[str, float], step: int, epoch: float | None = None) -> None:
        """Send numbers; tensors of one element are numbers too."""
        if not self.enabled:
            return
        numbers = {name: float(value) for name, value in values.items()}
        self._metrics.write(numbers, step, epoch)
        sent = numbers if epoch is None else numbers | {"epoch": epoch}
        self._each(lambda tracker: tracker.log(sent, step))

    def log_audio(self, name: str, waveform: ArrayLike, sample_rate: int, step: int) -> Path | None:
        """Write a clip to `samples/step_<step>/<name>.wav` and send it.

        Args:
            name: name of the clip; characters that are not allowed in a file name become "_" there.
            waveform: samples, or channels x samples, in -1..1 (clipped; a sample that is not finite is silent).
            sample_rate: samples a second.
            step: optimizer step.

        Returns:
            The file; None if this process does not write, or the file could not be written.
        """
        if not self.enabled:
            return None
        import soundfile

        channels = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
        samples = np.clip(np.nan_to_num(channels, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0).T
        path = samples_folder(self.folder, step) / f"{audio_file_name(name)}.wav"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, sample_rate, subtype="PCM_16")
        except (OSError, RuntimeError) as error:
            _logger.warning("the audio sample %s cannot be written (%s); training continues", path, error)
            return None
        if self.send_audio:
            self._each(lambda tracker: tracker.log_audio(name, path, samples, sample_rate, step))
        return path

    def close(self) -> None:
        """Finish all trackers."""
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, send: Callable[[Tracker], None]) -> None:
        """Call a function with every open tracker; one that fails is switched off."""
        for name, tracker in list(self._open.items()):
            try:
                send(tracker)
            except Exception as error:  # a tracker must not stop a run, whatever it raises
                del self._open[name]
                _logger.warning(
                    "%s failed (%s) and is switched off; all metrics are in %s", name, error, self._metrics.path
                )
