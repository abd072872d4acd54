"""The report's files in the data set: `report.json`, `report.html`, and the beginnings of refused clips as audio."""

import json
from collections.abc import Sequence
from pathlib import Path

from songgen.data.audio import AudioRejected
from songgen.data.reject_codes import REJECT_CODES
from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.record import JsonObject, SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.output.writers import AUDIO_FOLDER
from songgen.prepare.report.page import render_report
from songgen.tasks import MIX, TRACKS

REPORT_FILE, PAGE_FILE = "report.json", "report.html"
REFUSED_FOLDER = "report_audio"
"""In the data set: beginnings of refused clips and songs."""

REFUSED_SECONDS = 30.0
"""Length of the beginning of a refused song that is copied."""


def write_report(
    folder: Path, report: JsonObject, records: Sequence[SongRecord], work: WorkFolder, audio_format: str
) -> None:
    """Write the report into the folder of a data set that already contains its audio.

    Args:
        folder: folder of the data set.
        report: result of `build_report`; the file names of its samples are added.
        records: songs and clips.
        work: work folder with their audio.
        audio_format: suffix of the data set's audio files.
    """
    by_id = {record.id: record for record in records}
    for sample in report["samples"]["accepted"]:
        tracks = [track for track in TRACKS if track in by_id[sample["id"]].audio]
        sample["audio"] = {track: f"{AUDIO_FOLDER}/{sample['id']}.{track}.{audio_format}" for track in tracks}
    for sample in report["samples"]["refused"]:
        name = f"{REFUSED_FOLDER}/{sample['id']}.wav"
        if _copy_beginning(by_id[sample["id"]], work, folder / name):
            sample["audio"] = {MIX: name}
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / PAGE_FILE).write_text(render_report(report), encoding="utf-8")


def _copy_beginning(record: SongRecord, work: WorkFolder, target: Path) -> bool:
    """Copy the beginning of a refused record, unless its file is damaged; return whether a file was written."""
    assert record.refusal is not None
    damage = REJECT_CODES.get(record.refusal.code)
    if (damage is not None and not damage.is_limit) or MIX not in record.audio:
        return False
    try:
        samples, rate = read_audio(work.track(record, MIX))
    except AudioRejected:
        return False
    target.parent.mkdir(exist_ok=True)
    write_audio(target, samples[: round(REFUSED_SECONDS * rate)], rate)
    return True
