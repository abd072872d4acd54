"""Training samples: draws that depend on their place alone, the voice rules, withheld conditions."""

import numpy as np
import pytest

from songgen.data.dataset import SongDataset
from songgen.data.samples import EMPTY_SLOT, SampleOptions, TrainingSamples


@pytest.fixture
def open_rows(tmp_path, write_dataset):
    def open_rows(rows):
        return SongDataset.open(write_dataset(tmp_path / str(len(list(tmp_path.iterdir()))), rows), "train")

    return open_rows


def _fields(sample):
    return (sample.id, sample.caption_ids.tolist(), sample.lyrics_ids.tolist(), sample.voice.tolist())


def test_draws_depend_on_seed_epoch_and_index_only(open_rows, make_rows):
    dataset = open_rows(make_rows(20))
    options = SampleOptions(voice_choices={"vocal": 0.5, "none": 0.5}, drop_caption=0.5, voice_seconds=1.0)
    places = [(epoch, index) for epoch in (0, 1) for index in range(20)]
    np.random.seed(1)
    samples = TrainingSamples(dataset, options, ("mix",), seed=9)
    forwards = {place: _fields(samples[place]) for place in places}
    np.random.seed(2)
    again = TrainingSamples(dataset, options, ("mix", "vocal"), seed=9)
    assert {place: _fields(again[place]) for place in reversed(places)} == forwards
    other = TrainingSamples(dataset, options, ("mix",), seed=10)
    assert {place: _fields(other[place]) for place in places} != forwards
    assert [forwards[0, index] for index in range(20)] != [forwards[1, index] for index in range(20)]


def test_voice_is_a_crop_of_the_clips_own_vocal_track(open_rows, make_rows):
    rows = make_rows(3)
    rows[0]["voice_samples"] = list(range(1000))
    rows[1]["voice_samples"] = list(range(70))
    samples = TrainingSamples(open_rows(rows), SampleOptions(voice_seconds=1.0), ("mix",))
    starts = set()
    for epoch in range(200):
        voice = samples[epoch, 0].voice
        assert len(voice) == 100
        np.testing.assert_array_equal(voice, np.arange(voice[0], voice[0] + 100))
        starts.add(int(voice[0]))
    assert len(starts) > 100 and min(starts) < 50 and max(starts) > 850
    np.testing.assert_array_equal(samples[5, 1].voice, np.arange(70))


@pytest.mark.parametrize(
    ("change", "heard"),
    [
        ({"energy_vocal": 199.0}, False),
        ({"energy_vocal": None}, False),
        ({"energy_vocal": 200.0}, True),
        ({"voice_samples": []}, False),
    ],
)
def test_a_silent_or_unknown_vocal_track_is_no_voice(open_rows, make_rows, change, heard):
    rows = make_rows(1)
    rows[0].update(change)
    for deterministic in (False, True):
        samples = TrainingSamples(open_rows(rows), SampleOptions(), ("mix",), deterministic=deterministic)
        assert bool(len(samples[0, 0].voice)) is heard
        assert samples.has_voice().tolist() == [heard]


def test_frequencies_are_those_asked_for(open_rows, make_rows):
    options = SampleOptions(voice_choices={"vocal": 2, "none": 1}, drop_caption=0.2, drop_lyrics=0.3, drop_all=0.1)
    samples = TrainingSamples(open_rows(make_rows(1)), options, ("mix",))
    drawn = [samples[epoch, 0] for epoch in range(3000)]
    no_caption = np.array([sample.caption_ids.tolist() == [1] for sample in drawn])
    no_lyrics = np.array([sample.lyrics_ids.tolist() == [261, 0] for sample in drawn])
    no_voice = np.array([len(sample.voice) == 0 for sample in drawn])
    assert no_caption.mean() == pytest.approx(0.1 + 0.9 * 0.2, abs=0.03)
    assert no_lyrics.mean() == pytest.approx(0.1 + 0.9 * 0.3, abs=0.03)
    assert no_voice.mean() == pytest.approx(0.1 + 0.9 / 3, abs=0.03)
    assert (no_caption & no_lyrics & no_voice).mean() == pytest.approx(0.1 + 0.9 * 0.2 * 0.3 / 3, abs=0.02)


