"""Songs per second that reach the model as labels: our loader compared with a straightforward one.

The baseline stores codes and voice as lists in a `datasets` data set, arranges and pads them codebook by codebook in
Python, and shuffles without regard to length. Both give the same labels, which is checked first. Both run in one
process, and its CPU time is measured, so that other programs on the machine do not matter.

    python benchmarks/data_loader.py [--songs 128] [--batch 4]
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, disable_progress_bars, load_from_disk
from reporting import describe_machine
from torch import Tensor

from songgen.data.batch_plan import BatchPlan
from songgen.data.collate import collate
from songgen.data.dataset import SongDataset
from songgen.data.loader import make_loader
from songgen.data.samples import NO_VOICE, SampleOptions, TrainingSamples
from songgen.data.schema import DATASET_FILE, TRAIN_SPLIT, DatasetInfo, ShardInfo, arrow_schema
from songgen.layout import get_layout
from songgen.tasks import MIX, TRACKS, VOCAL
from songgen.vocabulary import IGNORE_INDEX, AudioVocabulary

NUM_CODEBOOKS = 8
FRAMES = (400, 750)
CAPTION_IDS, LYRICS_IDS = 40, 120
VOICE_SECONDS, VOICE_RATE, HEARD_SECONDS = 10, 24000, 3
VOCABULARY = AudioVocabulary(1024)
LAYOUT = get_layout("mixed_pro", NUM_CODEBOOKS)
NUM_RUNS, NUM_PASSES = 2, 5


def build_songs(count: int) -> list[dict[str, Any]]:
    """Return random songs with the columns of the Arrow schema; codes are flat lists."""
    generator = np.random.default_rng(0)
    songs = []
    for index in range(count):
        frames = int(generator.integers(*FRAMES, endpoint=True))
        song: dict[str, Any] = {"id": str(index), "caption": "", "lyrics": "", "language": "en"}
        song |= {"duration": frames / 50, "num_frames": frames}
        song |= {
            "caption_ids": generator.integers(2, 900, CAPTION_IDS),
            "lyrics_ids": generator.integers(2, 900, LYRICS_IDS),
        }
        for track in TRACKS:
            song[f"codes_{track}"] = generator.integers(0, 1024, NUM_CODEBOOKS * frames, dtype=np.int16)
            song[f"energy_{track}"] = 1000.0
        song["voice_samples"] = generator.integers(-3000, 3000, VOICE_SECONDS * VOICE_RATE, dtype=np.int16)
        songs.append(song)
    return songs


def write_ours(folder: Path, songs: list[dict[str, Any]]) -> SongDataset:
    """Write and open a tokenized data set."""
    shard = ShardInfo(f"{TRAIN_SPLIT}/data.arrow", len(songs), "")
    path = folder / shard.file
    path.parent.mkdir(parents=True)
    schema = arrow_schema()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(songs, schema=schema), max_chunksize=100)
    info = DatasetInfo(
        codec_spec={},
        sample_rate=16000,
        hop_length=320,
        num_codebooks=NUM_CODEBOOKS,
        codebook_size=VOCABULARY.codebook_size,
        voice_sample_rate=VOICE_RATE,
        splits={TRAIN_SPLIT: (shard,)},
        codec_fingerprint="",
        lyrics_tokenizer_fingerprint="",
        caption_tokenizer_fingerprint="",
    )
    (folder / DATASET_FILE).write_text(info.to_json(), encoding="utf-8")
    return SongDataset.open(folder, TRAIN_SPLIT)


def write_baseline(folder: Path, songs: list[dict[str, Any]]) -> Dataset:
    """Write and open the same songs as lists."""
    columns = {
        "codes": [song[f"codes_{MIX}"].reshape(NUM_CODEBOOKS, -1).tolist() for song in songs],
        "vocal_codes": [song[f"codes_{VOCAL}"].reshape(NUM_CODEBOOKS, -1).tolist() for song in songs],
        **{name: [song[name].tolist() for song in songs] for name in ("caption_ids", "lyrics_ids", "voice_samples")},
    }
    Dataset.from_dict(columns).save_to_disk(str(folder))
    return load_from_disk(str(folder))


def read_ours(dataset: SongDataset, batch_size: int, *, voice: bool, layout: bool) -> Iterator[tuple[Tensor, ...]]:
    """Yield labels of the mix and of the vocal track, each B x H x S, and the reference voices.

    In training the model arranges codes as labels on its device: without `layout` the codes are yielded.
    """
    options = SampleOptions(voice_choices={VOCAL if voice else NO_VOICE: 1.0}, voice_seconds=HEARD_SECONDS)
    samples = TrainingSamples(dataset, options, (MIX, VOCAL))
    plan = BatchPlan(dataset.num_frames, batch_size=batch_size, group_by_length=True)
    both = partial(collate, target_tracks=(MIX,), auxiliary_tracks=(VOCAL,))
    for batch in make_loader(samples, plan, collate=both):
        assert batch.auxiliary_codes is not None
        tracks = [batch.codes, batch.auxiliary_codes]
        if layout:
            tracks = [LAYOUT.labels(codes, batch.frames, VOCABULARY) for codes in tracks]
        yield *tracks, batch.ref_voice_values


def read_baseline(dataset: Dataset, batch_size: int, order: list[int]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same from loops; without voices if the data set has none."""
    for start in range(0, len(order), batch_size):
        rows = [dataset[index] for index in order[start : start + batch_size]]
        for name in ("caption_ids", "lyrics_ids"):
            longest = max(len(row[name]) for row in rows)
            torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in rows])
            torch.tensor([[1] * len(row[name]) + [0] * (longest - len(row[name])) for row in rows])
        voices = torch.zeros(len(rows), 0)
        if "voice_samples" in dataset.column_names:
            length = HEARD_SECONDS * VOICE_RATE
            begins = [random.randrange(len(row["voice_samples"]) - length + 1) for row in rows]
            cuts = [row["voice_samples"][begin : begin + length] for row, begin in zip(rows, begins, strict=True)]
            voices = torch.tensor(cuts, dtype=torch.float32) / 32768
        yield _loop_labels([row["codes"] for row in rows]), _loop_labels([row["vocal_codes"] for row in rows]), voices


