"""The steps by name, in the order in which they run: the section of the configuration that each reads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from songgen.prepare.engine.step import SetStep, Step
from songgen.prepare.output.writers import ExportOptions, WriteOptions
from songgen.prepare.report.statistics import ReportOptions
from songgen.prepare.steps.alignment import AlignOptions, AlignStep
from songgen.prepare.steps.clap_score import ScoreOptions, ScoreStep
from songgen.prepare.steps.duplicates import DuplicateOptions, DuplicateStep, FingerprintStep
from songgen.prepare.steps.filters import FilterOptions, FilterStep
from songgen.prepare.steps.lyrics_agreement import AgreementOptions, AgreementStep
from songgen.prepare.steps.measures import MeasureOptions, MeasureStep
from songgen.prepare.steps.segmentation import SegmentStep
from songgen.prepare.steps.separation import SeparateStep, SeparationOptions
from songgen.prepare.steps.splits import SplitOptions, SplitStep
from songgen.prepare.steps.tagging import TagOptions, TagStep
from songgen.prepare.steps.take_in import TakeInOptions, TakeInStep
from songgen.prepare.steps.transcription import TranscribeOptions, transcribe_steps
from songgen.prepare.steps.voice_activity import VoiceOptions, VoiceStep
from songgen.prepare.timing.clip_plan import SegmentOptions


@dataclass(frozen=True)
class Section:
    """One section of the configuration and the steps that it makes."""

    summary: str
    """What the section is about, in a line."""

    options: type
    """Dataclass of its keys."""

    make: Callable[[Any], Sequence[Step | SetStep]]
    """Options -> steps, in order."""

    is_on: bool = True
    """Whether the steps run where the configuration does not speak of them."""

    can_be_off: bool = True
    """Whether `null` or `false` leaves the steps out."""

    main_key: str = ""
    """Key that a text on the command line means which is given to the section itself, as in `--filter HQ`."""


SECTIONS: dict[str, Section] = {
    "take_in": Section(
        "every audio file is opened and decoded once",
        TakeInOptions,
        lambda options: [TakeInStep(options)],
        can_be_off=False,
    ),
    "separate": Section(
        "vocal and accompaniment are taken apart (Demucs) where a song has the mix alone",
        SeparationOptions,
        lambda options: [SeparateStep(options)],
        is_on=False,
        main_key="model",
    ),
    "voice": Section("where somebody sings", VoiceOptions, lambda options: [VoiceStep(options)]),
    "transcribe": Section(
        "the words that are sung (Whisper), by one model or by two",
        TranscribeOptions,
        transcribe_steps,
        is_on=False,
        main_key="model",
    ),
    "align": Section("when each line of the lyrics is sung", AlignOptions, lambda options: [AlignStep(options)]),
    "segment": Section("clips of each song", SegmentOptions, lambda options: [SegmentStep(options)]),
    "agreement": Section(
        "how far two transcripts, or transcript and lyrics, agree, clip by clip",
        AgreementOptions,
        lambda options: [AgreementStep(options)],
    ),
    "measure": Section(
        "energies, loudness, clipping, silence, tempo and key",
        MeasureOptions,
        lambda options: [MeasureStep(options)],
    ),
    "tag": Section(
        "tags and caption of clips without one: by an audio language model, or by what was measured",
        TagOptions,
        lambda options: [TagStep(options)],
        main_key="backend",
    ),
    "score": Section(
        "how well caption and sound agree (CLAP)",
        ScoreOptions,
        lambda options: [ScoreStep(options)],
        is_on=False,
        main_key="model",
    ),
    "filter": Section(
        "limits that clips are held against; `HQ` and `TOTAL` are the published ones",
        FilterOptions,
        lambda options: [FilterStep(options)],
        main_key="preset",
    ),
    "duplicates": Section(
        "clips that sound like others",
        DuplicateOptions,
        lambda options: [FingerprintStep(), DuplicateStep(options)],
    ),
    "split": Section("which songs are held out", SplitOptions, lambda options: [SplitStep(options)]),
    "report": Section("figures, and clips to listen to", ReportOptions, lambda options: []),
    "write": Section("the form of the data set", WriteOptions, lambda options: [], can_be_off=False),
    "export": Section(
        "further layouts of the data set",
        ExportOptions,
        lambda options: [],
        can_be_off=False,
        main_key="formats",
    ),
}
"""Name in the configuration -> section; a step runs after those that stand before it."""


@dataclass(frozen=True)
class Sections:
    """The options of every section, by its name; None where it is switched off."""

    take_in: TakeInOptions
    separate: SeparationOptions | None
    voice: VoiceOptions | None
    transcribe: TranscribeOptions | None
    align: AlignOptions | None
    segment: SegmentOptions | None
    agreement: AgreementOptions | None
    measure: MeasureOptions | None
    tag: TagOptions | None
    score: ScoreOptions | None
    filter: FilterOptions | None
    duplicates: DuplicateOptions | None
    split: SplitOptions | None
    report: ReportOptions | None
    write: WriteOptions
    export: ExportOptions

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield name and options, in the order in which sections run."""
        return ((name, getattr(self, name)) for name in SECTIONS)

    def steps(self) -> Iterator[tuple[str, Sequence[Step | SetStep]]]:
        """Yield each section's name and steps, in order; a section that is off has none."""
        for name, options in self.items():
            yield name, [] if options is None else SECTIONS[name].make(options)
