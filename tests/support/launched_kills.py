"""Kills of single processes of launched commands: any process, at any moment, by any signal.

Unlike `killing`, which kills all processes of a run at once, this starts the commands themselves and leaves it to the
other processes of the launch to notice. After each kill, none of them may remain; what is on the disk must be that of
the undisturbed run; and the same command must continue to the same end.
"""

import hashlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from forked import saved_files
from killing import Kill
from launching import ROOT, make_world, records, write_config
from limits import SAFETY_SECONDS
from prepare_songs import write_song
from preprocess_fakes import write_corpus
from training_fakes import tiny_codec
from warden import end, marked_processes

from songgen.conditioning import train_caption_tokenizer
from songgen.train.checkpoints.folders import candidates
from songgen.train.checkpoints.state import read_trainer_state

MARK = "SONGGEN_KILLED_LAUNCH"
"""Environment variable with the name of a launch, which all its processes have, also those without a parent."""

GONE_SECONDS = 120.0
"""Within which every process has ended after a kill. It takes two to eight seconds, and more on a busy machine."""

LOOK_SECONDS = 0.01

LAUNCHER, RANKS, WORKER = "launcher", ("rank 0", "rank 1"), "worker"

SIGNALS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("SIGKILL",), 14),
    (("SIGTERM",), 1),
    (("SIGINT",), 1),
    (("SIGHUP",), 1),
    (("SIGINT", "SIGHUP"), 1),
    (("SIGTERM", "SIGKILL"), 1),
    (("SIGINT", "SIGINT"), 1),
)
"""Signals that a victim gets, one after the other, and how often."""

PAUSE_SECONDS = 3.0
"""Most seconds between two signals to a victim."""

AFTER_EVENT_SECONDS = 0.5
"""Most seconds between an event and the kill that is aimed at it."""

_TEMPORARY = re.compile(r".*\.tmp(-.*)?|\..*\.(staging|replaced)|.*\.work|.*\.damaged\..*")
"""Names that nothing may have once the work is done."""


class Launch:
    """A command that was started, and all its processes."""

    def __init__(self, words: Sequence[str], log: Path, caches: Path) -> None:
        """Start `python -m WORDS`, as on a machine without GPUs and network."""
        self.name = secrets.token_hex(8)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
        environment |= {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
        environment |= {"XDG_CACHE_HOME": str(caches), MARK: self.name}
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_heed_signals,
            )

    def roles(self) -> dict[str, list[int]]:
        """Return the living processes by their part in the launch."""
        found: dict[str, list[int]] = {}
        for pid in self.left():
            found.setdefault(self._role(pid), []).append(pid)
        return found

    def _role(self, pid: int) -> str:
        if pid == self.process.pid:
            return LAUNCHER
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            return WORKER
        rank = next((value[5:].decode() for value in environ if value.startswith(b"RANK=")), None)
        return f"rank {rank}" if rank is not None and parent == self.process.pid else WORKER

    def left(self) -> set[int]:
        """Return the processes that run."""
        self.process.poll()  # collects it
        return marked_processes(self.name, MARK)

    def wait(self, seconds: float) -> float | None:
        """Wait until all processes have ended; return how long it took, or None if some have not."""
        began = time.monotonic()
        while self.left():
            if time.monotonic() - began > seconds:
                return None
            time.sleep(LOOK_SECONDS)
        self.process.wait(SAFETY_SECONDS)  # it has ended, and is collected
        return time.monotonic() - began

    def end(self) -> None:
        """Kill what is left."""
        while left := self.left():
            end(left)
            time.sleep(LOOK_SECONDS)


@dataclass(frozen=True)
class Aim:
    """When a kill is to happen, to whom, and how."""

    event: str | None
    """Event to wait for; None: none."""
    seconds: float
    """Seconds after the event, or after the start."""
    victim: str
    """Part of the victim in the launch; another one if there is none of that part."""
    signals: tuple[str, ...]
    """Names of the signals."""
    pause: float
    """Seconds between two of them."""


