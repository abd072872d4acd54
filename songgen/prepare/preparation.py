"""`songgen prepare` as a whole: inputs -> records -> steps -> data set, by any number of processes, resumable."""

import json
import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from accelerate.state import PartialState

from songgen.lyrics.tokenizer import VoiceBpeTokenizer
from songgen.prepare.config import CONFIG_FILE, PrepareConfig
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.runner import Runner
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.layouts import TAKE_IN, TakenIn, read_notices, read_records, read_songs, write_songs
from songgen.prepare.output.writers import INFO_FILE, DatasetWriter, PreparedInfo, rejected_row
from songgen.prepare.pins import find_commits, pinned
from songgen.prepare.report.files import PAGE_FILE, write_report
from songgen.prepare.report.statistics import VERSION as REPORT_VERSION
from songgen.prepare.report.statistics import Context, build_report, open_vocabulary
from songgen.prepare.review.corrections import APPLIED_FILE, Corrections, read_corrections, set_aside
from songgen.runtime.agreement import on_main_process
from songgen.runtime.files import write_text_atomic
from songgen.runtime.processes import join_processes
from songgen.runtime.signals import leaving_on_signals
from songgen.runtime.status import PREPARE_STATUS_FILE, ReportedWork
from songgen.tokenize.workspace import lock_workspace, require_free_output

logger = logging.getLogger(__name__)

SONGS_FILE = "songs.jsonl"
"""In the work folder: the songs as the inputs have them."""

RECORDS_FILE = "records.jsonl"
"""In the work folder: songs and clips as the steps have left them, what is refused included."""

LISTED_NOTICES = 20
"""Notices that are printed; all of them stand beside the songs in the work folder."""


class TooManyBadSongs(ValueError):
    """More songs cannot be read than `max_bad_fraction` allows, or nothing is left; no data set was written."""


@dataclass(frozen=True)
class PrepareSummary:
    """What a run has come to."""

    songs: int
    """Songs in the inputs."""

    info: PreparedInfo
    """The data set that stands there now."""

    is_changed: bool
    """Whether it was written by this run; False when it stood there already."""

    notices: int
    """Naming mistakes and other oddities of the inputs."""


def prepare(config: PrepareConfig) -> PrepareSummary | None:
    """Read the inputs, run the steps, write the data set.

    Every process of the launch calls this.

    Returns:
        what was done; None in processes other than the main one.

    Raises:
        ValueError: if inputs, folders, machine or configuration cannot be used as they are.
        TooManyBadSongs: if too many songs are damaged, or none is left.
        SystemExit: if a signal ends the run; what is done is kept.
    """
    with ExitStack() as stack:
        stack.enter_context(leaving_on_signals())
        state = stack.enter_context(join_processes())
        on_main_process(state, lambda: _require_output_beside_inputs(config))
        on_main_process(state, lambda: stack.enter_context(lock_workspace(config.work_folder)))
        work = stack.enter_context(ReportedWork(config.work_folder, PREPARE_STATUS_FILE, state.process_index))
        on_main_process(state, lambda: require_free_output(config.output_folder, key="output_dir", mark=INFO_FILE))
        on_main_process(state, lambda: _vocabulary(config))  # one that cannot be opened is said before the work
        on_main_process(state, lambda: find_commits(config))
        fixed = pinned(config)
        work.begin("reading inputs")
        songs = fixed.work_folder / SONGS_FILE
        on_main_process(state, lambda: write_songs(songs, read_songs(fixed)))
        records = run_steps(fixed, state, read_records(songs), work)
        taken = read_notices(songs)
        work.begin("writing the data set")
        return on_main_process(state, lambda: finish(fixed, records, taken))


def _require_output_beside_inputs(config: PrepareConfig) -> None:
    """Refuse to write below a folder that is read: the next run would take its own clips for songs."""
    for source in config.inputs:
        folder = Path(source.name)
        if folder.is_dir() and config.output_folder.is_relative_to(folder.resolve()):
            raise ValueError(
                f"output_dir: {config.output_folder} lies inside of the input {source.name}, so that the next run "
                "would read its clips as songs; name a folder beside it"
            )


def run_steps(
    config: PrepareConfig, state: PartialState, records: list[SongRecord], work: ReportedWork
) -> list[SongRecord]:
    """Run every step that is switched on, in order.

    Args:
        config: of the run.
        state: this process among those launched.
        records: songs as the inputs have them.
        work: is told of the progress.

    Raises:
        TooManyBadSongs: after the first step, if too many songs are damaged.
    """
    if state.is_main_process:
        for notice in read_notices(config.work_folder / SONGS_FILE).notices[:LISTED_NOTICES]:
            logger.warning(notice)
    num_songs = len(records)
    on_main_process(state, lambda: set_aside(config.work_folder))
    corrections = read_corrections(config.work_folder, APPLIED_FILE)
    with Runner(WorkFolder(config.work_folder), state, config.settings.workers, work) as runner:
        for name, steps in config.sections.steps():
            for step in steps:
                records = runner.run(step, records)
            records = corrections.apply(records, name)
            if name == TAKE_IN:
                on_main_process(state, lambda taken=records: _check_damage(config, taken, num_songs))  # type: ignore[misc]
    if state.is_main_process:
        _warn_of_orphans(corrections, records)
    return records


