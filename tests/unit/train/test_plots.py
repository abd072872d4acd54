"""Plots: drawn from whatever a run has written, and never in the way of the run."""

import json
import os
import re
import subprocess
import sys
import time
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from limits import SAFETY_SECONDS

from songgen.cli.main import main
from songgen.exit_codes import EXIT_USAGE
from songgen.train.reporting.plots import background
from songgen.train.reporting.plots.background import BackgroundPlots
from songgen.train.reporting.plots.curves import read_curves
from songgen.train.reporting.plots.panels import all_panels
from songgen.train.reporting.plots.plot_files import write_plots
from songgen.train.reporting.plots.songs import latest_songs
from songgen.train.reporting.trackers import METRICS_FILE, MetricsFile, samples_folder

pytest.importorskip("matplotlib", reason="matplotlib (train extra) is not installed")

TONE = 0.1 * np.sin(np.arange(1_600) / 9)


def write_run(folder: Path, *, steps: int = 40, scale: float = 1.0) -> Path:
    """A run of a dual-track model: a line of training every two steps, of evaluation every ten."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(2, steps + 1, 2):
        loss = scale * 8 * step**-0.3
        values: dict[str, Any] = {"train/loss": loss / 2, "train/unweighted_loss": loss, "train/learning_rate": 1e-4}
        values |= {"train/grad_norm": 1 / step}
        for track in ("vocal", "acc"):
            values |= {f"train/{track}/codebook_{number}/loss": loss + number for number in range(3)}
        lines.append({"step": step, "epoch": step / 10, "time": 1.0, **values})
        if step % 10 == 0:
            values = {"eval/loss": loss + 1, "eval/accuracy": 1 - 1 / step}
            for track in ("vocal", "acc"):
                values |= {f"eval/{track}/loss": loss, f"eval/{track}/accuracy": 0.5}
                values |= {f"eval/{track}/codebook_{number}/loss": loss + number for number in range(3)}
            lines.append({"step": step, "epoch": step / 10, "time": 1.0, **values})
    (folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_songs(folder: Path, step: int, kind: str, *names: str) -> None:
    for name in names:
        path = samples_folder(folder, step) / f"{name}_{kind}_mix.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, TONE * step / 100, 16_000)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose pictures are not drawn, which takes most of the time."""
    monkeypatch.setattr("songgen.train.reporting.plots.plot_files.picture", lambda panels: b"picture")


