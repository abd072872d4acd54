"""Configuration keys of the data: songs, filters and the tokenized data set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from songgen.config.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from songgen.runtime.files import expand_home


@dataclass(frozen=True)
class DatasetSource:
    """A data set with songs to preprocess."""

    name: str
    """Path of a manifest or folder, or a hub id."""

    config_name: str | None
    """Configuration of a hub data set."""

    split: str
    """Split of a hub data set or saved data set."""

    num_samples: int | None
    """Number of rows to use; None for all."""

    metadata: str | None
    """Manifest or data set with annotations, merged by id."""


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """The songs: manifests and columns for preprocessing, tokenized data set and reference voice for training."""

    train_dataset_name: list[str] | str | None = None
    """Songs to preprocess for training: a manifest, a folder of songs with text files, a saved data set or a
    hub id; several of them as a list or joined by `+`."""

    train_dataset_config_name: list[str] | str | None = None
    """Configuration of a hub data set; one for all data sets, or one for each."""

    train_split_name: list[str] | str = "train"
    """Split to read; one for all data sets, or one for each."""

    train_dataset_samples: list[PositiveInt] | str | PositiveInt | None = None
    """Number of rows to use from each data set; one number for all data sets, or one for each. null: all rows."""

    train_metadata_dataset_name: list[str] | str | None = None
    """Annotations to merge into the data sets by `id_column_name`, one for each."""

    eval_dataset_name: list[str] | str | None = None
    """Songs to preprocess for evaluation, in the same forms as `train_dataset_name`."""

    eval_dataset_config_name: list[str] | str | None = None
    """Configuration of a hub data set for evaluation."""

    eval_split_name: list[str] | str = "test"
    """Split for evaluation, of `eval_dataset_name` in preprocessing and of `save_to_disk` in training."""

    eval_metadata_dataset_name: list[str] | str | None = None
    """Annotations to merge into the data sets for evaluation, one for each."""

    loading_method: Literal["auto", "hf", "json", "folder", "ljspeech"] = "auto"
    """Format of the data sets: `json` for a manifest (JSON, CSV or Parquet), `folder` for NAME.mp3 with NAME_prompt.txt
    and NAME_lyrics.txt, `ljspeech` for a list of path|text, `hf` for a saved data set or a hub id; `auto` detects
    it."""

    audio_roots: list[str] = field(default_factory=list)
    """Folders that may contain audio files, in addition to the manifest's own; paths outside them are refused."""

    id_column_name: str | None = None
    """Column of the song's id. null: `id` or `fname`, whichever exists, otherwise the row number."""

    target_audio_column_name: str = "audio"
    """Column of the whole song (track `mix`)."""

    ref_audio_column_name: list[str] | str | None = None
    """Columns of further tracks; a column's name begins with the track's, as in `vocal_abspath` and `acc_abspath`."""

    ref_voice_column_name: list[str] | str | None = None
    """Preprocessing: column of the reference voice. Training: a name means that the voice is always used; a list gives
    equally likely choices, `none` for no voice, as in ["mert_input", "mert_input", "none"]. `voice_choices` gives the
    same as a table."""

    description_column_name: str | None = None
    """Column of the caption. null: `caption`."""

    prompt_column_name: str | None = None
    """Column of the lyrics. null: `lyrics`."""

    language_column_name: str = "language"
    """Column of the lyrics' language."""

    default_language: str = "en"
    """Language of rows without a language."""

    ref_dur_sec: PositiveFloat = 3.0
    """Length of the reference voice in seconds."""

    voice_choices: dict[str, NonNegativeFloat] | None = None
    """Relative probabilities of using the reference voice or none, for example {"vocal": 2, "none": 1}. null: as in
    `ref_voice_column_name`."""

    voice_min_energy: NonNegativeFloat = 200.0
    """Minimum energy (root mean square of 16-bit samples) of a vocal track that is used as reference voice."""

    keep_columns: list[str] = field(default_factory=list)
    """Preprocessing: further columns of the manifests to keep in the data set as text, for example ["singer"], so that
    `order` can balance the clips by them. The language is always kept."""

    voice_storage: Literal["samples", "none"] = "samples"
    """Form of the vocal track in the data set: samples at the voice encoder's rate, or none, to train without a
    voice."""

    min_duration_in_seconds: NonNegativeFloat = 0.0
    """Length of the shortest clip to use, in seconds."""

    max_duration_in_seconds: PositiveFloat | None = None
    """Length of the longest clip to use, in seconds (inclusive). null: 35 for models of tokens, 600 for models of
    latents."""

    long_clips: Literal["reject", "crop"] = "reject"
    """Preprocessing: treatment of clips longer than `max_duration_in_seconds`: left out, or cropped to their beginning
    and counted in the report. Lyrics are not shortened."""

    audio_timeout_seconds: PositiveFloat = 300.0
    """Preprocessing: time limit for reading a song, in seconds; songs that take longer are left out."""

    audio_memory_gib: PositiveFloat = 2.0
    """Preprocessing: memory limit of a process that reads audio, in GiB; songs that need more are left out."""

    max_text_length: PositiveInt | None = None
    """Maximum length of caption and of lyrics, in characters; clips with more are left out and counted. null: 500 for
    models of tokens, 10,000 for models of latents, which truncate texts."""

    max_description_token_length: PositiveInt | None = None
    """Maximum length of the caption in tokens; clips with more are left out. null: no limit."""

    max_prompt_token_length: PositiveInt | None = None
    """Maximum length of the lyrics in tokens; clips with more are left out. null: no limit."""

    max_train_samples: PositiveInt | None = None
    """Number of first rows of the training split to use. null: all rows."""

    max_eval_samples: PositiveInt | None = None
    """Number of first rows of the evaluation split to use. null: all rows."""

    max_bad_fraction: Probability = 0.1
    """Preprocessing: share of unusable rows above which it ends with an error."""

    verify_data_hashes: bool = True
    """Training: whether to compare the hash of every shard of `save_to_disk`, which finds altered, swapped and partly
    copied files. It takes seconds per GB, divided among the processes, which must all see the same files; a resumed
    run reads only files that have changed. false: only missing and truncated files are found."""

    feature_cache_dir: str | None = None
    """Training: folder of a cache with the features of captions and voices, which runs share. null: `songgen/features`
    in the user's cache folder (XDG_CACHE_HOME or `~/.cache`); "": no cache."""

    feature_cache_gib: PositiveFloat = 4.0
    """Training: most GiB in that folder; features that were not used for the longest time are removed."""

    voice_feature_crops: NonNegativeInt = 0
    """Training: number of fixed crops of each reference voice, evenly spaced, whose features are computed once and kept
    in the cache. The voice encoder then is not in memory while training. 0: a crop at any place, encoded at each
    visit."""

    save_to_disk: list[str] | str | None = None
    """Folder of the tokenized data set, written by preprocessing and read by training; training accepts several."""

    audio_encoder_per_device_batch_size: PositiveInt = 8
    """Preprocessing: number of clips that a process encodes in one batch; for models of latents, which encode one song
    at a time, without effect."""

    save_codec_steps: PositiveInt | None = 500
    """Preprocessing: number of songs per chunk, which becomes one shard; a kill loses one chunk at most. null: 500."""

    preprocessing_num_workers: PositiveInt | None = None
    """Preprocessing: number of songs that each process reads in parallel, ahead of the codec. null: 1."""

    group_by_length: bool = False
    """Whether batches consist of clips of similar length."""

    max_frames_per_batch: PositiveInt | None = None
    """Maximum number of codec frames in a training batch, including padding, in place of
    `per_device_train_batch_size`. null: batches are counted in clips."""

    order: Literal["random", "short_to_long", "short_to_long_first_epoch"] | list[dict[str, Any]] = "random"
    """Order of the training clips: shuffled, from short to long, or from short to long in the first epoch only; or a
    list of phases, for example [{"by": "duration", "epochs": 1}, {"by": "random", "epochs": 2}, {"by": "balanced",
    "column": "singer"}]. Each has a number of epochs, except the last, which has no end. In a `balanced` phase an epoch
    has as many clips as otherwise, and each value of the column (`language`, or one of `keep_columns`) comes equally
    often: clips of frequent values are left for later epochs, those of rare ones come several times."""

    def train_sources(self) -> list[DatasetSource]:
        """Return the data sets to preprocess for training.

        Raises:
            ValueError: if a key that belongs to `train_dataset_name` has another number of entries.
        """
        return _sources(
            "train",
            self.train_dataset_name,
            self.train_dataset_config_name,
            self.train_split_name,
            self.train_dataset_samples,
            self.train_metadata_dataset_name,
        )

    def eval_sources(self) -> list[DatasetSource]:
        """Return the data sets to preprocess for evaluation.

        Raises:
            ValueError: if a key that belongs to `eval_dataset_name` has another number of entries.
        """
        return _sources(
            "eval",
            self.eval_dataset_name,
            self.eval_dataset_config_name,
            self.eval_split_name,
            None,
            self.eval_metadata_dataset_name,
        )

    def dataset_folders(self) -> list[str]:
        """Return the folders of `save_to_disk` as a list."""
        return _entries(self.save_to_disk)

    def ref_audio_columns(self) -> list[str]:
        """Return the columns of further tracks as a list."""
        return _entries(self.ref_audio_column_name)

    def voice_probabilities(self) -> dict[str, float]:
        """Return the probabilities of the reference voices `vocal` and `none`, which sum to 1.

        All published column names (`mert_input`) mean the clip's own vocal track. Without any setting, the voice is
        always used.
        """
        if self.voice_choices is not None:
            weights = dict(self.voice_choices)
        else:
            names = _entries(self.ref_voice_column_name) or ["vocal"]
            weights = {name: float(count) for name, count in Counter(map(_voice_name, names)).items()}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


