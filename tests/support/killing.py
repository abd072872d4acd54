"""Kills at random moments of training, saving and preprocessing, each followed by a continuation that is checked.

Training is killed with and without commands: a run whose learning rate is set by hand, and that is asked for
checkpoints and stops at random steps.
"""

import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from forked import FORK, Fork, Hook, before_each_step, fork_run, redirect, saved_files
from launching import make_world, write_config
from limits import SAFETY_SECONDS
from preprocess_fakes import options_for, run, shard_hashes, write_corpus
from run_forms import FLOW
from tiny_flow import make_flow_world

from songgen.runtime.control.commands import parse
from songgen.train.checkpoints.folders import candidates
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import read_trainer_state
from songgen.train.control.journal import JOURNAL_FILE, journal_lines
from songgen.train.trainer import Trainer

STEPS = 24
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "save_steps": 1,
    "do_eval": False,
    "ema_decay": 0.8,
    "condition_dropout": 0.3,
    "group_by_length": True,
    "ddp_timeout": 120,
}
MOST_IN_A_COURSE = 6
"""Kills of one run, before it is left to end."""
SAVES_FILE = "saves.jsonl"
TYPED = {3: "lr 0.002", 8: "lr 0.0005@10", 15: "lr auto", 19: "lr 0.003"}
"""Step -> command of a run that is steered by hand."""
STEERED: dict[str, Any] = {"save_steps": 7}
"""Settings of such a run, which differ from SETTINGS: most of its checkpoints are those that commands ask for."""


@dataclass(frozen=True)
class Kill:
    """One kill, and what came after it."""

    kind: str
    """What was killed: training, saving, commands (training that is steered by hand) or preprocessing."""
    processes: int
    """Processes of the run; all of them were killed."""
    moment: float
    """Seconds after the start of the run; with saving, after the start of a save."""
    reached: int | None
    """Step of the checkpoint that was left; None for a start anew (and for preprocessing)."""
    problem: str | None
    """How the continuation differs from the uninterrupted run; None: not at all."""
    victim: str = "all"
    """Which process got the signals."""
    signals: str = "SIGKILL"
    """Names of the signals."""
    aimed_at: str = "any time"
    """What the moment was chosen by."""
    gone_seconds: float | None = None
    """Seconds after the last signal until no process of the launch was left; None: not measured, or not all ended."""
    outcome: str = ""
    """How the launch ended: exit code and last line."""


class Subject(Protocol):
    """Something that is killed again and again."""

    def course(self, kind: str, most: int) -> list[Kill]:
        """Kill one run again and again until it is through, at most so many times; then let it end and compare."""
        ...


