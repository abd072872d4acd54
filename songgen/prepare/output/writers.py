"""The prepared data set: a folder that appears in one step, can be moved, and is ready to be tokenized."""

import dataclasses
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songgen.data.schema import REJECTED_FILE
from songgen.prepare.engine.record import JsonObject, SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.output.encoded_files import EncodedFiles
from songgen.prepare.output.options import ExportOptions, WriteOptions
from songgen.runtime.file_hashes import HASHES_FILE, changed_files, read_hashes, record_hashes
from songgen.runtime.files import read_regular, write_text_atomic
from songgen.runtime.json_files import MAX_JSON_BYTES
from songgen.runtime.json_lines import seal, unseal
from songgen.tasks import ACCOMPANIMENT, MIX, TRACKS, VOCAL
from songgen.tokenize.finalize import link_or_copy, swap_folders, sync_tree
from songgen.tokenize.workspace import remove_leftovers, staging_folder

FORMAT_VERSION = 1
"""Version of the folder's layout, incremented when an old reader would misread the new layout."""

INFO_FILE = "prepared.json"
METADATA_FILES = {"train": "metadata.jsonl", "eval": "metadata_eval.jsonl"}
DATA_CONFIG_FILE = "data.json"
AUDIO_FOLDER = "audio"
ACE_FOLDER = "ace_dataset"
LJSPEECH_FILES = {"train": "train.txt", "eval": "validation.txt"}

FILE_NAME_COLUMNS = {MIX: "audio_file_name", VOCAL: "vocal_file_name", ACCOMPANIMENT: "acc_file_name"}
"""Track -> column of its path in the manifests."""

ENERGY_COLUMNS = {MIX: "audio_energy", VOCAL: "vocal_energy", ACCOMPANIMENT: "acc_energy"}
"""Track -> column of its energy."""

HASH_COLUMNS = {MIX: "audio_sha256", VOCAL: "vocal_sha256", ACCOMPANIMENT: "acc_sha256"}
"""Track -> column of the SHA-256 of its file."""

_EARLIER_HASHES = "hashes"
"""Key of `prepared.json` in data sets of earlier versions, which have no `file_hashes.json`."""

TEXT_LENGTH = 600
"""Text limit that `data.json` sets, unless a text is longer."""


@dataclass(frozen=True)
class PreparedInfo:
    """Content of `prepared.json`, which shows whether the folder is complete and made of the same records."""

    fingerprint: str
    """Hash of all records and of the options that affect the files."""

    clips: dict[str, int]
    """Split -> number of clips."""

    seconds: dict[str, float]
    """Split -> total length."""

    refused: dict[str, int]
    """Code -> number of songs and clips."""

    files: list[str]
    """All other files of the folder except audio."""

    format_version: int = FORMAT_VERSION
    """Version of the folder's layout."""

    num_audio_files: int = 0
    """Number of files in `audio`."""

    without_caption: int = 0
    """Number of clips without a caption, which tokenizing will leave out."""

    @classmethod
    def read(cls, folder: Path) -> "PreparedInfo | None":
        """Read the file of a folder; None if there is no prepared data set of this version."""
        known = {entry.name for entry in dataclasses.fields(cls)}
        try:
            content = read_regular(folder / INFO_FILE, MAX_JSON_BYTES)
            values = unseal(content.strip(), lambda values: values.keys() <= {*known, _EARLIER_HASHES})
            info = cls(**{name: value for name, value in values.items() if name != _EARLIER_HASHES})
        except (OSError, ValueError, TypeError):
            return None
        return info if info.format_version == FORMAT_VERSION and info._is_well_formed() else None

    def _is_well_formed(self) -> bool:
        """Return whether every value has its type; a file that was edited or damaged may have any."""
        tables = (self.clips, self.seconds, self.refused)
        if not isinstance(self.files, list) or not all(isinstance(table, dict) for table in tables):
            return False
        counts = [*self.clips.values(), *self.refused.values(), self.num_audio_files, self.without_caption]
        seconds = [*self.seconds.values()]
        return (
            all(isinstance(text, str) for text in (self.fingerprint, *self.files))
            and all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
            and all(isinstance(value, int | float) and math.isfinite(value) for value in seconds)
            and self.clips.keys() <= self.seconds.keys()
        )

    def is_complete(self, folder: Path) -> bool:
        """Return whether all files of the data set exist, and those other than audio are as they were written."""
        audio = folder / AUDIO_FOLDER
        num_audio_files = sum(1 for _ in audio.iterdir()) if audio.is_dir() else 0
        if num_audio_files != self.num_audio_files or not all((folder / name).exists() for name in self.files):
            return False
        try:
            hashes = read_hashes(folder)
        except ValueError:
            return False
        return hashes is not None and not changed_files(folder, hashes)


