"""Trackers: the run's own files are always complete, and no tracker can stop a run."""

import json
import logging
import sys

import numpy as np
import pytest
import soundfile
import torch

from songgen.train.reporting.trackers import METRICS_FILE, TRACKERS, MetricsFile, Trackers, read_metrics, redact


def _lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


class _Recorder:
    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def _call(self, *call):
        self.calls.append(call)
        if call[0] == self.fail_at:
            raise ConnectionError("no network")

    def log(self, values, step):
        self._call("log", dict(values), step)

    def log_audio(self, name, path, waveform, sample_rate, step):
        self._call("audio", name, path, waveform.shape, sample_rate, step)

    def close(self):
        self._call("close")


@pytest.fixture
def recorders(monkeypatch):
    made = {"wandb": _Recorder(fail_at="log"), "tensorboard": _Recorder()}
    for name, recorder in made.items():
        monkeypatch.setitem(TRACKERS, name, lambda *arguments, recorder=recorder: recorder)
    return made


def test_metrics_are_strict_json_with_null_for_what_is_not_finite(tmp_path):
    trackers = Trackers(tmp_path)
    trackers.log({"loss": torch.tensor(1.5), "grad_norm": float("nan"), "x": float("-inf")}, step=3, epoch=0.25)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert record.pop("time") > 1e9
    assert record == {"step": 3, "epoch": 0.25, "loss": 1.5, "grad_norm": None, "x": None}


