"""The report: figures that add up, a page on which nothing of a song is HTML, and advice that follows from figures."""

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import open_browser

from songgen.lyrics.train import train_lyrics_tokenizer
from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.record import Refusal, SongRecord, Transcript
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.output.options import ReportOptions
from songgen.prepare.report.advice import KIND_EXAMPLES, advise
from songgen.prepare.report.files import PAGE_FILE, REPORT_FILE, write_report
from songgen.prepare.report.histograms import MAX_BINS, bin_edges
from songgen.prepare.report.page import render_report
from songgen.prepare.report.statistics import (
    ReportContext,
    build_report,
    choose_refused,
    open_vocabulary,
)
from songgen.prepare.sections import REFUSAL_CODES
from songgen.prepare.steps.filters import FilterOptions

STEPS = ("take_in", "separate", "segment", "measure", "filter", "duplicates", "split")
RATE = 8000
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def clip(song: str, number: int, **values: Any) -> SongRecord:
    base: dict[str, Any] = {
        "id": f"{song}_{number:03d}",
        "song": song,
        "file": "songs",
        "line": 1,
        "audio": {"mix": f"{song}_{number:03d}.wav"},
        "duration": 10.0,
        "language": "en",
        "lyrics": "la la la",
        "lyrics_source": "given",
        "caption": "calm folk, female vocal, guitar",
        "energies": {"mix": 1500.0, "vocal": 1200.0},
        "split": "train",
    }
    return SongRecord(**{**base, **values})


def refused(record: SongRecord, step: str, code: str, **values: Any) -> SongRecord:
    return dataclasses.replace(record, refusal=Refusal(step, code, f"because of {code}", **values))


@pytest.fixture
def records() -> list[SongRecord]:
    """Three songs with ten clips, one song that cannot be read, one that gives no clip."""
    broken = SongRecord(id="broken", song="broken", file="songs", line=7, audio={"mix": "broken.wav"})
    uncut = SongRecord(id="uncut", song="uncut", file="songs", line=8, audio={"mix": "uncut.wav"}, duration=60.0)
    found = [clip(song, number) for song in ("a", "b", "c") for number in range(3)]
    found[0] = dataclasses.replace(found[0], measures={"unused_pause_seconds": 20.0}, tempo=120.0, key="C major")
    found[3] = refused(found[3], "filter", "vocal_too_quiet", value=100.0, limit=200.0, others=("clipped",))
    found[4] = refused(found[4], "filter", "vocal_too_quiet", value=150.0, limit=200.0)
    found[5] = refused(found[5], "duplicates", "duplicate", value=0.9, kept="a_001")
    found[8] = dataclasses.replace(found[8], split="eval", language="de", lyrics="ä ß ж")
    silent = refused(broken, "take_in", "unreadable_audio")
    return [*found, silent, refused(uncut, "segment", "lyrics_without_times")]


def heard(record: SongRecord, **measures: float) -> SongRecord:
    """A clip with a transcript."""
    transcripts = {"transcribe": Transcript("la", "en", 0.5)}
    return dataclasses.replace(record, transcripts=transcripts, measures=measures)


def report_of(records: list[SongRecord], **values: Any) -> dict[str, Any]:
    context = ReportContext("my songs", ("songs", "more"), STEPS, FilterOptions(min_vocal_energy=200.0), **values)
    return build_report(records, context, ReportOptions())


def test_what_is_left_and_what_is_lost_add_up_step_by_step(records: list[SongRecord]) -> None:
    report = report_of(records)
    assert (report["songs"], report["clips"], report["seconds"]) == (5, 6, 60.0)
    shown = [(stage["step"], stage["songs"], stage["clips"], stage["seconds"]) for stage in report["stages"]]
    assert shown == [
        ("inputs", 5, None, 170.0),
        ("take_in", 4, None, 170.0),
        ("segment", 3, 9, 90.0),
        ("filter", 3, 7, 70.0),
        ("duplicates", 2, 6, 60.0),
    ]
    for before, after in zip(report["stages"], report["stages"][1:], strict=False):
        assert after["seconds"] == before["seconds"] - after["lost_seconds"]
    assert report["stages"][-1]["seconds"] == report["seconds"]
    assert sum(entry["count"] for entry in report["refusals"]) + report["clips"] == len(records)


