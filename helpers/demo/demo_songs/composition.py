"""Composition of the demo songs: genre, tempo, key, chords, words, notes and caption.

All random choices come from one seeded generator, so that seed and number of songs determine the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOTE_NAMES = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_BREATH_SECONDS = 0.03
_MOST_TRIES = 20_000
"""Number of lines sampled from trained words before a held-out line may use others, as small corpora require."""
KEY_ROOTS = (0, 2, 4, 5, 7, 9)
"""Pitch classes of the roots of keys."""

WORDS_BY_KIND = {
    "adjective": (
        "silver", "golden", "lonely", "gentle", "burning", "morning", "hidden", "open", "distant", "velvet", "early",
        "wild",
    ),
    "noun": (
        "moon", "river", "fire", "heart", "star", "ocean", "road", "summer", "window", "dream", "mountain", "rain",
    ),
    "verb": ("shines", "calls", "sings", "runs", "falls", "dances", "sleeps", "turns", "waits", "glows"),
    "adverb": ("slowly", "again", "softly", "alone", "tonight", "always"),
    "preposition": ("over", "under", "near", "along", "into", "beyond", "across", "below"),
}  # fmt: skip
VOCABULARY = tuple(sorted(word for words in WORDS_BY_KIND.values() for word in words))

LINE_PATTERNS = {
    5: ("noun", "verb", "preposition", "adjective", "noun"),
    6: ("adjective", "noun", "verb", "preposition", "adjective", "noun"),
    7: ("adjective", "noun", "verb", "adverb", "preposition", "adjective", "noun"),
}
"""Number of words in a line -> kinds of the words."""

CAPTION_TEMPLATES = (
    "A {mood} {genre} song at {tempo} bpm in {key} with {instruments}, sung by a {voice}.",
    "{genre_title}, {mood}, {voice}, {instruments}, {key}, {tempo} bpm.",
    "A {voice} sings over {instruments}; {mood} {genre} in {key}, {tempo} bpm.",
)


@dataclass(frozen=True)
class Voice:
    """A singer."""

    name: str
    """Words for the caption."""
    speech_name: str
    """espeak-ng voice and variant."""
    speech_pitch: int
    """Pitch setting of espeak-ng (0-100), close to the notes to sing, so that the pitch changes little."""
    speech_frequency: float
    """Fundamental frequency of this pitch setting in Hz."""
    lowest_note: int
    """MIDI number of the lowest note."""
    highest_note: int
    """MIDI number of the highest note."""


VOICES = (
    Voice("warm female voice", "en-us+f2", 96, 290.0, 55, 69),
    Voice("deep male voice", "en-us+m7", 95, 147.0, 43, 57),
    Voice("bright female voice", "en-us+f5", 99, 329.0, 57, 71),
    Voice("clear male voice", "en-us+m3", 99, 160.0, 47, 61),
)

NEW_SINGER = Voice("husky female voice", "en-us+f4", 90, 259.0, 53, 67)
"""Singer of songs for fine-tuning; no song of the demo's corpus has this voice."""


@dataclass(frozen=True)
class Genre:
    """Properties of a genre's songs, except for the sound (see ``accompaniment.STYLES``)."""

    name: str
    tempos: tuple[int, int]
    """Slowest and fastest tempo in beats per minute."""
    num_beats: int
    """Number of beats of a song."""
    chord_beats: int
    """Number of beats of a chord."""
    mode: str
    """Name of the scale in ``SCALES``."""
    progressions: tuple[tuple[int, ...], ...]
    """Sequences of chord roots, as degrees of the scale."""
    rhythms: tuple[tuple[int, ...], ...]
    """Sequences of note lengths in beats; the rest of ``num_beats`` is silent."""
    instruments: str
    """Words for the caption."""
    moods: tuple[str, ...]
    """Words for the caption."""


