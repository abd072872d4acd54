"""Where manifest rows come from: a .jsonl file, a folder of songs, a `save_to_disk` folder, a hub data set.

Each source is an iterator of raw rows, one at a time. Nothing here decodes audio.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
PROMPT_SUFFIX, PROMPT_JSON_SUFFIX, LYRICS_SUFFIX = "_prompt.txt", "_prompt.json", "_lyrics.txt"
EXTRA_TRACKS = ("vocal", "acc")
"""NAME_vocal.wav and NAME_acc.wav beside NAME.wav are its separated tracks."""

ARROW_BATCH_ROWS = 32
"""Rows of a hub or saved data set in memory at once; they may hold whole audio files."""


@dataclass(frozen=True)
class ColumnNames:
    """Names that the columns of the manifests have."""

    id: str | None = None
    """Row id; None takes "id" or "fname", whichever is there, or else numbers the rows."""

    caption: str = "caption"
    """Description of the music."""

    lyrics: str = "lyrics"
    """Sung words."""

    language: str = "language"
    """Language of the lyrics."""

    target: str = "audio"
    """Audio of the whole song."""

    references: tuple[str, ...] = ("vocal_abspath", "acc_abspath")
    """Audio of separated tracks; the track's name is what stands before the first suffix such as _abspath."""


@dataclass(frozen=True)
class ManifestSpec:
    """One manifest to read."""

    name: str
    """A .jsonl file, a folder of songs, a `save_to_disk` folder, or the id of a hub data set."""

    config_name: str | None = None
    """Configuration of a hub data set."""

    split: str = "train"
    """Split of a saved or hub data set."""

    max_rows: int | None = None
    """Take only the first rows."""

    annotations: str | None = None
    """Another manifest whose columns are merged in by id."""

    method: str = "auto"
    """How to read it: "json", "folder" or "hf" (a saved or a hub data set); "auto" goes by what the name is."""


@dataclass(frozen=True)
class RawRow:
    """One row before any of it is checked."""

    file: str
    """Manifest, for messages."""

    line: int
    """Line or row number, from 1."""

    values: dict[str, Any] | None
    """Columns; None when the line could not be read, and `error` says why."""

    error: str = ""
    """What is wrong with the line itself."""

    code: str = ""
    """Rejection code of a row that is well-formed but known to be unusable."""

    reason: str = ""
    """Why it is unusable."""


@dataclass
class Source:
    """An opened manifest."""

    rows: Iterator[RawRow]
    """Its rows, read as they are asked for."""

    base_folders: tuple[Path, ...]
    """Folders that relative audio paths start from, and that audio may lie in."""

    may_repeat_rows: bool = False
    """Whether identical rows are taken as one (the ACE-Step converter repeats every row `repeat_count` times)."""

    notices: list[str] = field(default_factory=list)
    """What is odd but no reason to stop; filled while the rows are read."""


def open_source(spec: ManifestSpec, columns: ColumnNames, spool_folder: Path) -> Source:
    """Open a manifest of any kind.

    Args:
        spec: what to read.
        columns: names that rows of a folder get, so that all sources look alike.
        spool_folder: where audio that is stored inside a data set is written to.

    Raises:
        ValueError: if there is nothing of that name.
    """
    path = Path(spec.name)
    method = _find_method(path, spec) if spec.method == "auto" else spec.method
    if method == "json":
        manifest = path / "metadata.jsonl" if path.is_dir() else path
        if not manifest.is_file():
            raise ValueError(f"there is no manifest {manifest} (looked from {Path.cwd()})")
        return Source(_read_jsonl(manifest), (manifest.parent.resolve(),))
    if method == "folder":
        if not path.is_dir():
            raise ValueError(f"there is no folder {path} (looked from {Path.cwd()})")
        source = Source(iter(()), (path.resolve(),))
        source.rows = _read_folder(path, columns, source.notices)
        return source
    if path.is_dir():
        rows = _read_saved(path, spec, columns, spool_folder)
        return Source(rows, (path.resolve(), path.resolve().parent, spool_folder.resolve()), may_repeat_rows=True)
    return _open_hub(spec, columns, spool_folder)