def test_reasons_are_counted_explained_and_told_apart_by_what_else_speaks_against_a_clip(
    records: list[SongRecord],
) -> None:
    first, *others = report_of(records)["refusals"]
    assert (first["step"], first["code"], first["count"], first["alone"]) == ("filter", "vocal_too_quiet", 2, 1)
    assert {entry["code"] for entry in others} == {"duplicate", "unreadable_audio", "lyrics_without_times"}
    assert all(entry["meaning"] for entry in [first, *others])
    copy = {"id": "b_002", "similarity": 0.9, "why": ""}
    assert report_of(records)["duplicates"] == [{"kept": "a_001", "left_out": [copy]}]
    assert report_of(records)["unused"][0]["seconds"] == 20.0


def test_splits_languages_goals_and_tags(records: list[SongRecord]) -> None:
    report = report_of(records)
    assert {split: values["clips"] for split, values in report["splits"].items()} == {"train": 5, "eval": 1}
    assert {language: values["clips"] for language, values in report["languages"].items()} == {"en": 5, "de": 1}
    assert [(goal["hours"], goal["share"]) for goal in report["goals"]] == [
        (15_000, 60 / 3600 / 15_000),
        (2_000, 60 / 3600 / 2_000),
    ]
    assert report["tags"]["kinds"] == {"style": 6, "voice": 6, "instruments": 6, "mood": 6, "tempo": 0, "key": 0}
    assert report["tags"]["tempo_known"] == report["tags"]["key_known"] == 1
    assert ["guitar", 6] in report["tags"]["common"]


def test_histograms_hold_every_clip_accepted_and_refused_apart(records: list[SongRecord]) -> None:
    records[1] = dataclasses.replace(records[1], energies={"vocal": 4000.0})
    histograms = {entry["name"]: entry for entry in report_of(records)["histograms"]}
    assert set(histograms) == {"duration", "tempo", "vocal_energy"}
    assert sum(histograms["duration"]["accepted"]) == 6 and sum(histograms["duration"]["refused"]) == 3
    assert histograms["vocal_energy"]["limits"] == [200.0] and histograms["vocal_energy"]["median"] == 1200.0
    assert histograms["duration"]["limits"] == [2.0, 30.0]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.31, 0.52), (2, 30), (10, 10), (0, 0), (3e4, 3e4 + 1e-9), (-70, -3)]
)
def test_bins_are_round_few_and_hold_both_ends(low: float, high: float) -> None:
    edges = bin_edges(low, high)
    assert edges[0] <= low and high <= edges[-1] and 2 <= len(edges) <= MAX_BINS + 1
    widths = {round(second - first, 9) for first, second in zip(edges, edges[1:], strict=False)}
    assert len(widths) == 1 and f"{widths.pop():e}"[0] in "125"


def test_lyrics_are_held_against_the_vocabulary_that_is_named(tmp_path: Path, records: list[SongRecord]) -> None:
    vocabulary = train_lyrics_tokenizer([("la la la", "en")], 600, ["en", "de"])
    found = report_of(records, vocabulary=vocabulary)["vocabulary"]
    assert found["unknown"] == 1 and found["unknown_pieces"] == [["ж", 1]] and found["pieces"] > 10
    unknown = [dataclasses.replace(records[0], language="xx")]
    assert report_of(unknown, vocabulary=vocabulary)["vocabulary"]["other_languages"] == {"xx": 1}
    vocabulary.save_pretrained(tmp_path)
    for named, model in ((str(tmp_path), "nowhere"), ("", str(tmp_path))):
        opened = open_vocabulary(named, model)
        assert opened is not None and opened.fingerprint == vocabulary.fingerprint
    assert open_vocabulary("", str(tmp_path / "nowhere")) is None
    with pytest.raises(ValueError, match=r"report.lyrics_tokenizer: no lyrics_tokenizer.json"):
        open_vocabulary(str(tmp_path.parent), "")


def test_of_refused_clips_every_reason_is_heard_before_one_is_heard_twice() -> None:
    many = [refused(clip("a", number), "filter", "clipped") for number in range(50)]
    few = [refused(clip("b", number), "filter", "too_short") for number in range(2)]
    chosen = [record.refusal.code for record in choose_refused([*many, *few], 6, seed=1) if record.refusal]
    assert chosen == ["clipped"] * 4 + ["too_short"] * 2
    assert choose_refused(many, 5, seed=1) == choose_refused(many[::-1], 5, seed=1) != choose_refused(many, 5, seed=2)


