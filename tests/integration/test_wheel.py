"""The wheel alone, in an environment of its own and from an empty folder: from songs to a generated song."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest
import soundfile
from limits import SAFETY_SECONDS
from prepare_songs import tone

ROOT = Path(__file__).resolve().parents[2]

FOREIGN = """
import atexit, os, sys

def note():
    root = os.environ["SONGGEN_TEST_ROOT"]
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    foreign = [path for path in [*sys.path, *files] if path.startswith(root) and "site-packages" not in path]
    with open(os.environ["SONGGEN_TEST_FOREIGN"], "a") as file:
        file.write("".join(line + chr(10) for line in foreign))
        file.write("checked" + chr(10))

atexit.register(note)
"""
"""Module `imported_files` of the environment: notes what a process has imported from the repository, at its end."""

DRIVER = """
import json, os, sys
import songgen.cli.main, songgen.train.launch, songgen.generation.pipeline, songgen.tokenize
for words in json.loads(sys.argv[1]):
    pid = os.fork()
    if not pid:
        try:
            code = songgen.cli.main.main(words)
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        import imported_files
        imported_files.note()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        sys.exit("songgen " + " ".join(words) + " ended with " + str(code))
"""
"""Runs commands one after the other, each in a child that has torch imported already."""


class Installed:
    """An environment that holds the wheel, and besides only what songgen needs."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        self.songgen = folder / "bin" / "songgen"
        self.foreign = folder / "foreign.txt"
        self.empty = folder / "empty"
        self.empty.mkdir()

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run a program of the environment in the empty folder, require its exit code, and return what it printed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment = kept | {"SONGGEN_TEST_ROOT": f"{ROOT}/", "SONGGEN_TEST_FOREIGN": str(self.foreign)}
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.empty, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=SAFETY_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-5000:]
        return done.stdout

    def run_all(self, commands: Sequence[Sequence[str]]) -> str:
        """Run `songgen` commands one after the other."""
        return self.run(self.python, "-c", DRIVER, json.dumps(commands))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel from a copy, so that nothing is written beside the sources, and install it alone."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in ("songgen", "helpers"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), "./source"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True, timeout=SAFETY_SECONDS)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True, timeout=SAFETY_SECONDS
    )
    environment = Installed(folder / "env")
    install = [*pip, "--python", str(environment.python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=SAFETY_SECONDS)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    # Python does not look for .pth files in a folder that is named in one: the editable install stays out.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    libraries |= {path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    # Not as `sitecustomize`: some systems have one of their own, which comes first.
    (site / "libraries.pth").write_text("\n".join([*sorted(libraries), "import imported_files"]) + "\n")
    (site / "imported_files.py").write_text(FOREIGN)
    return environment


def write_songs(folder: Path, number: int) -> None:
    folder.mkdir()
    rows = []
    for index in range(number):
        row = {
            "fname": f"song_{index}",
            "caption": "pop, sunny, 100 bpm",
            "lyrics": "la la river moon",
            "language": "en",
        }
        for track in ("audio", "vocal", "acc"):
            soundfile.write(folder / f"{track}_{index}.wav", tone(1.0, seed=3 * index + len(track)), 16_000)
            row[f"{track}_file_name"] = f"{track}_{index}.wav"
        rows.append(row)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


SMALL = {
    "--dtype": "float32", "--min_duration_in_seconds": "0.5", "--dataloader_num_workers": "0", "--max_steps": "2",
    "--warmup_steps": "0", "--eval_strategy": "no", "--do_eval": "false", "--group_by_length": "false",
}  # fmt: skip


def test_the_wheel_alone_leads_from_songs_to_a_song(installed: Installed) -> None:
    write_songs(installed.empty / "songs", 4)
    small = [word for pair in SMALL.items() for word in pair]
    manifest = ["--manifest", "songs/metadata.jsonl"]
    new = ["--preset", "small", "--audio_model", "codec", "--tokenizers", "tokenizers"]
    sizes = ["--lyrics_vocab_size", "320", "--caption_vocab_size", "320"]
    data = ["data_musiccaps.json", "--train_dataset_name", "songs/metadata.jsonl", "--eval_dataset_name", "null"]
    data += ["--model_name_or_path", "model", "--save_to_disk", "tokens", "--min_duration_in_seconds", "0.5"]
    song = ["--lyrics", "la", "--seconds", "0.2"]
    codec = ["--num_codebooks", "2", "--codebook_size", "16", "--num_mels", "20", "--iterations", "2"]
    commands = [
        ["tokenizer", *manifest, "--out", "tokenizers", *sizes],
        ["codec", *manifest, "--out", "codec", *codec],
        ["init", "model", *new],
        ["init", "dual", *new, "--track_pattern", "parallel_std"],
        ["tokenize", *data],
        ["train", "mixed_pro/step1.json", *small, "--model_name_or_path", "model", "--save_to_disk", "tokens"],
        ["train", "inter_A_V/step3.json", *small, "--model_name_or_path", "dual", "--save_to_disk", "tokens"],
        ["generate", "--model", "outputs/mixed_pro/step1", "--out", "song.wav", *song],
        ["doctor", "outputs/inter_A_V/step3"],
        ["list"],
    ]
    installed.run_all(commands)
    written = soundfile.info(installed.empty / "song.wav")
    assert written.samplerate == 16_000 and written.frames
    assert json.loads((installed.empty / "outputs/inter_A_V/step3/config.json").read_text())["track_pattern"] == (
        "interleaving_A_V"
    )
    notes = installed.foreign.read_text().splitlines()
    assert len(notes) >= len(commands) and set(notes) == {"checked"}, "something was imported from the repository"


def test_the_installed_command_starts(installed: Installed) -> None:
    shown = installed.run(installed.songgen, "--help")
    assert "tokenize" in shown and "review" in shown
    assert "Traceback" not in installed.run(installed.songgen, "train", "mixed_pro/step9.json", code=2)


def test_the_wheel_has_the_translations(installed: Installed) -> None:
    program = (
        "from songgen.ui.translation import translator; print(ascii(translator('zh').message('no run is active')))"
    )
    assert installed.run(installed.python, "-c", program).strip() == ascii("没有正在进行的训练")
