"""Stereo songs to a data set of latents: as exact, restartable and checked as one of codes."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from forked import Fork, fork
from preprocess_fakes import read_manifest, shard_hashes, tone, write_manifest
from tiny_flow import CHANNELS, HOP_LENGTH, SAMPLE_RATE, write_tiny_pipeline

from songgen.data.audio import resample
from songgen.data.dataset import SongDataset
from songgen.data.integrity import require_intact_data
from songgen.data.manifests.raw_rows import ColumnNames
from songgen.data.manifests.row_reader import ManifestOptions
from songgen.data.manifests.sources import ManifestSpec
from songgen.data.reading import AudioReaders
from songgen.data.schema import LATENTS, DatasetInfo, ShardInfo
from songgen.doctor import examine
from songgen.families.flow.autoencoder import LatentAutoencoder, open_encoders
from songgen.families.flow.prompts import PipelinePrompts
from songgen.runtime.files import file_sha256
from songgen.tokenize import TokenizeOptions, tokenize_data
from songgen.tokenize.encoders import load_encoders
from songgen.tokenize.options import FACT_COLUMNS, VARIANTS_COLUMN

NUM_SONGS, CLOSE = 18, 2e-3
FILE_RATE = 2 * SAMPLE_RATE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("pipeline") / "model")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs of two channels with what tools for ACE-Step write about them; some lack things."""
    folder = tmp_path_factory.mktemp("songs")
    rows = []
    for index in range(NUM_SONGS):
        seconds = 0.4 + 0.13 * (index * 5 % 7)
        sides = np.stack([tone(seconds, FILE_RATE, seed=index), tone(seconds, FILE_RATE, 0.1, seed=99 + index)])
        soundfile.write(folder / f"{index}.wav", sides.T, FILE_RATE)
        texts = {"caption": f"pop {index}", "lyrics": "[verse] la", "language": "en"}
        rows.append({"id": f"song{index:02d}", "audio": f"{index}.wav", **texts})
    rows[0] |= {"bpm": 92.4, "keyscale": "A minor", "timesignature": "4", "variants": {"simplified": "warm pop"}}
    rows[1] |= {"bpm": 1000, "keyscale": "8A", "timesignature": "7"}
    rows[2] |= {"lyrics": "", "language": ""}
    rows[3] |= {"lyrics": "halló", "language": "Icelandic"}
    rows[4] |= {"caption": "x" * 900, "vocal": "0.wav"}
    write_manifest(folder / "songs.jsonl", rows)
    return folder / "songs.jsonl"


def options_for(model: Path, manifest: Path, output: Path, **changes: Any) -> TokenizeOptions:
    return TokenizeOptions(
        **{
            "splits": {"train": (ManifestSpec(str(manifest)),)},
            "output_folder": output,
            "model_name_or_path": str(model),
            "manifests": ManifestOptions(
                ColumnNames(references=("vocal",)), kept_columns=(VARIANTS_COLUMN, *FACT_COLUMNS)
            ),
            **changes,
        }
    )


