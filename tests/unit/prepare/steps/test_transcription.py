"""What a recognizer hears: plumbing with a tiny random Whisper, arithmetic with exact signals."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_whisper import save_tiny_whisper

from songgen.prepare.engine.audio_files import write_audio
from songgen.prepare.engine.record import SongRecord, Transcript, Word
from songgen.prepare.engine.step import StepOutput, WorkFolder
from songgen.prepare.listening.hearing import Guards, compression_ratio, find_doubt, most_probable_language
from songgen.prepare.listening.recognizer import Recognizer
from songgen.prepare.steps.lyrics_agreement import AgreementOptions, AgreementStep, agreement_measures
from songgen.prepare.steps.transcription import (
    SECTION,
    TranscribeOptions,
    TranscribeSecondStep,
    TranscribeStep,
    chunk_intervals,
    within_voice,
)
from songgen.prepare.timing.text_distance import joiner
from songgen.prepare.timing.word_times import split_words, timed_words, token_starts

BELIEVE_ALL = Guards(compression_ratio_limit=100, log_probability_limit=-100, retries=0)
RATE = 16_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random Whisper."""
    return str(save_tiny_whisper(tmp_path_factory.mktemp("whisper")))


@pytest.fixture(scope="module")
def recognizer(model: str) -> Recognizer:
    return Recognizer(model, device="cpu")


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """A gliding tone in noise."""
    times = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.05, size=len(times))
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * seed + 30 * times) * times) + noise).astype(np.float32)


