"""Every reason for which a row is left out, by the code that `rejected.jsonl` and the reports count by.

``python -m songgen.data.reject_codes`` prints the table of docs/guide.md; a test compares the two.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RejectCode:
    """What a code says."""

    meaning: str
    """One line for people."""

    is_limit: bool = False
    """Whether a limit of the configuration left the row out, so that nothing is wrong with it."""


REJECT_CODES = {
    "missing_track": RejectCode("the row lacks a track that every song must have"),
    "file_missing": RejectCode("there is no such audio file"),
    "path_outside_roots": RejectCode("the path leads out of the allowed folders, `..` and links followed"),
    "path_url": RejectCode("the path is a URL (`http://`, `zip://a::b`); only files are read"),
    "path_invalid": RejectCode("the path is empty, too long, or holds characters that no path has"),
    "not_a_file": RejectCode("the path leads to a folder, a pipe or a device"),
    "file_too_large": RejectCode("the audio file has more than 1 GiB"),
    "unsupported_format": RejectCode("an audio file of a format that is not read, such as .m4a"),
    "ambiguous_audio": RejectCode("several audio files of one name lie beside each other"),
    "unreadable_audio": RejectCode("the file is no audio, or decoding it fails"),
    "bad_sample_rate": RejectCode("the header states a sample rate below 4 kHz or above 384 kHz"),
    "too_many_channels": RejectCode("the header states more than 8 channels"),
    "truncated_audio": RejectCode("the file ends before the length that it declares"),
    "audio_timeout": RejectCode("reading the song took longer than `audio_timeout_seconds`"),
    "audio_crash": RejectCode("the decoder crashed, or asked for more memory than `audio_memory_gib`"),
    "empty": RejectCode("the file has no samples"),
    "not_finite": RejectCode("samples are NaN or infinite"),
    "silent": RejectCode("a required track other than the vocal is silent"),
    "track_lengths_differ": RejectCode("the song's tracks differ in length by more than 0.1 s"),
    "missing_caption": RejectCode("there is no caption"),
    "unreadable_text": RejectCode("a text file beside the audio cannot be read, or lies outside the allowed folders"),
    "bad_text": RejectCode("caption or lyrics hold NUL or half a surrogate pair"),
    "unknown_language": RejectCode("the language is none that the lyrics tokenizer knows"),
    "encoding_failed": RejectCode("the codec fails on this song alone"),
    "too_short": RejectCode("shorter than `min_duration_in_seconds`", is_limit=True),
    "too_long": RejectCode("longer than `max_duration_in_seconds`", is_limit=True),
    "caption_too_long": RejectCode("the caption has more than `max_text_length` characters", is_limit=True),
    "lyrics_too_long": RejectCode("the lyrics have more than `max_text_length` characters", is_limit=True),
    "caption_too_many_tokens": RejectCode("more than `max_description_token_length` tokens", is_limit=True),
    "lyrics_too_many_tokens": RejectCode("more than `max_prompt_token_length` tokens", is_limit=True),
}
"""Code -> what it says."""


def reject_code_table() -> str:
    """Return the codes as a table in Markdown."""
    lines = ["| code | the row is left out because | counts as |", "|---|---|---|"]
    lines += [
        f"| `{code}` | {content.meaning} | {'limit' if content.is_limit else 'damaged'} |"
        for code, content in REJECT_CODES.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reject_code_table(), end="")
