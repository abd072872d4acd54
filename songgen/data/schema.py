"""What a tokenized data set folder holds: the Arrow columns of its shards and its `dataset.json`.

    FOLDER/
      dataset.json          DatasetInfo: what the tokens mean and which shards there are
      dataset_dict.json     with the three names below it, what `datasets.load_from_disk` wants to see
      train/                one folder a split
        data-00000-of-00007-5d41402a.arrow   Arrow IPC stream, rows in the order of the manifests
        dataset_info.json, state.json
      report.json, report.txt, rejected.jsonl

All names in `dataset.json` are relative to the folder, so that it can be moved. The name of a shard holds the beginning
of its hash: a reader that opened an older version of the folder never takes a shard of a newer one for its own.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from songgen.runtime.records import Format
from songgen.tasks import TRACKS

CODES, LATENTS = "codes", "latents"
TARGET_KINDS = {CODES: pa.int16(), LATENTS: pa.float32()}
"""What a model learns to write -> type of its values in the shards: the codes of a codec with codebooks, or the latents
of a continuous autoencoder."""

SCHEMA_VERSION = 1
"""Raised when the columns or their meaning change, with an upgrade from the version before; see
`songgen.runtime.records`."""

REBUILD = "run `songgen tokenize` to write it again"

DATASET_FILE = "dataset.json"
REPORT_FILE = "report.json"
REPORT_TEXT_FILE = "report.txt"
REJECTED_FILE = "rejected.jsonl"
SPLITS_FILE = "dataset_dict.json"
"""With the next two, what `datasets.load_from_disk` reads."""
COMPANION_FILES = ("dataset_info.json", "state.json")
"""Files of each split beside its shards."""

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
"""Token ids of further descriptions of the clip, one behind the other, and how many each has."""

OPTIONAL_COLUMNS = frozenset((VARIANT_IDS_COLUMN, VARIANT_LENGTHS_COLUMN))
"""Columns that data sets of older programs lack."""


def target_column(track: str, kind: str = CODES) -> str:
    """Return the name of the column that holds a track's targets, row by row (empty: the clip has no such track).

    Codes are K x T, codebooks by frames; latents are C x T, channels by frames.
    """
    return f"{kind}_{track}"


def energy_column(track: str) -> str:
    """Name of the column that holds a track's energy: root mean square of its 16-bit samples, or null."""
    return f"energy_{track}"


def arrow_schema(tracks: tuple[str, ...] = TRACKS, target_kind: str = CODES) -> pa.Schema:
    """Return the columns of a shard that holds these tracks, as targets of a kind in `TARGET_KINDS`."""
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
    return pa.schema(fields)


@dataclass(frozen=True)
class ShardInfo:
    """One Arrow file of a split."""

    file: str
    """Path below the data set's folder, with forward slashes."""

    rows: int
    """Number of clips in it."""

    sha256: str
    """Hash of the whole file, hexadecimal."""

    key: str = ""
    """Hash of everything that the shard was made from; the same key means the same rows."""


@dataclass(frozen=True)
class DatasetInfo:
    """What the targets and ids of a data set mean, and the shards that hold them."""

    codec_spec: dict[str, Any]
    """What `songgen.codecs.load_codec` takes to open the codec that wrote the codes; of latents, the autoencoder."""

    codec_fingerprint: str
    """Fingerprint of that codec or autoencoder; a model trained on this data must have the same."""

    sample_rate: int
    """Samples a second of the audio that was encoded."""

    hop_length: int
    """Samples of one frame."""

    num_codebooks: int
    """K: codes of one frame; 0 for latents."""

    codebook_size: int
    """Codes are 0 .. codebook_size - 1; 0 for latents."""

    lyrics_tokenizer_fingerprint: str
    """Fingerprint of the tokenizer that wrote `lyrics_ids`."""

    caption_tokenizer_fingerprint: str
    """Fingerprint of the tokenizer that wrote `caption_ids`."""

    voice_sample_rate: int
    """Samples a second of `voice_samples`; 0 when no reference voice is stored."""

    tracks: tuple[str, ...] = TRACKS
    """Tracks that have columns in the shards; a single clip may lack any of them."""

    splits: dict[str, tuple[ShardInfo, ...]] = field(default_factory=dict)
    """Shards of each split, in the order of the rows."""

    schema_version: int = SCHEMA_VERSION
    """Version of the columns."""

    target_kind: str = CODES
    """Kind of target that the columns hold, one of `TARGET_KINDS`."""

    num_channels: int = 0
    """C: values of one latent frame; 0 for codes."""

    @property
    def frame_size(self) -> int:
        """Values of one frame of a track: K codes, or C latents."""
        return self.num_codebooks if self.target_kind == CODES else self.num_channels

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length

    def num_rows(self, split: str) -> int:
        """Number of clips in a split."""
        return sum(shard.rows for shard in self.splits[split])

    def to_json(self) -> str:
        """Return the text of `dataset.json`.

        Fields of latents are left out of a data set of codes: older programs, which refuse fields that they do not
        know, can then read it.
        """
        values = asdict(self)
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
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder} is not a tokenized data set: it has no {DATASET_FILE}; {REBUILD}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read ({error}); {REBUILD}") from error
        info = _FORMAT.read(content, str(path))
        listed = [shard.file for shards in info.splits.values() for shard in shards]
        outside = [name for name in listed if PurePosixPath(name).is_absolute() or ".." in name.split("/")]
        if info.target_kind not in TARGET_KINDS:
            known = ", ".join(TARGET_KINDS)
            raise ValueError(f"{path} has target_kind {info.target_kind!r}, this program reads {known}; {REBUILD}")
        if outside:
            raise ValueError(f"{path} names files outside of its folder ({', '.join(outside)}); {REBUILD}")
        return info


_FORMAT = Format(DatasetInfo, SCHEMA_VERSION, fix=REBUILD)