class TrainingKills:
    """A training run and its uninterrupted counterpart, with every checkpoint of it."""

    def __init__(
        self,
        folder: Path,
        draws: random.Random,
        processes: int = 1,
        changes: Mapping[str, Any] | None = None,
        *,
        is_steered: bool = False,
        is_flow: bool = False,
    ) -> None:
        """Train without interruption, for comparison; `changes` are keys of the configuration."""
        self.settings = {**SETTINGS, **(FLOW if is_flow else {}), **(changes or {})}
        self.folder, self.draws, self.processes = folder, draws, processes
        self.is_steered = is_steered
        self.world = make_flow_world(folder / "world") if is_flow else make_world(folder / "world", dropout=0.2)
        if is_flow:
            self.settings["feature_cache_dir"] = str(folder / "features")
        straight = folder / "straight"
        config = write_config(self.world, output_dir=str(straight), save_total_limit=None, **self.settings)
        began = time.monotonic()
        hook = _time_saves(folder / SAVES_FILE)
        self._fork(config, _steer(straight, then=hook) if is_steered else hook).finish()
        self.seconds = time.monotonic() - began
        self.save_seconds = max(map(float, (folder / SAVES_FILE).read_text().split()))
        found = {read_trainer_state(path).step: saved_files(path) for path in straight.glob("checkpoint-*")}
        assert set(found) == set(range(1, STEPS + 1))
        self.expected = {step: _comparable(files) for step, files in found.items()}

    def course(self, kind: str, most: int) -> list[Kill]:
        """Kill one run again and again until it is through, at most so many times; then let it end and compare.

        The end speaks for all: every kill gets the end's verdict.
        """
        output = self.folder / "run"
        shutil.rmtree(output, ignore_errors=True)
        settings = self.settings | (STEERED if self.is_steered else {})
        config = write_config(self.world, output_dir=str(output), save_total_limit=2, **settings)
        kills: list[Kill] = []
        while len(kills) < most:
            moment, killed = self._kill_once(kind, config)
            if not killed and self._checked(output)[0] == STEPS:
                break
            if not killed:  # a stop was asked for
                continue
            reached, problem = self._checked(output)
            before = kills[-1].reached if kills else None
            if problem is None and (reached or 0) < (before or 0):
                problem = f"the checkpoint of step {before} is lost"
            kills.append(Kill(kind, self.processes, moment, reached, problem))
        self._fork(config, _steer(output) if self.is_steered else None).finish()
        reached, problem = self._checked(output)
        if reached != STEPS:
            problem = f"the run ended at step {reached} of {STEPS}"
        if self.is_steered and problem is None and sorted(_told(output, "lr")) != sorted(TYPED.items()):
            problem = f"the journal has {_told(output, 'lr')}"
        return [replace(kill, problem=kill.problem or problem) for kill in kills]

    def _kill_once(self, kind: str, config: Path) -> tuple[float, bool]:
        """Start the run and kill it at a random moment; returns the moment and whether it was still under way."""
        if kind == "commands":
            return self._kill_steered(config)
        if kind == "saving":
            moment = self.draws.uniform(0, 1.1 * self.save_seconds)
            rank, save = self.draws.randrange(self.processes), self.draws.randint(1, 4)
            fork = self._fork(config, _die_in_save(save, moment, rank))
            return moment, fork.wait_for_a_kill()
        moment = self.draws.uniform(0, self.seconds)
        fork = self._fork(config)
        time.sleep(moment)
        return moment, fork.kill()

    def _kill_steered(self, config: Path) -> tuple[float, bool]:
        """The same for a run that is asked for checkpoints, and perhaps for a stop, at random steps."""
        saves = frozenset(self.draws.sample(range(1, STEPS), 6))
        stop = self.draws.randrange(1, 2 * STEPS)
        if self.draws.random() < 0.5:
            moment = self.draws.uniform(0, 1.1 * self.save_seconds)
            dying = _die_in_save(self.draws.randint(1, 4), moment, self.draws.randrange(self.processes))
            fork = self._fork(config, _steer(self.folder / "run", saves=saves, stop=stop, then=dying))
            return moment, fork.wait_for_a_kill()
        moment = self.draws.uniform(0, self.seconds)
        fork = self._fork(config, _steer(self.folder / "run", saves=saves, stop=stop))
        time.sleep(moment)
        return moment, fork.kill()

    def _checked(self, output: Path) -> tuple[int | None, str | None]:
        """Step of the checkpoint from which the run would go on, and how it differs from the uninterrupted run's."""
        found = list(candidates(output))
        if not found:
            return None, None
        problems = [f"{path.name}: {problem}" for path, problem in found if problem]
        if problems:
            return None, "; ".join(problems)
        newest, _ = found[0]
        step, files = read_trainer_state(newest).step, _comparable(saved_files(newest))
        different = [name for name, entry in files.items() if entry != self.expected[step][name]]
        return step, f"step {step}: other {', '.join(different)}" if different else None

    def _fork(self, config: Path, hook: Hook | None = None) -> Fork:
        return fork_run(config, self.folder / "log", processes=self.processes, hook=hook)


class PreprocessingKills:
    """A corpus and what one uninterrupted process makes of it."""

    def __init__(self, folder: Path, draws: random.Random, num_clips: int = 60) -> None:
        """Preprocess without interruption, for comparison."""
        self.folder, self.draws = folder, draws
        self.manifest = write_corpus(folder / "corpus", num_clips)
        began = time.monotonic()
        self._fork(folder / "straight").join(SAFETY_SECONDS)
        self.seconds = time.monotonic() - began
        self.expected = shard_hashes(folder / "straight")

    def course(self, kind: str, most: int) -> list[Kill]:
        """Kill one run again and again until it is through, at most so many times; then let it end and compare."""
        output = self.folder / "songs"
        shutil.rmtree(output, ignore_errors=True)
        kills: list[Kill] = []
        while len(kills) < most:
            moment = self.draws.uniform(0, self.seconds)
            child = self._fork(output)
            child.join(moment)
            child.kill()
            child.join(SAFETY_SECONDS)
            if child.exitcode != -signal.SIGKILL:
                break
            problem = "half a data set was visible" if output.exists() and self._differs(output) else None
            kills.append(Kill(kind, 1, moment, None, problem))
        child = self._fork(output)
        child.join(SAFETY_SECONDS)
        problem = f"exit code {child.exitcode}" if child.exitcode else self._differs(output)
        return [replace(kill, problem=kill.problem or problem) for kill in kills]

    def _differs(self, output: Path) -> str | None:
        """How a data set differs from the uninterrupted run's."""
        hashes = shard_hashes(output)
        different = sorted(name for name in {*hashes, *self.expected} if hashes.get(name) != self.expected.get(name))
        return f"other {', '.join(different)}" if different else None

    def _fork(self, output: Path) -> Any:
        def work() -> None:
            redirect(self.folder / "log")
            run(options_for(self.manifest, output))
            os._exit(0)

        child = FORK.Process(target=work)
        child.start()
        return child


