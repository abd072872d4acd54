import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from songgen.cli.main import main
from songgen.cli.models.generate import FORMATS, _check_form, write_songs, write_stream
from songgen.doctor.hashes import accept
from songgen.families.tokens.generating import pieces_of
from songgen.families.use.song_folder import song_path
from songgen.generation.song_audio import SongAudio


def tracks_of(folder):
    return ("acc", "vocal") if "interleaving" in folder.name else ()


def run(folder, out, *arguments):
    return main(["generate", "--model", str(folder), "--out", str(out), "--device", "cpu", *arguments])


def test_a_song_is_written_with_its_tracks(model_folder, tmp_path, capsys):
    out = tmp_path / "new" / "song.wav"
    words = ["--caption", "a calm folk song", "--lyrics", "la la", "--seconds", "0.5", "--seed", "3"]
    assert run(model_folder, out, *words) == 0
    names = sorted(["song.wav", *(f"song.{track}.wav" for track in tracks_of(model_folder))])
    assert sorted(path.name for path in out.parent.iterdir()) == names
    assert sorted(capsys.readouterr().out.split()) == [str(out.parent / name) for name in names]
    samples, rate = soundfile.read(out)
    assert rate == 1600 and samples.ndim == 1 and 0 < len(samples) <= 800
    if tracks_of(model_folder):
        tracks = [soundfile.read(song_path(out, 0, 1, track))[0] for track in tracks_of(model_folder)]
        assert all(len(track) == len(samples) for track in tracks)
    again = tmp_path / "again.wav"
    assert run(model_folder, again, *words) == 0
    assert np.array_equal(soundfile.read(again)[0], samples)


def test_a_streamed_song_is_as_long_as_the_other(model_folder, tmp_path):
    words = ["--lyrics", "la", "--seconds", "3", "--seed", "3", "--guidance", "2", "--num_songs", "2"]
    assert run(model_folder, tmp_path / "whole.flac", *words) == 0
    assert run(model_folder, tmp_path / "streamed.flac", "--stream", *words) == 0
    for song in range(2):
        for track in ("", *tracks_of(model_folder)):
            whole = soundfile.info(song_path(tmp_path / "whole.flac", song, 2, track))
            streamed = soundfile.info(song_path(tmp_path / "streamed.flac", song, 2, track))
            assert whole.frames == streamed.frames > 0


