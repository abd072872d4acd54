"""Tokenized songs on disk, read without copies from memory-mapped Arrow shards of any number of folders.

A row's targets and voice samples are read-only views of the mapped files. The object can be pickled and forked: it
holds paths and indices, no data.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songgen.data.schema import (
    CAPTION_COLUMN,
    CAPTION_IDS_COLUMN,
    DURATION_COLUMN,
    ID_COLUMN,
    LANGUAGE_COLUMN,
    LYRICS_COLUMN,
    LYRICS_IDS_COLUMN,
    NUM_FRAMES_COLUMN,
    TARGET_KINDS,
    VARIANT_IDS_COLUMN,
    VARIANT_LENGTHS_COLUMN,
    VOICE_COLUMN,
    DatasetInfo,
    energy_column,
    target_column,
)
from songgen.data.shards import BatchView, map_batches, missing_companions, shard_problem

HASHING_THREADS = 8
"""Number of shards that are read at once to compare their hashes."""

REBUILD_HINT = "run `songgen tokenize` with the same JSON again: it keeps the good shards and writes the rest"


@dataclass(frozen=True)
class SongRow:
    """Clip as it is stored."""

    id: str
    """Name of the clip in its data set."""
    caption: str
    """Caption."""
    lyrics: str
    """Lyrics; empty for an instrumental."""
    language: str
    """Language of the lyrics."""
    caption_ids: NDArray[np.int32]
    """Token ids of the caption."""
    lyrics_ids: NDArray[np.int32]
    """Token ids of the lyrics, including start and stop."""
    duration: float
    """Length in seconds."""
    num_frames: int
    """Number of frames, T."""
    targets: dict[str, NDArray[Any]]
    """Track -> K x T int16 codes, or C x T float16 latents, for each track of the clip."""
    energies: dict[str, float | None]
    """Track -> root mean square of its 16-bit samples; None if unknown."""
    voice_samples: NDArray[np.int16]
    """Vocal track at the voice encoder's rate; empty if there is none."""
    caption_variants: tuple[NDArray[np.int32], ...] = ()
    """Token ids of further descriptions of the clip."""


@dataclass(frozen=True)
class RowFilter:
    """Filter of clips. Bounds are inclusive; None does not filter."""

    min_seconds: float | None = None
    """Minimum length in seconds."""
    max_seconds: float | None = None
    """Maximum length in seconds."""
    tracks: tuple[str, ...] = ()
    """Tracks that a clip must have."""


