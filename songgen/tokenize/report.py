"""Report on a data set and the rows left out, as JSON, as text, and row by row."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from songgen.data.schema import CODES, REJECTED_FILE, REPORT_FILE, REPORT_TEXT_FILE, DatasetInfo
from songgen.tokenize.chunks import ChunkRecord
from songgen.tokenize.options import TokenizeOptions
from songgen.tokenize.statistics import LENGTH_EDGES, ChunkStatistics
from songgen.tokenize.work_list import WorkPlan

MAX_BAR = 40
"""Width of the longest bar of the text report's histogram."""

_LISTED_COUNTS = (
    "clipped",
    "flaws",
    "measured_differently_than_stated",
    "captions_without",
    "facts_left_out",
    "truncated_texts",
)
"""Keys of the report with counts by name."""


def split_statistics(records: Iterable[ChunkRecord]) -> dict[str, ChunkStatistics]:
    """Add up the chunks of each split."""
    totals: dict[str, ChunkStatistics] = {}
    for record in records:
        totals.setdefault(record.split, ChunkStatistics()).merge(record.statistics)
    return totals


def write_report(
    folder: Path, options: TokenizeOptions, info: DatasetInfo, plan: WorkPlan, records: Iterable[ChunkRecord]
) -> dict[str, Any]:
    """Write report.json, report.txt and rejected.jsonl into a folder; return the report.

    Args:
        folder: folder to write to.
        options: options with the limits that the report repeats.
        info: description of the data set.
        plan: work list, with the rows of the manifests.
        records: records of all chunks, in order; read once.
    """
    totals: dict[str, ChunkStatistics] = {split: ChunkStatistics() for split in plan.splits}
    processes: dict[str, int] = {}
    with (folder / REJECTED_FILE).open("w", encoding="utf-8") as file:
        for record in records:
            totals[record.split].merge(record.statistics)
            processes[str(record.process)] = processes.get(str(record.process), 0) + record.rows
            for rejection in record.rejections:
                file.write(json.dumps({"split": record.split, **asdict(rejection)}) + "\n")
    report: dict[str, Any] = {
        "codec": {"fingerprint": info.codec_fingerprint, "spec": info.codec_spec, "sample_rate": info.sample_rate},
        "limits": {
            "min_duration_in_seconds": options.min_seconds,
            "max_duration_in_seconds": options.max_seconds,
            "max_text_length": options.max_text_length,
            "max_bad_fraction": options.max_bad_fraction,
        },
        "splits": {split: _split_report(plan.splits[split].rows, total, info) for split, total in totals.items()},
        "rows_by_process": dict(sorted(processes.items())),
        "repeated_rows_taken_once": plan.repeated_rows,
        "notices": plan.notices,
        "num_notices": plan.num_notices,
    }
    if info.target_kind != CODES:
        report["target_kind"] = info.target_kind
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / REPORT_TEXT_FILE).write_text("\n".join(report_lines(report)) + "\n", encoding="utf-8")
    return report


def _split_report(num_rows: int, total: ChunkStatistics, info: DatasetInfo) -> dict[str, Any]:
    content = {
        "rows_in_manifests": num_rows,
        "rows": total.rows,
        "hours": total.seconds / 3600,
        "frames": total.frames,
        "rejected": dict(sorted(total.rejected.items())),
        "damaged_rows": total.bad_rows,
        "length_histogram_seconds": {
            f"{edge:g}": total.lengths[f"{edge:g}"] for edge in LENGTH_EDGES if f"{edge:g}" in total.lengths
        },
        "energies": {track: energies.summary() for track, energies in total.energies.items()},
        "languages": dict(sorted(total.languages.items())),
        "instrumentals": total.instrumentals,
        "clipped": dict(sorted(total.clipped.items())),
        "flaws": dict(sorted(total.flaws.items())),
        "cropped_to_the_longest_allowed": total.cropped,
        "cut_to_the_shortest_track": total.trimmed,
        "lyric_pieces": total.lyric_pieces,
        "unknown_lyric_pieces": total.unknown_lyric_pieces,
        "measured_differently_than_stated": dict(sorted(total.differing_statements.items())),
        "captions_without": dict(sorted(total.missing_tags.items())),
    }
    if info.target_kind != CODES:  # texts of codes have no facts and are not truncated
        content["facts_left_out"] = dict(sorted(total.facts_left_out.items()))
        content["truncated_texts"] = dict(sorted(total.truncated.items()))
    return content


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the text report line by line."""
    encoder = "autoencoder" if "target_kind" in report else "codec"
    yield f"{encoder} {report['codec']['fingerprint']} at {report['codec']['sample_rate']} Hz"
    for split, content in report["splits"].items():
        yield ""
        yield from _split_lines(split, content)
    if report["num_notices"]:
        yield ""
        yield f"{report['num_notices']} notice(s), see {REPORT_FILE}; the first:"
        yield from (f"  {notice}" for notice in report["notices"][:5])


def _split_lines(split: str, content: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{split}: {content['rows']} of {content['rows_in_manifests']} rows, {content['hours']:.3f} hours, "
        f"{content['frames']} frames"
    )
    for code, number in content["rejected"].items():
        yield f"  left out: {number} x {code}"
    most = max(content["length_histogram_seconds"].values(), default=1)
    for edge, number in content["length_histogram_seconds"].items():
        yield f"  from {edge:>4} s {number:>8}  {'#' * max(1, round(MAX_BAR * number / most))}"
    for track, energies in content["energies"].items():
        if energies["clips"]:
            yield (
                f"  energy of {track}: {energies['mean']:.1f} on average, {energies['min']:.1f} to "
                f"{energies['max']:.1f}; too quiet for a reference voice: {energies['below_voice_min_energy']}"
            )
    yield f"  instrumentals: {content['instrumentals']}"
    yield f"  unknown lyric pieces: {content['unknown_lyric_pieces']} of {content['lyric_pieces']}"
    for name in ("cropped_to_the_longest_allowed", "cut_to_the_shortest_track"):
        if content[name]:
            yield f"  {name.replace('_', ' ')}: {content[name]} clips"
    for name in _LISTED_COUNTS:
        if content.get(name):
            listed = ", ".join(f"{key} {number}" for key, number in content[name].items())
            yield f"  {name.replace('_', ' ')}: {listed}"
