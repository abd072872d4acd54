"""The scores of the demo songs, before any sound is made."""

import pytest
from demo_songs.composition import SCALES, compose_corpus, neighbours


def test_same_seed_gives_the_same_corpus_and_another_seed_another() -> None:
    assert compose_corpus(54, 0) == compose_corpus(54, 0)
    assert compose_corpus(54, 0) != compose_corpus(54, 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_lines_have_known_words_in_orders_training_never_saw(seed: int) -> None:
    songs = compose_corpus(54, seed)
    trained = [song.lyrics.split() for song in songs if song.split == "train"]
    trained_words = {word for line in trained for word in line}
    trained_neighbours = {pair for line in trained for pair in neighbours(line)}
    held_out = [song.lyrics.split() for song in songs if song.split == "eval"]
    assert len(trained) == 48 and len(held_out) == 6
    for line in held_out:
        assert set(line) <= trained_words
        assert not neighbours(line) & trained_neighbours


@pytest.mark.parametrize("num_songs", [3, 54, 120])
def test_songs_can_be_told_apart_by_caption_and_by_lyrics(num_songs: int) -> None:
    songs = compose_corpus(num_songs, 3)
    assert len({song.caption for song in songs}) == len(songs)
    assert len({song.lyrics for song in songs}) == len(songs)


def test_corpus_covers_genres_voices_and_their_combinations_in_training() -> None:
    songs = compose_corpus(54, 0)
    combinations = {(song.genre.name, song.voice.name) for song in songs if song.split == "train"}
    assert len({genre for genre, _ in combinations}) == 4
    assert len({voice for _, voice in combinations}) == 4
    assert {(song.genre.name, song.voice.name) for song in songs} == combinations


def test_caption_says_what_is_heard() -> None:
    for song in compose_corpus(54, 0):
        text = song.caption.lower()
        for part in (song.genre.name, f"{song.tempo} bpm", song.key.lower(), song.voice.name, song.genre.instruments):
            assert part.lower() in text


def test_songs_last_three_to_four_and_a_half_seconds_and_words_follow_each_other() -> None:
    for song in compose_corpus(54, 0):
        assert 3.0 <= song.duration <= 4.5
        edges = [edge for word in song.words for edge in (word.start, word.end)]
        assert edges == sorted(edges) and edges[-1] <= song.duration


def test_notes_belong_to_the_key_and_chord_starts_to_the_chord() -> None:
    for song in compose_corpus(54, 0):
        for word in song.words:
            assert song.voice.lowest_note <= word.note <= song.voice.highest_note
            interval = (word.note - song.key_root) % 12
            assert interval in SCALES[song.genre.mode]
            beat = round(word.start / song.seconds_per_beat)
            if beat % song.genre.chord_beats == 0:
                chord = song.chords[beat // song.genre.chord_beats % len(song.chords)]
                assert interval in {note % 12 for note in chord}


@pytest.mark.parametrize("seed", range(40))
def test_a_handful_of_songs_ends_in_time_with_an_untrained_order(seed: int) -> None:
    songs = compose_corpus(3, seed)
    trained = {pair for song in songs[:2] for pair in neighbours(song.lyrics.split())}
    assert not trained & neighbours(songs[2].lyrics.split())


@pytest.mark.parametrize("num_songs", [0, 2, 121])
def test_an_impossible_number_of_songs_is_refused_by_name(num_songs: int) -> None:
    with pytest.raises(ValueError, match=f"num_songs is {num_songs}"):
        compose_corpus(num_songs, 0)
