"""Signs of life: cheap for a step, on the disk soon, and gone with their process."""

import time
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS

from songgen.runtime.processes.heartbeat import Heartbeat, read_beat
from songgen.train import supervision
from songgen.train.supervision import Supervision


def test_a_beat_touches_no_disk_until_it_is_written(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, 0)
    for step in range(100):
        heartbeat.beat("training", step)
    assert not list(tmp_path.iterdir())
    heartbeat.write()
    assert read_beat(tmp_path, 0) == heartbeat.latest and heartbeat.latest.step == 99
    heartbeat.path.unlink()
    heartbeat.write()
    assert not list(tmp_path.iterdir()), "nothing new to say"


def test_a_failure_is_written_at_once(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, 0)
    heartbeat.beat("training", 7)
    heartbeat.fail("out of memory", is_victim=False)
    beat = read_beat(tmp_path, 0)
    assert beat is not None and (beat.step, beat.error) == (7, "out of memory")


def test_a_process_that_is_done_leaves_no_file_whatever_is_written_late(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, 0)
    heartbeat.write()
    heartbeat.beat("training", 1)
    heartbeat.remove()
    heartbeat.write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_supervised_process_that_hangs_is_seen_where_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    monkeypatch.setattr(supervision, "WATCH_SECONDS", 0.01)
    with Supervision(tmp_path, rank=0, world_size=world_size, run_id="run") as supervised:
        first = read_beat(tmp_path, 0)
        assert first is not None and first.doing == "starting"
        supervised.heartbeat.beat("waiting for data", 3)
        deadline = time.monotonic() + SAFETY_SECONDS
        while read_beat(tmp_path, 0) != supervised.heartbeat.latest:
            assert time.monotonic() < deadline, "nobody writes it"
            time.sleep(0.01)
