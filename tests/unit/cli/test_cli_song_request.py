"""`songgen generate --request`: songs of a recorded request, by one model after the other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from complete_model import write_complete_model

from songgen.cli.main import main
from songgen.cli.models import song_request
from songgen.families.use.song_folder import SONG_STATUS_FILE, SongRequest, Take, song_files, write_song_request
from songgen.runtime.status import read_run_status

OPTIONS = {"seconds": 0.5, "seed": 3, "device": "cpu"}
TEXTS = {"caption": "a calm folk song", "lyrics": "--la\n'la' \"$x\"\n"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_complete_model(tmp_path_factory.mktemp("dual"), "interleaving_A_V")


def asked(folder: Path, *models: Path, **options: object) -> Path:
    folder.mkdir()
    takes = tuple(Take(name, str(model)) for name, model in zip("ab", models, strict=False))
    write_song_request(folder, SongRequest(takes, options=OPTIONS | options), TEXTS)
    return folder


def test_every_model_gets_the_same_request_and_the_state_is_recorded(model: Path, tmp_path: Path, capsys) -> None:
    folder = asked(tmp_path / "songs", model, model, temperature=0.9)
    (folder / "b-2.wav").write_bytes(b"of an earlier try")
    assert main(["generate", "--request", str(folder)]) == 0
    files = song_files(folder, SongRequest((Take("a", ""), Take("b", ""))))
    assert [file.path.name for file in files] == [
        f"{take}{track}.wav" for take in "ab" for track in ("", ".acc", ".vocal")
    ]
    assert sorted(capsys.readouterr().out.split()) == sorted(str(file.path) for file in files)
    first, second = (soundfile.read(folder / name)[0] for name in ("a.wav", "b.wav"))
    assert np.array_equal(first, second) and len(first) > 0
    words = ["--caption", TEXTS["caption"], f"--lyrics={TEXTS['lyrics']}", "--seconds", "0.5", "--seed", "3"]
    out = tmp_path / "same.wav"
    assert main(["generate", "--model", str(model), "--out", str(out), "--temperature", "0.9", *words]) == 0
    assert np.array_equal(soundfile.read(out)[0], first)
    status = read_run_status(folder, SONG_STATUS_FILE)
    assert status is not None and status.status == "finished" and status.progress is not None
    assert status.progress.phase == "generating b" and status.progress.total and status.progress.unit == "step"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "hot"}, "invalid float value"),
        ({"steps": 3}, "--steps is for flow-matching models"),
        ({"colour": "red"}, "unrecognized arguments: --colour=red"),
        ({"out": "/tmp/x.wav"}, "cannot have out"),
        ({"model": "other"}, "cannot have model"),
        ({"request": "."}, "cannot have request"),
        ({"adapter=/tmp/x": True}, "'adapter=/tmp/x' is not the name of an option"),
    ],
)
def test_a_wrong_option_ends_in_the_status(model: Path, tmp_path: Path, capsys, options, message: str) -> None:
    folder = asked(tmp_path / "songs", model, **options)
    assert main(["generate", "--request", str(folder)]) == 2
    assert message in capsys.readouterr().err
    status = read_run_status(folder, SONG_STATUS_FILE)
    assert status is not None and status.status == "failed" and message in str(status.reason)
    assert not list(folder.glob("*.wav"))


def test_what_is_not_a_request_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["generate", "--request", str(tmp_path)]) == 2
    assert "request.json cannot be read" in capsys.readouterr().err
    assert main(["generate", "--request", str(tmp_path), "--seed", "4", "--out", "x.wav"]) == 2
    assert "leave out --out, --seed" in capsys.readouterr().err
    assert main(["generate", "--model", str(tmp_path), "--lyrics", "la"]) == 2
    assert "--out is missing" in capsys.readouterr().err


def test_songs_that_are_being_generated_are_not_generated_twice(model: Path, tmp_path: Path, capsys) -> None:
    import subprocess
    import sys

    folder = asked(tmp_path / "songs", model)
    holder = (
        "import sys; from pathlib import Path; from songgen.runtime.folder_lock import locked\n"
        f"with locked(Path({str(folder)!r}), '.song.lock'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert main(["generate", "--request", str(folder)]) == 2
        process.communicate()
    assert str(folder) in capsys.readouterr().err and not (folder / SONG_STATUS_FILE).exists()


def test_a_checkpoint_of_a_whole_model_is_written_out_for_the_time_of_use(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That `export_model` writes what the run would have written is tested with real runs."""
    checkpoint = tmp_path / "run" / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").touch()
    exported = []

    def export(source: Path, out: Path) -> None:
        exported.append((source, out))
        shutil.copytree(model, out)

    monkeypatch.setattr("songgen.train.checkpoint_model.export_model", export)
    folder = asked(tmp_path / "songs", checkpoint)
    (folder / song_request.EXPORTED_MODEL).mkdir()  # of a process that was killed
    assert main(["generate", "--request", str(folder)]) == 0
    assert exported == [(checkpoint, folder / ".model")]
    assert (folder / "a.wav").is_file() and not (folder / ".model").exists()
    assert json.loads((folder / "request.json").read_text())["takes"][0]["model"] == str(checkpoint)
