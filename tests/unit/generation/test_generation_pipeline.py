import pytest
import torch

from songgen.generation.song_audio import DualTrackAudio, SongAudio


def test_mixed_songs_are_one_tensor_padded_with_silence(make_model, make_inputs):
    model = make_model()
    audio = model.generate(**make_inputs(), do_sample=True, seed=1, max_frames=40, min_new_tokens=3)
    songs = model.generate(**make_inputs(), do_sample=True, seed=1, max_frames=40, min_new_tokens=3, return_songs=True)
    assert isinstance(songs, SongAudio)
    assert audio.shape == (3, int(songs.lengths.max())) and audio.dtype == torch.float32
    assert torch.equal(audio, songs.mix)
    assert len(set(songs.lengths.tolist())) > 1
    for waveform, length, codes in zip(audio, songs.lengths, songs.codes, strict=True):
        assert not waveform[length:].any()
        assert length == codes.shape[-1] * model.audio_codec.hop_length
        assert codes.shape[0] == 1


def test_dual_track_songs_are_a_pair_accompaniment_first(make_model, make_inputs):
    model = make_model("interleaving_A_V")
    keywords = {"seed": 1, "max_frames": 20, "min_new_tokens": 3}
    pair = model.generate(**make_inputs(), **keywords)
    songs = model.generate(**make_inputs(), **keywords, return_songs=True)
    assert isinstance(pair, DualTrackAudio)
    acc, vocal = pair
    assert acc.shape == vocal.shape == (3, int(songs.lengths.max()))
    assert torch.equal(acc, songs.tracks["acc"]) and torch.equal(vocal, songs.tracks["vocal"])
    assert torch.equal(songs.mix, acc + vocal)
    assert model.layout.tracks == ("acc", "vocal")
    assert torch.equal(acc[0, : songs.lengths[0]], model.audio_codec.decode(songs.codes[0][:1])[0, 0].float())


def test_a_single_dual_track_song_is_used_as_the_published_readme_does(make_model, make_inputs):
    model = make_model("interleaving_A_V")
    generation = model.generate(**make_inputs(1), do_sample=True, max_frames=8)
    acc_array = generation[0].cpu().numpy()
    vocal_array = generation[1].cpu().numpy()
    shortest = min(vocal_array.shape[0], acc_array.shape[0])
    mixed = vocal_array[:shortest] + acc_array[:shortest]
    assert mixed.ndim == 1 and len(mixed) == len(acc_array)


def test_captions_or_lyrics_alone_are_enough(make_model, make_inputs):
    model = make_model()
    inputs = make_inputs()
    for names in (("input_ids", "attention_mask"), ("prompt_input_ids", "prompt_attention_mask"), ("input_ids",)):
        audio = model.generate(**{name: inputs[name] for name in names}, max_frames=5)
        assert audio.shape[0] == 3
    with pytest.raises(ValueError, match="nothing to condition on"):
        model.generate(max_frames=5)


def test_a_voice_of_zeros_is_no_voice(make_model, make_inputs):
    """The voice encoder, which this model lacks, is not even loaded."""
    model = make_model()
    silent = {"ref_voice_values": torch.zeros(3, 100), "ref_voice_lengths": torch.zeros(3, dtype=torch.long)}
    with_silence = model.generate(**make_inputs(), **silent, seed=1, max_frames=6)
    assert torch.equal(with_silence, model.generate(**make_inputs(), seed=1, max_frames=6))
    assert "voice_encoder" not in model.attached()


def test_several_sequences_of_a_song_stand_side_by_side(make_model, make_inputs):
    model = make_model()
    assert model.generate(**make_inputs(), max_frames=5, num_return_sequences=2).shape[0] == 6


def test_the_length_limit_in_seconds_is_the_codecs(make_model, make_inputs):
    model = make_model()
    songs = model.generate(**make_inputs(), max_seconds=1.2, min_new_tokens=100, return_songs=True)
    assert songs.lengths.tolist() == [48, 48, 48]


def test_unknown_keywords_are_named(make_model, make_inputs):
    with pytest.raises(TypeError, match="num_beams"):
        make_model().generate(**make_inputs(), num_beams=4)
