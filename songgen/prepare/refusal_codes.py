"""Why a song or a clip is left out, by the code that reports count by.

Codes of damaged files are those of `songgen.data.reject_codes`.
"""

CODES = {
    "language_not_recognizable": "the stated language is none that the recognizer knows",
    "lyrics_without_times": "the song is longer than a clip, and it is not known when its lyrics are sung",
    "no_clip_instrumental": "nobody sings for most of the song, and instrumental passages are left out",
    "no_clip_line_too_long": "no clip can be cut: lines are longer than the longest clip",
    "no_clip_voice_without_lyrics": "no clip can be cut: somebody sings where no line of the lyrics stands",
}
"""Code -> explanation in a line, in alphabetical order."""