def _voice_name(column: str) -> str:
    return "none" if column.lower() == "none" else "vocal"


def _entries(value: Sequence[str | int] | str | int | None) -> list[str]:
    """Return the entries of a key that accepts one value or a list."""
    if value is None:
        return []
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _joined_entries(value: Sequence[str | int] | str | int | None) -> list[str]:
    return [expand_home(part) for part in value.split("+")] if isinstance(value, str) else _entries(value)


def _sources(
    prefix: str,
    names: Sequence[str] | str | None,
    config_names: Sequence[str] | str | None,
    splits: Sequence[str] | str,
    samples: Sequence[int] | str | int | None,
    metadata: Sequence[str] | str | None,
) -> list[DatasetSource]:
    """Combine the data sets with the other keys of each; a single entry applies to all of them."""
    names = _joined_entries(names)
    columns: list[list[str]] = []
    companions = (
        (f"{prefix}_dataset_config_name", config_names),
        (f"{prefix}_split_name", splits),
        (f"{prefix}_dataset_samples", samples),
        (f"{prefix}_metadata_dataset_name", metadata),
    )
    for key, value in companions:
        entries = _joined_entries(value)
        if len(entries) == 1:
            entries = entries * len(names)
        if names and entries and len(entries) != len(names):
            raise ValueError(
                f"{key}: {len(entries)} entries for the {len(names)} data sets of {prefix}_dataset_name; "
                "give one for all of them or one for each"
            )
        columns.append(entries)
    bad = [count for count in columns[2] if not count.isdigit() or int(count) == 0]
    if bad:
        raise ValueError(
            f"{prefix}_dataset_samples: {bad[0]!r} is not a number of rows; write 500, or 500+2000 for two"
        )
    return [
        DatasetSource(name, config_name, split or "train", int(count) if count else None, annotations)
        for name, config_name, split, count, annotations in zip_longest(names, *columns)
        if name is not None
    ]