def _find_method(path: Path, spec: ManifestSpec) -> str:
    if path.is_file():
        if path.suffix not in (".jsonl", ".json"):
            raise ValueError(f"manifest {spec.name} must be a .jsonl file: one JSON object a line")
        return "json"
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return "hf"
        return "json" if (path / "metadata.jsonl").is_file() else "folder"
    looks_local = path.is_absolute() or spec.name.startswith(".") or spec.name.count("/") > 1
    if looks_local or path.suffix in (".jsonl", ".json"):
        raise ValueError(f"there is no manifest {spec.name} (looked from {Path.cwd()})")
    return "hf"


def _read_jsonl(path: Path) -> Iterator[RawRow]:
    # Read as bytes: one undecodable line must not hide the lines after it.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                yield RawRow(str(path), number, None, f"not a line of JSON: {error}")
                continue
            if isinstance(values, dict):
                yield RawRow(str(path), number, values)
            else:
                yield RawRow(str(path), number, None, f"a row must be an object, this is a {type(values).__name__}")


def _read_folder(root: Path, columns: ColumnNames, notices: list[str]) -> Iterator[RawRow]:
    number = 0
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        present = set(names)
        audio = sorted(name for name in names if Path(name).suffix.lower() in AUDIO_SUFFIXES)
        stems = {Path(name).stem for name in audio}
        extra = {f"{stem}_{track}" for stem in stems for track in EXTRA_TRACKS} & stems
        for name in audio:
            if Path(name).stem not in extra:
                number += 1
                yield _folder_row(root, Path(folder) / name, audio, columns, notices, number)
        for name in sorted(present):
            for suffix in (PROMPT_SUFFIX, PROMPT_JSON_SUFFIX, LYRICS_SUFFIX):
                if name.endswith(suffix) and name.removesuffix(suffix) not in stems:
                    notices.append(f"{Path(folder) / name}: there is no audio file {name.removesuffix(suffix)}.*")


def _folder_row(
    root: Path, path: Path, audio_names: Sequence[str], columns: ColumnNames, notices: list[str], number: int
) -> RawRow:
    relative = path.relative_to(root)
    values: dict[str, Any] = {
        columns.id or "id": relative.with_suffix("").as_posix(),
        columns.target: relative.as_posix(),
    }
    for column in columns.references:
        stem = f"{path.stem}_{track_of_column(column)}"
        found = next((name for name in audio_names if Path(name).stem == stem), None)
        if found is not None:
            values[column] = relative.with_name(found).as_posix()
    code, reason = "", ""
    try:
        caption = _read_prompt(path, str(values[columns.id or "id"]), notices)
        lyrics_path = path.with_name(path.stem + LYRICS_SUFFIX)
        lyrics = _read_text(lyrics_path)
        if lyrics is None:
            notices.append(f"{lyrics_path}: is missing; the song is taken as an instrumental")
        values[columns.lyrics] = lyrics
        values[columns.caption] = caption
        if caption is None:
            code, reason = "missing_caption", f"{path.stem}{PROMPT_SUFFIX} is missing"
    except (UnicodeDecodeError, json.JSONDecodeError, OSError, ValueError) as error:
        code, reason = "unreadable_text", f"prompt or lyrics file cannot be read: {error}"
    return RawRow(str(root), number, values, code=code, reason=reason)


def _read_text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8-sig").strip() if path.is_file() else None


