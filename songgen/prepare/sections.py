"""All sections of the configuration, in the order in which they run.

To add a step, write a module in `songgen.prepare.steps` that ends with its `SECTION`, and list it here.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from songgen.prepare.engine.section import Phase, RefusalCode, Section
from songgen.prepare.engine.step import SetStep, Step
from songgen.prepare.output import options as output
from songgen.prepare.steps import (
    alignment,
    clap_score,
    duplicates,
    filters,
    lyrics_agreement,
    measures,
    segmentation,
    separation,
    splits,
    tagging,
    take_in,
    transcription,
    voice_activity,
)

SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        take_in.SECTION,
        separation.SECTION,
        voice_activity.SECTION,
        transcription.SECTION,
        alignment.SECTION,
        segmentation.SECTION,
        lyrics_agreement.SECTION,
        measures.SECTION,
        tagging.SECTION,
        clap_score.SECTION,
        filters.SECTION,
        duplicates.SECTION,
        splits.SECTION,
        output.REPORT_SECTION,
        output.WRITE_SECTION,
        output.EXPORT_SECTION,
    )
}
"""Name -> section, in the order in which sections run."""

REFUSAL_CODES: dict[str, RefusalCode] = {
    code: content for section in SECTIONS.values() for code, content in section.refusal_codes.items()
}
"""Code -> its meaning, for the codes of all sections."""

CUTTING_STEP = segmentation.SegmentStep.name
"""Step that cuts songs into clips."""

_OVER_SONGS = {
    step.name
    for section in SECTIONS.values()
    if section.phase in (Phase.SONGS, Phase.CUTTING)
    for step in section.steps
}

Options = TypeVar("Options")


def is_over_songs(step: str) -> bool:
    """Return whether a step works on whole songs: what it leaves out never became a clip."""
    return step in _OVER_SONGS


@dataclass(frozen=True)
class Sections:
    """The options of every section; None for a section that is switched off."""

    options: Mapping[str, Any]
    """Name -> options, for every section."""

    def __post_init__(self) -> None:
        """Put the sections in order."""
        assert self.options.keys() == SECTIONS.keys(), "there are options, or None, for every section"
        object.__setattr__(self, "options", {name: self.options[name] for name in SECTIONS})

    def __getitem__(self, name: str) -> Any:
        """Return the options of a section by its name."""
        return self.options[name]

    def get(self, kind: type[Options]) -> Options | None:
        """Return the options of a section by their class."""
        name = next(section.name for section in SECTIONS.values() if section.options is kind)
        found: Options | None = self.options[name]
        return found

    def require(self, kind: type[Options]) -> Options:
        """Return the options of a section that cannot be switched off."""
        found = self.get(kind)
        assert found is not None, f"{kind.__name__} belongs to a section that can be off"
        return found

    def with_values(self, changes: Mapping[str, Mapping[str, Any]]) -> "Sections":
        """Return a copy in which some keys of some sections have other values."""
        changed = {name: dataclasses.replace(self.options[name], **values) for name, values in changes.items()}
        return Sections({**self.options, **changed})

    def steps(self) -> Iterator[tuple[Section, list[Step | SetStep]]]:
        """Yield every section with its steps, in order; a section that is off has none."""
        for name, options in self.options.items():
            yield SECTIONS[name], [] if options is None else SECTIONS[name].make_steps(options)