GENRES = (
    Genre(
        name="pop", tempos=(110, 122), num_beats=8, chord_beats=2, mode="major",
        progressions=((0, 4, 5, 3), (0, 5, 3, 4), (3, 0, 4, 5)),
        rhythms=((1, 1, 1, 1, 1, 2), (2, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1)),
        instruments="electric piano, bass and drums", moods=("happy", "sunny", "hopeful"),
    ),
    Genre(
        name="rock", tempos=(126, 144), num_beats=8, chord_beats=2, mode="minor",
        progressions=((0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 5, 4)),
        rhythms=((1, 1, 1, 1, 1, 2), (1, 1, 2, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1)),
        instruments="distorted guitar, bass guitar and loud drums", moods=("angry", "driving", "restless"),
    ),
    Genre(
        name="folk waltz", tempos=(84, 100), num_beats=6, chord_beats=3, mode="major",
        progressions=((0, 3), (0, 4), (5, 3), (3, 4)),
        rhythms=((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        instruments="plucked guitar and soft bass", moods=("calm", "tender", "dreamy"),
    ),
    Genre(
        name="electronic", tempos=(118, 130), num_beats=8, chord_beats=4, mode="minor",
        progressions=((0, 5), (0, 3), (5, 6), (0, 6)),
        rhythms=((2, 1, 1, 1, 1, 1), (1, 1, 1, 1, 2, 1), (1, 1, 1, 1, 1, 2)),
        instruments="synthesizer, sub bass and a drum machine", moods=("cold", "hypnotic", "nocturnal"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class SungWord:
    """A word of a song and its note."""

    word: str
    start: float
    """Start in seconds."""
    end: float
    """End in seconds."""
    note: int
    """MIDI number of the note."""

    @property
    def frequency(self) -> float:
        """Fundamental frequency of the note in Hz."""
        return note_frequency(self.note)


@dataclass(frozen=True)
class Song:
    """Score of a song."""

    name: str
    split: str
    """``train`` or ``eval``."""
    genre: Genre
    voice: Voice
    tempo: int
    """Tempo in beats per minute."""
    key_root: int
    """Pitch class of the key's root; 0 is C."""
    chords: tuple[tuple[int, int, int], ...]
    """Triads as semitones above the key's root, of ``genre.chord_beats`` beats each."""
    words: tuple[SungWord, ...]
    caption: str

    @property
    def key(self) -> str:
        """Name of the key, for example ``C major``."""
        return f"{NOTE_NAMES[self.key_root]} {self.genre.mode}"

    @property
    def lyrics(self) -> str:
        """All words in order."""
        return " ".join(word.word for word in self.words)

    @property
    def seconds_per_beat(self) -> float:
        """Length of a beat in seconds."""
        return 60.0 / self.tempo

    @property
    def duration(self) -> float:
        """Length of the song in seconds."""
        return self.genre.num_beats * self.seconds_per_beat


def note_frequency(note: int) -> float:
    """Return the frequency in Hz of a MIDI note number (A4 is 69 and has 440 Hz)."""
    return 440.0 * float(2.0 ** ((note - 69) / 12))


def compose_corpus(
    num_songs: int, seed: int, voices: Sequence[Voice] = VOICES, num_held_out: int | None = None
) -> list[Song]:
    """Compose a corpus: training songs first, then held-out songs.

    All captions and lyrics are different. A held-out line has only words of training songs (unless these are very
    few), and no two adjacent words of it are adjacent in a training line.

    Args:
        num_songs: Number of songs.
        seed: Seed of all choices.
        voices: Singers of the corpus.
        num_held_out: Number of held-out songs among them; None: about one in nine.

    Raises:
        ValueError: if ``num_songs`` is not 3 to 120, the range with enough different lines, or no song is left to train
            on.
    """
    if not 3 <= num_songs <= 120:
        raise ValueError(f"num_songs is {num_songs}; choose 3 to 120 songs")
    if num_held_out is not None and not 1 <= num_held_out < num_songs:
        raise ValueError(f"num_held_out is {num_held_out}; choose 1 to {num_songs - 1} of {num_songs} songs")
    generator = np.random.default_rng(seed)
    if num_held_out is None:
        num_held_out = max(1, num_songs // 9)
    num_training = num_songs - num_held_out
    rhythms = [_sample_rhythm(GENRES[index % len(GENRES)], generator) for index in range(num_songs)]
    lines = _sample_lines([len(rhythm) for rhythm in rhythms], num_training, generator)
    captions: set[str] = set()
    songs = []
    for index, (rhythm, line) in enumerate(zip(rhythms, lines, strict=True)):
        split = "train" if index < num_training else "eval"
        song = _compose_song(index, split, rhythm, line, voices, generator)
        while song.caption in captions:
            song = _compose_song(index, split, rhythm, line, voices, generator)
        captions.add(song.caption)
        songs.append(song)
    return songs


def neighbours(line: Sequence[str]) -> set[tuple[str, str]]:
    """Return the pairs of adjacent words in a line."""
    return set(zip(line, line[1:], strict=False))


def _sample_rhythm(genre: Genre, generator: np.random.Generator) -> tuple[int, ...]:
    return genre.rhythms[generator.integers(len(genre.rhythms))]


def _sample_lines(lengths: Sequence[int], num_training: int, generator: np.random.Generator) -> list[tuple[str, ...]]:
    """Sample one line per song; lines after the first ``num_training`` have trained words in new orders."""
    lines: list[tuple[str, ...]] = []
    for length in lengths[:num_training]:
        line = _sample_line(length, None, generator)
        while line in lines:
            line = _sample_line(length, None, generator)
        lines.append(line)
    trained_words = {word for line in lines for word in line}
    trained_neighbours = {pair for line in lines for pair in neighbours(line)}
    for length in lengths[num_training:]:
        tries = 0
        line = _sample_line(length, trained_words, generator)
        while line in lines or neighbours(line) & trained_neighbours:
            tries += 1
            line = _sample_line(length, trained_words if tries < _MOST_TRIES else None, generator)
        lines.append(line)
    return lines


def _sample_line(length: int, allowed: set[str] | None, generator: np.random.Generator) -> tuple[str, ...]:
    """Sample a line without repeated words; for a kind without allowed words, any allowed word is used."""
    words: list[str] = []
    for kind in LINE_PATTERNS[length]:
        choices = [word for word in WORDS_BY_KIND[kind] if word not in words and (allowed is None or word in allowed)]
        if not choices:
            choices = sorted((allowed or set(VOCABULARY)) - set(words))
        words.append(choices[generator.integers(len(choices))])
    return tuple(words)


def _compose_song(
    index: int,
    split: str,
    rhythm: tuple[int, ...],
    line: tuple[str, ...],
    voices: Sequence[Voice],
    generator: np.random.Generator,
) -> Song:
    """Sample voice, tempo, key, chords, melody and caption for a line."""
    genre = GENRES[index % len(GENRES)]
    # Every genre gets every voice: voices are shifted by one after each round of genres.
    voice = voices[(index + index // len(GENRES)) % len(voices)]
    tempo = int(generator.integers(genre.tempos[0], genre.tempos[1] + 1))
    key_root = int(generator.choice(KEY_ROOTS))
    progression = genre.progressions[generator.integers(len(genre.progressions))]
    chords = tuple(_triad(degree, genre.mode) for degree in progression)
    return Song(
        name=f"{genre.name.replace(' ', '_')}_{index:03d}",
        split=split,
        genre=genre,
        voice=voice,
        tempo=tempo,
        key_root=key_root,
        chords=chords,
        words=_sample_melody(genre, voice, tempo, key_root, chords, rhythm, line, generator),
        caption=_write_caption(genre, voice, tempo, key_root, generator),
    )


def _write_caption(genre: Genre, voice: Voice, tempo: int, key_root: int, generator: np.random.Generator) -> str:
    template = CAPTION_TEMPLATES[generator.integers(len(CAPTION_TEMPLATES))]
    mood = genre.moods[generator.integers(len(genre.moods))]
    caption = template.format(
        mood=mood, genre=genre.name, genre_title=genre.name.capitalize(), tempo=tempo,
        key=f"{NOTE_NAMES[key_root]} {genre.mode}", instruments=genre.instruments, voice=voice.name,
    )  # fmt: skip
    # Moods such as "angry" begin with a vowel.
    return caption.replace("A angry", "An angry")


def _triad(degree: int, mode: str) -> tuple[int, int, int]:
    """Return the triad on a degree of the scale, as semitones above the key's root."""
    scale = SCALES[mode]
    root, third, fifth = (scale[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4))
    return root, third, fifth


def _sample_melody(
    genre: Genre,
    voice: Voice,
    tempo: int,
    key_root: int,
    chords: Sequence[tuple[int, int, int]],
    rhythm: Sequence[int],
    line: Sequence[str],
    generator: np.random.Generator,
) -> tuple[SungWord, ...]:
    """Sample notes of the key's scale in the voice's range; a note at the start of a chord belongs to the chord."""
    in_range = range(voice.lowest_note, voice.highest_note + 1)
    scale_notes = [note for note in in_range if (note - key_root) % 12 in SCALES[genre.mode]]
    seconds_per_beat = 60.0 / tempo
    note = (voice.lowest_note + voice.highest_note) // 2
    beat = 0
    words = []
    for word, length in zip(line, rhythm, strict=True):
        chord = chords[beat // genre.chord_beats % len(chords)]
        starts_chord = beat % genre.chord_beats == 0
        chord_classes = {interval % 12 for interval in chord}
        candidates = [
            candidate
            for candidate in scale_notes
            if abs(candidate - note) <= 5 and (not starts_chord or (candidate - key_root) % 12 in chord_classes)
        ]
        note = int(generator.choice(candidates))
        # A breath before the next word.
        end = (beat + length) * seconds_per_beat - _BREATH_SECONDS
        words.append(SungWord(word, round(beat * seconds_per_beat, 6), round(end, 6), note))
        beat += length
    return tuple(words)
