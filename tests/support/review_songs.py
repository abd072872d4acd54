"""A work folder as `songgen prepare` leaves it, with clips to review."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import soundfile
from prepare_songs import RATE, tone
from prepare_steps import make_record

from songgen.prepare.engine.record import FIRST, LyricLine, Refusal, SongRecord, Transcript, Word
from songgen.prepare.engine.record_files import RECORDS_FILE
from songgen.prepare.engine.section import Phase
from songgen.prepare.review.corrections import read_corrections

QUIET = Refusal("filter", "vocal_too_quiet", "energy of the vocal: 12 is below 200", 12.0, 200.0)
BROKEN = Refusal("take_in", "truncated_audio", "only 10 of 4000 declared frames can be decoded")
EVIL = "</textarea><script>document.title='taken over'</script><img src=x onerror=\"document.title='taken over'\">"

SECONDS = 4.0


def clip(song: str, number: int, folder: Path, **fields: object) -> SongRecord:
    """A clip with a mix and a vocal of its own, and two lines of lyrics."""
    record_id = f"{song}_{number:03d}"
    audio = {}
    for track in ("mix", "vocal"):
        file = Path("audio") / "segment" / f"{record_id}.{track}.wav"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / file, tone(SECONDS, seed=number + len(track)), RATE)
        audio[track] = file.as_posix()
    lines = (LyricLine("first words", 0.5, 1.5, "verse", 0.9), LyricLine("second words", 2.0, 3.0, "verse", 0.7))
    words = (Word("first", 0.5, 1.0, 0.95), Word("birds", 1.0, 1.5, 0.2))
    record = make_record(
        record_id, audio=audio, start=10.0 * number, duration=SECONDS, language="en", lines=lines,
        lyrics="[verse]\nfirst words\nsecond words", lyrics_source="given", caption="pop, sunny", tags=("pop", "sunny"),
        transcripts={FIRST: Transcript("first birds", "en", 0.5 + 0.1 * number, words)}, tempo=120.0, key="A minor",
        energies={"mix": 2000.0}, measures={"loudness": -20.0},
    )  # fmt: skip
    return replace(record, song=song, **fields)  # type: ignore[arg-type]


def write_work_folder(root: Path, records: list[SongRecord] | None = None) -> Path:
    """Write `<root>/songs.work`; by default four clips of two songs, one left out, and a song that is broken."""
    folder = root / "songs.work"
    folder.mkdir(exist_ok=True)
    if records is None:
        records = [
            clip("river", 0, folder),
            clip("river", 1, folder, refusal=QUIET),
            clip("lake", 3, folder, language="de", lyrics=EVIL, lines=(), caption=EVIL),
            clip("lake", 2, folder, transcripts={}, lines=(), lyrics="", language=""),
            make_record("gone", refusal=BROKEN),
        ]
    lines = "".join(record.to_json() + "\n" for record in records)
    (folder / RECORDS_FILE).write_text(lines, encoding="ascii")
    return folder


def apply_corrections(records: Sequence[SongRecord], work_folder: Path) -> list[SongRecord]:
    """Finished records with every correction of a work folder."""
    return read_corrections(work_folder).apply(records, after=Phase.DESCRIBED)