def test_advice_follows_from_the_figures(records: list[SongRecord]) -> None:
    advice = "\n".join(advise(report_of(records)))
    assert "1.0 minutes of music" in advice
    assert "2 of 9 that reached `filter` were left out as `vocal_too_quiet`" in advice
    assert REFUSAL_CODES["vocal_too_quiet"].advice in advice
    assert "Only 0 of 6 captions speak of tempo" in advice and "speak of mood" not in advice
    assert "It is known from the sound of 1." in advice
    assert "no songs are held out" not in advice.lower()
    kept = [dataclasses.replace(record, split="train") for record in records if record.refusal is None]
    assert "No songs are held out" in "\n".join(advise(report_of(kept)))
    long = [dataclasses.replace(record, duration=3600.0 * 3000) for record in kept]
    assert "size that models are trained on from scratch" in advise(report_of(long))[0]
    unheard = [heard(record, lyrics_coverage=0.1) for record in kept]
    assert "at most 10% of the words were heard" in "\n".join(advise(report_of(unheard)))
    foreign = [
        dataclasses.replace(record, language=code) for record, code in zip(kept, ("sv", "yue", ""), strict=False)
    ]
    assert "(clips of each): sv 1, yue 1. Preprocessing leaves" in "\n".join(advise(report_of(foreign)))
    assert "No lyrics tokenizer knows" not in advice
    nothing = [record for record in records if record.refusal is not None]
    assert advise(report_of(nothing))[0].startswith("No clip is left")
    render_report(report_of(nothing))


def test_kinds_of_the_examples_are_those_of_the_tags() -> None:
    assert set(KIND_EXAMPLES) == set(report_of([])["tags"]["kinds"])


