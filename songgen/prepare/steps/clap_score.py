"""The step that scores how well caption and sound agree, with CLAP."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from songgen.data.audio import AudioRejected
from songgen.prepare.engine.audio_files import read_audio
from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.section import HubNetwork, Phase, Section
from songgen.prepare.engine.step import Step, StepOutcome, WorkFolder
from songgen.tasks import MIX

if TYPE_CHECKING:
    from songgen.prepare.listening.clap import ClapScorer


@dataclass(frozen=True)
class ScoreOptions:
    """The network that scores captions."""

    model: str = "laion/larger_clap_music"
    """Hub id or folder of a CLAP model with a safetensors file. Limits on the score depend on the model; the
    published limits do not name theirs."""

    revision: str = ""
    """Branch, tag or commit of the model on the hub; empty for the main branch. Its first commit is kept in the work
    folder (`networks.json`) and used by all later runs."""

    batch_size: int = 16
    """Number of windows, and of clips, that go through the network at once."""

    device: str = ""
    """Device of the network, such as `cuda:0`; empty for the GPU if there is one."""

    def __post_init__(self) -> None:
        """Check all values."""
        if not self.model:
            raise ValueError("model is empty: name a CLAP model, or set the section to null")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


class ScoreStep(Step):
    """Measures `clap_score` of clips with a caption."""

    name = "score"
    version = 1

    def __init__(self, options: ScoreOptions) -> None:
        self.options = options
        self.batch_size = options.batch_size
        self._scorer: ClapScorer | None = None

    def parameters(self) -> JsonObject:
        """Return all options except device and batch size."""
        parameters = asdict(self.options)
        del parameters["device"], parameters["batch_size"]
        return parameters

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return the caption."""
        return {"caption": record.caption}

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return the mix."""
        return [record.audio[MIX]]

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether there is a caption."""
        return bool(record.caption.strip())

    def start(self) -> None:
        """Load the network.

        Raises:
            ValueError: If it cannot be loaded.
        """
        from songgen.prepare.listening.clap import ClapScorer

        options = self.options
        self._scorer = ClapScorer(options.model, options.revision, options.device, options.batch_size)

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutcome]:
        """Score a batch; a clip whose file cannot be read is refused."""
        assert self._scorer is not None, "start() comes first"
        outcomes: list[StepOutcome] = []
        clips, captions = [], []
        for record in records:
            try:
                samples, _ = read_audio(folder.track(record, MIX), sample_rate=self._scorer.sample_rate)
            except AudioRejected as error:
                outcomes.append(StepOutcome(refusal=Refusal(self.name, error.code, error.reason)))
                continue
            clips.append(samples)
            captions.append(record.caption)
            outcomes.append(StepOutcome())
        scores = iter(self._scorer.score(clips, captions) if clips else [])
        return [
            outcome if outcome.refusal else StepOutcome({"measures": {"clap_score": round(next(scores), 4)}})
            for outcome in outcomes
        ]


SECTION = Section(
    "score",
    "how well caption and sound agree (CLAP)",
    ScoreOptions,
    Phase.DESCRIBED,
    [ScoreStep],
    is_on=False,
    main_key="model",
    networks=[HubNetwork("model", "revision")],
)
