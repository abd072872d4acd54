"""Which songs a run reads, how they are filtered, and where the tokenized data set stands."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

from songgen.config.types import NonNegativeFloat, PositiveFloat, PositiveInt, Probability


@dataclass(frozen=True)
class DatasetSource:
    """One of the data sets that a run reads its songs from."""

    name: str
    """Manifest, folder or hub id."""

    config_name: str | None
    """Configuration of a hub data set."""

    split: str
    """Split of a hub data set or of a saved one."""

    num_samples: int | None
    """Number of rows to take; None takes all."""

    metadata: str | None
    """Manifest or data set with annotations, merged by id."""


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """The songs: manifests and columns for preprocessing, tokenized data set and reference voice for training."""

    train_dataset_name: list[str] | str | None = None
    """Songs to preprocess for training: a `.jsonl` manifest, a folder of songs with text files, a saved data set or
    a hub id; several as a list or joined by `+`."""

    train_dataset_config_name: list[str] | str | None = None
    """Configuration of a hub data set; one for all, or as many as data sets."""

    train_split_name: list[str] | str = "train"
    """Split to read; one for all, or as many as data sets."""

    train_dataset_samples: list[PositiveInt] | str | PositiveInt | None = None
    """Rows to take from each data set; one number for all, or as many as data sets. null: all rows."""

    train_metadata_dataset_name: list[str] | str | None = None
    """Annotations to merge into each data set by `id_column_name`: as many as data sets."""

    eval_dataset_name: list[str] | str | None = None
    """Songs to preprocess for evaluation, given like `train_dataset_name`."""

    eval_dataset_config_name: list[str] | str | None = None
    """Configuration of a hub data set, for evaluation."""

    eval_split_name: list[str] | str = "test"
    """Split to evaluate on: read from `eval_dataset_name` in preprocessing, from `save_to_disk` in training."""

    eval_metadata_dataset_name: list[str] | str | None = None
    """Annotations to merge into each evaluation data set."""

    loading_method: Literal["auto", "hf", "json", "folder", "ljspeech"] = "auto"
    """How data sets are read: `json` a manifest, `folder` NAME.mp3 with NAME_prompt.txt and NAME_lyrics.txt,
    `ljspeech` a list of path|text, `hf` a saved data set or a hub id, `auto` by what the name is."""

    audio_roots: list[str] = field(default_factory=list)
    """Folders besides the manifest's own in which audio files may lie; a path outside of them is refused."""

    id_column_name: str | None = None
    """Column of the song's id. null: `id` or `fname`, whichever exists, else the row's number."""

    target_audio_column_name: str = "audio"
    """Column of the whole song (track `mix`)."""

    ref_audio_column_name: list[str] | str | None = None
    """Columns of further tracks; their names begin with the track's, such as `vocal_abspath` and `acc_abspath`."""

    ref_voice_column_name: list[str] | str | None = None
    """Preprocessing: column from which the reference voice is taken. Training: a name uses the voice always, a list
    names one equally likely choice per entry, `none` for no voice, as in ["mert_input", "mert_input", "none"];
    `voice_choices` says the same as a table."""

    description_column_name: str | None = None
    """Column of the caption. null: `caption`."""

    prompt_column_name: str | None = None
    """Column of the lyrics. null: `lyrics`."""

    language_column_name: str = "language"
    """Column of the lyrics' language."""

    default_language: str = "en"
    """Language of rows that name none."""

    ref_dur_sec: PositiveFloat = 3.0
    """Length of the reference voice, in seconds."""

    voice_choices: dict[str, NonNegativeFloat] | None = None
    """Reference voice by probability, for example {"vocal": 2, "none": 1}; the weights need not add up to 1. null:
    what `ref_voice_column_name` says."""

    voice_min_energy: NonNegativeFloat = 200.0
    """Vocal tracks with less energy (root mean square of the 16-bit samples) are not used as reference voice."""

    voice_storage: Literal["samples", "none"] = "samples"
    """Keep the vocal track in the data set as samples at the voice encoder's rate, or keep none and train without a
    voice."""

    min_duration_in_seconds: NonNegativeFloat = 0.0
    """Shorter clips are left out."""

    max_duration_in_seconds: PositiveFloat = 35.0
    """Longer clips are left out; a clip of exactly this length stays."""

    long_clips: Literal["reject", "crop"] = "reject"
    """Preprocessing: clips above `max_duration_in_seconds` are left out, or `crop`: their beginning is kept, and the
    report counts them. Lyrics are not shortened with them."""

    audio_timeout_seconds: PositiveFloat = 300.0
    """Preprocessing: a song that takes longer to read is left out."""

    audio_memory_gib: PositiveFloat = 2.0
    """Preprocessing: memory that a process which reads audio may have (GiB); a song that needs more is left out."""

    max_text_length: PositiveInt = 500
    """Clips whose caption or lyrics have more characters are left out, and counted."""

    max_description_token_length: PositiveInt | None = None
    """Clips whose caption has more tokens are left out. null: no limit."""

    max_prompt_token_length: PositiveInt | None = None
    """Clips whose lyrics have more tokens are left out. null: no limit."""

    max_train_samples: PositiveInt | None = None
    """Use the first rows of the training split only. null: all."""

    max_eval_samples: PositiveInt | None = None
    """Use the first rows of the evaluation split only. null: all."""

    max_bad_fraction: Probability = 0.1
    """Preprocessing ends with an error when more than this share of the rows could not be used."""

    verify_data_hashes: bool = True
    """Training: read every shard of `save_to_disk` once and compare its hash (seconds for each GB, shared by the
    processes, which must all see the same files), which finds altered, swapped and half-copied files. A resumed run
    reads only what was changed since. false: only files that are missing or cut short are found."""

    feature_cache_dir: str | None = None
    """Training: folder where the text encoder's features of captions are kept, so that the next run does not compute
    them again; runs share it, and at most 4 GiB are kept. null: `songgen/features` in the user's cache folder
    (XDG_CACHE_HOME or `~/.cache`); "": they are not kept."""

    save_to_disk: list[str] | str | None = None
    """Folder of the tokenized data set: written by preprocessing, read by training, which also takes several."""

    audio_encoder_per_device_batch_size: PositiveInt = 8
    """Clips that a process encodes at once."""

    save_codec_steps: PositiveInt | None = 500
    """Songs in a chunk, which is written as one shard: what a kill can lose at most. null: 500."""

    preprocessing_num_workers: PositiveInt | None = None
    """Songs that each process reads at once, ahead of the codec. null: 1."""

    group_by_length: bool = False
    """Make batches of clips of similar length."""

    max_frames_per_batch: PositiveInt | None = None
    """Fill training batches up to this number of codec frames, padding included, instead of
    `per_device_train_batch_size` clips. null: count clips."""

    order: Literal["random", "short_to_long", "short_to_long_first_epoch"] = "random"
    """Order of the training clips: shuffled, from short to long, or from short to long in the first epoch only."""

    def train_sources(self) -> list[DatasetSource]:
        """Return the data sets to preprocess for training.

        Raises:
            ValueError: if a key that goes with `train_dataset_name` has another number of entries.
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
            ValueError: if a key that goes with `eval_dataset_name` has another number of entries.
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
        """Return the folders of `save_to_disk`, one or several."""
        return _entries(self.save_to_disk)

    def ref_audio_columns(self) -> list[str]:
        """Return the columns of the further tracks."""
        return _entries(self.ref_audio_column_name)

    def voice_probabilities(self) -> dict[str, float]:
        """Return the probability of each reference voice, `vocal` or `none`; they add up to 1.

        The published column names (`mert_input`) all stand for the clip's own vocal track. Without any setting the
        voice is used always.
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
    """Return the entries of a key that takes one value, a list, or (for data sets) a text joined by `+`."""
    if value is None:
        return []
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _joined_entries(value: Sequence[str | int] | str | int | None) -> list[str]:
    return [part for text in [value] for part in text.split("+")] if isinstance(value, str) else _entries(value)


def _sources(
    prefix: str,
    names: Sequence[str] | str | None,
    config_names: Sequence[str] | str | None,
    splits: Sequence[str] | str,
    samples: Sequence[int] | str | int | None,
    metadata: Sequence[str] | str | None,
) -> list[DatasetSource]:
    """Pair the data sets with what is given for each; one entry serves all of them."""
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
        raise ValueError(f"{prefix}_dataset_samples: {bad[0]!r} is no number of rows; write 500, or 500+2000 for two")
    return [
        DatasetSource(name, config_name, split or "train", int(count) if count else None, annotations)
        for name, config_name, split, count, annotations in zip_longest(names, *columns)
        if name is not None
    ]
