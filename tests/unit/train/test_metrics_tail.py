"""The incremental reader of metrics: any pieces give what the whole file gives, whatever happens to the file."""

import json
import math
import os
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from songgen.runtime.json_lines import LINE_ERRORS
from songgen.train.reporting.plots import tail as tail_module
from songgen.train.reporting.plots.buckets import MAX_BUCKETS, Buckets
from songgen.train.reporting.plots.tail import MAX_LINE_BYTES, MAX_METRICS, MetricsTail, parse_lines
from songgen.train.reporting.trackers import METRICS_FILE, read_metric

ODD_LINES = [
    b"", b"{", b"[]", b"[1, 2]", b"null", b"5", b'{"step": 1', b'"step": 1}', b'{"step": true}', b'{"step": 1.5}',
    b'{"train/loss": 1.0}', b'{"step": 1, "step": 2}', b'{"step": 3, "a": {"b": 1}}', b'{"step": 3, "a": [NaN]}',
    b'{"step": 3, "a:b": 1.0}', b'{"step": 4, "a": NaN, "b": -Infinity, "c": 1e999, "d": null, "e": "x", "f": true}',
    b'{"step": 99999999999999999999999}', b'{"step": 5, "a": 18446744073709551615}', b'{"step": 6, "a": "}"}',
    b'{"step": 6, "a": "', b'{"},5', b'{"step": 1},{"step": 2}', b'{"step": 1},{"step": 2, "y": [1', b'2]}',
    b'\xff{"step": 7}', b'{"step": 7, "a": "\xff"}', b' {"step": 8, "a": 1.5} \r', b'{"step" : 9, "a" : 2}',
]  # fmt: skip


def line(step: int, **values: Any) -> bytes:
    return json.dumps({"step": step, "epoch": step / 10, "time": 1_795_862_928.5 + step, **values}).encode() + b"\n"


def read(path: Path) -> MetricsTail:
    found = MetricsTail(path)
    found.refresh()
    return found


def state(found: MetricsTail) -> Any:
    """Everything that was read, but for the name of the reading."""
    answer = found.since()
    del answer["key"]
    return json.dumps(answer)


def test_lines_at_once_are_read_as_one_by_one() -> None:
    chooser = random.Random(0)
    plain = [line(step, a=1.0)[:-1] for step in range(20)]
    for _ in range(300):
        lines = [chooser.choice(plain if chooser.random() < 0.5 else ODD_LINES) for _ in range(chooser.randint(1, 9))]
        expected: list[Any] = []
        for each in lines:
            try:
                expected.append(read_metric(each))
            except LINE_ERRORS:
                expected.append(None)
        assert repr(parse_lines(lines)) == repr(expected)


