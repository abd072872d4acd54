"""Format of a tokenized data set folder: the Arrow columns of its shards and its `dataset.json`.

    FOLDER/
      dataset.json          DatasetInfo: the meaning of the tokens and the list of shards
      dataset_dict.json     for `datasets.load_from_disk`, as the two JSON files of each split
      train/                one folder a split
        data-00000-of-00007-5d41402a.arrow   Arrow IPC stream, rows in the order of the manifests
        dataset_info.json, state.json
      report.json, report.txt, rejected.jsonl
      file_hashes.json      sizes and hashes of all files but the shards, whose hashes are in dataset.json

All names in `dataset.json` are relative to the folder, so that it can be moved. The name of a shard holds the beginning
of its hash: a reader that opened an older version of the folder never takes a shard of a newer one for its own.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from songgen.runtime.file_hashes import checked
from songgen.runtime.json_files import read_json
from songgen.runtime.records import Format
from songgen.tasks import TRACKS

CODES, LATENTS = "codes", "latents"
TARGET_KINDS = {CODES: pa.int16(), LATENTS: pa.float16()}
"""Kind of target -> type of its values in the shards: codes of a codec with codebooks, or latents of a continuous
autoencoder, which have a few units at most, so that 16 bits keep them to 0.1 %."""

DEFAULT_MAX_SECONDS = {CODES: 35.0, LATENTS: 600.0}
"""Kind of target -> length of the longest clip in seconds, unless a configuration sets one. A frame of latents is 25
to 40 times longer than one of codes, so that these models read whole songs."""

DEFAULT_MAX_TEXT = {CODES: 500, LATENTS: 10_000}
"""Kind of target -> most characters of a caption and of lyrics, unless a configuration sets another number."""

SCHEMA_VERSION = 1
"""Version of the format. It is increased when the columns or their meaning change, with an upgrade from the version
before; see `songgen.runtime.records`."""

REBUILD = "run `songgen tokenize` to write it again"

DATASET_FILE = "dataset.json"
REPORT_FILE = "report.json"
REPORT_TEXT_FILE = "report.txt"
REJECTED_FILE = "rejected.jsonl"
SPLITS_FILE = "dataset_dict.json"
"""File for `datasets.load_from_disk`, like `COMPANION_FILES`."""
COMPANION_FILES = ("dataset_info.json", "state.json")
"""Files of each split next to its shards."""

TRAIN_SPLIT, EVAL_SPLIT = "train", "eval"

ID_COLUMN = "id"
CAPTION_COLUMN = "caption"
LYRICS_COLUMN = "lyrics"
LANGUAGE_COLUMN = "language"
CAPTION_IDS_COLUMN = "caption_ids"
LYRICS_IDS_COLUMN = "lyrics_ids"
DURATION_COLUMN = "duration"
NUM_FRAMES_COLUMN = "num_frames"
VOICE_COLUMN = "voice_samples"
VARIANT_IDS_COLUMN, VARIANT_LENGTHS_COLUMN = "caption_variant_ids", "caption_variant_lengths"
"""Columns with the concatenated token ids of further descriptions, and the number of ids of each."""

OPTIONAL_COLUMNS = frozenset((VARIANT_IDS_COLUMN, VARIANT_LENGTHS_COLUMN))
"""Columns that are missing in data sets of older versions."""


def target_column(track: str, kind: str = CODES) -> str:
    """Return the name of the column with a track's targets, flattened (empty if a clip does not have the track).

    Codes are K x T, codebooks by frames; latents are C x T, channels by frames.
    """
    return f"{kind}_{track}"


def energy_column(track: str) -> str:
    """Return the name of the column with a track's energy: root mean square of its 16-bit samples, or null."""
    return f"energy_{track}"


def arrow_schema(
    tracks: tuple[str, ...] = TRACKS, target_kind: str = CODES, kept_columns: tuple[str, ...] = ()
) -> pa.Schema:
    """Return the Arrow schema of a shard with these tracks, a kind of target in `TARGET_KINDS`, and further columns."""
    fields = [
        pa.field(ID_COLUMN, pa.string()),
        pa.field(CAPTION_COLUMN, pa.string()),
        pa.field(LYRICS_COLUMN, pa.string()),
        pa.field(LANGUAGE_COLUMN, pa.string()),
        pa.field(CAPTION_IDS_COLUMN, pa.list_(pa.int32())),
        pa.field(LYRICS_IDS_COLUMN, pa.list_(pa.int32())),
        pa.field(DURATION_COLUMN, pa.float64()),
        pa.field(NUM_FRAMES_COLUMN, pa.int32()),
    ]
    values = pa.list_(TARGET_KINDS[target_kind])
    fields += [pa.field(target_column(track, target_kind), values) for track in tracks]
    fields += [pa.field(energy_column(track), pa.float32()) for track in tracks]
    fields.append(pa.field(VOICE_COLUMN, pa.list_(pa.int16())))
    fields += [pa.field(name, pa.list_(pa.int32())) for name in (VARIANT_IDS_COLUMN, VARIANT_LENGTHS_COLUMN)]
    fields += [pa.field(name, pa.string()) for name in kept_columns]
    return pa.schema(fields)


