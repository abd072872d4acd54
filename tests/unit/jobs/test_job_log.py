"""Logs of jobs: what a reader gets of them, whatever a command has printed."""

import os
from pathlib import Path

import pytest

from songgen.jobs import log
from songgen.jobs.log import LogPart, read_added, read_log
from songgen.jobs.record import LOG_FILE


def write(folder: Path, content: str | bytes) -> None:
    with (folder / LOG_FILE).open("ab") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def test_the_last_lines_and_then_what_is_added(tmp_path: Path) -> None:
    assert read_log(tmp_path, max_lines=5) == LogPart("", 0)
    write(tmp_path, "one\ntwo\nthree\n")
    part = read_log(tmp_path, max_lines=2)
    assert part == LogPart("two\nthree\n", 14)
    assert read_added(tmp_path, part.offset) == LogPart("", 14)
    write(tmp_path, "four\nfive\nsi")
    part = read_added(tmp_path, part.offset)
    assert part == LogPart("four\nfive\n", 24, "si")
    write(tmp_path, "x\n")
    assert read_added(tmp_path, part.offset).text == "six\n"
    assert read_log(tmp_path, max_lines=0).text == ""


def test_a_progress_bar_is_its_last_state(tmp_path: Path) -> None:
    write(tmp_path, "\r 10%\r 20%\r 30%")
    part = read_log(tmp_path, max_lines=9)
    assert part == LogPart("", 0, " 30%")
    write(tmp_path, "\r100%\nthen\r\n")
    assert read_added(tmp_path, part.offset).text == "100%\nthen\n"


def test_control_characters_and_sequences_are_removed(tmp_path: Path) -> None:
    write(tmp_path, "\x1b[31mred\x1b[0m\x07 \x1b]0;title\x07a\tb\x00\x9b\n\x1b]8;;never ended\nkept\n")
    assert read_log(tmp_path, max_lines=9).text == "red a\tb\n\nkept\n"


def test_text_that_is_not_utf8_is_shown(tmp_path: Path) -> None:
    write(tmp_path, b"caf\xe9 \xff\nrest \xc3")
    part = read_log(tmp_path, max_lines=9)
    assert part.text == "caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}\n"
    write(tmp_path, b"\xa9\n")  # the other half of a character
    assert read_added(tmp_path, part.offset).text == "rest \u00e9\n"


def test_no_more_is_read_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_READ_BYTES", 20)
    write(tmp_path, "".join(f"line {number}\n" for number in range(100)))
    part = read_log(tmp_path, max_lines=99)
    assert part.text == "line 98\nline 99\n" and part.offset == (tmp_path / LOG_FILE).stat().st_size


def added_in_pieces(folder: Path, offset: int) -> tuple[str, LogPart]:
    """All that was added, and the last part."""
    texts = []
    while (part := read_added(folder, offset)).offset != offset:
        texts.append(part.text)
        offset = part.offset
    return "".join(texts), part


def test_all_that_was_added_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_READ_BYTES", 20)
    lines = "".join(f"line {number}\n" for number in range(100))
    write(tmp_path, lines + "rest")
    assert added_in_pieces(tmp_path, 0) == (lines, LogPart("", len(lines), "rest"))


def test_a_line_that_is_longer_than_a_piece_does_not_stop_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_READ_BYTES", 20)
    write(tmp_path, "#" * 50 + "\n")
    assert added_in_pieces(tmp_path, 0)[0].replace("\n", "") == "#" * 50
    offset = (tmp_path / LOG_FILE).stat().st_size
    write(tmp_path, "".join(f"\r{number:3}%" for number in range(50)))
    text, part = added_in_pieces(tmp_path, offset)
    assert (text, part.unfinished) == ("", " 49%")
    write(tmp_path, "\nnext\n")
    assert added_in_pieces(tmp_path, part.offset)[0] == " 49%\nnext\n"


def test_a_log_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    write(tmp_path, "new\n")
    for offset in (-1, 1 << 40):
        assert read_added(tmp_path, offset) == LogPart("new\n", 4)


def test_neither_links_nor_pipes_are_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / LOG_FILE).symlink_to(tmp_path / "secret")
    assert read_log(tmp_path, max_lines=9) == LogPart("", 0)
    (tmp_path / LOG_FILE).unlink()
    os.mkfifo(tmp_path / LOG_FILE)
    assert read_log(tmp_path, max_lines=9) == LogPart("", 0)
