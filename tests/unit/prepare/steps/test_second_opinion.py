"""Languages, a second recognizer, and voice without lyrics: what must not refuse, win, or pass by itself."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_whisper import save_tiny_whisper

from songgen.prepare.engine.audio_files import write_audio
from songgen.prepare.engine.record import LyricLine, SongRecord, Transcript, Word
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.steps.alignment import AlignOptions, AlignStep
from songgen.prepare.steps.filters import FilterOptions, find_refusals
from songgen.prepare.steps.lyrics_agreement import AgreementOptions, AgreementStep
from songgen.prepare.steps.segmentation import SegmentStep
from songgen.prepare.steps.transcription import TranscribeOptions, TranscribeSecondStep, TranscribeStep
from songgen.prepare.timing.clip_plan import SegmentOptions

FRENCH = "Nous sommes dans la rue et je pense que tu ne viens pas"


def song(folder: Path, **values: object) -> SongRecord:
    times = np.arange(3 * 16_000) / 16_000
    write_audio(folder / "song.wav", (0.3 * np.sin(2 * np.pi * 200 * times)).astype(np.float32), 16_000)
    record = SongRecord(
        id="s", song="s", file="f", line=1, audio={"mix": "song.wav"}, duration=3.0, voiced=((0.0, 3.0),)
    )
    return dataclasses.replace(record, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def english_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_whisper(tmp_path_factory.mktemp("english"), languages=()))


def run(step: TranscribeStep, record: SongRecord, folder: Path) -> object:
    step.start()
    [outcome] = step.run([record], WorkFolder(folder))
    return outcome


def test_a_second_model_that_does_not_know_the_language_refuses_nothing(
    tmp_path: Path, english_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = TranscribeOptions(model="first", agreement_model=english_model, device="cpu")
    outcome = run(TranscribeSecondStep(options), song(tmp_path, language="de"), tmp_path)
    assert outcome.refusal is None and "transcripts" not in outcome.changes
    assert "does not know the language 'de'" in outcome.changes["provenance"]["transcribe_second"]["skipped"]
    assert "does not know the language 'de'" in caplog.text
    # The first model makes the lyrics, so a song that it cannot hear has none.
    first = run(
        TranscribeStep(TranscribeOptions(model=english_model, device="cpu")), song(tmp_path, language="de"), tmp_path
    )
    assert first.refusal.code == "language_not_recognizable"


def test_given_lyrics_tell_the_language_and_not_a_guess_by_ear(tmp_path: Path) -> None:
    model = str(save_tiny_whisper(tmp_path / "model", languages=("en", "fr", "de")))
    step = TranscribeStep(TranscribeOptions(model=model, device="cpu"))
    french = song(tmp_path, lyrics=FRENCH, lyrics_source="given")
    outcome = run(step, french, tmp_path)
    assert outcome.changes["transcripts"]["transcribe"]["language"] == "fr"
    assert step.inputs(french) == step.inputs(dataclasses.replace(french, language="fr"))


def aligned(lyrics: str, probability: float, words: tuple[Word, ...] = ()) -> SongRecord:
    record = SongRecord(
        id="s",
        song="s",
        file="f",
        line=1,
        lyrics=lyrics,
        lyrics_source="given",
        transcripts={"transcribe": Transcript(" ".join(word.text for word in words), "en", None, words)},
        measures={"language_probability": probability},
    )
    [outcome] = AlignStep(AlignOptions()).run([record], WorkFolder(Path()))
    return record.changed(outcome.changes)


def test_a_doubtful_language_does_not_win_if_no_word_was_heard() -> None:
    words = (Word("something", 0.0, 1.0), Word("else", 1.0, 2.0))
    assert aligned(FRENCH, 0.39, words).language == "fr"
    assert aligned("Amor", 0.39, words).language == ""
    assert aligned("Amor", 0.9, words).language == "en"
    assert aligned("something else", 0.39, words).language == "en"


def agreed(source: str, second: str | None) -> dict[str, float]:
    transcripts = {"transcribe": Transcript("a b c d", "en", 0.5)}
    if second is not None:
        transcripts["transcribe_second"] = Transcript(second, "en", 0.5)
    record = SongRecord(id="s", song="s", file="f", line=1, duration=4.0, lyrics="a b c d", lyrics_source=source)
    record = dataclasses.replace(record, transcripts=transcripts)
    [outcome] = AgreementStep(AgreementOptions()).run([record], WorkFolder(Path()))
    return dict(outcome.changes["measures"])


def test_transcribed_lyrics_are_not_compared_with_themselves() -> None:
    assert agreed("given", None)["lyrics_coverage"] == 1.0
    assert "lyrics_coverage" not in agreed("transcribed", None)
    assert agreed("transcribed", "a b x y")["lyrics_coverage"] == 0.5


def test_transcribed_lyrics_without_a_second_opinion_are_not_missing_a_measurement() -> None:
    options = FilterOptions(min_lyrics_coverage=0.5, not_measured="refuse")
    record = SongRecord(id="s", song="s", file="f", line=1, duration=4.0, lyrics="a", lyrics_source="transcribed",
                        voiced=((0.0, 1.0),))  # fmt: skip
    measured = ("silent_share", "clipped_share")
    record = dataclasses.replace(record, measures=dict.fromkeys(measured, 0.0))
    assert not find_refusals(record, options)
    assert [found.code for found in find_refusals(dataclasses.replace(record, lyrics_source="given"), options)] == [
        "not_measured"
    ]


@pytest.mark.parametrize("unmatched", [1.0, 5.0])
def test_voice_without_lyrics_is_left_out_of_short_recordings_too(tmp_path: Path, unmatched: float) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, size=20 * 16_000).astype(np.float32)
    write_audio(tmp_path / "song.wav", samples, 16_000)
    record = SongRecord(
        id="s",
        song="s",
        file="f",
        line=1,
        audio={"mix": "song.wav"},
        lyrics="a line of words",
        lyrics_source="given",
        lines=(LyricLine("a line of words", 1.0, 9.0),),
        voiced=((1.0, 9.0), (12.0, 12.0 + unmatched)),
    )
    [outcome] = SegmentStep(SegmentOptions()).run([record], WorkFolder(tmp_path))
    assert outcome.clips is not None
    lengths = [clip.duration for clip in outcome.clips if clip.lyrics]
    assert lengths == [20.0] if unmatched == 1.0 else lengths[0] < 13.0
    unused = outcome.clips[0].measures.get("unused_voice_without_lyrics_seconds", 0.0)
    assert unused == 0.0 if unmatched == 1.0 else unused >= 5.0
