"""Songs by flow matching: those of diffusers' pipeline, each a function of its seed and its inputs."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from diffusers import AceStepPipeline
from tiny_flow import SAMPLE_RATE, write_tiny_pipeline
from torch import Tensor

from songgen.families.flow.model import FlowModel
from songgen.families.flow.songs.audio_files import read_reference, read_source
from songgen.families.flow.songs.generation import FULL_LEVEL, FlowSongs, SongAudio, pasted
from songgen.families.flow.songs.options import Sampling, Section, SongOptions

FADE = round(0.02 * SAMPLE_RATE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("flow") / "model")


@pytest.fixture(scope="module")
def songs(folder: Path) -> FlowSongs:
    return FlowSongs(FlowModel.open(folder).eval())


@pytest.fixture(scope="module")
def source() -> Tensor:
    """A song of 2.5 s that does not end with a frame, below full level."""
    return 0.3 * torch.rand(2, int(2.5 * SAMPLE_RATE) - 50, generator=torch.Generator().manual_seed(5)) - 0.1


def options(**values: Any) -> SongOptions:
    defaults: dict[str, Any] = {"caption": "pop", "lyrics": "la la", "seconds": 1.0, "steps": 2, "seed": 3}
    return SongOptions(**(defaults | values))


def only(songs: Iterator[Tensor]) -> Tensor:
    (song,) = songs
    return song


def test_a_song_is_that_of_diffusers(folder: Path, songs: FlowSongs) -> None:
    """An instrumental in an odd number of frames, with all facts; guidance 7, unless another one is given."""
    pipeline: Any = AceStepPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    shared = {"prompt": "pop", "lyrics": "[Instrumental]", "audio_duration": 1.16, "num_inference_steps": 2}
    facts = {"bpm": 92, "keyscale": "A minor", "timesignature": "3", "vocal_language": "de"}
    own = {"lyrics": " ", "seconds": 1.16, "bpm": 92.4, "key": "Am", "time_signature": "3/4", "language": "German"}
    for given, passed in (({}, {"guidance_scale": 7.0}), ({"guidance": 1.0, "shift": 1.5}, {"shift": 1.5})):
        generator = torch.Generator().manual_seed(3)
        expected = pipeline(**shared, **facts, **({"guidance_scale": 1.0} | passed), generator=generator).audios[0]
        song = only(songs.generate(options(**own, **given)))
        torch.testing.assert_close(song, expected)
        assert song.shape == (2, 29 * 128) and float(song.abs().max()) == pytest.approx(FULL_LEVEL)


def test_a_seed_gives_the_same_song_alone_with_others_and_after_anything(songs: FlowSongs, source: Tensor) -> None:
    """With reference audio, which the pipeline encodes by numbers of the global generator."""
    audio = SongAudio(reference=source)
    state = torch.get_rng_state()
    together = list(songs.generate(options(num_songs=3), audio))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(together[0], together[1]) and not torch.equal(together[1], together[2])
    for song, seed in zip(together, options(num_songs=3).song_seeds(), strict=True):
        torch.manual_seed(11)
        assert torch.equal(only(songs.generate(options(seed=seed), audio)), song)
    assert not torch.equal(only(songs.generate(options(seed=4), audio)), together[0])
    # A step of training leaves masks of its batch in the model, and gradients.
    core, channels, width = songs.core, songs.core.num_channels, 16
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    inputs = [torch.zeros(2, 12, channels), torch.tensor([0.5, 0.1]), torch.tensor([12, 3])]
    texts = [torch.zeros(2, 4, width), mask, torch.zeros(2, 4, width), mask, torch.zeros(2, 20, channels)]
    core(*inputs, *texts, torch.tensor([0, 1])).velocity.sum().backward()
    assert torch.equal(only(FlowSongs(core).generate(options(), audio)), together[0])
    core.zero_grad()


def test_without_a_seed_songs_differ_and_steps_are_reported(songs: FlowSongs) -> None:
    seen: list[tuple[int, int]] = []
    first = list(
        songs.generate(options(seed=None, num_songs=2), on_step=lambda done, total: seen.append((done, total)))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not torch.equal(first[0], only(songs.generate(options(seed=None))))


@pytest.mark.parametrize(
    "change",
    [
        {"caption": "rock"},
        {"lyrics": "lo"},
        {"language": "zh"},
        {"bpm": 100.0},
        {"key": "C"},
        {"time_signature": "6/8"},
    ],
)
def test_every_text_and_fact_changes_the_song(songs: FlowSongs, change: dict[str, Any]) -> None:
    plain = only(songs.generate(options()))
    assert not torch.equal(only(songs.generate(options(**change))), plain)


def test_a_time_signature_may_be_written_as_in_side_files(songs: FlowSongs) -> None:
    short, whole = (only(songs.generate(options(time_signature=written))) for written in ("6", "6/8"))
    assert torch.equal(short, whole)


def test_durations_that_the_pipeline_rounds_twice_can_be_generated(songs: FlowSongs) -> None:
    """1.1 s are 28 frames; these take 1.12 s, and 1.12 * 25 is a little above 28."""
    assert only(songs.generate(options(seconds=1.1))).shape == (2, 28 * 128)
    frames = [n for n in range(25, 200) if math.ceil(n / 25 * 25) > n]
    assert len(frames) > 2
    for count in frames[:2]:
        source = torch.rand(2, count * 128, generator=torch.Generator().manual_seed(1)) - 0.5
        repainted = options(seconds=None, has_source=True, repaint=Section(0.2, 0.9))
        assert only(songs.generate(repainted, SongAudio(source=source))).shape == source.shape


def test_noise_is_that_of_a_generator_of_the_cpu_in_every_precision(folder: Path) -> None:
    songs = FlowSongs(FlowModel.open(folder).eval())
    whole = only(songs.generate(options()))
    songs.core.to(torch.bfloat16)
    half = only(FlowSongs(songs.core).generate(options()))
    correlation = torch.corrcoef(torch.stack([whole.flatten(), half.flatten()]))[0, 1]
    assert float(correlation) > 0.95 and not torch.equal(half, whole)


def test_reference_and_cover_change_the_song(songs: FlowSongs, source: Tensor) -> None:
    plain = only(songs.generate(options()))
    heard = [only(songs.generate(options(), SongAudio(reference=sound))) for sound in (source, source.flip(1))]
    assert not torch.equal(heard[0], plain) and not torch.equal(heard[0], heard[1])
    of_source = {"seconds": None, "has_source": True}
    covers = [
        only(songs.generate(options(**of_source, cover=strength), SongAudio(source=sound)))
        # Random weights quantize sounds of the same level to the same codes.
        for strength, sound in ((1.0, source), (0.5, source), (1.0, 8 * source))
    ]
    assert all(cover.shape == source.shape for cover in covers)
    assert float(covers[0].abs().max()) <= FULL_LEVEL + 1e-6
    assert not torch.equal(covers[0], covers[1]) and not torch.equal(covers[0], covers[2])


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.013), (0.0, 0.7), (1.9, 2.6), (0.3, 0.31)])
def test_repainting_keeps_everything_outside_of_the_section(
    songs: FlowSongs, source: Tensor, start: float, end: float
) -> None:
    repainted = only(
        songs.generate(options(seconds=None, has_source=True, repaint=Section(start, end)), SongAudio(source=source))
    )
    begin, stop = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    assert repainted.shape == source.shape
    assert torch.equal(repainted[:, :begin], source[:, :begin]) and torch.equal(repainted[:, stop:], source[:, stop:])
    inside = slice(begin + FADE, stop - FADE) if stop - begin > 3 * FADE else slice(begin, stop)
    assert not torch.isclose(repainted[:, inside], source[:, inside]).all()
    assert float(repainted.abs().max()) <= FULL_LEVEL + 1e-6


def test_a_section_fades_in_and_out_inside_of_itself_and_not_at_the_ends_of_the_song() -> None:
    source, section = torch.zeros(2, 100), torch.ones(2, 40)
    middle = pasted(source, section, 30, 9)[0]
    assert torch.equal(middle[30:39], torch.arange(1, 10) / 10) and torch.equal(
        middle[61:70], torch.arange(9, 0, -1) / 10
    )
    assert middle[39:61].eq(1).all() and middle[:30].eq(0).all() and middle[70:].eq(0).all()
    assert pasted(source, section, 0, 9)[0, :31].eq(1).all()
    assert pasted(source, section, 60, 9)[0, 69:].eq(1).all()
    assert pasted(source, section[:, :3], 30, 9)[0, 29:34].tolist() == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert source.eq(0).all()


def test_a_section_is_not_scaled_unless_it_is_louder_than_source_and_full_level(
    songs: FlowSongs, source: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = options(seconds=None, has_source=True, repaint=Section(0.5, 1.0))
    for level, expected in ((0.5, 0.5), (3.0, FULL_LEVEL)):
        monkeypatch.setattr(songs, "sound", lambda latents, level=level: torch.full((2, 128 * len(latents)), level))
        written = only(songs.generate(request, SongAudio(source=source)))[:, int(0.7 * SAMPLE_RATE)]
        assert written.tolist() == pytest.approx([expected] * 2)


def test_texts_are_understood_as_in_tokenizing(songs: FlowSongs, caplog: pytest.LogCaptureFixture) -> None:
    plain, instrumental = (only(songs.generate(options(lyrics=lyrics))) for lyrics in ("la la", ""))
    assert torch.equal(only(songs.generate(options(caption=" pop\n", lyrics="<b>la</b> la\u200b"))), plain)
    assert "HTML in the lyrics is left out" in caplog.text
    for words in ("(Instrumental)", "[intro]\n[inst]", "Pure instrumental."):
        assert torch.equal(only(songs.generate(options(lyrics=words))), instrumental)
    assert torch.equal(only(songs.generate(options(lyrics="[Instrumental]"))), instrumental)
    assert not torch.equal(plain, instrumental)


def test_texts_that_are_cut_are_named(songs: FlowSongs, caplog: pytest.LogCaptureFixture) -> None:
    caption, lyrics = "a" * 300 + " unheard", "b" * 2100 + " unsung"
    with caplog.at_level(logging.WARNING):
        long = only(songs.generate(options(caption=caption, lyrics=lyrics)))
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    assert warned[0].startswith("caption: ") and "the model reads 256, up to 'aaa" in warned[0] and "tempo" in warned[0]
    assert warned[1].startswith("lyrics: ") and "the model reads 2048, up to 'bbb" in warned[1]
    assert torch.equal(only(songs.generate(options(caption=caption + "!", lyrics=lyrics + "!"))), long)


def test_a_turbo_model_takes_no_guidance_and_eight_steps(tmp_path: Path) -> None:
    songs = FlowSongs(FlowModel.open(write_tiny_pipeline(tmp_path / "turbo", is_turbo=True)))
    with pytest.raises(ValueError, match="guidance is distilled into the weights"):
        next(songs.generate(options(guidance=1.5)))
    seen: list[int] = []
    for guidance in (None, 1.0):
        next(songs.generate(options(steps=None, guidance=guidance), on_step=lambda done, total: seen.append(total)))
    assert seen == [8] * 16
    assert Sampling.of_model(is_turbo=False) == Sampling(50, 7.0, 3.0)


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"seconds": 0.5, "steps": 0, "shift": 0.0}, ["seconds must be", "steps must be", "shift must be"]),
        ({"seconds": 601.0, "guidance": -1.0, "bpm": 400.0}, ["from 1 to 600", "guidance must be", "from 30 to 300"]),
        ({"seconds": float("nan"), "guidance": float("inf")}, ["seconds must be", "guidance must be"]),
        ({"caption": " ", "lyrics": ""}, ["a caption or lyrics are needed"]),
        ({"key": "H dur", "time_signature": "5/4"}, ["'H dur' is not a key", "2/4, 3/4, 4/4, 6/8"]),
        ({"num_songs": 0, "seed": -1}, ["num_songs must be", "seed must be"]),
        ({"repaint": Section(1, 2)}, ["repaint is about a source"]),
        ({"cover": 2.0}, ["cover is about a source", "strength from 0 to 1"]),
        ({"has_source": True, "seconds": None}, ["one of both"]),
        ({"has_source": True, "repaint": Section(2, 1), "cover": 1.0}, ["not both", "as long as its source", "2:1 is"]),
    ],
)
def test_options_out_of_range_are_all_named_at_once(values: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        options(**values)
    assert not [message for message in messages if message not in str(error.value)]


def test_audio_files_are_stereo_at_the_rate_of_the_pipeline(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(np.arange(12_000) / 20).astype(np.float32)
    soundfile.write(tmp_path / "mono.wav", tone, 8000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, -tone], axis=1), 8000)
    mono, stereo = read_source(tmp_path / "mono.wav", 3200), read_reference(tmp_path / "stereo.wav", 3200)
    assert mono.shape == stereo.shape == (2, 4800) and torch.equal(mono[0], mono[1])
    torch.testing.assert_close(stereo, torch.stack([mono[0], -mono[0]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("samples", "message"),
    [(None, "cannot be used"), (4000, "at least 1 s"), (0.0, "is silent"), (b"text", "unreadable_audio")],
)
def test_audio_that_cannot_be_used_is_refused(tmp_path: Path, samples: Any, message: str) -> None:
    path = tmp_path / "source.wav"
    if isinstance(samples, bytes):
        path.write_bytes(samples)
    elif samples is not None:
        soundfile.write(path, np.full(samples or 16_000, 0.1 * bool(samples), np.float32), 8000)
    with pytest.raises(ValueError, match=f"the source .*{message}"):
        read_source(path, 3200)
