"""`songgen prepare` as a whole: inputs -> records -> steps -> data set, by any number of processes, resumable."""

import json
import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from accelerate.state import PartialState

from songgen.data.reject_codes import REJECT_CODES
from songgen.lyrics.tokenizer import VoiceBpeTokenizer
from songgen.prepare.config import PREPARE_CONFIG_FILE, PrepareConfig
from songgen.prepare.engine.phases import READING, WRITING, write_phases
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.record_files import RECORDS_FILE, SONGS_FILE, read_records, write_records
from songgen.prepare.engine.runner import Runner
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.engine.store import repair_results
from songgen.prepare.inputs import TakenIn, read_notices, read_songs, write_songs
from songgen.prepare.output.options import ExportOptions, ReportOptions, WriteOptions
from songgen.prepare.output.writers import INFO_FILE, DatasetWriter, PreparedInfo, rejected_row
from songgen.prepare.pins import find_commits, pinned
from songgen.prepare.report.files import PAGE_FILE, write_report
from songgen.prepare.report.statistics import REPORT_VERSION, ReportContext, build_report, open_vocabulary
from songgen.prepare.review.corrections import APPLIED_FILE, Corrections, read_corrections, set_aside
from songgen.prepare.steps.filters import FilterOptions
from songgen.prepare.steps.take_in import TakeInStep
from songgen.prepare.time_estimate import estimate_time
from songgen.runtime.files import write_text_atomic
from songgen.runtime.processes.agreement import on_main_process
from songgen.runtime.processes.signals import leaving_on_signals
from songgen.runtime.processes.start import join_processes
from songgen.runtime.reported_work import ReportedWork
from songgen.runtime.status import PREPARE_STATUS_FILE
from songgen.tokenize.workspace import lock_workspace, require_free_output

logger = logging.getLogger(__name__)

SHOWN_NOTICES = 20
"""Notices that are printed; the work folder has all of them, next to the songs."""


class TooManyBadSongs(ValueError):
    """More songs cannot be read than `max_bad_fraction` allows, or no clip is left; no data set was written."""


@dataclass(frozen=True)
class PrepareSummary:
    """Result of a run."""

    songs: int
    """Number of songs in the inputs."""

    info: PreparedInfo
    """The data set in the output folder."""

    is_changed: bool
    """Whether this run wrote it; False if it existed already."""

    notices: int
    """Number of notices on the inputs, such as misnamed files."""


def prepare(config: PrepareConfig) -> PrepareSummary | None:
    """Read the inputs, run the steps, write the data set.

    Every process of the launch calls this.

    Returns:
        Result of the run; None in processes other than the main one.

    Raises:
        ValueError: If inputs, folders, machine or configuration cannot be used.
        TooManyBadSongs: If too many songs are damaged, or none is left.
        SystemExit: If a signal ends the run; results so far are kept.
    """
    with ExitStack() as stack:
        stack.enter_context(leaving_on_signals())
        state = stack.enter_context(join_processes())
        on_main_process(state, lambda: _require_output_beside_inputs(config))
        on_main_process(state, lambda: stack.enter_context(lock_workspace(config.work_folder)))
        work = stack.enter_context(ReportedWork(config.work_folder, PREPARE_STATUS_FILE, state.process_index))
        on_main_process(state, lambda: require_free_output(config.output_folder, key="output_dir", mark=INFO_FILE))
        on_main_process(state, lambda: _vocabulary(config))  # checks the tokenizer before the long work begins
        on_main_process(state, lambda: find_commits(config))
        fixed = pinned(config)
        names = [step.name for _, steps in fixed.sections.steps() for step in steps]
        on_main_process(state, lambda: write_phases(config.work_folder, names))
        on_main_process(state, lambda: repair_results(WorkFolder(config.work_folder)))
        work.begin(READING)
        songs = fixed.work_folder / SONGS_FILE
        on_main_process(state, lambda: write_songs(songs, read_songs(fixed)))
        records = run_steps(fixed, state, read_records(songs), work)
        taken = read_notices(songs)
        work.begin(WRITING)
        return on_main_process(state, lambda: finish(fixed, records, taken))


