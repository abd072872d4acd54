"""Why a song or a clip is left out, by the code that reports count by.

Codes of damaged files are those of `songgen.data.reject_codes`.
"""

CODES = {
    "accompaniment_too_quiet": "the accompaniment has less energy than `filter.min_acc_energy`",
    "caption_does_not_fit": "caption and sound agree less than `filter.min_clap_score`",
    "caption_too_long": "the caption is longer than `filter.max_caption_length`",
    "clipped": "more samples are at full scale than `filter.max_clipped_share`",
    "duplicate": "it sounds like another clip, which is kept",
    "empty_slice": "there are lyrics, but no word was heard and nobody sings",
    "instrumental": "nobody sings, and `filter.keep_instrumentals` is off",
    "language_not_recognizable": "the stated language is none that the recognizer knows",
    "lyrics_not_heard": "less of the lyrics was heard than `filter.min_lyrics_coverage`",
    "lyrics_too_long": "lyrics are longer than `filter.max_lyrics_length` (of a song: `take_in.max_lyrics_length`)",
    "lyrics_without_times": "the song is longer than a clip, and it is not known when its lyrics are sung",
    "mostly_silent": "more of the clip is silent than `filter.max_silent_share`",
    "no_clip_instrumental": "nobody sings for most of the song, and instrumental passages are left out",
    "no_clip_line_too_long": "no clip can be cut: lines are longer than the longest clip",
    "no_clip_voice_without_lyrics": "no clip can be cut: somebody sings where no line of the lyrics stands",
    "no_valid_description": "no answer of the audio language model kept to the schema, and such clips are left out",
    "not_measured": "a limit's figure was not measured, and `filter.not_measured` is `refuse`",
    "other_language": "the language is none of `filter.languages`",
    "refused_in_review": "a person has left it out",
    "too_long": "the song is longer than `take_in.max_seconds`, or the clip than `filter.max_seconds`",
    "too_loud": "the clip is louder than `filter.max_loudness`",
    "too_quiet": "the clip is quieter than `filter.min_loudness`",
    "too_short": "the song or the clip is shorter than `min_seconds` of `take_in`, `segment` or `filter`",
    "transcript_unsure": "the words were heard with less certainty than `filter.min_transcript_confidence`",
    "transcripts_differ": "two recognizers heard different words",
    "vocal_too_quiet": "the vocal has less energy than `filter.min_vocal_energy`",
    "words_too_dense": "more words a second than `filter.max_words_per_second`",
}
"""Code -> explanation in a line, in alphabetical order."""