@pytest.mark.parametrize("seed", range(12))
def test_any_pieces_give_what_the_whole_file_gives(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces end anywhere, also within lines, and the reader's own chunks are of any size."""
    chooser = random.Random(seed)
    monkeypatch.setattr(tail_module, "MAX_LINE_BYTES", 400)
    monkeypatch.setattr(tail_module, "_CHUNK_BYTES", chooser.choice([7, 64, 500, 1 << 18]))
    lines = []
    for step in range(chooser.choice([50, 3_000])):
        values = {name: chooser.choice([step * 0.5, -1e-9, 7, 1e30]) for name in ("a", "b", "c")[: step % 4]}
        lines.append(line(step, **values))
        if chooser.random() < 0.03:
            lines.append(chooser.choice(ODD_LINES) + b"\n")
        if chooser.random() < 0.01:
            lines.append(line(step, a=1.0, **{"x" * chooser.randint(200, 1_500): 1.0}))
    content = b"".join(lines)
    path = tmp_path / METRICS_FILE
    path.write_bytes(content)
    whole = state(read(path))

    path.write_bytes(b"")
    found, at = MetricsTail(path), 0
    while at < len(content):
        size = chooser.choice([1, 30, 1_000, 50_000])
        with path.open("ab") as file:
            file.write(content[at : at + size])
        at += size
        found.refresh(chooser.choice([0.0, math.inf]))
    while found.has_more:
        found.refresh(0.0)
    assert state(found) == whole


def merged(client: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """What a page that has `client` has after an answer."""
    if client.get("key") != answer["key"]:
        client = {"curves": {}}
    curves = dict(client["curves"])
    for name, part in answer["curves"].items():
        old = curves.get(name, {})
        columns = [column for column in ("steps", "values", "low", "high") if column in part]
        curves[name] = {column: [*old.get(column, [])[: part["from"]], *part[column]] for column in columns}
    return {"key": answer["key"], "lines": answer["lines"], "curves": curves}


def test_clients_that_ask_for_what_is_new_have_everything(tmp_path: Path) -> None:
    """Also while neighbours are merged, and with several clients that ask at other times."""
    path = tmp_path / METRICS_FILE
    path.write_bytes(b"")
    found = MetricsTail(path)
    clients: list[dict[str, Any]] = [{}, {}, {}]
    chooser, step = random.Random(1), 0
    for _ in range(60):
        with path.open("ab") as file:
            for _ in range(chooser.choice([1, 5, 200])):
                file.write(line(step, a=math.sin(step / 50), **({"rare": 1.0} if step % 97 == 0 else {})))
                step += 1
        found.refresh()
        number = chooser.randrange(3)
        client = clients[number]
        clients[number] = merged(client, found.since(client.get("key", ""), client.get("lines", 0)))
    assert step > 2 * MAX_BUCKETS
    everything = merged({}, found.since())["curves"]
    for client in clients:
        assert merged(client, found.since(client["key"], client["lines"]))["curves"] == everything


def test_an_answer_without_news_is_small(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_bytes(b"".join(line(step, a=1.0, b=2.0) for step in range(5_000)))
    found = read(path)
    before = found.since()
    assert found.since(before["key"], before["lines"])["curves"] == {}
    with path.open("ab") as file:
        file.write(line(5_000, a=3.0))
    found.refresh()
    (new,) = found.since(before["key"], before["lines"])["curves"].values()
    assert len(new["values"]) == 1 and new["last"] == (5_000.0, 3.0)


def test_spikes_stay_visible(tmp_path: Path) -> None:
    values = np.ones(50_000)
    values[33_333] = 40.0
    curve = Buckets()
    curve.extend(np.arange(50_000), np.arange(50_000.0), values)
    _, means, lowest, highest = curve.columns()
    assert 500 <= len(curve) <= 1_000 and highest.max() == 40 and means.max() < 2 and lowest.min() == 1


def test_a_file_that_was_replaced_truncated_or_deleted_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    found = MetricsTail(path)
    found.refresh()
    assert found.since()["curves"] == {}
    path.write_bytes(b"".join(line(step, a=1.0) for step in range(10)))
    found.refresh()
    keys = [found.key]

    other = tmp_path / "other"  # as a resumed run does
    other.write_bytes(b"".join(line(step, a=2.0) for step in range(10)))
    os.replace(other, path)
    found.refresh()
    keys.append(found.key)
    assert found.curves["a"].last == (9.0, 2.0) and found.lines == 10

    with path.open("r+b") as file:
        file.truncate(100)
    found.refresh()
    keys.append(found.key)
    assert found.lines == 1

    path.unlink()
    found.refresh()
    keys.append(found.key)
    assert found.lines == 0 and found.since()["curves"] == {} and len(set(keys)) == 4


def test_a_folder_that_disappears_leaves_no_curves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / METRICS_FILE).write_bytes(line(1, a=1.0))
    found = read(folder / METRICS_FILE)
    folder.rename(tmp_path / "moved")
    found.refresh()
    assert found.since()["curves"] == {}


def test_a_line_of_three_megabytes_is_damaged_and_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_bytes(line(1, a=1.0) + line(2, a=1.0, **{"x" * (3 * MAX_LINE_BYTES): 1.0}) + line(3, a=3.0))
    found = read(path)
    assert (found.lines, found.damaged, found.curves["a"].count) == (3, 1, 2)
    with path.open("ab") as file:  # one that never ends
        file.write(b"y" * (2 * MAX_LINE_BYTES))
    found.refresh()
    with path.open("ab") as file:
        file.write(b"y\n" + line(4, a=4.0))
    found.refresh()
    assert (found.lines, found.damaged, found.curves["a"].last) == (5, 2, (4.0, 4.0))


def test_a_pipe_or_folder_in_place_of_the_file_leaves_no_curves(tmp_path: Path) -> None:
    # Opening a pipe would wait for a writer for ever, with a thread of the server.
    os.mkfifo(tmp_path / METRICS_FILE)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / METRICS_FILE, tmp_path / "folder"):
        tail = MetricsTail(path)
        tail.refresh()
        assert (tail.curves, len(tail.window(["train/loss"], 0, 10)["train/loss"])) == ({}, 0)


def test_a_line_without_end_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_bytes(b"x" * (4 * MAX_LINE_BYTES) + b'\n{"step": 1, "train/loss": 2.0}\n')
    tail, answers = MetricsTail(path), 0
    while answers == 0 or tail.has_more:
        tail.refresh(0.0)
        answers += 1
    assert answers > 2, "an answer must not wait for the end of the line"
    assert (tail.damaged, tail.curves["train/loss"].last) == (1, (1.0, 2.0))


def test_hostile_names_and_values(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    names = {f"metric {number}": 1.0 for number in range(2 * MAX_METRICS)}
    odd = {"__proto__": 1.0, "<script>alert(1)</script>": 2.0, "n" * 500: 3.0, "big": 1e308, "text": "x", "": 4.0}
    path.write_bytes(line(1, **odd) + line(2, **names) + line(3, big=-1e308, a=float("nan")))
    found = read(path)
    assert len(found.curves) == MAX_METRICS and "n" * 500 not in found.curves and "text" not in found.curves
    assert found.curves["<script>alert(1)</script>"].count == 1
    json.loads(json.dumps(found.since()), parse_constant=pytest.fail)


@pytest.mark.faults
def test_a_hundred_thousand_lines_are_read_at_once_with_little_memory(tmp_path: Path) -> None:
    """About 0.9 s of CPU; the limit is a safety bound. A page is answered after the time that it gives, in any case."""
    path = tmp_path / METRICS_FILE
    text = (
        '{{"step": {0}, "epoch": 0.1, "time": 1795862928.242, "train/loss": 2.512345678901, "train/grad_norm": 0.1}}\n'
    )
    path.write_text("".join(text.format(step) for step in range(100_000)))
    found = MetricsTail(path)
    began = time.process_time()
    found.refresh(0.0)
    assert found.has_more and time.process_time() - began < 1, "the first part"
    found.refresh()
    found.since()
    assert time.process_time() - began < 6
    assert found.lines == 100_000 and not found.has_more
    tracemalloc.start()
    try:
        again = MetricsTail(path)
        again.refresh()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1e6 and peak < 12e6, "a chunk at a time"


def test_a_zoom_reads_its_part_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "_CHUNK_BYTES", 2_000)
    path = tmp_path / METRICS_FILE
    path.write_bytes(b"".join(line(step, a=float(step), b=1.0) for step in range(0, 40_000, 2)))
    found = read(path)
    assert len(found._marks) > 50 and found.curves["a"].width > 1
    window = found.window(["a", "missing"], 20_000, 20_100)
    steps, values, _, _ = window["a"].columns()
    assert window["a"].width == 1 and list(steps) == list(range(20_000, 20_101, 2)) and list(values) == list(steps)
    assert len(window["missing"]) == 0
    path.unlink()
    assert len(found.window(["a"], 0, 10)["a"]) == 0