def test_times_lie_inside_the_chunk_and_never_fall(recognizer: Recognizer) -> None:
    chunks = [voice(seconds, seed) for seed, seconds in enumerate((1.0, 4.3, 30.0))]
    for chunk, heard in zip(chunks, recognizer.transcribe(chunks, ["ja", "zh", "en"], BELIEVE_ALL), strict=True):
        assert heard.words
        times = [time for word in heard.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert times[0] >= 0 and times[-1] <= len(chunk) / RATE
        # Silence behind the chunk, which fills the network's 30 s, holds no word.
        assert all(word.start < len(chunk) / RATE for word in heard.words)
        assert not any(character in word.text for word in heard.words for character in "\0\ufffd")


def test_a_chunk_is_heard_alike_alone_and_in_a_batch(recognizer: Recognizer) -> None:
    chunks = [voice(seconds, seed) for seed, seconds in enumerate((2.0, 6.0, 11.0))]
    languages = ["en", "zh", "de"]
    together = recognizer.transcribe(chunks, languages, BELIEVE_ALL)
    for chunk, language, heard in zip(chunks, languages, together, strict=True):
        [alone] = recognizer.transcribe([chunk], [language], BELIEVE_ALL)
        assert [(word.text, word.start, word.end) for word in alone.words] == [
            (word.text, word.start, word.end) for word in heard.words
        ]
        assert alone.log_probability == pytest.approx(heard.log_probability, abs=1e-4)


def test_the_language_is_forced_and_its_probabilities_sum_to_one(recognizer: Recognizer) -> None:
    found = recognizer.language_probabilities([voice(3.0), voice(5.0, 1)])
    assert set(found) == {"en", "de", "ja", "zh"}
    assert sum(found.values()) == pytest.approx(1)
    texts = {
        language: [word.text for word in recognizer.transcribe([voice(3.0)], [language], BELIEVE_ALL)[0].words]
        for language in recognizer.languages
    }
    assert len({"".join(text) for text in texts.values()}) > 1
    assert most_probable_language({"en": 0.4, "de": 0.4, "ja": 0.2}) == "de"


def test_confidence_is_the_probability_among_what_may_be_sung(recognizer: Recognizer) -> None:
    # The tiny model may write 26 letters, a blank and the end; the likeliest of them has no less than an even share.
    [heard] = recognizer.transcribe([voice(9.0)], ["ja"], BELIEVE_ALL)
    assert len(heard.words) > 5
    assert all(word.confidence is not None and 1 / 28 <= word.confidence <= 1 for word in heard.words)
    assert heard.log_probability >= np.log(1 / 28)


def test_longer_chunks_count_more_for_the_language(recognizer: Recognizer) -> None:
    short, long = voice(1.0, 3), voice(9.0, 1)
    one, other, both = (recognizer.language_probabilities(chunks)["en"] for chunks in ([short], [long], [short, long]))
    assert both == pytest.approx((one + 9 * other) / 10, rel=1e-5)


def test_a_model_of_english_alone_needs_no_language_token(tmp_path: Path) -> None:
    english = Recognizer(str(save_tiny_whisper(tmp_path, languages=())), device="cpu")
    assert english.language_probabilities([voice(2.0)]) == {"en": 1.0}
    assert english.transcribe([voice(2.0)], ["en"], BELIEVE_ALL)[0].words


def test_text_that_is_improbable_is_tried_again_and_then_left_out(recognizer: Recognizer) -> None:
    impossible = Guards(compression_ratio_limit=100, log_probability_limit=-0.01, retries=2)
    [heard] = recognizer.transcribe([voice(3.0)], ["en"], impossible)
    assert (heard.words, heard.doubt) == ((), "log_probability")
    [again] = recognizer.transcribe([voice(3.0)], ["en"], impossible)
    assert again == heard
    [once] = recognizer.transcribe([voice(3.0)], ["en"], replace(impossible, retries=0))
    assert once.log_probability != heard.log_probability


@pytest.mark.parametrize(
    ("ratio", "log_probability", "no_speech", "doubt"),
    [
        (1.5, -0.3, 0.9, ""),
        (1.5, -1.2, 0.9, "no_speech"),
        (1.5, -1.2, 0.1, "log_probability"),
        (3.0, -0.3, 0.1, "compression_ratio"),
    ],
)
def test_guards_follow_the_rules_of_whisper(ratio: float, log_probability: float, no_speech: float, doubt: str) -> None:
    assert find_doubt(ratio, log_probability, no_speech, Guards()) == doubt


def test_text_in_circles_compresses_well() -> None:
    assert compression_ratio("thank you for watching " * 10) > 2.4
    assert compression_ratio("every window throws a golden light on the wet street") < 1.5
    assert compression_ratio("") == 0


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the recognizer.*safetensors"):
        Recognizer(str(tmp_path), device="cpu")


def test_token_starts_follow_attention_that_moves_on() -> None:
    draw = np.random.default_rng(0)
    truth = [0, 12, 20, 45, 60, 71]
    attention = draw.uniform(0, 0.2, size=(3, len(truth), 80))
    for row, (start, end) in enumerate(zip(truth, [*truth[1:], 80], strict=True)):
        attention[:, row, start:end] += 1
    starts = token_starts(attention / attention.sum(axis=-1, keepdims=True), filter_width=7)
    assert np.abs(starts - truth).max() <= 1


def test_the_cheapest_path_is_that_of_all_paths() -> None:
    draw = np.random.default_rng(1)
    for _ in range(20):
        attention = draw.uniform(size=(1, 3, 5))
        starts = token_starts(attention, filter_width=1)
        normalized = (attention - attention.mean(axis=1)) / attention.std(axis=1)
        assert path_value(normalized[0], list(starts)) == pytest.approx(best_value(normalized[0]))


def path_value(values: np.ndarray, starts: Sequence[int]) -> float:
    """Largest sum along a path that enters each row in its frame: the next row is reached downwards or diagonally."""
    total = 0.0
    for row, (start, following) in enumerate(zip(starts, [*starts[1:], None], strict=True)):
        if following is None:
            total += values[row, start:].sum()
        else:
            diagonal = values[row, start:following].sum() if following > start else -np.inf
            total += max(values[row, start : following + 1].sum(), diagonal)
    return float(total)


def best_value(values: np.ndarray) -> float:
    """Largest sum over monotone paths from the first corner to the last, by the recursion."""
    table = np.full(values.shape, -np.inf)
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            before = [table[row - 1, column - 1] if row and column else -np.inf]
            before += [table[row - 1, column] if row else -np.inf, table[row, column - 1] if column else -np.inf]
            table[row, column] = values[row, column] + (0.0 if row == column == 0 else max(before))
    return float(table[-1, -1])


def spelled(tokens: list[int]) -> str:
    """Tokens are bytes."""
    return bytes(tokens).decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    ("text", "has_blanks", "words"),
    [
        (" Hello, world -- again!", True, ["Hello,", "world --", "again!"]),
        (" ¿Qué pasa?", True, ["¿Qué", "pasa?"]),
        ("我爱你。", False, ["我", "爱", "你。"]),
        (" ...", True, []),
        ("", True, []),
    ],
)
def test_tokens_become_words(text: str, has_blanks: bool, words: list[str]) -> None:
    tokens = list(text.encode())
    spans = split_words(tokens, spelled, has_blanks)
    assert [span.text for span in spans] == words
    if words:
        assert (spans[0].first, spans[-1].last) == (0, len(tokens))
        assert all(left.last == right.first for left, right in zip(spans, spans[1:], strict=False))


def test_control_characters_do_not_reach_the_words() -> None:
    assert [span.text for span in split_words(list(b" a\x00b\x10"), spelled, True)] == ["ab"]


def test_words_take_times_and_confidence_from_their_tokens() -> None:
    spans = split_words(list(b" ab c"), spelled, True)
    first, second = timed_words(spans, [0.0, 0.1, 0.2, 1.0, 1.1, 9.0], [0.5, 1.0, 0.0, 0.2, 0.4], seconds=2.0)
    assert (first.start, first.end, first.confidence) == (0.0, 1.0, 0.5)
    assert (second.start, second.end) == (1.0, 2.0)
    assert second.confidence == pytest.approx(0.3)


