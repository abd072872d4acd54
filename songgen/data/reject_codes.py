"""Reasons for rejecting a row, by the codes in `rejected.jsonl` and in the reports.

``python -m songgen.data.reject_codes`` prints the table in docs/guide.md, which a test compares.
docs/zh/guide.md has the same codes with translated meanings.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RejectCode:
    """Meaning of a rejection code."""

    meaning: str
    """Explanation in one line."""

    is_limit: bool = False
    """Whether a configured limit excludes the row, so that the row itself is not damaged."""


REJECT_CODES = {
    "missing_track": RejectCode("the row lacks a required track"),
    "file_missing": RejectCode("there is no such audio file"),
    "path_outside_roots": RejectCode("the path is outside the allowed folders after `..` and links are resolved"),
    "path_url": RejectCode("the path is a URL (`http://`, `zip://a::b`); only files are read"),
    "path_invalid": RejectCode("the path is empty, too long, or contains characters that are not allowed in paths"),
    "not_a_file": RejectCode("the path is a folder, a pipe or a device"),
    "file_too_large": RejectCode("the audio file is larger than 1 GiB"),
    "unsupported_format": RejectCode("the audio format is not supported, such as .m4a"),
    "ambiguous_audio": RejectCode("a folder has several audio files of this name"),
    "unreadable_audio": RejectCode("the file is not audio, or decoding it fails"),
    "bad_sample_rate": RejectCode("the header states a sample rate below 4 kHz or above 384 kHz"),
    "too_many_channels": RejectCode("the header states more than 8 channels"),
    "changed_audio": RejectCode("the SHA-256 of the file is not the one that its row states"),
    "truncated_audio": RejectCode("the file ends before the length that it declares"),
    "length_differs": RejectCode("much follows the sound whose length the header declares, which may be more sound"),
    "changing_format": RejectCode("the sample rate or the number of channels changes within the file"),
    "out_of_scale": RejectCode("float samples reach more than 4 times full scale, as if they were integers"),
    "audio_timeout": RejectCode("reading the song takes longer than `audio_timeout_seconds`"),
    "audio_crash": RejectCode("the decoder crashes, or needs more memory than `audio_memory_gib`"),
    "empty": RejectCode("the file has no samples"),
    "not_finite": RejectCode("samples are NaN or infinite"),
    "silent": RejectCode("a required track other than the vocal is silent"),
    "cancelling_channels": RejectCode("the average of the channels is silent, although the channels are not"),
    "track_lengths_differ": RejectCode("the song's tracks differ in length by more than 0.1 s"),
    "missing_caption": RejectCode("there is no caption"),
    "unreadable_text": RejectCode("a text file of the song cannot be read, or is outside the allowed folders"),
    "bad_text": RejectCode("caption or lyrics contain NUL or half a surrogate pair"),
    "unknown_language": RejectCode("the lyrics tokenizer does not support the language"),
    "encoding_failed": RejectCode("the codec fails on this song"),
    "too_short": RejectCode("shorter than `min_duration_in_seconds`", is_limit=True),
    "too_long": RejectCode("longer than `max_duration_in_seconds`", is_limit=True),
    "caption_too_long": RejectCode("the caption has more than `max_text_length` characters", is_limit=True),
    "lyrics_too_long": RejectCode("the lyrics have more than `max_text_length` characters", is_limit=True),
    "caption_too_many_tokens": RejectCode("more than `max_description_token_length` tokens", is_limit=True),
    "lyrics_too_many_tokens": RejectCode("more than `max_prompt_token_length` tokens", is_limit=True),
}
"""Code -> meaning."""


def reject_code_table() -> str:
    """Return the codes as a Markdown table."""
    lines = ["| code | the row is left out because | counts as |", "|---|---|---|"]
    lines += [
        f"| `{code}` | {content.meaning} | {'limit' if content.is_limit else 'damaged'} |"
        for code, content in REJECT_CODES.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reject_code_table(), end="")
