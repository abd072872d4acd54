"""The command: text, JSON, exit codes."""

import json
import shutil
from pathlib import Path

import pytest

from songgen.cli.main import main
from songgen.doctor import Diagnosis, Finding, Kind, Level
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_USAGE


def test_fine_is_0_and_wrong_is_1(originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(originals / "run")]) == EXIT_DONE
    assert capsys.readouterr().out.rstrip().endswith("fine: 0 errors, 0 warnings")
    model = Path(shutil.copytree(originals / "model", tmp_path / "model"))
    (model / "model.safetensors").unlink()
    assert main(["doctor", str(model), "--deep"]) == EXIT_ERROR
    assert "something is wrong: 2 errors" in capsys.readouterr().out, "its hash is listed, and it is needed"


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch])
def test_a_folder_that_it_does_not_know_is_2(tmp_path: Path, make: object, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "else"
    make(folder)  # type: ignore[operator]
    assert main(["doctor", str(folder)]) == EXIT_USAGE
    assert str(folder) in capsys.readouterr().err


def test_json_holds_every_finding(originals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(originals / "songs"), "--json"]) == EXIT_DONE
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "dataset" and record["fine"] is True
    assert {"level": "warning", "where": "rows left out"}.items() <= record["findings"][-1].items()
    assert all(set(finding) == {"level", "where", "what", "way_out"} for finding in record["findings"])


def test_columns_are_aligned_and_long_texts_wrapped() -> None:
    what = "word " * 60
    findings = (Finding(Level.OK, "short", "fact"), Finding(Level.ERROR, "a longer place", what, "do this"))
    lines = list(Diagnosis(Path("folder"), Kind.MODEL, findings).lines())
    assert lines[1].index("fact") == lines[2].index("word")
    assert max(map(len, lines)) <= 120 and lines[-2].strip() == "-> do this"


def test_names_from_outside_cannot_drive_the_terminal(
    originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(originals / "model", tmp_path / "model"))
    (model / "evil\x1b[2J.bin").touch()
    assert main(["doctor", str(model)]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "evil.bin" in out and "\x1b" not in out