class Sources(HTMLParser):
    """Collects what a page loads, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[str, list[str]] = {}
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources.setdefault(tag, []).extend(value or "" for name, value in attributes if name in ("src", "href"))


def parse(page: Path) -> Sources:
    found = Sources()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def test_every_panel_is_a_picture_and_in_the_page(tmp_path: Path) -> None:
    page, *pictures = write_plots([write_run(tmp_path / "run")], tmp_path / "out")
    assert {path.stem for path in pictures} == {
        "loss", "accuracy", "loss_by_track", "loss_by_codebook_vocal", "loss_by_codebook_acc", "learning_rate",
        "gradient_norm",
    }  # fmt: skip
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000
    embedded = [b64decode(source.partition(",")[2]) for source in parse(page).sources["img"]]
    assert embedded == [path.read_bytes() for path in pictures]


def test_curves_and_marks_are_those_of_the_metrics(tmp_path: Path) -> None:
    panels = {panel.key: panel for panel in all_panels([read_curves(write_run(tmp_path / "run"))])}
    training, evaluation = panels["loss"].lines
    assert training.curve.values[0] == pytest.approx(8 * 2**-0.3), "the loss that compares with the evaluation's"
    assert list(evaluation.curve.steps) == [10, 20, 30, 40]
    assert [guide.value for key in ("loss", "accuracy", "gradient_norm") for guide in panels[key].guides] == [
        3,
        0.7,
        0.2,
    ]
    assert all("VALL-E" in guide.label for panel in panels.values() for guide in panel.guides), (
        "not true of every codec"
    )
    assert len(panels["loss_by_codebook_vocal"].lines) == 6
    assert [line.label for line in panels["loss_by_codebook_vocal"].lines] == [
        "codebook 0", "codebook 1", "codebook 2", "", "", ""
    ]  # fmt: skip
    assert [line.label for line in panels["loss_by_track"].lines] == ["vocals", "accompaniment"]


@pytest.mark.usefixtures("no_pictures")
def test_several_runs_are_drawn_over_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second", scale=0.5)
    assert main(["plot", str(first), str(second), "--out", str(tmp_path / "both")]) == 0
    printed = capsys.readouterr().out.split()
    assert str(tmp_path / "both" / "index.html") in printed and all(Path(path).is_file() for path in printed)
    panels = {panel.key: panel for panel in all_panels([read_curves(first), read_curves(second)])}
    assert [line.label for line in panels["loss"].lines] == [
        "first, training", "second, training", "first, evaluation", "second, evaluation",
    ]  # fmt: skip
    colors = {line.label.split(",")[0]: line.color for line in panels["loss"].lines}
    assert len(set(colors.values())) == 2
    assert main(["plot", str(first)]) == 0 and (first / "plots" / "loss.png").is_file()


@pytest.mark.usefixtures("no_pictures")
def test_damaged_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    lines = (run / METRICS_FILE).read_bytes().splitlines(keepends=True)
    lines[4] = lines[4][:20] + b"\x00" + lines[4][21:]
    lines[7] = b"[1, 2]\n"
    lines.insert(9, b'{"step": 20, "train/loss": 1e999, "train/grad_norm": NaN, "eval/loss": "x"}\n')
    (run / METRICS_FILE).write_bytes(b"".join(lines) + b'{"step": 42, "train/lo')
    curves = read_curves(run)
    assert curves.damaged_lines == 2
    assert all(np.isfinite(curve.values).all() for curve in curves.curves.values())
    page, *_ = write_plots([run], tmp_path / "out")
    assert page.read_text().count("<td") == 6 and ">2</td>" in page.read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_hundred_thousand_points_become_as_many_as_a_picture_has_columns(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    line = '{{"step": {0}, "epoch": 0.1, "time": 1.0, "train/loss": 2.5, "train/grad_norm": 0.1}}\n'
    (run / METRICS_FILE).write_text("".join(line.format(step) for step in range(100_000)))
    began = time.process_time()
    curve = read_curves(run).curves["train/loss"]
    assert 500 <= len(curve.steps) <= 1_000 and curve.last == (99_999, 2.5)
    write_plots([run], tmp_path / "out")
    assert time.process_time() - began < 30, "it takes about 3 s"


@pytest.mark.usefixtures("no_pictures")
def test_the_page_plays_the_latest_songs_beside_their_targets_without_any_other_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_songs(run, 0, "original", "a_generated_b", "second")
    write_songs(run, 10, "generated", "a_generated_b")
    write_songs(run, 20, "generated", "a_generated_b", "second")
    samples_folder(run, 30).mkdir()
    step, songs = latest_songs(run)
    assert step == 20 and [song.name for song in songs] == ["a_generated_b", "second"]
    page, *_ = write_plots([run], run / "plots")
    sources = parse(page).sources["audio"]
    assert len(sources) == 4
    for source, volume in zip(sources, (0, 20, 0, 20), strict=True):
        samples, rate = soundfile.read(BytesIO(b64decode(source.removeprefix("data:audio/flac;base64,"))))
        assert rate == 16_000
        np.testing.assert_allclose(samples, TONE * volume / 100, atol=1e-4)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page.read_text())
    assert policy and "media-src 'self' file: data:" in policy[1]


@pytest.mark.usefixtures("no_pictures")
def test_large_songs_are_linked_and_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    write_songs(run, 0, "original", "song")
    write_songs(run, 20, "generated", "song")
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, TONE, 16_000)
    (samples_folder(run, 20) / "stolen_generated_mix.wav").symlink_to(secret)
    monkeypatch.setattr("songgen.train.reporting.plots.page.EMBEDDED_BYTES", 1)
    page, *_ = write_plots([run], run / "plots")
    first, second = parse(page).sources["audio"]
    assert (
        first.startswith("data:")
        and (page.parent / second).resolve() == samples_folder(run, 20) / "song_generated_mix.wav"
    )
    assert "secret" not in page.read_text()


@pytest.mark.usefixtures("no_pictures")
def test_names_stay_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<script>alert(1)</script>")
    write_songs(run, 20, "generated", '"><script>')
    page, *_ = write_plots([run], tmp_path / "out")
    assert "script" not in parse(page).tags


@pytest.mark.parametrize(("content", "said"), [(None, "no metrics.jsonl"), ("", "no metric in its metrics.jsonl")])
def test_a_folder_without_metrics_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / METRICS_FILE).write_text(content)
    with pytest.raises(ValueError, match=said):
        write_plots([tmp_path], tmp_path / "out")
    assert main(["plot", str(tmp_path)]) == EXIT_USAGE


def test_plots_of_a_run_are_drawn_beside_it_and_the_last_ones_show_its_end(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=20)
    plots = BackgroundPlots(run)
    began = time.perf_counter()
    plots.draw()
    started = time.perf_counter() - began
    write_run(run, steps=40)
    plots.draw()  # while the first process draws
    plots.close()
    assert "step 40" in (run / "plots" / "index.html").read_text()
    assert started < 1, "the run only starts a process"


def test_drawing_is_not_repeated_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(command)
        return popen([sys.executable, "-c", ""], **options)

    monkeypatch.setattr(background.subprocess, "Popen", start)
    plots = BackgroundPlots(write_run(tmp_path / "run"))
    for _ in range(3):
        plots.draw()
        plots._wait(time.monotonic() + SAFETY_SECONDS)
    assert len(started) == 1
    plots.close()
    assert len(started) == 2, "the end of the run gets a plot of its own"


@pytest.mark.parametrize("case", ["fails", "hangs", "cannot start"])
def test_nothing_that_drawing_does_reaches_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    run = write_run(tmp_path / "run")
    program = {"fails": "import sys; sys.exit('no such font')", "hangs": "import time; time.sleep(60)"}.get(case)
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.5 if case == "hangs" else float(SAFETY_SECONDS))
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if program is None:
            raise OSError("too many processes")
        started.append(popen([sys.executable, "-c", program], **options))
        return started[-1]

    monkeypatch.setattr(background.subprocess, "Popen", start)
    plots = BackgroundPlots(run)
    plots.draw()
    if case == "fails":
        started[0].wait(SAFETY_SECONDS)
    plots.draw()
    plots.close()
    expected = {"fails": "no such font", "hangs": "left to their process", "cannot start": "too many processes"}[case]
    assert [expected in record.getMessage() for record in caplog.records] == [True], caplog.text
    assert len(started) == (program is not None), "one that failed is not tried again, one that hangs has no second"
    for process in started:
        process.kill()
        process.wait()


def test_without_matplotlib_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("background", "plot_files", "pictures"):
        monkeypatch.setattr(f"songgen.train.reporting.plots.{module}.can_draw", lambda: False)
    caplog.set_level("INFO")
    plots = BackgroundPlots(tmp_path)
    plots.draw()
    plots.close()
    assert len(caplog.records) == 1 and "pip install matplotlib" in caplog.text
    with pytest.raises(ValueError, match="pip install matplotlib"):
        write_plots([write_run(tmp_path / "run")], tmp_path / "out")


def test_drawing_needs_no_torch_and_nothing_of_the_current_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not the library')")
    metrics = MetricsFile(run, resume_step=40)  # as a resumed run leaves it
    metrics.write({"train/loss": 1.0}, 42, 4.2)
    program = (
        "import sys, songgen.train.reporting.plots.plot_files as files, pathlib\n"
        "files.write_plots([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]))\n"
        "print([name for name in ('torch', 'transformers', 'accelerate') if name in sys.modules])"
    )
    command = [sys.executable, "-P", "-c", program, str(run), str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=SAFETY_SECONDS, env=os.environ
    )
    assert done.stdout.strip() == "[]"
