"""Collating: against a naive loop, with loud padding, and through the layout."""

import numpy as np
import pytest
import torch

from songgen.data.collate import collate
from songgen.data.samples import Sample
from songgen.layout import get_layout
from songgen.tasks import DUAL_TRACK
from songgen.vocabulary import IGNORE_INDEX, AudioVocabulary

NUM_CODEBOOKS = 3


def _sample(name, frames, voice, seed):
    generator = np.random.default_rng(seed)
    codes = {
        track: generator.integers(0, 64, size=(NUM_CODEBOOKS, frames), dtype=np.int16) for track in ("acc", "vocal")
    }
    for array in codes.values():
        array.setflags(write=False)
    return Sample(
        id=name,
        num_frames=frames,
        targets=codes,
        caption_ids=generator.integers(1, 9, size=2 + seed, dtype=np.int32),
        lyrics_ids=generator.integers(1, 9, size=5 - seed, dtype=np.int32),
        voice=generator.integers(-32768, 32767, size=voice, dtype=np.int16),
    )


@pytest.fixture
def samples():
    return [_sample("a", 4, 50, 0), _sample("b", 7, 0, 1), _sample("c", 1, 80, 2)]


def test_every_value_stands_where_a_loop_puts_it(samples):
    batch = collate(samples, ("acc", "vocal"), ("vocal",))
    assert batch.ids == ["a", "b", "c"] and batch.frames.tolist() == [4, 7, 1]
    assert batch.codes.shape == (3, 2, NUM_CODEBOOKS, 7) and batch.codes.dtype == torch.int64
    for b, sample in enumerate(samples):
        for n, track in enumerate(("acc", "vocal")):
            for k in range(NUM_CODEBOOKS):
                for t in range(7):
                    expected = sample.targets[track][k, t] if t < sample.num_frames else IGNORE_INDEX
                    assert batch.codes[b, n, k, t] == expected
        for ids, mask, text in (
            (batch.input_ids, batch.attention_mask, sample.caption_ids),
            (batch.prompt_input_ids, batch.prompt_attention_mask, sample.lyrics_ids),
        ):
            assert ids[b, mask[b].bool()].tolist() == text.tolist()
            assert mask[b].tolist() == [1] * len(text) + [0] * (ids.shape[1] - len(text))
        length = int(batch.ref_voice_lengths[b])
        assert length == len(sample.voice)
        np.testing.assert_allclose(batch.ref_voice_values[b, :length], sample.voice / 32768.0, atol=1e-7)
        assert not batch.ref_voice_values[b, length:].any()
    assert batch.ref_voice_values.dtype == torch.float32
    torch.testing.assert_close(batch.auxiliary_codes, batch.codes[:, 1:])


def test_a_sample_does_not_depend_on_its_company(samples):
    together, alone = collate(samples, ("acc", "vocal")), collate(samples[:1], ("acc", "vocal"))
    torch.testing.assert_close(together.codes[:1, ..., :4], alone.codes)
    assert together.auxiliary_codes is None


def test_an_empty_micro_batch_has_no_target_and_no_name():
    no_codes, text = np.zeros((3, 0), np.int16), np.ones(2, np.int32)
    empty = Sample("", 0, {"acc": no_codes, "vocal": no_codes}, text, text, np.zeros(0, np.int16))
    batch = collate([empty], DUAL_TRACK.target_tracks)
    assert batch.ids == [] and batch.frames.tolist() == [0]
    assert batch.codes.shape == (1, 2, 3, 1) and (batch.codes == IGNORE_INDEX).all()
    assert batch.ref_voice_values.shape == (1, 0)
    for name in DUAL_TRACK.layouts:
        layout = get_layout(name, 3)
        labels = layout.labels(batch.codes, batch.frames, AudioVocabulary(64))
        inputs = layout.inputs(labels, AudioVocabulary(64))
        assert inputs.min() >= 0 and inputs.max() < AudioVocabulary(64).size
        assert not layout.target_mask(batch.frames, labels.shape[-1]).any()


def test_padding_never_reaches_a_decoder_input(samples):
    batch = collate(samples, DUAL_TRACK.target_tracks)
    vocabulary = AudioVocabulary(64)
    for name in DUAL_TRACK.layouts:
        layout = get_layout(name, NUM_CODEBOOKS)
        labels = layout.labels(batch.codes, batch.frames, vocabulary)
        assert (layout.inputs(labels, vocabulary) >= 0).all()


def test_model_inputs_are_the_models_keywords_and_move_together(samples):
    batch = collate(samples, ("acc",)).to("meta")
    inputs = batch.model_inputs()
    assert set(inputs) == {
        "codes", "frames", "auxiliary_codes", "input_ids", "attention_mask", "prompt_input_ids",
        "prompt_attention_mask", "ref_voice_values", "ref_voice_lengths",
    }  # fmt: skip
    assert all(value is None or value.device.type == "meta" for value in inputs.values())
    assert batch.ids == ["a", "b", "c"]
