"""Flips of single bits in whatever the program has written, and what every command that reads it makes of that.

A command must name the damaged file, or do exactly what it does without the damage.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from forked import FORK, fork_run, redirect, stop_at
from launching import write_config
from limits import SAFETY_SECONDS
from prepare_songs import write_song
from preprocess_fakes import write_corpus
from training_fakes import TEXT_WIDTH, write_model_folder

from songgen.cli.main import main
from songgen.conditioning import TextEncoder
from songgen.conditioning.caption_tokenizer import train_caption_tokenizer
from songgen.doctor.hashes import accept
from songgen.tokenize.run import _Run

NO_EFFECT, NAMED, NOT_READ = "no effect", "named", "not read"
SILENT, UNNAMED = "SILENT", "an error without its name"
"""Outcomes; the last two must not be."""

UNREAD = ("lock.json", ".run.lock", "run_status.json", "metrics.jsonl", "verified_data.json", "prepare_status.json",
          "phases.json")  # fmt: skip
"""Files without checksums, by their documentation: no work depends on them."""

OLDER_CHECKPOINTS = ("run/checkpoint-[24]/*",)
"""They are read if those after them are damaged."""


@dataclass(frozen=True)
class Reader:
    """A command, and what it leaves."""

    name: str
    """How it is called in a table."""
    words: tuple[str, ...]
    """The command, after `songgen`."""
    results: tuple[str, ...] = ()
    """Files and folders in the world that it writes; empty for a command that only reports."""
    left_out: tuple[str, ...] = ()
    """Names of files in them that differ between two equal runs."""
    unread: tuple[str, ...] = ()
    """Patterns of files that it need not read: they are left as they are."""


@dataclass(frozen=True)
class Place:
    """A folder in which bits flip."""

    folder: str
    """Its path in the world; a pattern."""
    readers: tuple[Reader, ...]
    """Commands that read it."""


@dataclass(frozen=True)
class Flip:
    """A flipped bit, and what one command made of it."""

    place: str
    """Folder."""
    file: str
    """File in the world."""
    where: str
    """Byte and bit."""
    reader: str
    """Command."""
    outcome: str
    """What came of it."""
    printed: str
    """What the command printed, if that is of interest."""


class World:
    """Everything that the program writes, in one folder that can be restored."""

    def __init__(self, folder: Path) -> None:
        """Write a model, songs, prepared and tokenized data, and a run that was stopped half way."""
        self.root, self.whole = folder / "world", folder / "whole"
        self.log = folder / "log"
        self.root.mkdir(parents=True)
        self._write_model()
        self._write_prepared()
        self._write_tokens()
        self._write_run()
        shutil.copytree(self.root, self.whole, symlinks=True)
        self.expected: dict[str, tuple[int, dict[str, str], str]] = {}

    def places(self) -> dict[str, Place]:
        """Return the folders in which bits flip, by kind."""
        train = Reader("train", ("train", self._path("train.json"), "--task", "mixed"), ("new",), TIMED)
        words = ("train", self._path("resume.json"), "--task", "mixed")
        resume = Reader("resume", words, ("run",), TIMED, OLDER_CHECKPOINTS)
        prepare = Reader("prepare", ("prepare", self._path("prepare.json")), ("out",), ("prepared.json",))
        tokenize = Reader("tokenize", ("tokenize", self._path("tokenize.json")), ("songs",))
        half = Reader("tokenize half", ("tokenize", self._path("half.json")), ("half",))
        again = Reader("tokenize prepared", ("tokenize", self._path("again.json")), ("again",))
        return {
            "model": Place("model", (train, self._generate("model"), *self._doctors("model"))),
            "run": Place("run", (resume, self._generate("run"), *self._doctors("run", OLDER_CHECKPOINTS))),
            "checkpoint": Place("run/checkpoint-*", (resume, *self._doctors("run", OLDER_CHECKPOINTS))),
            "prepared": Place("out", (prepare, again, *self._doctors("out", ("out/audio/*",)))),
            "prepare work": Place("out.work", (prepare, *self._doctors("out.work"))),
            "tokens": Place("songs", (tokenize, train, *self._doctors("songs"))),
            "tokenize work": Place("half.work", (half, *self._doctors("half.work"))),
        }

    def flip(self, kind: str, draws: random.Random) -> list[Flip]:
        """Flip one bit of a random file, and run all commands that read it, each in a world of its own."""
        place = self.places()[kind]
        files = [
            path.relative_to(self.whole)
            for folder in sorted(self.whole.glob(place.folder))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.stat().st_size and path.name not in UNREAD
        ]
        name = draws.choice(files)
        content = bytearray((self.whole / name).read_bytes())
        byte, bit = draws.randrange(len(content)), draws.randrange(8)
        content[byte] ^= 1 << bit
        found = []
        for reader in place.readers:
            self.restore()
            (self.root / name).unlink()  # it may be a hard link
            (self.root / name).write_bytes(bytes(content))
            outcome, printed = self._outcome(reader, name)
            found.append(Flip(kind, name.as_posix(), f"byte {byte}, bit {bit}", reader.name, outcome, printed))
        return found

    def restore(self) -> None:
        """Make everything as it was."""
        shutil.rmtree(self.root)
        shutil.copytree(self.whole, self.root, symlinks=True)

    def _outcome(self, reader: Reader, damaged: Path) -> tuple[str, str]:
        if reader.name not in self.expected:
            kept = (self.root / damaged).read_bytes()
            self.restore()
            self.expected[reader.name] = self._run(reader)
            assert self.expected[reader.name][0] == 0 or not reader.results, self.expected[reader.name]
            self.restore()
            (self.root / damaged).write_bytes(kept)
        code, content, printed = self._run(reader)
        expected_code, expected, expected_printed = self.expected[reader.name]
        is_refused = bool(code) and code != expected_code
        if printed.count(damaged.name) > (0 if is_refused else expected_printed.count(damaged.name)):
            return NAMED, ""
        if is_refused:
            return UNNAMED, printed[-1500:]
        is_unread = any(fnmatch(damaged.as_posix(), pattern) for pattern in reader.unread)
        if is_unread:
            content, expected = ({**files, damaged.as_posix(): ""} for files in (content, expected))
        if content == expected and reader.results:
            return NO_EFFECT, ""
        if content == expected and is_unread:
            return NOT_READ, ""
        different = sorted(name for name in {*content, *expected} if content.get(name) != expected.get(name))
        return SILENT, f"differs: {different[:5]}\n{printed[-1500:]}"

    def _run(self, reader: Reader) -> tuple[int, dict[str, str], str]:
        self.log.write_text("")

        def work() -> None:
            os.chdir(self.root)
            redirect(self.log)
            os._exit(main(list(reader.words)))

        child = FORK.Process(target=work)
        child.start()
        child.join(SAFETY_SECONDS)
        assert child.exitcode is not None, f"{reader.name} hangs"
        content = {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for result in reader.results
            for path in sorted(
                (self.root / result).rglob("*") if (self.root / result).is_dir() else [self.root / result]
            )
            if path.is_file() and path.name not in reader.left_out
        }
        # A row that is left out is named in a list, of which the message says where it is.
        lists = [path.read_text(errors="replace") for path in sorted(self.root.glob("*/rejected.jsonl"))]
        return child.exitcode, content, "\n".join([*lists, self.log.read_text(errors="replace")])

    def _path(self, name: str) -> str:
        return str(self.root / name)

    def _generate(self, model: str) -> Reader:
        words = ("generate", "--model", self._path(model), "--out", self._path("song.wav"), "--device", "cpu")
        sampling = ("--caption", "slow and warm", "--lyrics", "la la", "--seconds", "0.4", "--seed", "1")
        return Reader(f"generate {model}", (*words, *sampling), ("song.wav",))

    def _doctors(self, folder: str, unread: tuple[str, ...] = ()) -> tuple[Reader, ...]:
        words = ("doctor", self._path(folder))
        of_work = ("*.work/[!r]*", "*.set.json")
        deep = Reader(f"doctor --deep {folder}", (*words, "--deep"), unread=of_work if folder.endswith(".work") else ())
        if folder.endswith(".work"):  # the next start compares what it uses again
            return Reader(f"doctor {folder}", words, unread=("*",)), deep
        return Reader(f"doctor {folder}", words, unread=unread), deep

    def _write_model(self) -> None:
        write_model_folder(self.root / "model")
        captions = [f"a song, number {index}, slow and warm, pop, sunny" for index in range(40)]
        train_caption_tokenizer(captions, 300, self.root / "model" / "caption_tokenizer")
        # One that has an entry for each id of the tokenizer.
        encoder = TextEncoder.small(300, d_model=TEXT_WIDTH, num_layers=1, num_heads=2)
        encoder.save(self.root / "model" / "text_encoder")
        accept(self.root / "model")

    def _write_prepared(self) -> None:
        for number, name in enumerate(("a.wav", "b.flac", "c.ogg", "d.wav")):
            write_song(self.root / "input", name, seconds=4.0, seed=number, lyrics="[instrumental]")
        values = {
            "inputs": [self._path("input")],
            "output_dir": self._path("out"),
            "language": "en",
            "voice": None,
            "segment": {"min_seconds": 1.0, "target_seconds": 2.0, "max_seconds": 3.0},
        }
        (self.root / "prepare.json").write_text(json.dumps(values))
        self._succeed("prepare", self._path("prepare.json"))
        values = json.loads((self.root / "out" / "data.json").read_text())
        values |= {"model_name_or_path": self._path("model"), "save_to_disk": self._path("again")}
        (self.root / "again.json").write_text(json.dumps(values))

    def _write_tokens(self) -> None:
        manifest = write_corpus(self.root / "corpus", 8)
        values = {
            "preprocessing_only": True,
            "model_name_or_path": self._path("model"),
            "train_dataset_name": str(manifest),
            "eval_dataset_name": str(manifest),
            "eval_split_name": "train",
            "max_eval_samples": 2,
            "target_audio_column_name": "audio_abspath",
            "ref_audio_column_name": ["vocal_abspath", "acc_abspath"],
            "ref_voice_column_name": "vocal_abspath",
            "min_duration_in_seconds": 0.1,
            "save_codec_steps": 3,
            "save_to_disk": self._path("songs"),
        }
        (self.root / "tokenize.json").write_text(json.dumps(values))
        self._succeed("tokenize", self._path("tokenize.json"))
        (self.root / "half.json").write_text(json.dumps(values | {"save_to_disk": self._path("half")}))
        self._succeed(
            "tokenize", self._path("half.json"), before=lambda: setattr(_Run, "finish", lambda run: os._exit(0))
        )

    def _write_run(self) -> None:
        values = {"save_to_disk": self._path("songs"), "max_steps": 7, "save_steps": 2, "do_eval": False}
        values |= {"save_total_limit": 9, "warmup_steps": 0}
        config = write_config(self.root, output_dir=self._path("run"), **values).rename(self.root / "resume.json")
        fork_run(config, self.log, hook=stop_at(5)).finish()
        write_config(self.root, output_dir=self._path("new"), **values).rename(self.root / "train.json")

    def _succeed(self, *words: str, before: Callable[[], object] = lambda: None) -> None:
        def work() -> None:
            redirect(self.log)
            before()
            os._exit(main(list(words)))

        child = FORK.Process(target=work)
        child.start()
        child.join(SAFETY_SECONDS)
        assert child.exitcode == 0, self.log.read_text()


TIMED = (
    "metrics.jsonl",
    "run_status.json",
    "verified_data.json",
    "manifest.json",
    "training_config.json",
    "README.md",
)
"""Files of a run with times, or its number."""


def table(flips: Sequence[Flip]) -> str:
    """Return the number of outcomes by place and command."""
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for flip in flips:
        counts = rows.setdefault((flip.place, flip.reader), {})
        counts[flip.outcome] = counts.get(flip.outcome, 0) + 1
    return "\n".join(f"{place:14} {reader:28} {counts}" for (place, reader), counts in rows.items())