def test_evaluation_withholds_nothing_and_never_varies(open_rows, make_rows):
    options = SampleOptions(voice_choices={"none": 0.4, "vocal": 0.6}, drop_caption=1.0, drop_lyrics=1.0, drop_all=1.0)
    rows = make_rows(4)
    samples = TrainingSamples(open_rows(rows), options, ("mix",), deterministic=True)
    for index, row in enumerate(rows):
        first = _fields(samples[0, index])
        assert first[1] == row["caption_ids"] and first[2] == row["lyrics_ids"] and first[3]
        assert all(_fields(samples[epoch, index]) == first for epoch in (1, 17))


def test_the_empty_slot_has_no_frames_no_voice_and_no_name(open_rows, make_rows):
    rows = make_rows(2)
    sample = TrainingSamples(open_rows(rows), SampleOptions(), ("mix", "vocal"))[0, EMPTY_SLOT]
    assert sample.num_frames == 0 and sample.id == "" and len(sample.voice) == 0
    assert {name: codes.shape for name, codes in sample.targets.items()} == {"mix": (4, 0), "vocal": (4, 0)}
    assert sample.caption_ids.tolist() == rows[0]["caption_ids"]


def test_options_list_every_wrong_value():
    with pytest.raises(ValueError) as caught:
        SampleOptions(voice_choices={"drum": 1.0, "none": -1}, voice_seconds=0, drop_all=1.5)
    for part in ("drum", "weights", "voice_seconds", "drop_all"):
        assert part in str(caught.value)


VARIANTS = [[5, 1], [6, 7, 8, 1], [9, 1]]


@pytest.fixture
def varied(open_rows, make_rows):
    """Forty clips, the last of which has no descriptions besides its caption."""
    rows = make_rows(40)
    for row in rows[:-1]:
        row["caption_variant_ids"] = [token for ids in VARIANTS for token in ids]
        row["caption_variant_lengths"] = [len(ids) for ids in VARIANTS]
    return open_rows(rows)


def _captions(dataset, epochs=range(10), **options):
    samples = TrainingSamples(dataset, SampleOptions(**options), (), seed=3)
    return [[samples[epoch, index].caption_ids.tolist() for index in range(len(dataset))] for epoch in epochs]


def test_further_descriptions_take_the_captions_place_as_often_as_asked_and_each_alike(varied):
    own = [varied.row(index).caption_ids.tolist() for index in range(40)]
    drawn = _captions(varied, range(50), caption_variants=0.6)
    assert all(epoch[-1] == own[-1] for epoch in drawn)
    flat = [(caption, own[index]) for epoch in drawn for index, caption in enumerate(epoch[:-1])]
    shares = [np.mean([caption == ids for caption, _ in flat]) for ids in VARIANTS]
    assert shares == pytest.approx([0.2] * 3, abs=0.04)
    assert np.mean([caption == mine for caption, mine in flat]) == pytest.approx(0.4, abs=0.04)


def test_descriptions_are_drawn_by_epoch_and_index_and_change_no_other_draw(varied):
    assert _captions(varied, caption_variants=0.6) == _captions(varied, caption_variants=0.6)
    first, second, *_ = _captions(varied, caption_variants=0.6)
    assert first != second
    without, among = (_captions(varied, drop_caption=0.5, caption_variants=share) for share in (0.0, 1.0))
    assert [[ids == [1] for ids in epoch] for epoch in among] == [[ids == [1] for ids in epoch] for epoch in without]


def test_evaluation_hears_the_caption_itself(varied):
    options = SampleOptions(caption_variants=1.0)
    samples = TrainingSamples(varied, options, (), deterministic=True)
    assert not samples.varies_captions
    assert samples[0, 0].caption_ids.tolist() == varied.row(0).caption_ids.tolist()
    assert TrainingSamples(varied, options, ())[0, 0].caption_ids.tolist() in VARIANTS
