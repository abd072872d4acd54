"""What there is once a section of the configuration is done: whole songs, clips, clips that are described."""

from enum import StrEnum


class Phase(StrEnum):
    """How far the preparation has come with a section."""

    SONGS = "songs"
    """There are no clips yet."""

    CUTTING = "cutting"
    """The section cuts the songs; what it leaves out never became a clip."""

    CLIPS = "clips"
    """There are clips; captions and tags may still be written."""

    DESCRIBED = "described"
    """Every clip is described, as far as it will be."""


CUTTING_STEP = "segment"
"""The one section, and step, that cuts."""

PHASES = {
    "take_in": Phase.SONGS,
    "separate": Phase.SONGS,
    "voice": Phase.SONGS,
    "transcribe": Phase.SONGS,
    "align": Phase.SONGS,
    CUTTING_STEP: Phase.CUTTING,
    "agreement": Phase.CLIPS,
    "measure": Phase.CLIPS,
    "tag": Phase.DESCRIBED,
    "score": Phase.DESCRIBED,
    "filter": Phase.DESCRIBED,
    "duplicates": Phase.DESCRIBED,
    "split": Phase.DESCRIBED,
    "report": Phase.DESCRIBED,
    "write": Phase.DESCRIBED,
    "export": Phase.DESCRIBED,
}
"""Section -> its phase, in the order in which sections run."""

_FURTHER_STEPS = {"transcribe_second": "transcribe"}
"""Steps over whole songs that are not called as their section is."""


def is_over_songs(step: str) -> bool:
    """Whether a step works on whole songs: what it leaves out never became a clip."""
    section = _FURTHER_STEPS.get(step, step)
    return PHASES.get(section) in (Phase.SONGS, Phase.CUTTING)