def _warn_of_orphans(corrections: Corrections, records: list[SongRecord]) -> None:
    """Name the corrections of a person that no clip has taken."""
    orphans = corrections.orphans(records)
    places = {f"{edit.song} {edit.start:.1f}-{edit.end:.1f} s": None for edit in orphans}
    if places:
        listed = ", ".join([*places][:LISTED_NOTICES])
        logger.warning(
            "%d corrections fit no clip any more, since the songs were cut elsewhere; `songgen review` lists them: %s",
            len(orphans),
            listed,
        )


def _check_damage(config: PrepareConfig, records: list[SongRecord], num_songs: int) -> None:
    refused = [record for record in records if record.refusal is not None]
    if len(refused) <= config.settings.max_bad_fraction * num_songs:
        return
    _write_records(config.work_folder, records)
    raise TooManyBadSongs(
        f"{len(refused)} of {num_songs} songs cannot be read ({_codes(refused)}); max_bad_fraction is "
        f"{config.settings.max_bad_fraction:g}. They are listed in {config.work_folder / 'rejected.jsonl'}"
    )


def _codes(records: list[SongRecord]) -> str:
    counted = Counter(record.refusal.code for record in records if record.refusal is not None)
    return ", ".join(f"{code} {count}" for code, count in counted.most_common())


def _write_records(folder: Path, records: list[SongRecord]) -> None:
    write_text_atomic(folder / RECORDS_FILE, "".join(record.to_json() + "\n" for record in records))
    refused = [rejected_row(record) for record in records if record.refusal is not None]
    write_text_atomic(folder / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in refused))


def finish(config: PrepareConfig, records: list[SongRecord], taken: TakenIn) -> PrepareSummary:
    """Write the data set, unless the same stands there already (main process).

    Args:
        config: of the run.
        records: songs and clips as the steps have left them.
        taken: notices on the inputs.

    Raises:
        TooManyBadSongs: if no clip is left.
    """
    _write_records(config.work_folder, records)
    if all(record.refusal is not None for record in records):
        _write_report(config, records, taken, config.work_folder)
        page = f"; report: {config.work_folder / PAGE_FILE}" * (config.sections.report is not None)
        raise TooManyBadSongs(
            f"no clip is left ({_codes(records)}). The reasons are listed in {config.work_folder / 'rejected.jsonl'}"
            + page
        )
    writer = DatasetWriter(
        config.output_folder,
        config.settings.output_dir.rstrip("/"),
        WorkFolder(config.work_folder),
        config.sections.write,
        config.sections.export,
    )
    vocabulary = _vocabulary(config)
    read = None if vocabulary is None else vocabulary.fingerprint
    fingerprint = writer.fingerprint(records, [config.meaning(), taken.notices, REPORT_VERSION, read])
    info = PreparedInfo.read(config.output_folder)
    is_changed = info is None or info.fingerprint != fingerprint or not info.is_complete(config.output_folder)
    if is_changed:

        def add_files(folder: Path) -> None:
            config.save(folder / CONFIG_FILE)
            _write_report(config, records, taken, folder)

        info = writer.write(records, fingerprint, add_files)
    assert info is not None
    return PrepareSummary(len({record.song for record in records}), info, is_changed, taken.num_notices)


def _vocabulary(config: PrepareConfig) -> VoiceBpeTokenizer | None:
    options = config.sections.report
    if options is None:
        return None
    return open_vocabulary(options.lyrics_tokenizer, config.sections.write.model_name_or_path)


def _write_report(config: PrepareConfig, records: list[SongRecord], taken: TakenIn, folder: Path) -> None:
    """Write the report into a folder that is to be the data set, unless it is switched off."""
    options = config.sections.report
    if options is None:
        return
    names = tuple(step.name for _, steps in config.sections.steps() for step in steps)
    title = ", ".join(Path(source.name).name or source.name for source in config.inputs)
    context = Context(title, names, config.sections.filter, _vocabulary(config), tuple(taken.notices))
    report = build_report(records, context, options)
    work, audio_format = WorkFolder(config.work_folder), config.sections.write.audio_format
    write_report(folder, report, records, work, audio_format)