class SongDataset:
    """Clips of one split of one or several data set folders."""

    def __init__(
        self,
        name: str,
        info: DatasetInfo,
        files: tuple[Path, ...],
        selection: NDArray[np.int64] | None = None,
        views: list[BatchView] | None = None,
    ) -> None:
        """Use `open`, `concatenate`, `select` or `filter` instead of calling this."""
        self.name = name
        """Folders and splits, for messages."""
        self.info = info
        """Meaning of targets and ids, without the shards of concatenated data sets."""
        self._files = files
        self._views = [BatchView(batch) for file in files for batch in map_batches(file)] if views is None else views
        self._starts: NDArray[np.int64] = np.cumsum([0] + [view.num_rows for view in self._views])
        self._selection = np.arange(self._starts[-1]) if selection is None else selection

    @classmethod
    def open(cls, folder: str | Path, split: str) -> "SongDataset":
        """Map the shards of a split.

        Args:
            folder: folder that `songgen tokenize` wrote.
            split: name of the split.

        Raises:
            ValueError: if the data set or split does not exist, or shards are missing, cut short or have another form;
                the message names all bad shards. Hashes, which detect altered content, are not compared here.
        """
        folder = Path(folder)
        while True:
            info = DatasetInfo.read(folder)
            try:
                return cls._open(folder, split, info)
            except (ValueError, OSError):
                # A newer data set may have replaced this one in the meantime; then that one is opened.
                if DatasetInfo.read(folder) == info:
                    raise

    @classmethod
    def _open(cls, folder: Path, split: str, info: DatasetInfo) -> "SongDataset":
        """Map the shards that a description lists."""
        if split not in info.splits:
            raise ValueError(f"{folder} has no split {split!r}; it has: {', '.join(info.splits) or 'none'}")
        shards = info.splits[split]
        with ThreadPoolExecutor(HASHING_THREADS) as executor:
            found = executor.map(lambda shard: shard_problem(folder, shard, info), shards)
            problems = [f"{shard.file}: {problem}" for shard, problem in zip(shards, found, strict=True) if problem]
        problems += [f"{name}: the file is missing" for name in missing_companions(folder, split)]
        if problems:
            listed = "\n".join(f"- {problem}" for problem in problems)
            raise ValueError(f"the data set {folder} is damaged:\n{listed}\n{REBUILD_HINT}")
        return cls(f"{folder} [{split}]", info, tuple(folder / shard.file for shard in info.splits[split]))

    @classmethod
    def concatenate(cls, datasets: Sequence["SongDataset"]) -> "SongDataset":
        """Concatenate data sets whose targets and ids have the same meaning.

        Raises:
            ValueError: if codec, codebooks, tokenizers or voice rate differ; the message lists all differences.
        """
        assert datasets
        if len(datasets) == 1:
            return datasets[0]
        first = datasets[0]
        problems = [
            f"{other.name} has {name} {getattr(other.info, name)!r}, {first.name} has {getattr(first.info, name)!r}"
            for other in datasets[1:]
            for name in _SHARED_FIELDS
            if getattr(other.info, name) != getattr(first.info, name)
        ]
        voice_rates = {dataset.info.voice_sample_rate for dataset in datasets} - {0}
        if len(voice_rates) > 1:
            problems.append(f"voice samples are stored at different rates: {sorted(voice_rates)} Hz")
        if problems:
            raise ValueError("these data sets cannot be used together:\n" + "\n".join(f"- {line}" for line in problems))
        starts = np.cumsum([0] + [int(dataset._starts[-1]) for dataset in datasets])
        info = replace(
            first.info,
            tracks=tuple(track for track in first.info.tracks if all(track in each.info.tracks for each in datasets)),
            kept_columns=tuple(
                name for name in first.info.kept_columns if all(name in each.info.kept_columns for each in datasets)
            ),
            voice_sample_rate=max(voice_rates, default=0),
            splits={},
        )
        return cls(
            ", ".join(dataset.name for dataset in datasets),
            info,
            tuple(file for dataset in datasets for file in dataset._files),
            np.concatenate([each._selection + start for each, start in zip(datasets, starts[:-1], strict=True)]),
            [view for dataset in datasets for view in dataset._views],
        )

    @property
    def no_target(self) -> NDArray[Any]:
        """Targets without frames: K x 0 or C x 0."""
        dtype = TARGET_KINDS[self.info.target_kind].to_pandas_dtype()
        return np.zeros((self.info.frame_size, 0), dtype=dtype)

    def __len__(self) -> int:
        """Number of selected clips."""
        return len(self._selection)

    def __getstate__(self) -> dict[str, Any]:
        """Return names and indices only: mapped files cannot be sent to other processes."""
        return {"name": self.name, "info": self.info, "files": self._files, "selection": self._selection}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the object by mapping the shards again."""
        self.__init__(**state)  # type: ignore[misc]

    def row(self, index: int) -> SongRow:
        """Return one selected clip; its arrays are read-only views."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        # Index in the selection -> row over all record batches -> batch (binary search of its start) and row in the
        # batch.
        stored = int(self._selection[index])
        place = int(np.searchsorted(self._starts, stored, side="right")) - 1
        view, row = self._views[place], stored - int(self._starts[place])
        num_frames = int(view.value_column(NUM_FRAMES_COLUMN)[row])
        targets, energies = {}, {}
        for track in self.info.tracks:
            flat = view.list_value(target_column(track, self.info.target_kind), row)
            if len(flat):
                targets[track] = flat.reshape(self.info.frame_size, num_frames)
            energy = float(view.value_column(energy_column(track))[row])
            energies[track] = None if np.isnan(energy) else energy
        return SongRow(
            id=view.text(ID_COLUMN, row),
            caption=view.text(CAPTION_COLUMN, row),
            lyrics=view.text(LYRICS_COLUMN, row),
            language=view.text(LANGUAGE_COLUMN, row),
            caption_ids=view.list_value(CAPTION_IDS_COLUMN, row),
            lyrics_ids=view.list_value(LYRICS_IDS_COLUMN, row),
            duration=float(view.value_column(DURATION_COLUMN)[row]),
            num_frames=num_frames,
            targets=targets,
            energies=energies,
            voice_samples=view.list_value(VOICE_COLUMN, row),
            caption_variants=_caption_variants(view, row),
        )

    @property
    def num_frames(self) -> NDArray[np.int32]:
        """Number of frames of each selected clip."""
        return self._values(NUM_FRAMES_COLUMN).astype(np.int32, copy=False)

    @property
    def durations(self) -> NDArray[np.float64]:
        """Length in seconds of each selected clip."""
        return self._values(DURATION_COLUMN)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns of texts by which clips can be grouped: the language, and the kept columns of all data sets."""
        return (LANGUAGE_COLUMN, *self.info.kept_columns)

    def texts(self, column: str) -> NDArray[np.str_]:
        """Return a column of `text_columns` for each selected clip; empty where the manifest had no value."""
        assert column in self.text_columns, column
        texts = [view.text(column, row) for view in self._views for row in range(view.num_rows)]
        return np.array(texts, dtype=np.str_)[self._selection]

    def energies(self, track: str) -> NDArray[np.float32]:
        """Return the energy of a track in each selected clip; NaN if unknown."""
        return self._values(energy_column(track), missing=np.float32(np.nan))

    def has_track(self, track: str) -> NDArray[np.bool_]:
        """Return whether each selected clip has targets of a track."""
        return self._list_lengths(target_column(track, self.info.target_kind)) > 0

    def caption_lengths(self) -> NDArray[np.int32]:
        """Return the number of caption ids of each selected clip."""
        return self._list_lengths(CAPTION_IDS_COLUMN)

    def variant_lengths(self) -> NDArray[np.int32]:
        """Return the total number of ids of each selected clip's further descriptions."""
        return self._list_lengths(VARIANT_IDS_COLUMN)

    def lyrics_lengths(self) -> NDArray[np.int32]:
        """Return the number of lyrics ids of each selected clip."""
        return self._list_lengths(LYRICS_IDS_COLUMN)

    def voice_lengths(self) -> NDArray[np.int32]:
        """Return the number of samples of each selected clip's reference voice."""
        return self._list_lengths(VOICE_COLUMN)

    def select(self, indices: Sequence[int] | NDArray[np.integer]) -> "SongDataset":
        """Return the data set of these clips, in this order."""
        selection = self._selection[np.asarray(indices, dtype=np.int64)]
        return SongDataset(self.name, self.info, self._files, selection, self._views)

    def filter(self, row_filter: RowFilter) -> tuple["SongDataset", dict[str, int]]:
        """Return the clips that pass, and the number of others by reason (the first that applies to a clip)."""
        kept = np.ones(len(self), dtype=np.bool_)
        rejected: dict[str, int] = {}
        for reason, passes in self._criteria(row_filter):
            if fails := int((kept & ~passes).sum()):
                rejected[reason] = fails
            kept &= passes
        return self.select(np.flatnonzero(kept)), rejected

    def _criteria(self, row_filter: RowFilter) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return each reason to leave out clips, with a mask of the clips that pass."""
        criteria = [(f"no {track} track", self.has_track(track)) for track in row_filter.tracks]
        if row_filter.min_seconds is not None:
            passes = self.durations >= row_filter.min_seconds
            criteria.append((f"shorter than {row_filter.min_seconds:g} s", passes))
        if row_filter.max_seconds is not None:
            passes = self.durations <= row_filter.max_seconds
            criteria.append((f"longer than {row_filter.max_seconds:g} s", passes))
        return criteria

    def _values(self, column: str, missing: Any = None) -> NDArray[Any]:
        """Return a number of each selected clip; `missing` in shards without the column."""
        parts = [
            view.value_column(column) if view.has(column) else np.full(view.num_rows, missing) for view in self._views
        ]
        return np.concatenate(parts)[self._selection] if parts else np.zeros(0)

    def _list_lengths(self, column: str) -> NDArray[np.int32]:
        """Return the length of a list column in each selected clip; 0 in shards without the column."""
        parts = [
            view.list_lengths(column) if view.has(column) else np.zeros(view.num_rows, dtype=np.int32)
            for view in self._views
        ]
        return np.concatenate(parts)[self._selection] if parts else np.zeros(0, dtype=np.int32)


def _caption_variants(view: BatchView, row: int) -> tuple[NDArray[np.int32], ...]:
    """Return the further descriptions of a row; none in shards without the columns."""
    if not view.has(VARIANT_LENGTHS_COLUMN):
        return ()
    lengths = view.list_value(VARIANT_LENGTHS_COLUMN, row)
    return tuple(np.split(view.list_value(VARIANT_IDS_COLUMN, row), np.cumsum(lengths)[:-1])) if len(lengths) else ()


_SHARED_FIELDS = (
    "target_kind",
    "codec_fingerprint",
    "num_channels",
    "num_codebooks",
    "codebook_size",
    "sample_rate",
    "hop_length",
    "lyrics_tokenizer_fingerprint",
    "caption_tokenizer_fingerprint",
)
"""Fields of `DatasetInfo` that determine the meaning of targets and ids."""


def check_against_model(
    dataset: SongDataset,
    *,
    target_tracks: Sequence[str],
    auxiliary_tracks: Sequence[str] = (),
    num_codebooks: int | None = None,
    codebook_size: int | None = None,
    codec_fingerprint: str | None = None,
    lyrics_tokenizer_fingerprint: str | None = None,
    caption_tokenizer_fingerprint: str | None = None,
    voice_sample_rate: int | None = None,
) -> None:
    """Check that a model can be trained on a data set. Values that are None are not compared.

    Args:
        dataset: data set after filtering.
        target_tracks: tracks that the model writes; every clip must have them.
        auxiliary_tracks: tracks that an auxiliary loss needs; every clip must have them too.
        num_codebooks: number of codebooks of the model, K.
        codebook_size: number of codes of each codebook of the model.
        codec_fingerprint: fingerprint of the model's codec.
        lyrics_tokenizer_fingerprint: fingerprint of the model's lyrics tokenizer.
        caption_tokenizer_fingerprint: fingerprint of the model's caption tokenizer.
        voice_sample_rate: sample rate of the model's voice encoder; None if no reference voices are used.

    Raises:
        ValueError: if they do not agree; the message lists all differences.
    """
    expected = {
        "num_codebooks": num_codebooks,
        "codebook_size": codebook_size,
        "codec_fingerprint": codec_fingerprint,
        "lyrics_tokenizer_fingerprint": lyrics_tokenizer_fingerprint,
        "caption_tokenizer_fingerprint": caption_tokenizer_fingerprint,
        "voice_sample_rate": voice_sample_rate,
    }
    problems = [
        f"{name}: the model has {value!r}, the data set {getattr(dataset.info, name)!r}"
        for name, value in expected.items()
        if value is not None and value != getattr(dataset.info, name)
    ]
    if problems:
        problems.append("tokenize the songs with this model, or start from the model that they were tokenized with")
    needs = {track: "to be learned" for track in target_tracks} | {
        track: "for the auxiliary loss" for track in auxiliary_tracks
    }
    for track, purpose in needs.items():
        if lacking := int((~dataset.has_track(track)).sum()):
            problems.append(
                f"track {track!r} is needed {purpose}, and {lacking} of {len(dataset)} clips do not have it: "
                "tokenize it, filter by tracks, or choose another task"
            )
    if not len(dataset):
        problems.append("no clip is left; look at the filters and at the data set's report")
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise ValueError(f"the model and the data set {dataset.name} do not fit together:\n{listed}")
