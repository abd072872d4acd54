"""The sections of the configuration that say what is written: the data set, further layouts of it, the report."""

from dataclasses import dataclass
from typing import Literal

from songgen.config.types import NonNegativeInt, PositiveInt
from songgen.prepare.engine.section import Phase, Section


@dataclass(frozen=True)
class ReportOptions:
    """What the report shows besides the figures."""

    lyrics_tokenizer: str = ""
    """File, folder or hub id of the lyrics tokenizer whose vocabulary the lyrics are held against. Empty: that of
    `write.model_name_or_path`, if it is a folder here with one."""

    samples: NonNegativeInt = 12
    """Accepted clips, and as many refused ones, that can be listened to; 0 for none."""

    seed: int = 42
    """Of the choice of these clips."""


@dataclass(frozen=True)
class WriteOptions:
    """The form of the data set."""

    audio_format: Literal["wav", "flac"] = "wav"
    """Format of the audio files, 16 bits; FLAC takes about half the room."""

    model_name_or_path: str = "./outputs/untrained-mixed_pro"
    """Model that `data.json` names: its codec and tokenizers make the tokens."""


@dataclass(frozen=True)
class ExportOptions:
    """Further layouts of the same data set, for other programs."""

    formats: tuple[str, ...] = ()
    """`ace`: a `save_to_disk` folder with the features of the ACE-Step converter; `ljspeech`: lists of path|text."""

    repeat_count: PositiveInt = 1
    """How often each row stands in the ACE-Step data set: more for a handful of songs, 1 for many."""

    def __post_init__(self) -> None:
        """Check the formats.

        Raises:
            ValueError: If one is not known.
        """
        unknown = sorted(set(self.formats) - {"ace", "ljspeech"})
        if unknown:
            raise ValueError(f"formats: {', '.join(unknown)} is not known; there are ace and ljspeech")


REPORT_SECTION = Section("report", "figures, and clips to listen to", ReportOptions, Phase.DESCRIBED)
WRITE_SECTION = Section("write", "the form of the data set", WriteOptions, Phase.DESCRIBED, can_be_off=False)
EXPORT_SECTION = Section(
    "export",
    "further layouts of the data set",
    ExportOptions,
    Phase.DESCRIBED,
    can_be_off=False,
    main_key="formats",
)