def test_a_resumed_run_has_every_step_once(tmp_path):
    first = Trackers(tmp_path)
    for step in (1, 2, 3, 4):
        first.log({"loss": step}, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    second = Trackers(tmp_path, resume_step=2)
    for step in (3, 4, 5):
        second.log({"loss": -step}, step)
    losses = [(record["step"], record["loss"]) for record in _lines(tmp_path)]
    assert losses == [(1, 1), (2, 2), (3, -3), (4, -4), (5, -5)]
    assert [record["step"] for record in _lines(tmp_path, "metrics.superseded.jsonl")] == [3, 4]


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe", b"{", b"[" * 100_000, b'{"step": null}', b'{"epoch": 1}', b"1", b"\x00"]
)
def test_a_damaged_line_does_not_stop_a_run_from_resuming(tmp_path, caplog, damage):
    first, second = b'{"step": 1, "loss": 2.0}\n', b'{"step": 2, "loss": 1.5}\n'
    (tmp_path / METRICS_FILE).write_bytes(first + damage + b"\n" + second)
    with caplog.at_level(logging.WARNING):
        Trackers(tmp_path, resume_step=2).log({"loss": 1.0}, 3)
    assert [record["step"] for record in read_metrics(tmp_path / METRICS_FILE)] == [1, 2, 3]
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == damage + b"\n"
    assert f"{tmp_path / METRICS_FILE}: damaged line 2 moved to metrics.damaged.jsonl" in caplog.text


def test_a_new_run_in_the_same_folder_keeps_the_old_lines_aside(tmp_path):
    Trackers(tmp_path).log({"loss": 1}, 0)
    Trackers(tmp_path).log({"loss": 2}, 0)
    assert [record["loss"] for record in _lines(tmp_path)] == [2]
    assert [record["loss"] for record in _lines(tmp_path, "metrics.superseded.jsonl")] == [1]


def test_a_full_disk_is_reported_once_and_its_lines_come_later(tmp_path, caplog):
    metrics = MetricsFile(tmp_path)
    metrics.write({"loss": 1}, 1, None)
    path, metrics.path = metrics.path, tmp_path / "missing" / "metrics.jsonl"
    metrics.write({"loss": 2}, 2, None)
    metrics.write({"loss": 3}, 3, None)
    metrics.path = path
    metrics.write({"loss": 4}, 4, None)
    assert [record["step"] for record in _lines(tmp_path)] == [1, 2, 3, 4]
    assert len(caplog.records) == 1 and "training continues" in caplog.text


def test_a_tracker_that_fails_is_switched_off_with_one_warning(tmp_path, recorders, caplog):
    trackers = Trackers(tmp_path, ("wandb", "tensorboard"))
    for step in (1, 2):
        trackers.log({"loss": 1.0}, step, epoch=0.5)
    trackers.close()
    assert [call[0] for call in recorders["wandb"].calls] == ["log"]
    assert recorders["tensorboard"].calls == [
        ("log", {"loss": 1.0, "epoch": 0.5}, 1), ("log", {"loss": 1.0, "epoch": 0.5}, 2), ("close",)
    ]  # fmt: skip
    assert [record.levelno for record in caplog.records] == [logging.WARNING] and "no network" in caplog.text
    assert [record["step"] for record in _lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_left_out(tmp_path, name, monkeypatch, caplog):
    for module in [each for each in sys.modules if each.split(".")[0] == name or each == "torch.utils.tensorboard"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    trackers = Trackers(tmp_path, (name,))
    trackers.log({"loss": 1.0}, 1)
    trackers.close()
    assert f"pip install {name}" in caplog.text and "Traceback" not in caplog.text
    assert [record["loss"] for record in _lines(tmp_path)] == [1.0]


def test_an_unknown_tracker_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="comet; known: wandb, tensorboard"):
        Trackers(tmp_path / "run", ("comet",))
    assert not (tmp_path / "run").exists()


def test_other_processes_write_nothing(tmp_path, recorders):
    trackers = Trackers(tmp_path / "run", ("tensorboard",), enabled=False)
    trackers.log({"loss": 1.0}, 1)
    assert trackers.log_audio("song", np.zeros(10), 16000, 1) is None
    trackers.close()
    assert not (tmp_path / "run").exists() and recorders["tensorboard"].calls == []


def test_audio_is_a_file_first(tmp_path, recorders):
    trackers = Trackers(tmp_path, ("tensorboard",))
    waveform = torch.linspace(-1, 1, 800).repeat(2, 1)
    path = trackers.log_audio("../song 1/vocal", waveform, 16000, step=20)
    assert path.parent == tmp_path / "samples" / "step_00000020" and path.name == ".._song_1_vocal.wav"
    samples, rate = soundfile.read(path)
    assert rate == 16000 and samples.shape == (800, 2)
    np.testing.assert_allclose(samples, waveform.T, atol=1e-4)
    assert recorders["tensorboard"].calls == [("audio", "../song 1/vocal", path, (800, 2), 16000, 20)]
    path = trackers.log_audio("bad", np.array([np.nan, np.inf, 3.0, -3.0]), 16000, step=20)
    np.testing.assert_allclose(soundfile.read(path)[0], [0, 0, 1, -1], atol=1e-4)


def test_secrets_do_not_reach_a_tracker():
    config = {
        "hub_token": "hf_abcdefghijkl",
        "nested": {"wandb_api_key": "123", "note": "use hf_abcdefghijkl here"},
        "max_lyrics_tokens": 5,
        "pad_token_id": 0,
        "hub_model_id": "name/model",
        "list": ["hf_abcdefghijkl"],
    }
    assert redact(config) == {
        "hub_token": "<redacted>",
        "nested": {"wandb_api_key": "<redacted>", "note": "use <redacted> here"},
        "max_lyrics_tokens": 5,
        "pad_token_id": 0,
        "hub_model_id": "name/model",
        "list": ["<redacted>"],
    }


def test_tensorboard_itself_takes_numbers_and_audio(tmp_path, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = Trackers(tmp_path, ("tensorboard",), config={"a": 1})
    trackers.log({"loss": 2.0}, 1)
    trackers.log_audio("song", np.zeros(800), 16000, 1)
    trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0)]
    assert len(events.Audio("song")) == 1 and not caplog.records


def test_wandb_itself_works_offline_and_goes_on_under_the_same_id(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for resume_step in (None, 1):
        trackers = Trackers(tmp_path, ("wandb",), config={"hub_token": "hf_abcdefghijkl"}, resume_step=resume_step)
        trackers.log({"loss": 2.0}, 1)
        trackers.log_audio("song", np.zeros(800), 16000, 1)
        trackers.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    # offline-run-TIME-ID, and a number behind it for a second run in the same second.
    assert runs and {run.name.split("-")[3] for run in runs} == {(tmp_path / "wandb_run_id.txt").read_text()}
    assert not any(b"hf_abcdefghijkl" in file.read_bytes() for run in runs for file in run.rglob("*") if file.is_file())