def test_chunks_hold_all_that_is_voiced_once_and_none_is_too_long() -> None:
    draw = np.random.default_rng(5)
    for _ in range(50):
        edges = np.cumsum(draw.uniform(0.1, 20, size=20))
        voiced = [(float(start), float(end)) for start, end in edges.reshape(-1, 2)]
        chunks = chunk_intervals(voiced, 15.0)
        assert all(0 < end - start <= 15.0 + 1e-9 for start, end in chunks)
        assert all(left[1] <= right[0] for left, right in zip(chunks, chunks[1:], strict=False))
        for instant in draw.uniform(0, edges[-1], size=50):
            if any(start < instant < end for start, end in voiced):
                assert sum(start <= instant <= end for start, end in chunks) == 1
        # Two neighbours that would fit into one chunk are one.
        assert all(
            right[1] - left[0] > 15.0 for left, right in zip(chunks, chunks[1:], strict=False) if right in voiced
        )


def test_a_long_interval_is_cut_where_it_is_quietest() -> None:
    samples = voice(25.0)
    samples[round(9.0 * RATE) : round(9.2 * RATE)] = 0
    assert chunk_intervals([(0.0, 25.0)], 10.0)[0] == (0.0, 10.0)
    [first, *_] = chunk_intervals([(0.0, 25.0)], 10.0, samples, RATE)
    assert first[1] == pytest.approx(9.1, abs=0.1)


def test_words_end_where_the_voice_does() -> None:
    words = [Word("long", 1.0, 5.0), Word("late", 5.0, 8.0), Word("lost", 11.0, 12.0)]
    voiced = [(0.5, 2.5), (6.0, 9.0)]
    assert [(word.start, word.end) for word in within_voice(words, voiced)] == [(1.0, 2.5), (6.0, 8.0), (11.0, 12.0)]
    assert within_voice(words, []) == words


def options(model: str, **values: object) -> TranscribeOptions:
    believing = {"log_probability_limit": -100.0, "compression_ratio_limit": 100.0, "retries": 0, "device": "cpu"}
    return TranscribeOptions(model=model, **{**believing, **values})  # type: ignore[arg-type]


@pytest.fixture
def song(tmp_path: Path) -> SongRecord:
    """Seven seconds, of which two passages are voiced."""
    write_audio(tmp_path / "song.wav", voice(7.0), RATE)
    voiced = ((0.5, 3.0), (4.0, 6.5))
    return SongRecord("song", "song", "songs", 1, audio={"mix": "song.wav"}, duration=7.0, voiced=voiced)


def run(step: TranscribeStep, records: Sequence[SongRecord], folder: Path) -> list[StepOutput]:
    step.start()
    return step.run(records, WorkFolder(folder))


def test_a_song_gets_a_transcript_in_its_own_time(model: str, song: SongRecord, tmp_path: Path) -> None:
    [outcome] = run(TranscribeStep(options(model, chunk_seconds=3.0)), [song], tmp_path)
    heard = song.changed(outcome.changes)
    transcript = heard.transcripts["transcribe"]
    assert transcript.words
    assert transcript.text == joiner(transcript.language).join(word.text for word in transcript.words)
    assert max(word.start for word in transcript.words) >= 4.0
    assert all(any(start <= word.start <= end for start, end in song.voiced or ()) for word in transcript.words)
    assert transcript.language in ("en", "de", "ja", "zh")
    assert heard.measures["transcript_confidence"] == pytest.approx(transcript.confidence)
    assert heard.measures["transcript_doubted_seconds"] == 0
    assert 0.25 <= heard.measures["language_probability"] <= 1


def test_songs_of_a_batch_are_heard_as_alone(model: str, song: SongRecord, tmp_path: Path) -> None:
    write_audio(tmp_path / "other.wav", voice(4.0, 2), RATE)
    other = replace(song, id="other", audio={"mix": "song.wav", "vocal": "other.wav"}, voiced=None)
    step = TranscribeStep(options(model))
    together = run(step, [song, other], tmp_path)
    assert together == [run(step, [record], tmp_path)[0] for record in (song, other)]
    assert together[0] != together[1]


def test_the_vocal_track_is_heard_where_there_is_one(model: str, song: SongRecord) -> None:
    step = TranscribeStep(options(model))
    assert step.files(song) == ["song.wav"]
    assert step.files(replace(song, audio={"mix": "song.wav", "vocal": "vocal.wav"})) == ["vocal.wav"]