@pytest.fixture(scope="module")
def reference(model: Path, songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one uninterrupted process writes."""
    folder = tmp_path_factory.mktemp("reference") / "latents"
    tokenize_data(options_for(model, songs, folder))
    return folder


def rows_of(folder: Path) -> dict[str, Any]:
    data = SongDataset.open(folder, "train")
    return {row.id: row for row in map(data.row, range(len(data)))}


def test_rows_hold_the_latents_of_both_channels(model: Path, songs: Path, reference: Path) -> None:
    rows = rows_of(reference)
    assert list(rows) == [f"song{index:02d}" for index in range(NUM_SONGS)]
    encoder = LatentAutoencoder.open(model)
    for index in (0, 7):
        row = rows[f"song{index:02d}"]
        sound = soundfile.read(songs.parent / f"{index}.wav", dtype="float32")[0]
        sound = resample(sound, FILE_RATE, SAMPLE_RATE, round(len(sound) * SAMPLE_RATE / FILE_RATE)).T.copy()
        [expected] = encoder.encode([row.id], [sound])
        assert set(row.targets) == {"mix"} and row.targets["mix"].dtype == np.float16
        np.testing.assert_array_equal(row.targets["mix"], expected)
        assert row.targets["mix"].shape == (CHANNELS, -(-sound.shape[1] // HOP_LENGTH)) and not len(row.voice_samples)
        average = np.sqrt(np.mean(sound.mean(axis=0).astype(np.float64) ** 2)) * 32768
        assert row.energies["mix"] == pytest.approx(average, rel=CLOSE)
    left_only = np.stack([sound[0], sound[0]])
    assert not np.array_equal(encoder.encode([row.id], [left_only])[0], expected), "the right channel counts"


def test_the_description_says_what_they_are(model: Path, reference: Path) -> None:
    info = DatasetInfo.read(reference)
    encoder = LatentAutoencoder.open(model)
    assert (info.target_kind, info.num_channels, info.tracks) == (LATENTS, CHANNELS, ("mix",))
    assert (info.codec_fingerprint, info.frame_rate, info.voice_sample_rate) == (encoder.fingerprint, 25, 0)
    assert info.codec_spec == {"type": "oobleck"} and not (reference / "audio_codec").exists()
    assert str(model) not in (reference / "dataset.json").read_text()
    found = {finding.where: finding.what for finding in examine(reference, deep=True).findings}
    assert f"latents of {CHANNELS} channels, 25 frames/s" in found["autoencoder"]


def test_prompts_have_the_facts_and_the_measured_length(model: Path, reference: Path) -> None:
    encoders = open_encoders(str(model), "main", "cpu")
    assert isinstance(encoders.texts, PipelinePrompts)
    decode = encoders.texts.tokenizer.decode
    rows = rows_of(reference)
    first = decode(rows["song00"].caption_ids)
    assert "# Caption\npop 0\n" in first and "- bpm: 92\n- timesignature: 4\n- keyscale: A minor\n" in first
    assert f"- duration: {int(rows['song00'].duration)} seconds\n" in first
    assert decode(rows["song00"].caption_variants[0]) == first.replace("pop 0", "warm pop")
    assert "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n" in decode(rows["song01"].caption_ids)
    assert decode(rows["song02"].lyrics_ids) == "# Languages\nen\n\n# Lyric\n[Instrumental]<|endoftext|>"
    assert rows["song02"].lyrics == ""
    assert decode(rows["song03"].lyrics_ids) == "# Languages\nis\n\n# Lyric\nhalló<|endoftext|>"


def test_the_report_counts_what_prompts_leave_out(reference: Path) -> None:
    report = json.loads((reference / "report.json").read_text())
    content = report["splits"]["train"]
    assert content["facts_left_out"] == {"key": 1, "tempo": 1, "time signature": 1}
    assert content["truncated_texts"] == {"caption": 1} and content["instrumentals"] == 1
    assert content["rejected"] == {} and content["languages"] == {"en": NUM_SONGS - 1, "is": 1}
    assert report["limits"]["max_duration_in_seconds"] == 600 and report["limits"]["max_text_length"] == 10_000
    text = (reference / "report.txt").read_text()
    assert "autoencoder " in text and "facts left out: key 1, tempo 1, time signature 1" in text


def start(model: Path, songs: Path, output: Path, log: Path, *, processes: int = 1, kill_at: int = 0) -> Fork:
    """Tokenize in processes of their own, which are killed in a given call of the autoencoder."""

    def main() -> int:
        calls = 0
        encode = LatentAutoencoder.encode

        def counted(self: LatentAutoencoder, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(self, *arguments)

        LatentAutoencoder.encode = counted  # type: ignore[method-assign]  # in a child: nobody else sees it
        tokenize_data(options_for(model, songs, output))
        return 0

    return fork(main, log, processes=processes)


def test_a_killed_run_resumes_exactly(model: Path, songs: Path, reference: Path, tmp_path: Path) -> None:
    """The kill is in the second chunk, of eight songs like the first."""
    assert start(model, songs, tmp_path / "out", tmp_path / "log", kill_at=13).wait_for_a_kill()
    calls: list[str] = []
    encoders = open_encoders(str(model), "main", "cpu")
    encode = encoders.targets.encode
    encoders.targets.encode = lambda ids, clips: calls.extend(ids) or encode(ids, clips)  # type: ignore[method-assign, func-returns-value]
    tokenize_data(options_for(model, songs, tmp_path / "out"), load=lambda *_: encoders)
    assert len(calls) == NUM_SONGS - 8 and "song00" not in calls
    assert shard_hashes(tmp_path / "out") == shard_hashes(reference)


def test_two_processes_write_the_same_rows(model: Path, songs: Path, reference: Path, tmp_path: Path) -> None:
    start(model, songs, tmp_path / "out", tmp_path / "log", processes=2).finish()
    assert shard_hashes(tmp_path / "out") == shard_hashes(reference)
    by_process = json.loads((tmp_path / "out" / "report.json").read_text())["rows_by_process"]
    assert sorted(by_process) == ["0", "1"]


def test_reading_ahead_does_not_fill_the_memory(
    model: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A song of ten minutes is 230 MB: as many are read ahead as there are workers, whatever the size of a batch."""
    read: list[str] = []
    original = AudioReaders.read
    monkeypatch.setattr(AudioReaders, "read", lambda self, row: read.append(row.id) or original(self, row))  # type: ignore[func-returns-value]
    encoders = open_encoders(str(model), "main", "cpu")
    encode, encoded, ahead = encoders.targets.encode, [0], []

    def noted(ids: Any, clips: Any) -> Any:
        assert len(ids) == 1
        ahead.append(len(read) - encoded[0])
        encoded[0] += 1
        return encode(ids, clips)

    encoders.targets.encode = noted  # type: ignore[method-assign]
    options = options_for(model, songs, tmp_path / "out", batch_size=8, num_workers=2)
    tokenize_data(options, load=lambda *_: encoders)
    assert max(ahead) <= 2 * options.num_workers


def test_a_song_that_cannot_be_encoded_is_left_out(model: Path, songs: Path, reference: Path, tmp_path: Path) -> None:
    encoders = open_encoders(str(model), "main", "cpu")
    sample, numbers = encoders.targets.sample, iter(range(99))  # type: ignore[attr-defined]
    encoders.targets.sample = lambda *given: sample(*given) * (1e6 if next(numbers) % 5 == 0 else 1)  # type: ignore[attr-defined]
    options = options_for(model, songs, tmp_path / "out", max_bad_fraction=0.5)
    tokenize_data(options, load=lambda *_: encoders)
    left_out = read_manifest(tmp_path / "out" / "rejected.jsonl")
    assert {row["code"] for row in left_out} == {"encoding_failed"}
    assert all(row["reason"].startswith("the autoencoder fails: its latents reach") for row in left_out)
    assert len(rows_of(tmp_path / "out")) == NUM_SONGS - len(left_out) >= 1


def test_other_encoders_are_refused_and_other_forms_encoded_again(
    songs: Path, model: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_tiny_pipeline(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"codec_fingerprint .* name another save_to_disk"):
        tokenize_data(options_for(other, songs, reference))
    folder = tmp_path / "out"
    options = options_for(model, songs, folder, max_rows={"train": 3})
    tokenize_data(options)
    before = DatasetInfo.read(folder).splits["train"]
    monkeypatch.setattr(
        "diffusers.pipelines.ace_step.pipeline_ace_step.SFT_GEN_PROMPT", "# Other\n{}\n{}\n{}<|endoftext|>\n"
    )
    tokenize_data(options)
    assert DatasetInfo.read(folder).splits["train"][0].sha256 != before[0].sha256


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_latent_that_is_not_finite_is_found(reference: Path, tmp_path: Path, value: float) -> None:
    """Even with a matching hash: a hash only shows that a file is what somebody wrote."""
    import shutil

    import pyarrow as pa

    folder = tmp_path / "damaged"
    shutil.copytree(reference, folder)
    info = DatasetInfo.read(folder)
    shard = info.splits["train"][0]
    with pa.memory_map(str(folder / shard.file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    latents = table["latents_mix"].to_pylist()
    latents[1][3] = value
    column = pa.array([np.array(row, np.float16) for row in latents], type=pa.list_(pa.float16()))
    table = table.set_column(table.schema.get_field_index("latents_mix"), table.schema.field("latents_mix"), column)
    (folder / shard.file).unlink()
    with pa.OSFile(str(folder / shard.file), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        for batch in table.combine_chunks().to_batches():
            stream.write_batch(batch)
    again = ShardInfo(shard.file, shard.rows, file_sha256(folder / shard.file), shard.key)
    changed = replace(info, splits={"train": (again, *info.splits["train"][1:])})
    (folder / "file_hashes.json").unlink()
    (folder / "dataset.json").write_text(changed.to_json())
    with pytest.raises(ValueError, match="latents of track 'mix' are not finite"):
        require_intact_data([str(folder)], ["train"], tmp_path, rank=0, world_size=1)


def test_datasets_opens_the_folder(reference: Path) -> None:
    from datasets import load_from_disk

    opened = load_from_disk(str(reference))["train"]
    assert len(opened) == NUM_SONGS and opened[3]["id"] == "song03"
    np.testing.assert_array_equal(
        np.array(opened[3]["latents_mix"], np.float16), rows_of(reference)["song03"].targets["mix"].reshape(-1)
    )


def test_the_family_of_the_model_chooses(model: Path, songs: Path, tmp_path: Path) -> None:
    options = options_for(model, songs, tmp_path / "out")
    assert load_encoders(options, "cpu").targets.target_kind == LATENTS
    with pytest.raises(ValueError, match=r"audio_codec: .* has parts of its own; remove these keys"):
        load_encoders(replace(options, audio_codec="some/codec"), "cpu")
