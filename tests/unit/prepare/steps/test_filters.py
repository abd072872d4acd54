"""Limits on clips: each refuses what lies beyond it and nothing else."""

import dataclasses
import json
from typing import Any

import pytest

from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.engine.store import outcome_of_values, outcome_values
from songgen.prepare.steps.filters import PRESETS, SECTION, FilterOptions, FilterStep, find_refusals

GOOD = SongRecord(
    id="a_000",
    song="a",
    file="songs",
    line=1,
    duration=10.0,
    language="en",
    lyrics="la la la",
    voiced=((0.5, 9.0),),
    caption="calm folk, female vocal",
    energies={"mix": 1500.0, "vocal": 1200.0, "acc": 1300.0},
    measures={
        "clap_score": 0.3,
        "clipped_share": 0.0,
        "silent_share": 0.1,
        "loudness": -16.0,
        "transcript_edit_distance": 2.0,
        "transcript_edit_share": 0.1,
        "transcript_confidence": 0.9,
        "lyrics_coverage": 0.95,
        "words_per_second": 1.5,
    },
)
"""A clip that every preset keeps."""


def codes(record: SongRecord, **options: Any) -> list[str]:
    return [refusal.code for refusal in find_refusals(record, FilterOptions(**options))]


def with_measure(name: str, value: float) -> SongRecord:
    return GOOD.changed({"measures": {name: value}})


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_a_good_clip_passes(preset: Any) -> None:
    assert codes(GOOD, preset=preset, languages=("en", "de"), not_measured="refuse") == []


@pytest.mark.parametrize(
    ("record", "options", "code"),
    [
        (dataclasses.replace(GOOD, duration=1.99), {}, "too_short"),
        (dataclasses.replace(GOOD, duration=30.01), {}, "too_long"),
        (GOOD, {"min_vocal_energy": 1200.1}, "vocal_too_quiet"),
        (GOOD, {"min_acc_energy": 1300.1}, "accompaniment_too_quiet"),
        (with_measure("clipped_share", 0.02), {}, "clipped"),
        (with_measure("silent_share", 0.9), {}, "mostly_silent"),
        (GOOD, {"min_loudness": -15.0}, "too_quiet"),
        (GOOD, {"max_loudness": -17.0}, "too_loud"),
        (GOOD, {"languages": ("de",)}, "other_language"),
        (GOOD, {"max_transcript_edit_distance": 1.0}, "transcripts_differ"),
        (GOOD, {"max_transcript_edit_share": 0.05}, "transcripts_differ"),
        (GOOD, {"min_transcript_confidence": 0.95}, "transcript_unsure"),
        (GOOD, {"min_lyrics_coverage": 0.99}, "lyrics_not_heard"),
        (GOOD, {"max_words_per_second": 1.0}, "words_too_dense"),
        (with_measure("clap_score", -0.01), {"preset": "TOTAL"}, "caption_does_not_fit"),
        (with_measure("clap_score", 0.24), {"preset": "HQ"}, "caption_does_not_fit"),
        (with_measure("transcript_edit_distance", 6.0), {"preset": "HQ"}, "transcripts_differ"),
        (GOOD.changed({"energies": {"vocal": 999.0}}), {"preset": "HQ"}, "vocal_too_quiet"),
        (GOOD, {"max_caption_length": 5}, "caption_too_long"),
        (GOOD, {"max_lyrics_length": 5}, "lyrics_too_long"),
        (dataclasses.replace(GOOD, voiced=(), lyrics=""), {"keep_instrumentals": False}, "instrumental"),
        (dataclasses.replace(with_measure("words_per_second", 0.0), voiced=()), {}, "empty_slice"),
    ],
)
def test_each_limit_has_its_code(record: SongRecord, options: dict[str, Any], code: str) -> None:
    assert codes(record, **options) == [code]
    assert code in SECTION.refusal_codes