class LaunchedKills:
    """A command of several processes, what it writes, and what an undisturbed run of it has written."""

    victims: tuple[str, ...] = (LAUNCHER, *RANKS, WORKER)

    def __init__(self, folder: Path, draws: random.Random) -> None:
        """Run the command undisturbed, for comparison."""
        self.folder, self.draws, self.place = folder, draws, folder / "place"
        self.output = self.place / "out"
        self.place.mkdir(parents=True)
        self.words = self.make_command()
        began = time.monotonic()
        launch = self._start("straight")
        gone = launch.wait(SAFETY_SECONDS)
        launch.end()
        assert gone is not None and launch.process.returncode == 0, launch.log.read_text()
        self.seconds = time.monotonic() - began
        self.expected = self.content()
        self.names = self.remaining_names()
        self._clear()

    def make_command(self) -> list[str]:
        """Write the inputs; return the words of the command, from the module on."""
        raise NotImplementedError

    events: ClassVar[dict[str, str]]
    """Events that a kill may be aimed at -> pattern of a file in the place that is written then."""

    def content(self) -> dict[str, Any]:
        """Return all that must be as in the undisturbed run once the work is done."""
        raise NotImplementedError

    def problem_on_the_way(self) -> str | None:
        """Return how an unfinished output differs from what the undisturbed run had at that point."""
        return None

    def reached(self) -> int | None:
        """Return the step from which the next run continues, for work that counts steps."""
        return None

    def is_done(self) -> bool:
        """Return whether there is nothing left to do."""
        return self.output.exists()

    def course(self, kind: str, most: int) -> list[Kill]:
        """Kill one run again and again until it is through, at most so many times; then let it end and compare."""
        self._clear()
        kills: list[Kill] = []
        while len(kills) < most:
            kill = self._kill_once(kind, len(kills))
            if kill is None:
                break
            kills.append(kill)
            if self.is_done():
                break
        launch = self._start("last")
        if launch.wait(SAFETY_SECONDS) is None:
            problem: str | None = "the last start hangs"
        elif launch.process.returncode:
            problem = f"the last start ends with {launch.process.returncode}: {_last_line(launch.log)}"
        else:
            problem = self._difference()
        launch.end()
        if problem is not None:
            shutil.copytree(self.place, self.folder / f"problem-{secrets.token_hex(3)}", symlinks=True)
        return [replace(kill, problem=kill.problem or problem) for kill in kills]

    def _start(self, name: str) -> Launch:
        return Launch(self.words, self.folder / f"{name}.log", self.place / "caches")

    def _clear(self) -> None:
        shutil.rmtree(self.place)
        self.place.mkdir()

    def _difference(self) -> str | None:
        content, names = self.content(), self.remaining_names()
        different = sorted(name for name in {*content, *self.expected} if content.get(name) != self.expected.get(name))
        if different:
            return f"other {', '.join(different)}"
        left = sorted(names - self.names)
        return f"left behind: {', '.join(left)}" if left else None

    def remaining_names(self) -> set[str]:
        """Return the names in the place of all that could have been left behind."""
        paths = [path for path in self.place.rglob("*") if _TEMPORARY.fullmatch(path.name)]
        return {path.relative_to(self.place).as_posix() for path in [*paths, *self.place.iterdir()]}

    def _aim(self) -> Aim:
        events = [None, None, *self.events, "joining"]
        event = self.draws.choice(events)
        seconds = self.draws.uniform(0, self.seconds if event is None else AFTER_EVENT_SECONDS)
        signals = self.draws.choices([names for names, _ in SIGNALS], [weight for _, weight in SIGNALS])[0]
        return Aim(event, seconds, self.draws.choice(self.victims), signals, self.draws.uniform(0, PAUSE_SECONDS))

    def _kill_once(self, kind: str, number: int) -> Kill | None:
        """Start the run and kill one of its processes; return None if it was through before."""
        aim = self._aim()
        began = time.monotonic()
        launch = self._start(f"kill-{number}")
        try:
            if not self._wait_for(aim, launch):
                return None
            roles = launch.roles()
            if not roles:
                return None
            victim = aim.victim if aim.victim in roles else self.draws.choice(sorted(roles))
            pid = self.draws.choice(sorted(roles[victim]))
            moment = time.monotonic() - began
            for place, name in enumerate(aim.signals):
                time.sleep(aim.pause if place else 0)
                _send(pid, signal.Signals[name])
            is_killed = "SIGKILL" in aim.signals
            gone = launch.wait(GONE_SECONDS if is_killed else SAFETY_SECONDS)
            problem = None
            if gone is None:
                problem = f"{len(launch.left())} processes remain: {sorted(launch.roles())}"
        finally:
            launch.end()
        code, printed = launch.process.returncode, launch.log.read_text(errors="replace")
        if _own_traceback(printed):
            trace = self.folder / f"traceback-{secrets.token_hex(3)}.log"
            shutil.copyfile(launch.log, trace)
            problem = problem or f"a traceback ({trace.name})"
        problem = problem or self.problem_on_the_way()
        outcome = f"exit code {code}: {_last_line(launch.log)}"
        aimed = f"{aim.event or 'any time'} + {aim.seconds:.2f} s"
        return Kill(kind, 2, moment, self.reached(), problem, victim, " ".join(aim.signals), aimed, gone, outcome)

    def _wait_for(self, aim: Aim, launch: Launch) -> bool:
        """Wait for the moment of a kill; return whether the launch is still under way."""
        deadline = time.monotonic() + SAFETY_SECONDS
        condition = self._condition(aim.event, launch)
        while not condition():
            if launch.process.poll() is not None and not launch.left():
                return False
            assert time.monotonic() < deadline, f"{aim.event} does not happen\n{launch.log.read_text()}"
            time.sleep(LOOK_SECONDS)
        time.sleep(aim.seconds)
        return bool(launch.left())

    def _condition(self, event: str | None, launch: Launch) -> Callable[[], bool]:
        if event is None:
            return lambda: True
        if event == "joining":  # ranks have started and look for each other once they have imported everything
            return lambda: len({*launch.roles()} - {LAUNCHER}) > 0
        began = time.time()
        return lambda: any(_is_newer(path, began) for path in self.place.glob(self.events[event]))


