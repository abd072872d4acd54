"""Why a song or a clip is left out, by the code that reports count by.

Codes of damaged files are those of `songgen.data.reject_codes`.
"""

CODES = {
    "language_not_recognizable": "the stated language is none that the recognizer knows",
}
"""Code -> explanation in a line, in alphabetical order."""