def test_limits_are_inclusive() -> None:
    at_the_limits = {"min_vocal_energy": 1200.0, "min_clap_score": 0.3, "max_transcript_edit_distance": 2.0}
    assert codes(GOOD, min_seconds=10.0, max_seconds=10.0, **at_the_limits) == []


def test_a_value_of_the_file_wins_over_the_preset() -> None:
    quiet = GOOD.changed({"energies": {"vocal": 300.0}})
    assert codes(quiet, preset="HQ") == ["vocal_too_quiet"]
    assert codes(quiet, preset="HQ", min_vocal_energy=250.0) == []


def test_what_was_not_measured_passes_or_not_as_asked() -> None:
    bare = dataclasses.replace(GOOD, measures={})
    assert codes(bare, preset="TOTAL") == []
    assert "not_measured" in codes(bare, preset="TOTAL", not_measured="refuse")


def test_an_instrumental_is_not_judged_by_its_voice_or_its_words() -> None:
    instrumental = dataclasses.replace(GOOD, lyrics="", voiced=(), measures={"clap_score": 0.5}, energies={"acc": 2e3})
    options = {"max_clipped_share": None, "max_silent_share": None}
    assert codes(instrumental, preset="HQ", languages=("en",), not_measured="refuse", **options) == []


def test_a_clip_that_a_person_calls_instrumental_is_one_whatever_the_detector_heard() -> None:
    called = dataclasses.replace(GOOD, lyrics="", lyrics_source="instrumental", energies={"vocal": 1.0})
    options: dict[str, Any] = {"languages": ("de",), "min_vocal_energy": 1000.0, "min_transcript_confidence": 0.95}
    assert codes(called, **options) == []
    assert codes(dataclasses.replace(called, lyrics_source=""), **options) != []
    assert codes(called, keep_instrumentals=False) == ["instrumental"]
    step = FilterStep(FilterOptions())
    assert step.inputs(called) != step.inputs(dataclasses.replace(called, lyrics_source=""))


def test_the_refusal_names_the_first_limit_and_all_reasons() -> None:
    poor = dataclasses.replace(with_measure("clap_score", 0.1), duration=1.0)
    (outcome,) = FilterStep(FilterOptions(preset="HQ")).run([poor], WorkFolder(None))  # type: ignore[arg-type]
    assert outcome.refusal is not None
    assert (outcome.refusal.code, outcome.refusal.value, outcome.refusal.limit) == ("too_short", 1.0, 2.0)
    assert "CLAP score: 0.1 is below 0.25" in outcome.refusal.reason
    assert outcome.refusal.others == ("caption_does_not_fit",)
    assert outcome_of_values(json.loads(json.dumps(outcome_values(outcome)))) == outcome


def test_limits_say_what_they_need_and_defaults_need_nothing() -> None:
    needs = FilterOptions(preset="HQ").needs()
    assert needs["score"] == "min_clap_score" and needs["measure"] == "min_vocal_energy"
    assert needs["transcribe.agreement_model"] == needs["transcribe"] == "max_transcript_edit_distance"
    assert FilterOptions(max_words_per_second=5.0).needs().keys() == {"transcribe", "agreement"}
    assert FilterOptions().needs() == {}


@pytest.mark.parametrize("written", ["English", "en-US", " EN ", "th, English"])
def test_languages_may_be_written_as_people_do(written: str) -> None:
    options = FilterOptions(languages=tuple(written.split(",")))
    assert find_refusals(GOOD, options) == []
    assert find_refusals(dataclasses.replace(GOOD, language="english"), options) == []
    assert [found.code for found in find_refusals(dataclasses.replace(GOOD, language="de"), options)] == [
        "other_language"
    ]


def test_what_is_no_language_is_named() -> None:
    with pytest.raises(ValueError, match="languages: 'englsh', '' is not a language"):
        FilterOptions(languages=("en", "englsh", ""))


def test_limits_that_nothing_can_pass_are_refused() -> None:
    with pytest.raises(ValueError, match="min_seconds 5 is above max_seconds 3"):
        FilterOptions(min_seconds=5.0, max_seconds=3.0)
