"""A section of the configuration: its options, steps, phase, networks of the hub, and refusal codes.

The module of a step states its section, and `songgen.prepare.sections.SECTIONS` lists all of them in order. Everything
else that depends on the sections is derived from that list.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from songgen.prepare.engine.step import SetStep, Step


class Phase(StrEnum):
    """How far the preparation is once a section is done."""

    SONGS = "songs"
    """There are no clips yet."""

    CUTTING = "cutting"
    """The section cuts the songs; what it leaves out never became a clip."""

    CLIPS = "clips"
    """There are clips; captions and tags may still be written."""

    DESCRIBED = "described"
    """Every clip has all the captions and tags that it will get."""


@dataclass(frozen=True)
class RefusalCode:
    """A reason to leave out a song or a clip."""

    meaning: str
    """Explanation in one line."""

    advice: str = ""
    """What the report suggests if many are left out for this reason."""


@dataclass(frozen=True)
class HubNetwork:
    """Keys that name a network of the hub, whose commit `songgen.prepare.pins` keeps for all runs."""

    model: str
    """Key of the network's id."""

    revision: str
    """Key of its revision."""

    is_used: Callable[[Any], bool] = lambda options: True
    """Options -> whether the network is loaded with transformers."""


@dataclass(frozen=True)
class Section:
    """One section of the configuration."""

    name: str
    """Key in the configuration."""

    summary: str
    """Meaning in one line."""

    options: type
    """Dataclass of its keys."""

    phase: Phase
    """State of the preparation once the section is done."""

    steps: Sequence[type[Step] | type[SetStep]] = ()
    """Classes of its steps, in order; each is built from the options."""

    is_on: bool = True
    """Whether the steps run if the configuration does not mention the section."""

    can_be_off: bool = True
    """Whether `null` or `false` switches the section off."""

    main_key: str = ""
    """Key that a plain value on the command line sets, as in `--filter HQ`."""

    networks: Sequence[HubNetwork] = ()
    """Networks of the hub that it names."""

    refusal_codes: Mapping[str, RefusalCode] = field(default_factory=dict)
    """Code -> meaning, for all codes that its steps refuse by, except those of `songgen.data.reject_codes` on which
    there is no advice."""

    def make_steps(self, options: Any) -> list[Step | SetStep]:
        """Return the steps that these options ask for, in order."""
        return [step(options) for step in self.steps if step.is_wanted(options)]  # type: ignore[call-arg]


LENGTH_CODES = {
    "too_short": RefusalCode(
        "the song or the clip is shorter than `min_seconds` of `take_in`, `segment` or `filter`",
        "Many pauses lead to short clips: check `segment.min_seconds` and the step's limits.",
    ),
    "too_long": RefusalCode(
        "the song is longer than `take_in.max_seconds`, or the clip than `filter.max_seconds`",
        "Switch `segment` on, or raise the limit if the model takes longer clips.",
    ),
    "lyrics_too_long": RefusalCode(
        "lyrics are longer than `filter.max_lyrics_length` (of a song: `take_in.max_lyrics_length`)"
    ),
}
"""Codes of limits that more than one section has."""


def length_codes(*codes: str) -> dict[str, RefusalCode]:
    """Return some of `LENGTH_CODES`, for a section that refuses by them."""
    return {code: LENGTH_CODES[code] for code in codes}
