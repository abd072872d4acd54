"""What the published tokenizer makes of lyric lines, row by row."""

import json
from pathlib import Path

import pytest

from songgen.lyrics import normalize_lyrics

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "lyrics_normalization.jsonl").read_text(encoding="utf-8").splitlines()
]

SUNG_OTHERWISE = {"1999 was a £5 summer": "nineteen ninety-nine was a five pounds sterling summer"}
"""The one deviation: a year is sung as a year."""


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['language']}-{row['text'][:20]}" for row in ROWS])
def test_row(row: dict[str, str]) -> None:
    if row["language"] == "zh":
        pytest.importorskip("pypinyin")
    expected = SUNG_OTHERWISE.get(row["text"], row["normalized"])
    assert normalize_lyrics(row["text"], row["language"]) == expected


def test_the_file_is_complete_and_the_deviation_is_in_it() -> None:
    assert len(ROWS) == 23
    assert [row["text"] for row in ROWS if row["text"] in SUNG_OTHERWISE] == list(SUNG_OTHERWISE)