def _loop_labels(songs: list[list[list[int]]]) -> Tensor:
    """Delay and pad each codebook of each song."""
    longest = max(len(song[0]) for song in songs) + NUM_CODEBOOKS
    labels = []
    for song in songs:
        streams = []
        for delay, codes in enumerate(song):
            ends = [VOCABULARY.eos_token_id] * (NUM_CODEBOOKS - delay)
            stream = [VOCABULARY.bos_token_id] * delay + codes + ends
            streams.append(stream + [IGNORE_INDEX] * (longest - len(stream)))
        labels.append(streams)
    return torch.tensor(labels)


def songs_per_second(count: int, read: Callable[[], Iterator[Any]]) -> float:
    """Return the songs per second of the fastest of several passes, which is the least disturbed one."""
    seconds = []
    for _ in range(NUM_PASSES):
        start = time.process_time()
        for _ in read():
            pass
        seconds.append(time.process_time() - start)
    return count / min(seconds)


def main() -> None:
    """Compare both loaders twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=128, help="number of songs in the data set")
    parser.add_argument("--batch", type=int, default=4, help="number of songs in a batch")
    arguments = parser.parse_args()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        songs = build_songs(arguments.songs)
        ours = write_ours(Path(name) / "ours", songs)
        baseline = write_baseline(Path(name) / "baseline", songs)
        first_ours = next(read_ours(ours.select([0]), 1, voice=True, layout=True))
        first_baseline = next(read_baseline(baseline, 1, [0]))
        for found, expected in zip(first_ours[:2], first_baseline[:2], strict=True):
            torch.testing.assert_close(found, expected)
        assert first_ours[2].shape == first_baseline[2].shape
        order = random.Random(0).sample(range(len(songs)), len(songs))
        print(f"{describe_machine()}, datasets {datasets.__version__}")
        for title, voice, layout in (
            ("codes and texts, labels left to the model", False, False),
            ("codes and texts, labels", False, True),
            ("codes, texts and reference voice, labels", True, True),
        ):
            plain = baseline if voice else baseline.remove_columns("voice_samples")
            for run in range(1, NUM_RUNS + 1):
                slow = songs_per_second(len(songs), partial(read_baseline, plain, arguments.batch, order))
                fast = songs_per_second(
                    len(songs), partial(read_ours, ours, arguments.batch, voice=voice, layout=layout)
                )
                rates = f"baseline {slow:,.0f} songs/s, ours {fast:,.0f} songs/s"
                print(f"{title}, run {run}: {rates}, ratio {fast / slow:.1f}")


if __name__ == "__main__":
    main()
