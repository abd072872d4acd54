"""The quick start of docs/preparing.md, from clips to a trained stage: the commands as they stand there."""

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from forked import FORK, redirect
from limits import SAFETY_SECONDS
from prepare_songs import write_song

from songgen.cli.main import main
from songgen.data.dataset import SongDataset

ROOT = Path(__file__).resolve().parents[2]
SMALL = shlex.split(
    "--dtype float32 --warmup_steps 0 --warmup_ratio 0.05 --max_steps 1 --max_length 40 --dataloader_num_workers 0"
)
WORDS = "river moon silver road morning light velvet rain golden summer open star".split()


def commands(page: str, heading: str, number: int) -> list[list[str]]:
    """The commands of a shell block below a heading."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    block = re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[number]
    return [words for line in block.replace("\\\n", " ").splitlines() if (words := shlex.split(line, comments=True))]


def execute(words: list[str], log: Path) -> int | None:
    """Run a command in a child of this process, which has everything imported; return its exit code."""

    def work() -> None:
        redirect(log)
        os.environ["ACCELERATE_USE_CPU"] = "true"
        AcceleratorState._reset_state(True)
        arguments = words[2 if words[:2] == ["accelerate", "launch"] else 1 :]
        try:
            if words[0] == "songgen":
                code: object = main(arguments)
            else:
                script = ROOT / arguments[0]
                sys.argv = arguments
                sys.path.insert(0, str(script.parent))
                runpy.run_path(str(script), run_name="__main__")
                code = 0
        except SystemExit as end:
            code = end.code or 0
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)

    child = FORK.Process(target=work)
    child.start()
    child.join(SAFETY_SECONDS)
    assert not child.is_alive(), f"{shlex.join(words)} hangs"
    return child.exitcode


def test_the_commands_lead_from_clips_to_a_trained_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):  # all of one length, which data.json must allow
        lyrics = " ".join(WORDS[number:] + WORDS[:number])
        write_song(tmp_path / "clips", f"song_{number}.wav", seed=number, lyrics=lyrics)
    (tmp_path / "helpers").symlink_to(ROOT / "helpers")
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    prepare, tokenizers, model, tokens, stage = commands("docs/preparing.md", "Quick start", 0)
    small_codec, small_model = commands("docs/preparing.md", "Quick start", 1)
    assert small_model[1] == model[1] and small_model[2] == model[2], "the small model does not take its place"
    for words in (prepare, tokenizers, small_codec, small_model, tokens):
        assert execute(words, log) == 0, f"{shlex.join(words)}\n{log.read_text()[-3000:]}"
    by_hand = next(words for words in commands("README.md", "Training on your own songs", 1) if words[1] == "tokenize")
    assert execute(by_hand, log) == 0, f"the same manifests, named one by one\n{log.read_text()[-3000:]}"
    assert (len(SongDataset.open("datasets/songs", "train")), len(SongDataset.open("datasets/songs", "eval"))) == (7, 5)

    assert execute([*stage, *SMALL], log) == 1, "the clips have no vocal"
    assert "--add_vocal_loss false" in log.read_text()
    assert execute([*stage, *SMALL, "--add_vocal_loss", "false"], log) == 0, log.read_text()[-3000:]
    assert (tmp_path / "outputs" / "mixed_pro" / "step1" / "model.safetensors").is_file()