def kill_at_random(
    folder: Path,
    counts: dict[str, int],
    *,
    processes: Sequence[int] = (1, 2),
    seed: int = 0,
    report: Callable[[Kill], None] = lambda kill: None,
    others: Mapping[str, Sequence[Callable[[Path, random.Random], Subject]]] = MappingProxyType({}),
    changes: Mapping[str, Any] | None = None,
    is_flow: bool = False,
) -> list[Kill]:
    """Kill as many runs of each kind as asked for, and check every continuation.

    Args:
        folder: to work in.
        counts: kills of each kind: training, saving, commands, preprocessing, and those in `others`.
        processes: numbers of processes with which training runs take turns.
        seed: of the moments.
        report: called for each kill once its course is through.
        others: other kinds of kills, and what makes the runs that are killed in turns.
        changes: keys of the configuration of the training runs.
        is_flow: whether these train a flow-matching model.
    """
    draws = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subjects: dict[str, list[Subject]] = {}
    if {"training", "saving"} & set(counts):
        runs = [
            TrainingKills(folder / f"training{number}", draws, number, changes, is_flow=is_flow) for number in processes
        ]
        subjects |= {"training": [*runs], "saving": [*runs]}
    if "commands" in counts:
        subjects["commands"] = [
            TrainingKills(folder / f"commands{number}", draws, processes=number, is_steered=True, is_flow=is_flow)
            for number in processes
        ]
    if "preprocessing" in counts:
        subjects["preprocessing"] = [PreprocessingKills(folder / "preprocessing", draws)]
    for kind in [kind for kind in counts if kind in others]:
        subjects[kind] = [make(folder / f"{kind}{place}", draws) for place, make in enumerate(others[kind])]
    found: list[Kill] = []
    for kind, count in counts.items():
        turns = itertools.cycle(subjects[kind])
        left = count
        while left > 0:
            kills = list(next(turns).course(kind, min(MOST_IN_A_COURSE, left)))
            left -= len(kills)
            found += kills
            for kill in kills:
                report(kill)
    return found


def _comparable(files: dict[str, Any]) -> dict[str, str]:
    """Hash of every file."""
    return {name: entry.sha256 for name, entry in files.items()}


def _time_saves(file: Path) -> Hook:
    """A hook that writes down how many seconds each save of the main process takes."""

    def hook(rank: int) -> None:
        original = CheckpointManager.save

        def save(self: CheckpointManager, *arguments: Any, **keywords: Any) -> Path | None:
            began = time.monotonic()
            saved = original(self, *arguments, **keywords)
            if rank == 0:
                with file.open("a") as lines:
                    lines.write(f"{time.monotonic() - began}\n")
            return saved

        CheckpointManager.save = save  # type: ignore[method-assign]  # in a child: nobody else sees it

    return hook


def _told(folder: Path, name: str) -> list[tuple[int, str | None]]:
    """Steps and texts of the commands of a kind in a run's journal."""
    entries = journal_lines(folder / JOURNAL_FILE).values
    return [(entry.step, entry.command) for entry in entries if str(entry.command).startswith(name)]


def _steer(folder: Path, *, saves: frozenset[int] = frozenset(), stop: int = 0, then: Hook = lambda rank: None) -> Hook:
    """A hook: the main process receives the commands of TYPED, unless it has received them before it was killed.

    It is asked for checkpoints and for a stop as well, after these steps.
    """

    def hook(rank: int) -> None:
        def type_in(trainer: Trainer, batches: Any) -> None:
            step, told = trainer.state.step + 1, set(_told(folder, "lr"))
            texts = [TYPED[step]] if step in TYPED and (step, TYPED[step]) not in told else []
            texts += ["save"] * (step in saves) + ["quit"] * (step == stop)
            for text in texts:
                trainer.inbox.add(parse(text, "the test"))

        if rank == 0:
            before_each_step(type_in)
        then(rank)

    return hook


def _die_in_save(number: int, seconds: float, dying_rank: int) -> Hook:
    """A hook that kills a process some seconds after the beginning of its `number`-th save."""

    def hook(rank: int) -> None:
        original = CheckpointManager.save
        saves = iter(range(1, STEPS + 1))

        def save(self: CheckpointManager, *arguments: Any, **keywords: Any) -> Path | None:
            if rank == dying_rank and next(saves) == number:
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return original(self, *arguments, **keywords)

        CheckpointManager.save = save  # type: ignore[method-assign]  # in a child: nobody else sees it

    return hook


def summary(kills: list[Kill], seconds: float) -> dict[str, Any]:
    """What a series of kills showed, ready for JSON."""
    kinds = {}
    for kind in dict.fromkeys(kill.kind for kill in kills):
        of_kind = [kill for kill in kills if kill.kind == kind]
        figures: dict[str, Any] = {
            "kills": len(of_kind),
            "exact": sum(kill.problem is None for kill in of_kind),
            "with_two_processes": sum(kill.processes == 2 for kill in of_kind),
        }
        if gone := sorted(kill.gone_seconds for kill in of_kind if kill.gone_seconds is not None):
            figures["seconds_until_gone"] = {"median": gone[len(gone) // 2], "worst": gone[-1]}
            figures["victims"] = Counter(kill.victim for kill in of_kind)
        kinds[kind] = figures
    return {
        "kills": len(kills),
        "exact_continuations": sum(kill.problem is None for kill in kills),
        "seconds": round(seconds, 1),
        "kinds": kinds,
        "problems": [vars(kill) for kill in kills if kill.problem is not None],
    }


def write_summary(path: Path, content: dict[str, Any]) -> None:
    """Write a summary as JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