def hashed_files(folder: Path) -> list[str]:
    """Return the files of a data set that its `file_hashes.json` lists: all but audio, whose hashes are in the rows."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if name != HASHES_FILE and not name.startswith(f"{AUDIO_FOLDER}/"))


@dataclass(frozen=True)
class DatasetWriter:
    """Writes the folder."""

    output_folder: Path
    """Folder to write."""

    shown_folder: str
    """Folder as the user gave it, for `data.json`."""

    work: WorkFolder
    """Work folder with the records' audio."""

    options: WriteOptions = field(default_factory=WriteOptions)
    """Format of the data set."""

    exports: ExportOptions = field(default_factory=ExportOptions)
    """Further layouts."""

    def fingerprint(self, records: Sequence[SongRecord], others: Sequence[Any] = ()) -> str:
        """Return a hash of everything that the folder depends on; `others` are further values, as of the report."""
        digest = hashlib.sha256()
        head = [FORMAT_VERSION, dataclasses.asdict(self.options), dataclasses.asdict(self.exports), *others]
        digest.update(json.dumps(head, sort_keys=True).encode("ascii"))
        for record in records:
            digest.update(record.to_json().encode("ascii"))
        return digest.hexdigest()

    def write(
        self, records: Sequence[SongRecord], fingerprint: str, add_files: Callable[[Path], object] = lambda _: None
    ) -> PreparedInfo:
        """Write the data set into a temporary folder and rename that to its place.

        Args:
            records: all records; refused ones go to `rejected.jsonl`.
            fingerprint: result of `fingerprint`.
            add_files: writes further files (configuration, report) into the folder.
        """
        included = [record for record in records if record.refusal is None]
        refused = [record for record in records if record.refusal is not None]
        self.output_folder.parent.mkdir(parents=True, exist_ok=True)
        staging = staging_folder(self.output_folder)
        shutil.rmtree(staging, ignore_errors=True)
        (staging / AUDIO_FOLDER).mkdir(parents=True)
        encoded = EncodedFiles(self.work, self.options.audio_format)
        rows = {split: [self._row(record, staging, encoded) for record in included if _split(record) == split]
                for split in METADATA_FILES}  # fmt: skip
        rows = {split: listed for split, listed in rows.items() if listed}
        for split, listed in rows.items():
            _write_lines(staging / METADATA_FILES[split], listed)
        _write_lines(staging / REJECTED_FILE, map(rejected_row, refused))
        (staging / DATA_CONFIG_FILE).write_text(json.dumps(self._data_config(rows), indent=2) + "\n", encoding="utf-8")
        self._export(staging, rows)
        add_files(staging)
        info = PreparedInfo(
            fingerprint=fingerprint,
            clips={split: len(listed) for split, listed in rows.items()},
            seconds={split: round(sum(row["duration"] for row in listed), 3) for split, listed in rows.items()},
            refused=dict(Counter(record.refusal.code for record in refused if record.refusal).most_common()),
            files=sorted(path.name for path in staging.iterdir() if path.name != AUDIO_FOLDER),
            num_audio_files=sum(1 for _ in (staging / AUDIO_FOLDER).iterdir()),
            without_caption=sum(not record.caption for record in included),
        )
        write_text_atomic(staging / INFO_FILE, seal(dataclasses.asdict(info)) + "\n")
        record_hashes(staging, hashed_files(staging))
        sync_tree(staging)
        swap_folders(staging, self.output_folder)
        remove_leftovers(self.output_folder)
        encoded.close(remove_others=True)
        return info

    def is_written(self, records: Sequence[SongRecord]) -> bool:
        """Return whether the audio files in the folder are those of the records, byte for byte."""
        encoded = EncodedFiles(self.work, self.options.audio_format)
        try:
            tracks = [(record, track) for record in records if record.refusal is None for track in record.audio]
            return all(
                encoded.is_same(
                    self.output_folder / self._track_name(record, track), self._source(record, track, encoded)
                )
                for record, track in tracks
                if track in TRACKS
            )
        finally:
            encoded.close(remove_others=False)

    def _row(self, record: SongRecord, folder: Path, encoded: EncodedFiles) -> JsonObject:
        """Write a record's audio; return its row of the manifest."""
        row: JsonObject = {"fname": record.id, "caption": record.caption, "lyrics": record.lyrics}
        for track in TRACKS:
            if track in record.audio:
                row[FILE_NAME_COLUMNS[track]] = self._write_track(record, track, folder, encoded)
        for track in TRACKS:
            if track in record.energies:
                row[ENERGY_COLUMNS[track]] = round(record.energies[track], 4)
        for track in TRACKS:
            if track in record.audio:
                row[HASH_COLUMNS[track]] = encoded.sha256(self._source(record, track, encoded))
        row |= {"language": record.language, "duration": record.duration}
        row |= {"tags": list(record.tags), "variants": dict(record.variants), "analysis": record.analysis}
        row |= {"tempo": record.tempo, "key": record.key, "song": record.song, "start": record.start}
        row |= {"singer": record.singer} if record.singer else {}
        row |= {"split": _split(record), "instrumental": record.lyrics_source == "instrumental"}
        row |= {"lyrics_source": record.lyrics_source, "provenance": dict(record.provenance)}
        return row | {"measures": {name: round(value, 4) for name, value in record.measures.items()}}

    def _write_track(self, record: SongRecord, track: str, folder: Path, encoded: EncodedFiles) -> str:
        name = self._track_name(record, track)
        link_or_copy(self._source(record, track, encoded), folder / name)
        return name

    def _track_name(self, record: SongRecord, track: str) -> str:
        return f"{AUDIO_FOLDER}/{record.id}.{track}.{self.options.audio_format}"

    def _source(self, record: SongRecord, track: str, encoded: EncodedFiles) -> Path:
        """Return the file in the work folder that has a track in the format of the data set."""
        source = self.work.track(record, track)
        is_ours = not Path(record.audio[track]).is_absolute()
        is_as_wanted = is_ours and source.suffix == f".{self.options.audio_format}"
        return source if is_as_wanted else encoded.file(record.audio[track])

    def _data_config(self, rows: dict[str, list[JsonObject]]) -> JsonObject:
        """Return a configuration of preprocess_data.py that accepts every row."""
        listed = [row for split in rows.values() for row in split]
        references = [f"{track}_abspath" for track in (VOCAL, ACCOMPANIMENT)
                      if any(FILE_NAME_COLUMNS[track] in row for row in listed)]  # fmt: skip
        config: JsonObject = {
            "preprocessing_only": True,
            "model_name_or_path": self.options.model_name_or_path,
            "loading_method": "json",
            "train_dataset_name": f"{self.shown_folder}/{METADATA_FILES['train']}",
            "eval_dataset_name": f"{self.shown_folder}/{METADATA_FILES['eval']}",
            "id_column_name": "fname",
            "description_column_name": "caption",
            "prompt_column_name": "lyrics",
            "target_audio_column_name": "audio_abspath",
            "ref_audio_column_name": references,
            "min_duration_in_seconds": math.floor(min(row["duration"] for row in listed) * 100) / 100,
            # Above the longest clip, so that it is larger than the minimum even if all clips have one length.
            "max_duration_in_seconds": (math.floor(max(row["duration"] for row in listed) * 100) + 1) / 100,
            "max_text_length": max(TEXT_LENGTH, *(len(row[text]) for row in listed for text in ("caption", "lyrics"))),
            "preprocessing_num_workers": 4,
            "save_to_disk": f"{self.shown_folder}_tokens",
        }
        if any("singer" in row for row in listed):
            config["keep_columns"] = ["singer"]  # by which `order` can balance
        if "vocal_abspath" in references:
            config["ref_voice_column_name"] = "vocal_abspath"
        absent = [key for split, key in (("train", "train_dataset_name"), ("eval", "eval_dataset_name"))
                  if split not in rows]  # fmt: skip
        return {key: value for key, value in config.items() if key not in absent and value != []}

    def _export(self, folder: Path, rows: dict[str, list[JsonObject]]) -> None:
        if "ace" in self.exports.formats and "train" in rows:
            write_ace_dataset(folder / ACE_FOLDER, rows["train"], self.exports.repeat_count)
        if "ljspeech" in self.exports.formats:
            for split, listed in rows.items():
                write_ljspeech(folder / LJSPEECH_FILES[split], listed)