def test_instrumentals_and_transcribed_songs_are_not_heard(model: str, song: SongRecord) -> None:
    step = TranscribeStep(options(model))
    assert step.is_needed(song)
    assert step.is_needed(replace(song, voiced=None))
    assert not step.is_needed(replace(song, voiced=()))
    assert not step.is_needed(replace(song, transcripts={"transcribe": Transcript("", "en", None)}))


def test_doubted_chunks_are_counted(model: str, song: SongRecord, tmp_path: Path) -> None:
    [outcome] = run(TranscribeStep(options(model, log_probability_limit=-0.01)), [song], tmp_path)
    heard = song.changed(outcome.changes)
    assert heard.transcripts["transcribe"].words == ()
    assert heard.measures["transcript_doubted_seconds"] == pytest.approx(6.0)


def test_a_stated_language_is_taken_and_an_unknown_one_is_a_refusal(
    model: str, song: SongRecord, tmp_path: Path
) -> None:
    german, klingon = replace(song, language="de-at"), replace(song, language="tlh")
    taken, refused = run(TranscribeStep(options(model)), [german, klingon], tmp_path)
    assert taken.changes["transcripts"]["transcribe"]["language"] == "de"
    assert refused.refusal is not None
    assert refused.refusal.code == "language_not_recognizable" and refused.refusal.code in SECTION.refusal_codes
    assert "tlh" in refused.refusal.reason


def test_a_damaged_file_is_a_refusal(model: str, song: SongRecord, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_text("no audio")
    [outcome] = run(TranscribeStep(options(model)), [song], tmp_path)
    assert outcome.refusal is not None and outcome.refusal.code == "unreadable_audio"


def test_the_second_model_hears_the_same_language_and_leaves_the_first_alone(
    model: str, song: SongRecord, tmp_path: Path
) -> None:
    second = str(save_tiny_whisper(tmp_path / "second", seed=5))
    both = SECTION.make_steps(options(model, agreement_model=second))
    assert [step.name for step in both] == ["transcribe", "transcribe_second"]
    assert both[0].parameters() != both[1].parameters()
    heard = song
    for step in both:
        assert isinstance(step, TranscribeStep)
        step.start()
        [outcome] = step.run([heard], WorkFolder(tmp_path))
        heard = heard.changed(outcome.changes)
    first, other = heard.transcripts["transcribe"], heard.transcripts["transcribe_second"]
    assert first.language == other.language
    assert first.text != other.text
    assert heard.measures["transcript_confidence"] == pytest.approx(first.confidence)
    assert isinstance(both[1], TranscribeSecondStep)
    assert both[1].inputs(song)["language"] != both[1].inputs(heard)["language"]


def test_without_a_second_model_there_is_one_step(model: str) -> None:
    assert len(SECTION.make_steps(options(model))) == 1


def test_options_are_checked_all_at_once() -> None:
    with pytest.raises(ValueError, match=r"agreement_model.*chunk_seconds.*batch_size"):
        TranscribeOptions(model="a", agreement_model="a", chunk_seconds=60, batch_size=0)


def transcript(text: str) -> Transcript:
    words = tuple(Word(word, float(number), number + 0.5, 0.8) for number, word in enumerate(text.split()))
    return Transcript(text, "en", 0.8 if words else None, words)


def test_agreement_counts_words() -> None:
    heard = {
        "transcribe": transcript("hold on to the river"),
        "transcribe_second": transcript("Hold on the rivers, now"),
    }
    measures = agreement_measures(heard, "[chorus]\nhold on to\nthe midnight river", "en", 10.0)
    assert measures == {
        "words_per_second": 0.5,
        "transcript_confidence": 0.8,
        "transcript_edit_distance": 3.0,
        "transcript_edit_share": 3 / 5,
        "lyrics_coverage": 5 / 6,
    }


def test_an_empty_slice_shows_in_the_figures() -> None:
    heard = {"transcribe": transcript(""), "transcribe_second": transcript("")}
    measures = agreement_measures(heard, "never sung", "en", 4.0)
    assert measures["words_per_second"] == 0
    assert measures["lyrics_coverage"] == 0
    assert measures["transcript_edit_share"] == 0


def test_agreement_is_measured_where_somebody_listened(song: SongRecord, tmp_path: Path) -> None:
    step = AgreementStep(AgreementOptions())
    assert not step.is_needed(song)
    heard = replace(song, transcripts={"transcribe": transcript("one two")}, language="en")
    assert step.is_needed(heard)
    [outcome] = step.run([heard], WorkFolder(tmp_path))
    assert heard.changed(outcome.changes).measures["words_per_second"] == pytest.approx(2 / 7)


def test_attention_is_fused_again_after_the_second_pass(recognizer: Recognizer) -> None:
    recognizer.transcribe([voice(1.0)], ["en"], BELIEVE_ALL)
    assert recognizer._network.config._attn_implementation == "sdpa"
