"""Options of tokenizing as plain values, and how they follow from a configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from songgen.config import DatasetSource, RunConfig
from songgen.data.manifests.raw_rows import ColumnNames, track_of_column
from songgen.data.manifests.row_reader import ManifestOptions
from songgen.data.manifests.sources import ManifestSpec
from songgen.data.reading import BYTES_PER_GIB, ReadingLimits
from songgen.data.schema import DEFAULT_MAX_SECONDS, DEFAULT_MAX_TEXT, EVAL_SPLIT, TRAIN_SPLIT, arrow_schema
from songgen.data.sound.levels import VOICE_MIN_ENERGY
from songgen.tasks import TRACKS

VARIANTS_COLUMN = "variants"
"""Name of the column with further descriptions (name -> text)."""


FACT_COLUMNS = ("tempo", "key", "analysis")
"""Columns with facts of the music, which some models read with the caption."""


@dataclass(frozen=True)
class TokenizeOptions:
    """Options of one tokenizing run."""

    splits: dict[str, tuple[ManifestSpec, ...]]
    """Manifests of each split, joined in this order."""

    output_folder: Path
    """Data set folder to write."""

    manifests: ManifestOptions = field(default_factory=ManifestOptions)
    """Options for reading manifests."""

    max_rows: dict[str, int] = field(default_factory=dict)
    """Split -> maximum number of rows; all rows of a split that is absent."""

    model_name_or_path: str = ""
    """Model from which codec and tokenizers are taken if they are not named."""

    model_revision: str = "main"
    """Revision of the model on the hub."""

    audio_codec: str | dict[str, Any] | None = None
    """Codec; None for the model's."""

    lyrics_tokenizer: str | None = None
    """Lyrics tokenizer; None for the model's."""

    caption_tokenizer: str | None = None
    """Caption tokenizer; None for the model's."""

    min_seconds: float = 0.0
    """Minimum length of a clip in seconds, inclusive."""

    max_seconds: float | None = None
    """Maximum length of a clip in seconds, inclusive; None for the default of the kind of target."""

    crop_long: bool = False
    """Whether longer clips are cut to their beginning instead of rejected."""

    reading: ReadingLimits = field(default_factory=ReadingLimits)
    """Limits on time and memory for reading a song."""

    max_text_length: int | None = None
    """Maximum number of characters of the caption and of the lyrics, inclusive; None for the default of the kind of
    target."""

    max_caption_tokens: int | None = None
    """Maximum number of caption tokens; None for no limit."""

    max_lyrics_tokens: int | None = None
    """Maximum number of lyrics tokens; None for no limit."""

    voice_encoder: str | dict[str, Any] | None = None
    """Voice encoder whose sample rate the stored reference voices have; None for the model's."""

    store_voice: bool = True
    """Whether the samples of reference voices are stored."""

    voice_min_energy: float = VOICE_MIN_ENERGY
    """Energy below which a vocal track is not a reference voice in training; the report counts such tracks."""

    batch_size: int = 8
    """Number of clips that a process encodes at once."""

    chunk_rows: int = 500
    """Maximum number of rows of a shard, which is the most that a killed process can lose."""

    num_workers: int = 1
    """Number of workers of each process that read audio ahead of the codec."""

    max_bad_fraction: float = 0.1
    """Maximum share of damaged rows; with more, the run ends without a data set."""

    kept_columns: tuple[str, ...] = ()
    """Further columns of the manifests to keep as text."""

    def for_targets(self, kind: str) -> "TokenizeOptions":
        """Return the options with the limits that are left to the kind of target."""
        return replace(
            self,
            max_seconds=self.max_seconds or DEFAULT_MAX_SECONDS[kind],
            max_text_length=self.max_text_length or DEFAULT_MAX_TEXT[kind],
        )

    @property
    def longest_seconds(self) -> float:
        """Maximum length of a clip; only after `for_targets`."""
        assert self.max_seconds is not None
        return self.max_seconds

    @property
    def longest_text(self) -> int:
        """Maximum number of characters of a text; only after `for_targets`."""
        assert self.max_text_length is not None
        return self.max_text_length

    @property
    def work_folder(self) -> Path:
        """Folder of unfinished work; it is removed once the data set is complete."""
        return self.output_folder.with_name(self.output_folder.name + ".work")

    @property
    def tracks(self) -> tuple[str, ...]:
        """Tracks with columns in the data set: the usual three, and further ones named by the manifests."""
        names = [track_of_column(column) for column in self.manifests.columns.references]
        return tuple(dict.fromkeys([*TRACKS, *names]))