class LaunchedTraining(LaunchedKills):
    """`songgen train --num_processes 2`, with loader workers and an evaluation."""

    steps, logging_steps = 10, 2

    def make_command(self) -> list[str]:
        """Write model, data and configuration."""
        world = make_world(self.folder / "world", num_train=7, num_evaluation=2, dropout=0.2)
        config = write_config(
            world,
            output_dir=str(self.output),
            max_steps=self.steps,
            save_steps=1,
            save_total_limit=2 * self.steps,
            ema_decay=0.8,
            condition_dropout=0.3,
            dataloader_num_workers=1,
            dataloader_timeout=60,
            eval_strategy="steps",
            eval_steps=5,
            logging_steps=self.logging_steps,
        )
        config = config.rename(self.folder / "train.json")
        return ["songgen.cli.main", "train", str(config), "--num_processes", "2"]

    events: ClassVar = {
        "locked": "out/.run.lock",
        "heartbeat": "out/heartbeat-1.json",
        "saving": "out/checkpoint-*.tmp-*",
        "saved": "out/checkpoint-*[0-9]",
        "final model": "out/checkpoint-10",
    }

    def content(self) -> dict[str, Any]:
        """Files of every checkpoint, the model, and the metrics without rates."""
        found: dict[str, Any] = {}
        for path in sorted(self.output.glob("checkpoint-*")):
            found |= {f"{path.name}/{name}": entry.sha256 for name, entry in saved_files(path).items()}
        for name in ("model.safetensors", "config.json", "file_hashes.json"):
            found[name] = _sha256(self.output / name)
        # A stop adds a line for the steps since the last one, which the line after it covers as well.
        lines = [line for line in records(self.output) if "eval/loss" in line or line["step"] % self.logging_steps == 0]
        return found | {"metrics.jsonl": [_without_times(line) for line in lines]}

    def problem_on_the_way(self) -> str | None:
        """Compare the checkpoint from which the next run continues."""
        found = list(candidates(self.output)) if self.output.is_dir() else []
        if problems := [f"{path.name}: {problem}" for path, problem in found if problem]:
            return "; ".join(problems)
        for path, _ in found[:1]:
            files = {f"{path.name}/{name}": entry.sha256 for name, entry in saved_files(path).items()}
            different = sorted(name for name, sha256 in files.items() if sha256 != self.expected.get(name))
            return f"other {', '.join(different)}" if different else None
        return None

    def is_done(self) -> bool:
        """The last checkpoint is there."""
        return self.reached() == self.steps

    def reached(self) -> int | None:
        """Step of the newest checkpoint."""
        found = list(candidates(self.output)) if self.output.is_dir() else []
        return read_trainer_state(found[0][0]).step if found else None