def _read_prompt(path: Path, row_id: str, notices: list[str]) -> str | None:
    prompt_path = path.with_name(path.stem + PROMPT_SUFFIX)
    text = _read_text(prompt_path)
    if text is None:
        prompt_path = path.with_name(path.stem + PROMPT_JSON_SUFFIX)
        text = _read_text(prompt_path)
        if text is None:
            return None
    if text.startswith("{"):
        return caption_of_variants(json.loads(text), row_id)
    lines = [line.strip().strip(",") for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        notices.append(f"{prompt_path}: has {len(lines)} lines instead of one; they are joined")
    return join_tags(tag for line in lines for tag in line.split(","))


def join_tags(tags: Any) -> str:
    """Return tags as one caption: trimmed, empty ones left out, joined by a comma and a blank."""
    return ", ".join(tag.strip() for tag in tags if tag.strip())


def caption_of_variants(variants: dict[str, Any], row_id: str) -> str | None:
    """Choose one of several descriptions of a song (an annotation with fields such as `simplified`, `descriptive`).

    The choice depends on the row's id alone, so that it is the same in every run.
    """
    if isinstance(variants.get("tags"), list):
        return join_tags(str(tag) for tag in variants["tags"])
    texts = [value.strip() for _, value in sorted(variants.items()) if isinstance(value, str) and value.strip()]
    if not texts:
        return None
    return texts[int.from_bytes(hashlib.sha256(row_id.encode("utf-8", "replace")).digest()[:8]) % len(texts)]


def track_of_column(column: str) -> str:
    """Return the track that a column of audio paths holds: `vocal_abspath` is the track `vocal`."""
    for suffix in ("_abspath", "_file_name", "_filename", "_path"):
        column = column.removesuffix(suffix)
    return column


def _read_saved(path: Path, spec: ManifestSpec, columns: ColumnNames, spool_folder: Path) -> Iterator[RawRow]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"data set folder {path} cannot be opened: {error}") from error
    if isinstance(dataset, DatasetDict):
        if spec.split not in dataset:
            raise ValueError(f"data set folder {path} has no split {spec.split!r}; it has {', '.join(dataset)}")
        dataset = dataset[spec.split]
    yield from _read_arrow(dataset, str(path), columns, spool_folder)


def _open_hub(spec: ManifestSpec, columns: ColumnNames, spool_folder: Path) -> Source:
    from datasets import config, load_dataset

    try:
        dataset = load_dataset(spec.name, spec.config_name, split=spec.split)
    except Exception as error:  # the hub's client raises many kinds; all mean the same to the user
        raise ValueError(
            f"{spec.name} is neither a file or folder here nor a data set that can be loaded from the hub: {error}"
        ) from error
    folders = (spool_folder.resolve(), Path(config.HF_DATASETS_CACHE).resolve(), Path(config.HF_CACHE_HOME).resolve())
    return Source(_read_arrow(dataset, spec.name, columns, spool_folder), folders, may_repeat_rows=True)


def _read_arrow(dataset: Any, name: str, columns: ColumnNames, spool_folder: Path) -> Iterator[RawRow]:
    number = 0
    # The arrow format hands out storage as it is: an Audio column is {bytes, path} and is never decoded.
    for table in dataset.with_format("arrow").iter(batch_size=ARROW_BATCH_ROWS):
        for values in table.to_pylist():
            number += 1
            for column, value in values.items():
                if isinstance(value, dict) and set(value) == {"bytes", "path"}:
                    values[column] = _spool(value, spool_folder)
            if {"keys", "filename", "tags"} <= set(values):
                values = _from_ace_layout(values, columns)
            yield RawRow(name, number, values)


def _spool(audio: dict[str, Any], folder: Path) -> str | None:
    """Write audio that a data set holds in its rows to a file named by its content; return the path."""
    content, path = audio["bytes"], audio["path"]
    if content is None:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (hashlib.sha256(content).hexdigest() + Path(path or "").suffix)
    if not target.is_file() or target.stat().st_size != len(content):
        partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        partial.write_bytes(content)
        os.utime(partial, (0, 0))  # its name says what is in it: written again, it is still the same file
        partial.replace(target)
    return str(target)


def _from_ace_layout(values: dict[str, Any], columns: ColumnNames) -> dict[str, Any]:
    """Rename the columns of an ACE-Step data set; its empty fields (speaker_emb_path, recaption) carry nothing."""
    tags = values["tags"]
    if isinstance(tags, list):
        caption: Any = join_tags(str(tag) for tag in tags)
        if not caption and isinstance(values.get("recaption"), dict):
            caption = caption_of_variants(values["recaption"], str(values["keys"]))
    else:
        caption = tags
    renamed = {
        columns.id or "id": values["keys"],
        columns.target: values["filename"],
        columns.caption: caption,
        columns.lyrics: values.get("norm_lyrics"),
    }
    taken = {"keys", "filename", "tags", "norm_lyrics", "recaption", "speaker_emb_path"}
    return renamed | {column: value for column, value in values.items() if column not in taken}