def test_lyrics_come_from_a_file_and_a_voice_is_heard(model_folder, tmp_path):
    (tmp_path / "lyrics.txt").write_text("\ufeffla la\nthe sun", encoding="utf-8")
    voice = np.random.default_rng(0).normal(size=24_000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "voice.wav", voice, 24_000)
    words = ["--lyrics_file", str(tmp_path / "lyrics.txt"), "--seconds", "0.3", "--greedy"]
    assert run(model_folder, tmp_path / "plain.wav", *words) == 0
    assert run(model_folder, tmp_path / "voiced.wav", *words, "--voice", str(tmp_path / "voice.wav")) == 0
    plain, voiced = (soundfile.read(tmp_path / name)[0] for name in ("plain.wav", "voiced.wav"))
    assert plain.shape != voiced.shape or not np.array_equal(plain, voiced)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--caption, --lyrics or --lyrics_file"),
        (["--lyrics", "la", "--temperature", "0"], "temperature"),
        (["--lyrics", "la", "--temperature", "1e-42"], "temperature must be a number from 0.0001 to 10000"),
        (["--lyrics", "la", "--temperature", "inf"], "temperature"),
        (["--lyrics", "la", "--guidance", "1e39"], "guidance_scale must be a number from 0 to 100"),
        (["--lyrics", "la", "--seconds", "1e12"], "max_seconds"),
        (["--lyrics", "la", "--num_songs", "1000000000"], "num_return_sequences must be from 1 to 1000"),
        (["--lyrics", "la", "--seconds", "-1", "--top_k", "-3"], "top_k"),
        (["--lyrics_file", "/nowhere.txt"], "/nowhere.txt"),
        (["--lyrics", "la", "--device", "quantum"], "quantum"),
        (["--lyrics", "la", "--separate"], "--voice"),
        (["--lyrics", "la", "--voice", "/nowhere.wav"], "/nowhere.wav"),
        (["--lyrics", "la", "--language", "klingon"], "klingon"),
        (
            ["--lyrics", "la", "--steps", "3"],
            "--steps is for flow-matching models; this model is of the family SongGen",
        ),
        (["--lyrics", "la", "--source", "a.wav", "--cover"], "--cover is for flow-matching models"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(model_folder, tmp_path, capsys, words, message):
    assert run(model_folder, tmp_path / "song.wav", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["song.xyz", "song.raw", "song.sd2", "song.m4a", "song", "."])
def test_an_output_that_cannot_be_written_is_refused(model_folder, tmp_path, capsys, name):
    assert run(model_folder, tmp_path / name, "--lyrics", "la") == 2
    printed = capsys.readouterr().err
    assert "--out" in printed and ".wav, .flac, .ogg, .opus, .mp3, .aiff, .aif, .caf, .au, .w64" in printed


@pytest.mark.parametrize("ending", FORMATS)
def test_every_ending_of_the_list_can_be_written(tmp_path, ending):
    track = torch.sin(torch.arange(32_000) / 10)[None] / 2
    songs = SongAudio({"mix": track}, torch.tensor([32_000]), 16_000, [])
    _check_form(tmp_path / f"song{ending}", 16_000, 1)
    paths = [
        *write_songs(pieces_of(songs), tmp_path / f"song{ending.upper()}", 1),
        *write_stream(pieces_of(songs), tmp_path / f"stream{ending}", 1),
    ]
    for path in paths:
        samples, rate = soundfile.read(path)
        assert len(samples) / rate == pytest.approx(2, abs=0.1) and 0.3 < abs(samples).max() < 0.9


def test_a_format_that_does_not_take_the_models_rate_is_refused_before_the_song_is_made(model_folder, tmp_path, capsys):
    assert run(model_folder, tmp_path / "song.opus", "--lyrics", "la") == 2
    assert "cannot be written at the model's 1600 Hz" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_not_a_model_and_the_run_is_named(model_folder, tmp_path, capsys):
    run_folder = tmp_path / "run"
    for name in ("checkpoint-84", "checkpoint-84-2"):
        (run_folder / name).mkdir(parents=True)
        assert run(run_folder / name, tmp_path / "song.wav", "--lyrics", "la") == 2
        printed = capsys.readouterr().err
        assert "it is a checkpoint" in printed and f"the run in {run_folder} has not written its model yet" in printed
    assert run(run_folder, tmp_path / "song.wav", "--lyrics", "la") == 2
    assert f"the run in {run_folder} has not written its model yet" in capsys.readouterr().err
    shutil.copytree(model_folder, run_folder, dirs_exist_ok=True)
    assert run(run_folder / "checkpoint-84", tmp_path / "song.wav", "--lyrics", "la") == 2
    assert f"the model that the run has written is {run_folder}" in capsys.readouterr().err
    assert run(run_folder, tmp_path / "song.wav", "--lyrics", "la", "--seconds", "0.1") == 0


def test_guidance_of_a_model_that_never_saw_a_song_without_conditions(model_folder, tmp_path, caplog):
    words = ["--lyrics", "la", "--seconds", "0.1", "--guidance", "3", "--top_k", "5000"]
    assert run(model_folder, tmp_path / "a.wav", *words) == 0
    printed = caplog.text
    caplog.clear()
    assert printed.count("this model is not known to be trained with condition_dropout") == 1
    assert printed.count("top_k 5000 is more than the 16 codes") == 1
    config = json.loads((model_folder / "config.json").read_text())
    for dropout, expected in ((0.0, "this model was trained without condition_dropout"), (0.1, "")):
        shutil.copytree(model_folder, tmp_path / "model", dirs_exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"condition_dropout": dropout}))
        accept(tmp_path / "model")
        assert run(tmp_path / "model", tmp_path / "a.wav", *words) == 0
        printed = caplog.text
        caplog.clear()
        assert expected in printed and ("condition_dropout" in printed) == bool(expected)


def test_a_model_that_does_not_exist_is_named(tmp_path, capsys):
    assert run("./no/model", tmp_path / "song.wav", "--lyrics", "la") == 2
    assert "./no/model" in capsys.readouterr().err


def test_a_mix_that_would_clip_is_turned_down_and_its_tracks_stay(tmp_path):
    track = torch.tensor([[0.8, 0.2, -0.4]])
    songs = SongAudio({"acc": track, "vocal": track}, torch.tensor([3]), 100, [])
    paths = write_songs(pieces_of(songs), tmp_path / "song.wav", 1)
    assert [path.name for path in paths] == ["song.wav", "song.acc.wav", "song.vocal.wav"]
    mix, acc, _ = (soundfile.read(path)[0] for path in paths)
    assert np.allclose(mix, [1.0, 0.25, -0.5], atol=1e-3) and np.allclose(acc, track, atol=1e-3)


def test_songs_are_cut_to_their_own_length(tmp_path):
    songs = SongAudio({"mix": torch.full((2, 10), 0.5)}, torch.tensor([4, 10]), 100, [])
    twice = [*pieces_of(songs), *pieces_of(songs)]
    for paths in (write_songs(pieces_of(songs), tmp_path / "a.wav", 2), write_stream(twice, tmp_path / "b.wav", 2)):
        factor = 1 + (paths[0].stem == "b-1")
        assert [soundfile.info(path).frames for path in paths] == [4 * factor, 10 * factor]
