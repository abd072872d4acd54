"""Splits: whole songs, drawn the same in every run."""

import dataclasses

import pytest

from songgen.prepare.engine.record import SongRecord
from songgen.prepare.steps.splits import SplitOptions, assign_splits


def clips(num_songs: int, clips_of_each: int = 3, lyrics: str = "some words here") -> list[SongRecord]:
    return [
        SongRecord(id=f"s{song}_{clip}", song=f"s{song}", file="f", line=song + 1, lyrics=lyrics)
        for song in range(num_songs)
        for clip in range(clips_of_each)
    ]


def split(records: list[SongRecord], options: SplitOptions) -> list[SongRecord]:
    chosen = assign_splits(records, options)
    return [dataclasses.replace(record, split=name) for record, name in zip(records, chosen, strict=True)]


def held_out(records: list[SongRecord]) -> set[str]:
    return {record.song for record in records if record.split == "eval"}


def trained_on(records: list[SongRecord]) -> set[str]:
    return {record.song for record in records if record.split == "train"}


@pytest.mark.parametrize(("options", "count"), [(SplitOptions(eval_share=0.1), 2), (SplitOptions(eval_songs=5), 5)])
def test_as_many_songs_as_wanted_are_held_out_whole(options: SplitOptions, count: int) -> None:
    records = split(clips(20), options)
    assert len(held_out(records)) == count and not held_out(records) & trained_on(records)
    assert {record.split for record in records} == {"train", "eval"}


def test_the_draw_depends_on_seed_and_song_alone() -> None:
    few, many = split(clips(20), SplitOptions(eval_songs=4)), split(clips(20)[::-1], SplitOptions(eval_songs=4))
    assert held_out(few) == held_out(many)
    assert held_out(split(clips(20), SplitOptions(eval_songs=4, seed=1))) != held_out(few)
    grown = held_out(split(clips(40), SplitOptions(eval_songs=40 - 1)))
    assert held_out(few) <= grown


def test_an_explicit_split_stays_and_counts() -> None:
    records = [dataclasses.replace(record, split="eval" if record.song == "s3" else "") for record in clips(10)]
    assert held_out(split(records, SplitOptions(eval_songs=1))) == {"s3"}
    kept = [dataclasses.replace(record, split="train" if record.song == "s3" else "") for record in clips(10)]
    assert "s3" not in held_out(split(kept, SplitOptions(eval_songs=9)))


def test_songs_with_short_texts_alone_are_held_out_and_instrumentals_are_not() -> None:
    records = clips(4) + [
        SongRecord(id="short", song="short", file="f", line=9, lyrics="la"),
        SongRecord(id="silent", song="silent", file="f", line=10),
        SongRecord(id="mixed_0", song="mixed", file="f", line=11, lyrics="la"),
        SongRecord(id="mixed_1", song="mixed", file="f", line=11, lyrics="quite long enough"),
    ]
    assert held_out(split(records, SplitOptions(min_train_text_length=10))) == {"short"}


def test_songs_of_a_group_stay_together_and_follow_the_one_whose_split_is_given() -> None:
    records = [dataclasses.replace(record, group="s0" if record.song in ("s0", "s7") else "") for record in clips(12)]
    seen = set()
    for seed in range(12):
        out = held_out(split(records, SplitOptions(eval_songs=3, seed=seed)))
        assert ("s0" in out) == ("s7" in out) and len(out) in (3, 4)
        seen.add("s0" in out)
    assert seen == {True, False}
    given = [dataclasses.replace(record, split="eval" if record.song == "s7" else "") for record in records]
    assert held_out(split(given, SplitOptions())) == {"s0", "s7"}
    both = [dataclasses.replace(record, split="train" if record.song == "s0" else record.split) for record in given]
    assert held_out(split(both, SplitOptions())) == {"s7"}


def test_something_is_left_to_train_on() -> None:
    assert held_out(split(clips(3), SplitOptions(eval_songs=3))) != {"s0", "s1", "s2"}


def test_impossible_numbers_are_refused_together() -> None:
    with pytest.raises(ValueError, match="eval_share.*eval_songs.*min_train"):
        SplitOptions(eval_share=1.0, eval_songs=-1, min_train_text_length=-1)
