"""Reading audio in separate processes: a file that hangs, crashes or exhausts a decoder costs one row, not the run.

A reading process has a memory limit and is killed if one song takes too long. It exchanges JSON and raw samples over a
pipe, imports no large library, and ends when the process that started it ends.
"""

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from songgen.data.audio import AudioOptions
from songgen.data.clip_audio import ClipAudio, declared_seconds, read_clip
from songgen.data.manifests.clip import ClipRow, Rejection
from songgen.data.sound.levels import TrackSignal

T = TypeVar("T")

START_SECONDS = 120.0
"""Time limit for the start of a reading process."""

READY = b"ready"

VOICE_NAME = ""
"""Name of the reference voice among the tracks of an answer."""

Read = Callable[[ClipRow, AudioOptions], ClipAudio | Rejection]


BYTES_PER_GIB = 1 << 30


@dataclass(frozen=True)
class ReadingLimits:
    """Limits of time and memory for one song."""

    seconds: float = 300.0
    """Time limit for all files of a song, in seconds."""

    memory_bytes: int = 2 * BYTES_PER_GIB
    """Limit of the address space of a reading process (RLIMIT_AS)."""


class AudioReaders:
    """Reading processes, one for each thread that reads; a context manager that ends them.

    A process starts with the first song that it reads.

    Args:
        options: Limits of accepted audio.
        limits: Limits of time and memory for a song.
        count: Number of threads that will call `read`, `check` and `seconds`.
    """

    def __init__(self, options: AudioOptions, limits: ReadingLimits, count: int) -> None:
        self._readers = [_Reader(options, limits) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
        for reader in self._readers:
            self._idle.put(reader)

    def __enter__(self) -> "AudioReaders":
        return self

    def __exit__(self, *error: object) -> None:
        for reader in self._readers:
            reader.stop()

    def read(self, row: ClipRow) -> ClipAudio | Rejection:
        """Read a clip with `read_clip`; a song that takes too long or crashes is a rejection."""
        return self._borrow(lambda reader: reader.read(row))

    def check(self, row: ClipRow) -> ClipAudio | Rejection:
        """Read a clip with `read_clip`, and return only the measurements: the result has no tracks and no voice."""
        return self._borrow(lambda reader: reader.read(row, task="check"))

    def seconds(self, row: ClipRow) -> float:
        """Return the length of a clip from `declared_seconds`; 0 if that takes too long or crashes."""
        return self._borrow(lambda reader: reader.seconds(row))

    def _borrow(self, action: Callable[["_Reader"], T]) -> T:
        reader = self._idle.get()
        try:
            return action(reader)
        finally:
            self._idle.put(reader)


class _Failed(Exception):
    """Raised if a process does not answer, with a rejection code and a reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Reader:
    """One reading process, started on first use and again after it was lost."""

    def __init__(self, options: AudioOptions, limits: ReadingLimits) -> None:
        self._options = options
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def read(self, row: ClipRow, task: str = "read") -> ClipAudio | Rejection:
        try:
            answer, receive = self._ask(task, row)
            if "rejection" in answer:
                return Rejection(**answer["rejection"])
            arrays = {
                name: np.frombuffer(receive(), dtype=dtype).reshape(shape)
                for name, dtype, shape in answer.pop("arrays")
            }
        except _Failed as failure:
            return row.reject(failure.code, failure.reason, _first_path(row))
        voice = arrays.pop(VOICE_NAME, None)
        answer["clipped_tracks"] = tuple(answer["clipped_tracks"])
        answer["signals"] = {name: TrackSignal(**signal) for name, signal in answer["signals"].items()}
        return ClipAudio(tracks=arrays, voice=voice, **answer)

    def seconds(self, row: ClipRow) -> float:
        try:
            return float(self._ask("seconds", row)[0]["seconds"])
        except _Failed:
            return 0.0

    def _ask(self, task: str, row: ClipRow) -> tuple[dict[str, Any], Callable[[], bytes]]:
        """Send a request; return the answer and a function that receives the arrays that follow it."""
        pipe = self._pipe or self._start()
        deadline = time.monotonic() + self._limits.seconds

        def receive() -> bytes:
            try:
                if pipe.poll(max(0.0, deadline - time.monotonic())):
                    return pipe.recv_bytes()
            except (EOFError, ConnectionError):
                raise self._lost() from None
            self.stop()
            raise _Failed("audio_timeout", f"reading takes longer than {self._limits.seconds:g} s")

        try:
            pipe.send_bytes(json.dumps([task, row.to_json()]).encode())
        except ConnectionError:
            raise self._lost() from None
        return json.loads(receive()), receive

    def _lost(self) -> _Failed:
        """Clean up after a process that ended on its own, and return how it ended."""
        assert self._process is not None
        code = self._process.wait()
        self.stop()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return _Failed("audio_crash", f"the reading process ended with {how}")

    def _start(self) -> Connection:
        self._pipe, theirs = Pipe()
        with theirs:
            settings = {"options": asdict(self._options), "memory_bytes": self._limits.memory_bytes}
            root = str(Path(__file__).resolve().parents[2])
            inherited = os.environ.get("PYTHONPATH")
            # Thread pools of numerical libraries reserve address space for every core, which counts against the limit.
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root]),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            }
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "songgen.data.reading", str(theirs.fileno()), json.dumps(settings)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        try:
            ready = self._pipe.poll(START_SECONDS) and self._pipe.recv_bytes() == READY
        except (EOFError, ConnectionError):
            ready = False
        if not ready:
            self.stop()
            raise RuntimeError("the process that reads audio does not start; see its output above")
        return self._pipe

    def stop(self) -> None:
        """Kill the process and close its pipe."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _first_path(row: ClipRow) -> str:
    """Return the path to show if it is not known which file of a song is at fault."""
    return next((track.given for track in row.tracks.values()), "")


def serve(pipe: Connection, options: AudioOptions, read: Read = read_clip) -> None:
    """Answer requests until the other end is closed, also in the middle of an answer; runs in the reading process.

    Args:
        pipe: Connection to the process that sends requests.
        options: Limits of accepted audio.
        read: Function that reads one clip.
    """
    with suppress(EOFError, ConnectionError):  # the process that asks has ended, or has enough
        pipe.send_bytes(READY)
        while True:
            _answer(pipe, options, read)


def _answer(pipe: Connection, options: AudioOptions, read: Read) -> None:
    """Wait for a request and answer it."""
    task, content = json.loads(pipe.recv_bytes())
    row = ClipRow.from_json(content)
    try:
        if task == "seconds":
            pipe.send_bytes(json.dumps({"seconds": declared_seconds(row, options)}).encode())
            return
        result = read(row, options)
    except MemoryError:
        result = row.reject("audio_crash", "reading the song needs more memory than the limit", _first_path(row))
    if isinstance(result, Rejection):
        pipe.send_bytes(json.dumps({"rejection": asdict(result)}).encode())
    else:
        _send_clip(pipe, replace(result, tracks={}, voice=None) if task == "check" else result)


def _send_clip(pipe: Connection, clip: ClipAudio) -> None:
    arrays = dict(clip.tracks)
    if clip.voice is not None:
        arrays[VOICE_NAME] = clip.voice
    answer = {
        "arrays": [[name, array.dtype.str, array.shape] for name, array in arrays.items()],
        "energies": clip.energies,
        "duration": clip.duration,
        "clipped_tracks": clip.clipped_tracks,
        "cropped_seconds": clip.cropped_seconds,
        "trimmed_seconds": clip.trimmed_seconds,
        "signals": {name: asdict(signal) for name, signal in clip.signals.items()},
    }
    pipe.send_bytes(json.dumps(answer).encode())
    for array in arrays.values():
        pipe.send_bytes(array.reshape(-1).view(np.uint8).data)  # without a copy: ten minutes of stereo are 230 MB


def main() -> None:
    """Run the reading process."""
    # Ctrl-C reaches every process of the terminal; this one ends when its pipe is closed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.argv[2])
    limit = settings["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    options = settings["options"]
    options["required_tracks"] = tuple(options["required_tracks"])
    serve(Connection(int(sys.argv[1])), AudioOptions(**options))


if __name__ == "__main__":
    main()