def _require_output_beside_inputs(config: PrepareConfig) -> None:
    """Refuse an output folder inside an input, whose clips the next run would read as songs."""
    for source in config.inputs:
        folder = Path(source.name)
        if folder.is_dir() and config.output_folder.is_relative_to(folder.resolve()):
            raise ValueError(
                f"output_dir: {config.output_folder} is inside the input {source.name}, so the next run would read "
                "its clips as songs; name a folder outside of it"
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
        TooManyBadSongs: If too many songs are damaged, after the first step.
    """
    if state.is_main_process:
        for notice in read_notices(config.work_folder / SONGS_FILE).notices[:SHOWN_NOTICES]:
            logger.warning(notice)
    num_songs = len(records)
    on_main_process(state, lambda: set_aside(config.work_folder))
    corrections = read_corrections(config.work_folder, APPLIED_FILE)
    with Runner(WorkFolder(config.work_folder), state, config.settings.workers, work) as runner:
        sections = list(config.sections.steps())
        for section, steps in sections:
            for step in steps:
                records = runner.run(step, records)
            records = corrections.apply(records, section.phase)
            if section.name == TakeInStep.name:
                on_main_process(state, lambda taken=records: _check_damage(config, taken, num_songs))  # type: ignore[misc]
                estimate = estimate_time(runner, sections[1:], records, corrections)
                if estimate and state.is_main_process:
                    logger.warning(estimate)
    if state.is_main_process:
        _warn_of_orphans(corrections, records)
    return records


def _warn_of_orphans(corrections: Corrections, records: list[SongRecord]) -> None:
    """Warn of corrections by a person that match no clip."""
    orphans = corrections.orphans(records)
    places = {f"{edit.song} {edit.start:.1f}-{edit.end:.1f} s": None for edit in orphans}
    if places:
        listed = ", ".join([*places][:SHOWN_NOTICES])
        logger.warning(
            "%d corrections match no clip, since the songs were cut differently; `songgen review` lists them: %s",
            len(orphans),
            listed,
        )


def _check_damage(config: PrepareConfig, records: list[SongRecord], num_songs: int) -> None:
    refused = [record for record in records if record.refusal is not None and _is_damage(record.refusal.code)]
    if len(refused) <= config.settings.max_bad_fraction * num_songs:
        return
    _write_records(config.work_folder, records)
    raise TooManyBadSongs(
        f"{len(refused)} of {num_songs} songs cannot be read ({_codes(refused)}); max_bad_fraction is "
        f"{config.settings.max_bad_fraction:g}. They are listed in {config.work_folder / 'rejected.jsonl'}"
    )


def _is_damage(code: str) -> bool:
    """Return whether a song is refused for what it is, not by a limit of the configuration."""
    known = REJECT_CODES.get(code)
    return known is None or not known.is_limit


def _codes(records: list[SongRecord]) -> str:
    counted = Counter(record.refusal.code for record in records if record.refusal is not None)
    return ", ".join(f"{code} {count}" for code, count in counted.most_common())


def _write_records(folder: Path, records: list[SongRecord]) -> None:
    write_records(folder / RECORDS_FILE, records)
    refused = [rejected_row(record) for record in records if record.refusal is not None]
    write_text_atomic(folder / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in refused))


def finish(config: PrepareConfig, records: list[SongRecord], taken: TakenIn) -> PrepareSummary:
    """Write the data set, unless an equal one exists (main process).

    Args:
        config: configuration of the run.
        records: songs and clips after the last step.
        taken: notices on the inputs.

    Raises:
        TooManyBadSongs: If no clip is left.
    """
    _write_records(config.work_folder, records)
    if all(record.refusal is not None for record in records):
        _write_report(config, records, taken, config.work_folder)
        page = f"; report: {config.work_folder / PAGE_FILE}" * (config.sections.get(ReportOptions) is not None)
        raise TooManyBadSongs(
            f"no clip is left ({_codes(records)}). The reasons are listed in {config.work_folder / 'rejected.jsonl'}"
            + page
        )
    writer = DatasetWriter(
        config.output_folder,
        config.settings.output_dir.rstrip("/"),
        WorkFolder(config.work_folder),
        config.sections.require(WriteOptions),
        config.sections.require(ExportOptions),
    )
    vocabulary = _vocabulary(config)
    read = None if vocabulary is None else vocabulary.fingerprint
    fingerprint = writer.fingerprint(records, [config.meaning(), taken.notices, REPORT_VERSION, read])
    info = PreparedInfo.read(config.output_folder)
    is_whole = info is not None and info.fingerprint == fingerprint and info.is_complete(config.output_folder)
    is_changed = not (is_whole and writer.is_written(records))
    if is_changed:

        def add_files(folder: Path) -> None:
            config.save(folder / PREPARE_CONFIG_FILE)
            _write_report(config, records, taken, folder)

        info = writer.write(records, fingerprint, add_files)
    assert info is not None
    return PrepareSummary(len({record.song for record in records}), info, is_changed, taken.num_notices)


def _vocabulary(config: PrepareConfig) -> VoiceBpeTokenizer | None:
    options = config.sections.get(ReportOptions)
    if options is None:
        return None
    return open_vocabulary(options.lyrics_tokenizer, config.sections.require(WriteOptions).model_name_or_path)


def _write_report(config: PrepareConfig, records: list[SongRecord], taken: TakenIn, folder: Path) -> None:
    """Write the report into the new data set, unless it is switched off."""
    options = config.sections.get(ReportOptions)
    if options is None:
        return
    names = tuple(step.name for _, steps in config.sections.steps() for step in steps)
    context = ReportContext(
        title=config.output_folder.name,
        inputs=tuple(dict.fromkeys(Path(source.name).name or source.name for source in config.inputs)),
        steps=names,
        filters=config.sections.get(FilterOptions),
        vocabulary=_vocabulary(config),
        notices=tuple(taken.notices),
    )
    report = build_report(records, context, options)
    work, audio_format = WorkFolder(config.work_folder), config.sections.require(WriteOptions).audio_format
    write_report(folder, report, records, work, audio_format)