def options_of(config: RunConfig) -> TokenizeOptions:
    """Convert the configuration of a run to the options of tokenizing.

    Raises:
        ValueError: if required keys are missing; the message lists all of them.
    """
    data = config.data
    problems = []
    if not data.train_sources() and not data.eval_sources():
        problems.append("train_dataset_name or eval_dataset_name: name the songs to preprocess")
    if len(data.dataset_folders()) != 1:
        problems.append("save_to_disk: name the one folder that the data set is written to")
    if not config.model.model_name_or_path and not config.model.audio_codec:
        problems.append("model_name_or_path: name the model whose codec and tokenizers are to be used")
    own_columns = {*arrow_schema().names, VARIANTS_COLUMN}
    if taken := [name for name in data.keep_columns if name in own_columns]:
        problems.append(f"keep_columns: {', '.join(taken)} cannot be kept, the data set has columns of these names")
    if problems:
        raise ValueError("preprocessing cannot start:\n  - " + "\n  - ".join(problems))
    output_folder = Path(data.dataset_folders()[0]).resolve()
    sources = {TRAIN_SPLIT: data.train_sources(), EVAL_SPLIT: data.eval_sources()}
    limits = {TRAIN_SPLIT: data.max_train_samples, EVAL_SPLIT: data.max_eval_samples}
    columns = ColumnNames(
        id=data.id_column_name,
        caption=data.description_column_name or "caption",
        lyrics=data.prompt_column_name or "lyrics",
        language=data.language_column_name,
        target=data.target_audio_column_name,
        references=tuple(data.ref_audio_columns()),
    )
    return TokenizeOptions(
        splits={split: _specs(listed, data.loading_method) for split, listed in sources.items() if listed},
        output_folder=output_folder,
        max_rows={split: limit for split, limit in limits.items() if limit is not None},
        model_name_or_path=config.model.model_name_or_path,
        model_revision=config.model.model_revision,
        audio_codec=config.model.audio_codec,
        lyrics_tokenizer=config.model.lyrics_tokenizer,
        caption_tokenizer=config.model.description_tokenizer_name,
        min_seconds=data.min_duration_in_seconds,
        max_seconds=data.max_duration_in_seconds,
        crop_long=data.long_clips == "crop",
        reading=ReadingLimits(data.audio_timeout_seconds, round(data.audio_memory_gib * BYTES_PER_GIB)),
        max_text_length=data.max_text_length,
        max_caption_tokens=data.max_description_token_length,
        max_lyrics_tokens=data.max_prompt_token_length,
        voice_encoder=config.model.voice_encoder,
        store_voice=data.voice_storage == "samples",
        voice_min_energy=data.voice_min_energy,
        batch_size=data.audio_encoder_per_device_batch_size,
        chunk_rows=data.save_codec_steps or 500,
        num_workers=data.preprocessing_num_workers or 1,
        max_bad_fraction=data.max_bad_fraction,
        kept_columns=tuple(dict.fromkeys(data.keep_columns)),
        manifests=ManifestOptions(
            columns=columns,
            roots=tuple(Path(root) for root in data.audio_roots),
            default_language=data.default_language,
            kept_columns=tuple(dict.fromkeys((VARIANTS_COLUMN, *FACT_COLUMNS, *data.keep_columns))),
        ),
    )


def _specs(sources: Sequence[DatasetSource], method: str) -> tuple[ManifestSpec, ...]:
    return tuple(
        ManifestSpec(source.name, source.config_name, source.split, source.num_samples, source.metadata, method)
        for source in sources
    )