class LaunchedTokenizing(LaunchedKills):
    """`songgen tokenize --num_processes 2`, with processes that read audio."""

    def make_command(self) -> list[str]:
        """Write songs, codec, tokenizers and configuration."""
        manifest = write_corpus(self.folder / "corpus", 24)
        tiny_codec().save(self.folder / "codec")
        make_world(self.folder / "world")
        train_caption_tokenizer(["calm", "loud"], 300, self.folder / "captions")
        values = {
            "preprocessing_only": True,
            "audio_codec": {"type": "spectral", "path": str(self.folder / "codec")},
            "lyrics_tokenizer": str(self.folder / "world" / "model"),
            "description_tokenizer_name": str(self.folder / "captions"),
            "train_dataset_name": str(manifest),
            "target_audio_column_name": "audio_abspath",
            "min_duration_in_seconds": 0.1,
            "save_codec_steps": 2,
            "save_to_disk": str(self.output),
        }
        (self.folder / "tokenize.json").write_text(json.dumps(values))
        return ["songgen.cli.main", "tokenize", str(self.folder / "tokenize.json"), "--num_processes", "2"]

    events: ClassVar = {
        "locked": "out.work/lock.json",
        "planned": "out.work/plan/*",
        "encoding": "out.work/chunks/*.arrow*",
        "publishing": ".out.staging",
    }

    def content(self) -> dict[str, Any]:
        """Every file of the data set."""
        return _hashes(self.output)

    def problem_on_the_way(self) -> str | None:
        """A data set that can be seen is complete."""
        is_complete = not self.output.exists() or self.content() == self.expected
        return None if is_complete else "half a data set is visible"


class LaunchedPreparing(LaunchedTokenizing):
    """`songgen prepare` under `accelerate launch`, in two processes."""

    launcher: tuple[str, ...] = (
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
    )
    workers = 1

    def make_command(self) -> list[str]:
        """Write songs and configuration; no step needs a network."""
        for number in range(6):
            name = ("a.wav", "b.flac", "c.ogg", "d.wav", "e.mp3", "f.wav")[number]
            write_song(self.folder / "songs", name, seconds=4.0, seed=number, lyrics="[instrumental]")
        values = {
            "inputs": [str(self.folder / "songs")],
            "output_dir": str(self.output),
            "language": "en",
            "voice": None,
            "workers": self.workers,
            "write": {"audio_format": "flac"},
            "segment": {"min_seconds": 1.0, "target_seconds": 2.0, "max_seconds": 3.0},
        }
        (self.folder / "prepare.json").write_text(json.dumps(values))
        return [*self.launcher, "songgen.cli.main", "prepare", str(self.folder / "prepare.json")]

    events: ClassVar = {
        "locked": "out.work/lock.json",
        "results": "out.work/results/*.jsonl",
        "clips": "out.work/audio/*/*",
        "publishing": ".out.staging",
    }

    def remaining_names(self) -> set[str]:
        """As for the others, and all files of the work folder, which stays."""
        work = self.output.with_name("out.work")
        return super().remaining_names() | {path.relative_to(self.place).as_posix() for path in work.rglob("*")}


class PreparingInWorkers(LaunchedPreparing):
    """`songgen prepare --workers 2`: the main process counts as the launcher."""

    launcher = ()
    workers = 2
    victims = (LAUNCHER, WORKER)


LAUNCHED: dict[str, tuple[type[LaunchedKills], ...]] = {
    "launched-training": (LaunchedTraining,),
    "launched-tokenizing": (LaunchedTokenizing,),
    "launched-preparing": (LaunchedPreparing, PreparingInWorkers),
}
"""Kinds of kills, and what they are done to in turns."""


def _is_newer(path: Path, than: float) -> bool:
    """Return whether a file is not one of an earlier start."""
    try:
        return path.stat().st_mtime > than
    except FileNotFoundError:
        return False


def _heed_signals() -> None:
    """Undo what `nohup` and a shell's `&` do, so that a launch is ended by signals although this process is not."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line of metrics without what two equal runs do not share."""
    return {key: value for key, value in line.items() if key != "time" and not key.endswith("_per_second")}


def _own_traceback(printed: str) -> bool:
    """Return whether there is a traceback through this program; those of accelerate and torchrun are their own."""
    _, *traces = printed.split("Traceback (most recent call last):\n")
    frames = [line for trace in traces for line in takewhile(lambda line: line.startswith(" "), trace.splitlines())]
    return any(f'File "{ROOT / "songgen"}' in line for line in frames)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "(nothing)"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