@dataclass(frozen=True)
class ShardInfo:
    """Arrow file of a split."""

    file: str
    """Path in the data set's folder, with forward slashes."""

    rows: int
    """Number of clips."""

    sha256: str
    """SHA-256 of the file, hexadecimal."""

    key: str = ""
    """Hash of everything that the shard was made from; the same key means the same rows."""


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a data set: the meaning of its targets and ids, and its shards."""

    codec_spec: dict[str, Any]
    """Spec with which `songgen.codecs.load_codec` opens the codec of the codes; for latents, of the autoencoder."""

    codec_fingerprint: str
    """Fingerprint of the codec or autoencoder; a model trained on this data must have the same."""

    sample_rate: int
    """Sample rate of the encoded audio in Hz."""

    hop_length: int
    """Number of samples of one frame."""

    num_codebooks: int
    """Number of codes of one frame, K; 0 for latents."""

    codebook_size: int
    """Number of codes of a codebook (codes are 0 .. codebook_size - 1); 0 for latents."""

    lyrics_tokenizer_fingerprint: str
    """Fingerprint of the tokenizer that wrote `lyrics_ids`."""

    caption_tokenizer_fingerprint: str
    """Fingerprint of the tokenizer that wrote `caption_ids`."""

    voice_sample_rate: int
    """Sample rate of `voice_samples` in Hz; 0 if no reference voices are stored."""

    tracks: tuple[str, ...] = TRACKS
    """Tracks with columns in the shards; single clips may lack some of them."""

    splits: dict[str, tuple[ShardInfo, ...]] = field(default_factory=dict)
    """Shards of each split, in the order of the rows."""

    schema_version: int = SCHEMA_VERSION
    """Version of the format."""

    target_kind: str = CODES
    """Kind of target that the columns hold, one of `TARGET_KINDS`."""

    num_channels: int = 0
    """Number of values of one latent frame, C; 0 for codes."""

    kept_columns: tuple[str, ...] = ()
    """Further columns of the manifests, kept as text."""

    @property
    def frame_size(self) -> int:
        """Number of values of one frame of a track: K codes, or C latents."""
        return self.num_codebooks if self.target_kind == CODES else self.num_channels

    @property
    def frame_rate(self) -> float:
        """Number of frames per second."""
        return self.sample_rate / self.hop_length

    def num_rows(self, split: str) -> int:
        """Return the number of clips in a split."""
        return sum(shard.rows for shard in self.splits[split])

    def to_json(self) -> str:
        """Return the text of `dataset.json`.

        Fields for latents are left out for data sets of codes, and that of kept columns if there are none, so that
        older versions, which refuse unknown fields, can read them.
        """
        values = asdict(self)
        if not self.kept_columns:
            del values["kept_columns"]
        if self.target_kind == CODES:
            del values["target_kind"], values["num_channels"]
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def read(folder: str | Path) -> "DatasetInfo":
        """Read `dataset.json` of a data set folder.

        Raises:
            ValueError: if the file is missing, damaged or of a newer schema version; the message says what to do.
        """
        path = Path(folder) / DATASET_FILE
        try:
            content = _read_unchanged(path)
        except ValueError as error:
            if not path.exists():
                what = f"{folder} is not a tokenized data set: it has no {DATASET_FILE}; {REBUILD}"
                raise ValueError(what) from None
            raise ValueError(f"{error}; {REBUILD}") from error
        info = _FORMAT.read(content, str(path))
        listed = [shard.file for shards in info.splits.values() for shard in shards]
        outside = [name for name in listed if PurePosixPath(name).is_absolute() or ".." in name.split("/")]
        if info.target_kind not in TARGET_KINDS:
            known = ", ".join(TARGET_KINDS)
            raise ValueError(f"{path} has target_kind {info.target_kind!r}, this program reads {known}; {REBUILD}")
        if outside:
            raise ValueError(f"{path} names files outside of its folder ({', '.join(outside)}); {REBUILD}")
        return info


def _read_unchanged(path: Path) -> Any:
    """Read a file of a data set that is as it was written, also while a newer data set takes the place of the folder.

    Raises:
        ValueError: if it is missing or has changed.
    """
    while True:
        before = _identity(path.parent)
        try:
            return read_json(checked(path))
        except ValueError:
            # Otherwise the file and its hash may have been read from two data sets.
            if _identity(path.parent) == before:
                raise


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one that has taken its place; None if there is none."""
    try:
        facts = folder.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


_FORMAT = Format(DatasetInfo, SCHEMA_VERSION, fix=REBUILD)
