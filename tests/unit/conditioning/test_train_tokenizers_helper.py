import json
from pathlib import Path

import pytest

from helpers.train_tokenizers import main
from songgen.conditioning import load_caption_tokenizer
from songgen.lyrics import VoiceBpeTokenizer

ROWS = [
    {"fname": "a", "caption": "A soft pop song", "lyrics": "[Verse]\nHello world", "language": "english"},
    {"fname": "b", "caption": "Loud rock with drums", "lyrics": None, "language": "german"},
    {"fname": "c", "caption": "Calm folk", "lyrics": "Hallo Welt"},
]


def run(tmp_path: Path, *rows: object) -> None:
    manifest = tmp_path / "metadata.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8-sig")
    sizes = ["--lyrics_vocab_size", "320", "--caption_vocab_size", "320"]
    main(["--manifest", str(manifest), "--out", str(tmp_path / "out"), *sizes])


def test_both_tokenizers_are_written(tmp_path: Path) -> None:
    run(tmp_path, *ROWS)
    assert VoiceBpeTokenizer.from_pretrained(tmp_path / "out").unknown_pieces("hello welt", "en") == []
    assert load_caption_tokenizer(tmp_path / "out" / "caption_tokenizer")("soft").input_ids[-1] == 1


def test_all_bad_lines_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, ROWS[0], [1], {"caption": 3}, {"language": "klingon", "lyrics": "qapla"})
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert (
        "line 2: a row must be an object" in message
        and "line 3: caption" in message
        and "line 4: unknown lang" in message
    )


def test_what_preprocessing_takes_as_a_row_is_one_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tags as a list, and characters that Python alone takes for ends of lines (U+2028, U+0085)."""
    rows = [{**ROWS[0], "caption": ["pop", " soft "]}, {**ROWS[1], "lyrics": "hello\u2028wide\u0085world"}, ROWS[2]]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    sizes = ["--lyrics_vocab_size", "320", "--caption_vocab_size", "320"]
    main(["--manifest", str(tmp_path / "metadata.jsonl"), "--out", str(tmp_path / "out"), *sizes])
    assert capsys.readouterr().out.startswith("3 rows:")
    captions = load_caption_tokenizer(tmp_path / "out" / "caption_tokenizer")
    assert captions.decode(captions("pop, soft").input_ids, skip_special_tokens=True) == "pop, soft"
