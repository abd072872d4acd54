"""docs/formats.md names the columns and files that the program has."""

import re
from pathlib import Path

from songgen.data.schema import REJECTED_FILE, arrow_schema
from songgen.jobs.record import JOB_FILE, JOB_LOCK_FILE, JOB_STATUS_FILE, LOG_FILE, STOP_FILE, Job
from songgen.lyrics import VOCABULARY_FILES
from songgen.prepare.describing.paid_answers import ANSWERS_FOLDER
from songgen.prepare.engine.phases import PHASES_FILE
from songgen.prepare.engine.record_files import RECORDS_FILE, SONGS_FILE
from songgen.prepare.engine.store import RESULTS_FOLDER
from songgen.prepare.inputs import SPOOL_FOLDER
from songgen.prepare.output.encoded_files import ENCODED_FOLDER, ENCODED_HASHES_FILE
from songgen.prepare.output.writers import AUDIO_FOLDER, PreparedInfo
from songgen.prepare.pins import PINS_FILE
from songgen.prepare.review.corrections import APPLIED_FILE, CORRECTIONS_FILE
from songgen.runtime.status import (
    EVALUATION_STATUS_FILE,
    PREPARE_STATUS_FILE,
    RUN_STATUS_FILE,
    TOKENIZE_STATUS_FILE,
    Progress,
    RunStatus,
)
from songgen.tokenize.finalize import PUBLISHED_FILES
from songgen.tokenize.workspace import WORK_LOCK_FILE
from songgen.train.checkpoints.files import MANIFEST_FILE, checkpoint_files

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_the_columns_are_those_of_the_schema() -> None:
    documented = {}
    for line in section("Tokenized data set").splitlines():
        if line.startswith("| `"):
            names, kind = line.strip("|").split("|")[:2]
            documented |= dict.fromkeys(re.findall(r"`(\w+)`", names), kind.strip())
    columns = {field.name: re.sub(r"list<\w+: (\w+)>", r"list<\1>", str(field.type)) for field in arrow_schema()}
    assert documented == columns


def test_the_files_are_those_that_are_written() -> None:
    assert all(name in section("Tokenized data set") for name in PUBLISHED_FILES)
    listed = re.findall(r"^  (\w[\w.-]+\.\w+)  ", section("Output folder and checkpoint"), re.MULTILINE)
    assert sorted(listed) == sorted([*checkpoint_files(1), MANIFEST_FILE])
    assert all(name in section("Model folder") for name in VOCABULARY_FILES)
    assert set(PreparedInfo.__dataclass_fields__) <= set(re.findall(r"`(\w+)`", section("Prepared data set")))


def test_the_work_folder_of_preparing_is_listed_as_a_whole() -> None:
    names = (RESULTS_FOLDER, AUDIO_FOLDER, ENCODED_FOLDER, ENCODED_HASHES_FILE, SPOOL_FOLDER, ANSWERS_FOLDER,
             PINS_FILE, SONGS_FILE, RECORDS_FILE, REJECTED_FILE, CORRECTIONS_FILE, APPLIED_FILE, WORK_LOCK_FILE,
             PREPARE_STATUS_FILE, PHASES_FILE)  # fmt: skip
    [row] = (line for line in section("Work folders").splitlines() if "of preparing" in line)
    assert not [name for name in names if f"`{name}" not in row]


def test_the_status_files_are_documented_with_all_their_keys() -> None:
    text = section("Status files")
    keys = set(re.findall(r"`(\w+)`", text))
    assert {*RunStatus.__dataclass_fields__, *Progress.__dataclass_fields__} <= keys
    files = (RUN_STATUS_FILE, EVALUATION_STATUS_FILE, TOKENIZE_STATUS_FILE, PREPARE_STATUS_FILE, JOB_STATUS_FILE)
    assert all(f"`{name}`" in text for name in files)


def test_the_folder_of_a_job_is_listed_as_a_whole() -> None:
    named = set(re.findall(r"`([\w.]+)`", section("Jobs")))
    assert {*Job.__dataclass_fields__, JOB_FILE, JOB_STATUS_FILE, LOG_FILE, STOP_FILE, JOB_LOCK_FILE} <= named
