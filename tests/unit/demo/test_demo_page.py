"""The demo's page, built from tiny made-up results."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from demo_report.files import GeneratedSong, write_generated, write_rows, write_sound
from demo_report.page import Figure, Page, render_page

pytest.importorskip("matplotlib", reason="matplotlib (demo extra) is not installed")
build_page = pytest.importorskip("build_page")

TRACKS = {"mixed": ("mix",), "dual_track": ("acc", "vocal")}


class Links(HTMLParser):
    """Collects tags, and everything that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(text: str) -> Links:
    links = Links()
    links.feed(text)
    return links


def share(value: float) -> dict[str, float]:
    return {"mix": value, "vocal": value, "acc": value}


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A finished demo of two songs, one of each split, with hostile text."""
    songs, out = tmp_path / "songs", tmp_path / "out"
    samples = 0.1 * np.sin(np.arange(4000) / 10).astype(np.float32)
    names = {"train": "tune <1> #2", "eval": "other"}
    files = {"train": "metadata.jsonl", "eval": "metadata_eval.jsonl"}
    songs.mkdir()
    for split, name in names.items():
        row: dict[str, Any] = {"fname": name, "caption": "loud & <b>bold</b>", "lyrics": '<script>alert("x")</script>'}
        for track, column in (("mix", "audio_file_name"), ("vocal", "vocal_file_name"), ("acc", "acc_file_name")):
            row[column] = f"{track}/{name}.wav"
            write_sound(songs / row[column], samples, 16_000)
            write_sound(out / "round_trip" / f"{name}_{track}.wav", samples, 16_000)
        write_rows(songs / files[split], [row])
    for mode, tracks in TRACKS.items():
        generated = []
        for split, name in names.items():
            sounds = {track: f"{name}_{track}.wav" for track in {*tracks, "mix"}}
            for sound in sounds.values():
                write_sound(out / "generated" / mode / sound, samples, 16_000)
            generated.append(GeneratedSong(name, split, split == "train", 12, sounds, tracks))
        write_generated(out / "generated" / mode, generated)
    figures: dict[str, Any] = {
        "codec_log_mel_error": {split: share(0.1) for split in names},
        "codec_quantizer_error": {split: 0.05 for split in names},
    }
    for mode, tracks in TRACKS.items():
        agreement = {track: 0.97 for track in tracks} | {"mean": 0.97}
        nearest = {track: 0.5 for track in dict.fromkeys([*tracks, "mix"])}
        figures[mode] = {
            "num_songs": 1, "tracks": list(tracks), "first_codebook_agreement": agreement,
            "nearest_to_own_original": nearest,
        }  # fmt: skip
    (out / "figures.json").write_text(json.dumps(figures))
    (out / "steps").mkdir()
    (out / "steps" / "order.json").write_text('["songs", "page"]')
    record = {"title": "Build <songs>", "command": "$ python build.py", "seconds": 125.0, "finished": True}
    (out / "steps" / "songs.json").write_text(json.dumps(record))
    (out / "steps" / "page.json").write_text(json.dumps({**record, "title": "Unfinished", "finished": False}))
    stage = out / "mixed_step1"
    stage.mkdir()
    names = ("train/unweighted_loss", "eval/loss", "train/learning_rate")
    write_rows(stage / "metrics.jsonl", [{"step": step, **dict.fromkeys(names, 7.0 / step)} for step in (5, 10, 15)])
    return out


def test_every_link_of_the_page_is_a_file_beside_it(demo: Path) -> None:
    build_page.build_page(demo, demo.parent / "songs", [demo / "mixed_step1"])
    links = parse((demo / "index.html").read_text(encoding="utf-8")).links
    assert links
    for link in links:
        assert not re.match(r"[a-z]+:|/", link), link
        assert (demo / unquote(link)).is_file(), link


def test_the_page_has_players_for_originals_round_trips_and_all_tracks(demo: Path) -> None:
    build_page.build_page(demo, demo.parent / "songs", [demo / "mixed_step1"])
    page = parse((demo / "index.html").read_text(encoding="utf-8"))
    # original, round trip, mixed, dual-track mix, vocal and accompaniment for both songs
    assert page.tags.count("audio") == 12
    assert page.tags.count("img") == 12 + 1
    for text in ("codec round trip", "dual-track model: vocal", "97.0 %", "50.0 % of 1", "2 min 05 s", "Build <songs>"):
        assert text in page.text
    assert "Unfinished" not in page.text


def test_text_of_songs_stays_text(demo: Path) -> None:
    build_page.build_page(demo, demo.parent / "songs", [demo / "mixed_step1"])
    page = parse((demo / "index.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags and "b" not in page.tags
    assert '<script>alert("x")</script>' in page.text and "tune <1> #2" in page.text


def test_figures_say_whether_their_goal_is_reached() -> None:
    figures = (
        Figure("a", "97 %", "at least 95 %", True),
        Figure("b", "12 %", "at least 95 %", False),
        Figure("c", "1"),
    )
    text = render_page(Page("t", "i", figures, (), (), (), "m"))
    assert text.count('class="value reached"') == 1 and text.count('class="value missed"') == 1
    assert "http:" not in text and "https:" not in text


def test_a_stage_without_a_loss_is_named(demo: Path) -> None:
    write_rows(demo / "mixed_step1" / "metrics.jsonl", [{"step": 5, "train/other": 1.0}])
    with pytest.raises(ValueError, match="mixed_step1.*has no 'train/"):
        build_page.build_page(demo, demo.parent / "songs", [demo / "mixed_step1"])
