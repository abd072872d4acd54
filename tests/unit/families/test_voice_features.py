"""Voices are encoded once, kept on disk, and the encoders leave the memory."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from training_fakes import write_dataset, write_model_folder

from songgen.data.collate import collate
from songgen.data.dataset import SongDataset
from songgen.data.samples import SampleOptions, TrainingSamples
from songgen.families.songs import Processes
from songgen.families.tokens.voice_features import FeatureFolder, store_voices
from songgen.models import SongGenForConditionalGeneration
from songgen.models.modeling_songgen import CONDITION_KEYWORDS

CROPS = 3
LIMIT = 64 * 1024**2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voices")
    write_dataset(folder / "data", write_model_folder(folder / "model"), 4, 2)
    return folder


def open_samples(world: Path, crops: int = CROPS, **options: Any) -> list[TrainingSamples]:
    """Voices of 1,200 samples at 24 kHz, of which crops of 30 ms are used."""
    chosen = SampleOptions(voice_seconds=0.03, voice_crops=crops, **options)
    return [
        TrainingSamples(SongDataset.open(world / "data", split), chosen, ("mix",), deterministic=split == "eval")
        for split in ("train", "eval")
    ]


def open_model(world: Path) -> SongGenForConditionalGeneration:
    return SongGenForConditionalGeneration.from_pretrained(world / "model")


def conditions(samples: TrainingSamples, epoch: int) -> dict[str, Any]:
    inputs = collate([samples[epoch, index] for index in range(len(samples))], ("mix",)).model_inputs()
    return {name: value for name, value in inputs.items() if name in CONDITION_KEYWORDS}


def forbid_encoding(core: SongGenForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise AssertionError("a voice is encoded")

    monkeypatch.setattr(core.voice_encoder, "_compute", fail)


def store(
    core: Any, samples: list[TrainingSamples], folder: Path, *, limit: int = LIMIT, dtype: str = "float32"
) -> None:
    store_voices(core, samples, Processes(0, 1), FeatureFolder(folder, limit), dtype)


@pytest.mark.parametrize("frozen", [False, True], ids=["all layers", "mixture"])
def test_stored_voices_give_the_memory_that_encoding_each_by_itself_gives(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    core, plain, samples = open_model(world), open_model(world), open_samples(world)
    core.mert_layer_agg.requires_grad_(not frozen)
    store(core, samples, tmp_path)
    forbid_encoding(core, monkeypatch)
    for part in samples:
        for epoch in range(6):
            given = conditions(part, epoch)
            found = core.encode_conditions(**given)
            alone = [plain.voice_encoder.encode(row[None]) for row in given["ref_voice_values"]]
            states, mask = (torch.cat(parts) for parts in zip(*alone, strict=True))
            del given["ref_voice_values"], given["ref_voice_lengths"]
            expected = plain.encode_conditions(**given, voice_hidden_states=states, voice_mask=mask)
            assert torch.equal(found.memory_mask, expected.memory_mask)
            torch.testing.assert_close(found.memory, expected.memory, rtol=0, atol=0 if not frozen else 1e-6)
            batched = plain.encode_conditions(**conditions(part, epoch))
            torch.testing.assert_close(found.memory, batched.memory, rtol=1e-4, atol=1e-5)


def test_a_second_run_and_another_process_encode_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store(open_model(world), open_samples(world), tmp_path)
    (tmp_path / "other.tmp").touch()
    core = open_model(world)
    forbid_encoding(core, monkeypatch)
    with caplog.at_level(logging.INFO):
        store(core, open_samples(world), tmp_path)
    assert "0 of 14 voices encoded" in caplog.text, "three of four clips to train on, one of two to evaluate on"
    other = copy.deepcopy(core.mert_layer_agg.weight.data)
    core.mert_layer_agg.weight.data = other + 1
    store(core, open_samples(world), tmp_path)  # trained: all layers are stored, whatever mixes them


def test_features_of_another_mixture_are_not_used(world: Path, tmp_path: Path) -> None:
    for shift in (0.0, 1.0):
        core, plain, samples = open_model(world), open_model(world), open_samples(world)
        for model in (core, plain):
            model.mert_layer_agg.requires_grad_(False)
            model.mert_layer_agg.weight.data += shift
        store(core, samples, tmp_path)
        given = conditions(samples[0], 0)
        torch.testing.assert_close(core.encode_conditions(**given).memory, plain.encode_conditions(**given).memory)


def test_a_damaged_or_missing_file_is_computed_again(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core, samples = open_model(world), open_samples(world)
    store(core, samples, tmp_path)
    expected = core.encode_conditions(**conditions(samples[0], 0)).memory
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    again = open_model(world)
    store(again, samples, tmp_path)
    assert "damaged and will be computed again" in caplog.text
    assert torch.equal(again.encode_conditions(**conditions(samples[0], 0)).memory, expected)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert torch.equal(again.encode_conditions(**conditions(samples[0], 0)).memory, expected), "while it trains"


def test_too_many_features_are_refused_before_any_is_computed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = open_model(world)
    forbid_encoding(core, monkeypatch)
    with pytest.raises(ValueError, match=r"first 3 voices.*feature_cache_gib.*freeze voice_aggregation"):
        store(core, open_samples(world), tmp_path, limit=300)
    assert not list(tmp_path.iterdir())


def test_crops_are_fixed_evenly_spaced_and_all_of_them_are_used(world: Path) -> None:
    samples, other = open_samples(world), open_samples(world)
    other[0].seed = 7
    for index in range(len(samples[0])):
        row = samples[0].dataset.row(index)
        crops = [row.voice_samples[begin : begin + 720].tolist() for begin in (0, 240, 480)]
        assert [voice.tolist() for voice in samples[0].fixed_voices(index)] == crops
        seen = [samples[0][epoch, index].voice.tolist() for epoch in range(40)]
        assert all(voice in crops for voice in seen) and all(crop in seen for crop in crops)
        assert [voice.tolist() for voice in other[0].fixed_voices(index)] == crops, "also with another seed"
    assert [len(samples[1].fixed_voices(index)) for index in range(2)] == [1, 1], "evaluation has one"
    middle = open_samples(world, crops=1)[0].fixed_voices(0)
    assert middle[0].tolist() == samples[0].dataset.row(0).voice_samples[240:960].tolist()
    without = open_samples(world, voice_choices={"none": 1.0})[0]
    assert without.fixed_voices(0) == []


def test_encoders_leave_the_memory_and_come_back_for_what_is_not_stored(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core, samples = open_model(world), open_samples(world)
    store(core, samples, tmp_path)
    before = core.voice_encoder.fingerprint, core.voice_encoder.num_layers, core.voice_encoder.device
    caplog.set_level(logging.INFO)
    core.unload("voice_encoder")
    assert "the voice_encoder is not kept in memory while training" in caplog.text
    core.encode_conditions(**conditions(samples[0], 3))
    core.to("cpu")
    assert not core.voice_encoder.is_loaded
    assert (core.voice_encoder.fingerprint, core.voice_encoder.num_layers, core.voice_encoder.device) == before
    unknown = torch.randn(1, 1_000) * 0.1
    states, mask = core.voice_encoder.encode(unknown)
    expected, _ = open_model(world).voice_encoder.encode(unknown)
    assert torch.equal(states, expected) and bool(mask.all())
    assert core.voice_encoder.is_loaded and "loaded again" in caplog.text
    size = sum(entry.nbytes for entry in open_model(world).voice_encoder._model.state_dict().values())
    assert core.voice_encoder.unload_again() == size > 0
    assert not core.voice_encoder.is_loaded and core.voice_encoder.unload_again() == 0


def test_an_encoder_whose_files_have_changed_is_not_used(world: Path, tmp_path: Path) -> None:
    write_model_folder(tmp_path / "model")
    core = SongGenForConditionalGeneration.from_pretrained(tmp_path / "model")
    core.load_frozen("text_encoder", "voice_encoder")
    core.unload("text_encoder")
    other = type(core.text_encoder).small(40, d_model=8, num_layers=1, num_heads=2, seed=5)
    other.save(tmp_path / "model" / "text_encoder")
    (tmp_path / "model" / "file_hashes.json").unlink()
    with pytest.raises(ValueError, match="has changed"):
        core.text_encoder.encode(torch.tensor([[3, 1]]))


def test_silence_and_short_voices_need_no_encoder(world: Path, tmp_path: Path) -> None:
    core, plain = open_model(world), open_model(world)
    store(core, open_samples(world), tmp_path)
    core.unload("voice_encoder")
    voices, lengths = torch.zeros(3, 720), torch.tensor([0, 720, 100])
    voices[2, :100] = 0.1
    found, expected = core.voice_encoder.encode(voices, lengths), plain.voice_encoder.encode(voices, lengths)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert not core.voice_encoder.is_loaded
