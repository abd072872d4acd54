"""Token ids of a dropped caption and of dropped lyrics, in the form of the pipeline's prompts."""

from __future__ import annotations

from diffusers.pipelines.ace_step.pipeline_ace_step import (
    DEFAULT_DIT_INSTRUCTION,
    SFT_GEN_PROMPT,
    AceStepPipeline,
)

from songgen.families.flow.model import FlowModel
from songgen.families.flow.pipeline import TOKENIZER


def empty_prompts(core: FlowModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids of a prompt without caption, and of one without lyrics."""
    tokenizer = core.part(TOKENIZER)
    caption = SFT_GEN_PROMPT.format(DEFAULT_DIT_INSTRUCTION, "", AceStepPipeline._build_metadata_string())
    lyrics = "# Languages\nen\n\n# Lyric\n<|endoftext|>"
    first, second = (tuple(tokenizer(text).input_ids) for text in (caption, lyrics))
    return first, second
