"""The sections of the configuration that say what is written: the data set, further layouts of it, the report."""

from dataclasses import dataclass
from typing import Literal

from songgen.config.types import NonNegativeInt, PositiveInt
from songgen.prepare.engine.section import Phase, Section


@dataclass(frozen=True)
class ReportOptions:
    """Options of the report."""

    lyrics_tokenizer: str = ""
    """File, folder or hub id of the lyrics tokenizer whose vocabulary the lyrics are checked against. Empty: that of
    `write.model_name_or_path`, if it is a local folder with one."""

    samples: NonNegativeInt = 12
    """Number of accepted clips, and of refused ones, that the report plays; 0 for none."""

    seed: int = 42
    """Seed of the choice of these clips."""


@dataclass(frozen=True)
class WriteOptions:
    """Options of the data set."""

    audio_format: Literal["wav", "flac"] = "wav"
    """Format of the audio files, 16 bits; FLAC takes about half the space."""

    model_name_or_path: str = "./outputs/untrained-mixed_pro"
    """Model in `data.json`, whose codec and tokenizers make the tokens."""


@dataclass(frozen=True)
class ExportOptions:
    """Further layouts of the same data set, for other programs."""

    formats: tuple[str, ...] = ()
    """`ace`: a `save_to_disk` folder with the features of the ACE-Step converter; `ljspeech`: lists of path|text."""

    repeat_count: PositiveInt = 1
    """Number of copies of each row in the ACE-Step data set: more for a few songs, 1 for many."""

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