def _split(record: SongRecord) -> str:
    return record.split or "train"


def _write_lines(path: Path, rows: "Sequence[JsonObject] | Iterator[JsonObject]") -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def rejected_row(record: SongRecord) -> JsonObject:
    """Return the line of `rejected.jsonl` for a refused record."""
    assert record.refusal is not None
    place: JsonObject = {"id": record.id, "song": record.song, "file": record.file, "line": record.line}
    place |= {"start": record.start, "duration": record.duration}
    return place | dataclasses.asdict(record.refusal) | {"others": list(record.refusal.others)}


def write_ace_dataset(folder: Path, rows: Sequence[JsonObject], repeat_count: int) -> None:
    """Write a `save_to_disk` folder with the features of the ACE-Step converter.

    Args:
        folder: folder to write; the `filename` of each row is relative to its parent.
        rows: rows of the manifest.
        repeat_count: number of times that all rows are written, one round after another.
    """
    from datasets import Dataset, Features, Value
    from datasets import Sequence as ListOf

    features = Features(
        {
            "keys": Value("string"),
            "filename": Value("string"),
            "tags": ListOf(Value("string")),
            "speaker_emb_path": Value("string"),
            "norm_lyrics": Value("string"),
            "recaption": {},
        }
    )

    def repeated() -> Iterator[JsonObject]:
        for _ in range(repeat_count):
            yield from map(ace_row, rows)

    Dataset.from_list(list(repeated()), features=features).save_to_disk(str(folder))


def ace_row(row: JsonObject) -> JsonObject:
    """Return a row of the manifest with the column names of the ACE-Step converter."""
    tags = row["tags"] or [tag.strip() for tag in row["caption"].split(",") if tag.strip()]
    return {
        "keys": row["fname"],
        "filename": row[FILE_NAME_COLUMNS[MIX]],
        "tags": tags,
        "speaker_emb_path": "",
        "norm_lyrics": row["lyrics"],
        "recaption": {},
    }


def write_ljspeech(path: Path, rows: Sequence[JsonObject]) -> None:
    """Write `path|text` lines: the vocal track if there is one, and the lyrics on one line without section tags."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in map(ljspeech_line, rows) if line)


def ljspeech_line(row: JsonObject) -> str:
    """Return the line of a row in a list of the form of LJSpeech; empty without words."""
    audio = row.get(FILE_NAME_COLUMNS[VOCAL]) or row[FILE_NAME_COLUMNS[MIX]]
    lines = [line.strip() for line in row["lyrics"].splitlines()]
    words = " ".join(line for line in lines if line and not (line.startswith("[") and line.endswith("]")))
    return f"{audio}|{words.replace('|', ' ')}" if words else ""