class Tags(HTMLParser):
    """Names and attributes of all elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def evil_records(records: list[SongRecord]) -> list[SongRecord]:
    """Records in which every text that can come from outside tries to be HTML."""
    texts = {
        "caption": EVIL,
        "lyrics": EVIL,
        "language": EVIL,
        "tags": (EVIL[:30],),
        "key": EVIL,
        "lyrics_source": EVIL,
    }
    found = [dataclasses.replace(record, **texts) for record in records]  # type: ignore[arg-type]
    found[0] = dataclasses.replace(found[0], id=f"{EVIL} ?#%.wav", song=EVIL, split=EVIL)
    found[3] = dataclasses.replace(found[3], refusal=Refusal(EVIL, EVIL, EVIL, kept=EVIL, value=0.5))
    return found


def test_nothing_of_a_song_becomes_html(evil_records: list[SongRecord]) -> None:
    vocabulary = train_lyrics_tokenizer([("la", "en")], 600, ["en"])
    report = report_of(evil_records, notices=(EVIL,), vocabulary=vocabulary)
    for sample in report["samples"]["accepted"]:
        sample["audio"] = {EVIL: f"audio/{sample['id']}"}
    report["title"] = EVIL
    elements = Tags(render_report(report)).found
    assert not {"script", "img", "iframe", "link", "object"} & {tag for tag, _ in elements}
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    sources = [attributes["src"] for tag, attributes in elements if tag == "audio"]
    assert sources and all(source and source.startswith("audio/") and "<" not in source for source in sources)


def test_one_clip_and_clips_that_no_recognizer_has_heard_say_nothing_about_the_lyrics(
    records: list[SongRecord],
) -> None:
    kept = [record for record in records if record.refusal is None]
    unheard = [dataclasses.replace(record, measures={"lyrics_coverage": 0.0}) for record in kept]
    assert "of the words were heard" not in "\n".join(advise(report_of(unheard)))
    single = [heard(kept[0], lyrics_coverage=0.0), *kept[1:]]
    assert "of the words were heard" not in "\n".join(advise(report_of(single)))


@pytest.mark.parametrize(("share", "is_said"), [(0.1, False), (0.31, True), (0.65, True)])
def test_recognizers_that_differ_give_advice(records: list[SongRecord], share: float, is_said: bool) -> None:
    kept = [heard(record, transcript_edit_share=share) for record in records if record.refusal is None]
    advice = "\n".join(advise(report_of(kept)))
    assert ("The two recognizers differ in more than 30% of the words in 6 of 6 clips" in advice) is is_said
    assert ("filter.max_transcript_edit_share" in advice) is is_said


def test_clips_that_the_second_recognizer_could_not_hear_are_counted(records: list[SongRecord]) -> None:
    note = {"transcribe_second": {"skipped": "small.en does not know the language 'de'"}}
    kept = [dataclasses.replace(heard(record), provenance=note) for record in records if record.refusal is None]
    assert "6 clips were not compared by the second recognizer: small.en does not know" in "\n".join(
        advise(report_of(kept))
    )


def test_a_long_caption_is_folded_and_a_short_one_is_not(records: list[SongRecord]) -> None:
    long = dataclasses.replace(records[1], caption="a very long description " * 200)
    found = Tags(render_report(report_of([long, records[2]]))).found
    assert [attributes.get("class") for tag, attributes in found if tag == "details"] == ["caption"]


def test_titles_of_songs_and_names_with_places_to_break(records: list[SongRecord]) -> None:
    note = {"take_in": {"embedded": {"title": "Night <Train>"}}}
    page = render_report(report_of([dataclasses.replace(records[1], id="my_long-song.name~001", provenance=note)]))
    assert "Night &lt;Train&gt; <small>my_<wbr>long-<wbr>song.<wbr>name~<wbr>001</small>" in page
    assert "Inputs: songs, more." in page


def test_both_axes_of_a_histogram_have_numbers(records: list[SongRecord]) -> None:
    found = [dataclasses.replace(record, tempo=60.0 + 10 * number) for number, record in enumerate(records)]
    page = render_report(report_of([record for record in found if record.refusal is None]))
    figure = page.split("<figcaption>Tempo (beats a minute)")[1].split("</svg>")[0]
    values = [part.split("</text>")[0] for part in figure.split('text-anchor="middle">')[1:]]
    counts = [part.split("</text>")[0] for part in figure.split('text-anchor="end">')[1:]]
    assert len(values) >= 3 and all(float(value) == float(value) for value in values)
    assert counts[0] == "0" and int(counts[-1]) >= 1


def written(folder: Path, records: list[SongRecord]) -> dict[str, Any]:
    """Write sounds and a report; return the latter as it stands in the file."""
    draw = np.random.default_rng(0)
    for record in records:
        write_audio(folder / record.audio["mix"], draw.uniform(-0.3, 0.3, size=40 * RATE), RATE)
    (folder / "out" / "audio").mkdir(parents=True)
    for record in records:
        if record.refusal is None:
            write_audio(folder / "out" / "audio" / f"{record.id}.mix.wav", np.zeros(2 * RATE), RATE)
    write_report(folder / "out", report_of(records), records, WorkFolder(folder), "wav")
    values: dict[str, Any] = json.loads((folder / "out" / REPORT_FILE).read_text(encoding="utf-8"))
    return values


def test_refused_clips_can_be_heard_for_half_a_minute_unless_the_file_is_damaged(
    tmp_path: Path, records: list[SongRecord]
) -> None:
    samples = {sample["id"]: sample for sample in written(tmp_path, records)["samples"]["refused"]}
    assert set(samples) == {"b_000", "b_001", "b_002", "broken", "uncut"}
    assert samples["broken"]["audio"] == {}
    heard, rate = read_audio(tmp_path / "out" / samples["uncut"]["audio"]["mix"])
    assert len(heard) == 30 * rate
    assert samples["b_000"]["reason"] == "because of vocal_too_quiet"


def test_the_page_plays_in_a_browser_on_a_phone_and_in_the_dark(tmp_path: Path, records: list[SongRecord]) -> None:
    written(tmp_path, records)
    report = report_of(records, notices=("/a/path/" + "x" * 200 + ".txt: is missing",))
    (tmp_path / "out" / "long.html").write_text(render_report(report), encoding="utf-8")
    lengths = (
        "const done = arguments[0]; Promise.all([...document.querySelectorAll('audio')].map(player => new Promise("
        "resolve => { player.onloadedmetadata = () => resolve(player.duration); player.onerror = () => resolve(-1);"
        "player.preload = 'auto'; player.load(); }))).then(done)"
    )
    with open_browser() as browser:
        browser.open((tmp_path / "out" / PAGE_FILE).as_uri())
        assert browser.text("h1") == "my songs"
        assert "vocal_too_quiet" in browser.text("#refused") and "Only 0 of 6 captions" in browser.text("#next")
        played = browser.command("POST", "/execute/async", {"script": lengths, "args": []})
        assert sorted(played) == [2.0] * 6 + [30.0] * 4
        backgrounds = set()
        for is_dark in (False, True):
            browser.dark(is_dark)
            backgrounds.add(browser.run("return getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2
        browser.resize(390, 800)
        assert browser.run("return document.documentElement.scrollWidth") <= 390
        browser.open((tmp_path / "out" / "long.html").as_uri())
        assert browser.run("return document.documentElement.scrollWidth") <= 390
        assert browser.complaints() == []
        assert browser.run("return document.styleSheets[0].cssRules.length") > 20
