"""What `songgen generate` and a family agree on: options of the command line, a request, and songs as sound."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHOLE_SONG = ""
"""Label of the sound that is the whole song."""

ProgressCallback = Callable[[int, int], None]
"""Called with completed steps and the total."""


@dataclass(frozen=True)
class SongOption:
    """Option of the command line that not every family has."""

    name: str
    """Name without dashes."""
    help: str
    """Help text, with the default."""
    keywords: Mapping[str, Any] = field(default_factory=dict)
    """Further keywords of `ArgumentParser.add_argument`. The default is always None: not given."""
    reason: str = ""
    """Reason why other families do not have it, as part of a sentence; empty if there is none to give."""


@dataclass(frozen=True)
class OptionGroup:
    """Options of a family."""

    title: str
    """Title in the help text, a plural: "models of ..."."""
    options: tuple[SongOption, ...]
    """Options."""

    @property
    def names(self) -> list[str]:
        """Names of the options."""
        return [option.name for option in self.options]

    def __str__(self) -> str:
        """Return the options as they are written on the command line."""
        return ", ".join(f"--{name}" for name in self.names)


OPTION_GROUPS = ("songgen.families.tokens.generating:OPTIONS", "songgen.families.flow.songs.command:OPTIONS")
"""Module and name of the `OptionGroup` of each family. They load no family, so that the help text is quick."""


def option_groups() -> list[OptionGroup]:
    """Return the options of all families."""
    groups = (place.partition(":") for place in OPTION_GROUPS)
    return [getattr(importlib.import_module(module), name) for module, _, name in groups]


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """Songs that a user asks for, in the terms of all families. What is None was not given: the family decides."""

    caption: str
    """Genre, mood, instruments, singer; may be empty."""
    lyrics: str
    """Lyrics; may be empty."""
    language: str
    """Language of the lyrics."""
    voice: Path | None = None
    """Audio file of the voice to imitate."""
    seconds: float | None = None
    """Duration."""
    num_songs: int = 1
    """Number of songs."""
    guidance: float | None = None
    """Scale of classifier-free guidance."""
    seed: int | None = None
    """Random seed."""
    special: Mapping[str, Any] = field(default_factory=dict)
    """Options of the family that were given, by name."""


@dataclass(frozen=True)
class SongPiece:
    """Sound of a song, or of its next piece."""

    song: int
    """Number of the song, from 0."""
    sounds: Mapping[str, NDArray[np.float32]]
    """Label, or `WHOLE_SONG`, -> samples, or samples x channels."""
    sample_rate: int
    """Samples a second."""


class SongWriter(ABC):
    """Songs of one request."""

    num_channels: int = 1
    """Number of channels of the sounds."""
    has_pieces: bool = False
    """Whether a song comes in several pieces."""

    @abstractmethod
    def sample_rate(self, core: Any) -> int:
        """Return the samples a second of the songs of an opened model."""

    @abstractmethod
    def songs(self, core: Any, on_step: ProgressCallback | None = None) -> Iterator[SongPiece]:
        """Generate the songs with an opened model, on its device.

        Raises:
            ValueError: if the model cannot do what is asked for.
        """


@dataclass(frozen=True)
class SongCommand:
    """What a family contributes to `songgen generate`."""

    group: OptionGroup
    """Options that only this family has."""
    writer: Callable[[Path, GenerationRequest, str], SongWriter]
    """Check a request for the model in a folder, and read all files that it names; the model is opened afterwards. The
    text names the device.

    Raises a ValueError that lists everything that is wrong."""

    def check_names(self, names: Mapping[str, Any], groups: list[OptionGroup], family: str) -> None:
        """Check that options are of this family.

        Args:
            names: options that were given, by name.
            groups: options of all families.
            family: name of this family.

        Raises:
            ValueError: if some are of others; the message says what is possible.
        """
        problems = [
            f"--{option.name} is for {group.title}{f' ({option.reason})' if option.reason else ''}"
            for group in groups
            for option in group.options
            if option.name in names and option.name not in self.group.names
        ]
        if problems:
            raise ValueError(
                f"{'; '.join(problems)}; this model is of the family {family}, whose own options are {self.group}"
            )
