"""Prompts are those of the installed pipeline, token by token."""

from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline
from tiny_flow import tiny_pipeline

from songgen.families.encoding import MusicFacts
from songgen.families.flow.prompts import INSTRUMENTAL, PipelinePrompts

FACTS = {"tempo": 92.4, "key": "a Minor", "analysis": {"time_signature": "3/4"}}
IN_PIPELINE = {"bpm": 92, "keyscale": "A minor", "timesignature": "3"}


@pytest.fixture(scope="module")
def pipeline() -> AceStepPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def prompts(pipeline: AceStepPipeline) -> PipelinePrompts:
    return PipelinePrompts(pipeline.tokenizer)


class _Spy:
    """Stands for the tokenizer of a pipeline and notes what it returns."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[list[int]] = []

    def __call__(self, texts: list[str], **keywords: Any) -> Any:
        found = self.tokenizer(texts, **keywords)
        self.ids.append(found.input_ids[0].tolist())
        return found


def ids_of_pipeline(pipeline: AceStepPipeline, **keywords: Any) -> list[list[int]]:
    """Ids of caption and lyrics that `encode_prompt` gives to the text encoder."""
    tokenizer, spy = pipeline.tokenizer, _Spy(pipeline.tokenizer)
    pipeline.tokenizer = spy
    try:
        with torch.no_grad():
            pipeline.encode_prompt(device=torch.device("cpu"), **keywords)
    finally:
        pipeline.tokenizer = tokenizer
    return spy.ids


@pytest.mark.parametrize(
    ("caption", "lyrics", "language", "seconds", "facts"),
    [
        ("warm folk song, 92 bpm", "[verse]\nla la\n", "en", 61.9, FACTS),
        ("ein Lied: ÄÖÜ 東京 🎵", "[chorus]\n你好", "zh", 4.2, {}),
        ("x" * 900, "la " * 1500, "fr", 600.0, FACTS),
    ],
)
def test_ids_are_those_that_the_pipeline_reads(
    pipeline: AceStepPipeline,
    prompts: PipelinePrompts,
    caption: str,
    lyrics: str,
    language: str,
    seconds: float,
    facts: dict[str, Any],
) -> None:
    expected = ids_of_pipeline(
        pipeline, prompt=caption, lyrics=lyrics, vocal_language=language, audio_duration=seconds,
        **(IN_PIPELINE if facts else {}),
    )  # fmt: skip
    found = prompts.caption(caption, prompts.facts(facts), seconds), prompts.lyrics(lyrics, language)
    assert [tokens.ids for tokens in found] == expected
    is_long = len(caption) > 256
    assert [tokens.length > len(tokens.ids) for tokens in found] == [is_long, is_long]
    assert [len(tokens.ids) for tokens in found] == [256, 2048] or not is_long


def test_a_short_song_has_its_own_length(pipeline: AceStepPipeline, prompts: PipelinePrompts) -> None:
    text = pipeline.tokenizer.decode(prompts.caption("pop", MusicFacts(), 5.99).ids)
    assert "- duration: 5 seconds\n" in text and "- bpm: N/A\n" in text


def test_instrumentals_and_dropped_texts(pipeline: AceStepPipeline, prompts: PipelinePrompts) -> None:
    assert prompts.lyrics("", "en").ids == ids_of_pipeline(pipeline, prompt="", lyrics=INSTRUMENTAL)[1]
    assert list(prompts.empty_lyrics_ids) == ids_of_pipeline(pipeline, prompt="", lyrics="")[1]
    assert list(prompts.empty_caption_ids) == ids_of_pipeline(pipeline, prompt="", lyrics="", audio_duration=0)[0]


@pytest.mark.parametrize(
    ("stated", "values", "left_out"),
    [
        (FACTS, IN_PIPELINE, ()),
        ({"tempo": "92,4", "key": "F#m"}, {"bpm": 92, "keyscale": "F# minor"}, ()),
        ({"tempo": 5, "key": "8A", "analysis": {"time_signature": "7/8"}}, {}, ("tempo", "key", "time signature")),
        ({"tempo": "fast", "key": ["C major"], "analysis": "4/4"}, {}, ("tempo", "key")),
        ({"tempo": float("nan")}, {}, ("tempo",)),
        ({"tempo": 300.4, "key": "H minor"}, {}, ("tempo", "key")),
        ({"tempo": None, "key": "", "analysis": {"genre": ["rock"]}}, {}, ()),
    ],
)
def test_facts_of_a_row(
    prompts: PipelinePrompts, stated: dict[str, Any], values: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    facts = prompts.facts(stated)
    assert (dict(facts.values), facts.left_out) == (values, left_out)


@pytest.mark.parametrize(
    ("stated", "code"),
    [("english", "en"), ("en-US", "en"), ("Swedish", "sv"), ("sv_SE", "sv"), ("zh-yue", "yue"), ("tlh", "tlh"),
     ("unknown", "unknown")],
)  # fmt: skip
def test_every_language_has_a_header(prompts: PipelinePrompts, stated: str, code: str) -> None:
    assert prompts.language(stated) == code


def test_the_form_is_part_of_what_chunks_are_made_from(
    prompts: PipelinePrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers.pipelines.ace_step.pipeline_ace_step.SFT_GEN_PROMPT", "{} {} {}")
    assert PipelinePrompts(prompts.tokenizer).form != prompts.form
