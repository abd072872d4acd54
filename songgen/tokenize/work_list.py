"""Work list of a tokenizing run, on disk: the rows of all manifests in a stable order, divided into chunks.

The main process writes it, and every process reads its own chunks. The division only depends on the number of rows, so
that a run with another number of processes has the same chunks.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from songgen.data.manifests.clip import ClipRow
from songgen.data.manifests.findings import ManifestFindings
from songgen.data.manifests.manifest import read_clip_rows
from songgen.runtime.json_files import read_json_object
from songgen.tokenize.options import TokenizeOptions
from songgen.tokenize.workspace import CHUNK_FOLDER, EMBEDDED_AUDIO_FOLDER, PLAN_FOLDER, remove_workspace

PLAN_FILE = "plan.json"

MIN_CHUNK_ROWS = 8
WANTED_CHUNKS = 64
"""Number of chunks that a small corpus is divided into, so that several processes have work."""


@dataclass(frozen=True)
class Chunk:
    """Chunk of rows that one process encodes and writes as one shard."""

    split: str
    """Split that the rows belong to."""

    index: int
    """Number of the chunk in its split."""

    @property
    def name(self) -> str:
        """Name of the chunk in files and messages."""
        return f"{self.split}-{self.index:06d}"


@dataclass
class SplitPlan:
    """Work list of one split."""

    rows: int
    """Number of rows."""

    chunk_rows: int
    """Number of rows of each chunk except the last."""

    offsets: list[int]
    """Byte offset of each chunk in the row file, and the end of the last one."""

    languages: dict[str, int] = field(default_factory=dict)
    """Language as named in the rows -> number of rows with lyrics in it; instrumentals do not need a known language."""


@dataclass
class WorkPlan:
    """Work list of all splits."""

    splits: dict[str, SplitPlan] = field(default_factory=dict)
    """Work list of each split, in the order of processing."""

    notices: list[str] = field(default_factory=list)
    """Notices about oddities in the manifests."""

    num_notices: int = 0
    """Number of all notices, listed or not."""

    repeated_rows: int = 0
    """Number of repetitions of identical rows, which are used once."""

    def chunks(self) -> list[Chunk]:
        """Return all chunks in order."""
        return [Chunk(split, index) for split, plan in self.splits.items() for index in range(len(plan.offsets) - 1)]

    def rows_of(self, chunk: Chunk) -> int:
        """Return the number of rows of a chunk."""
        split = self.splits[chunk.split]
        return min(split.chunk_rows, split.rows - chunk.index * split.chunk_rows)

    @property
    def num_rows(self) -> int:
        """Number of rows of all splits."""
        return sum(plan.rows for plan in self.splits.values())

    @staticmethod
    def read(work_folder: Path) -> "WorkPlan":
        """Read the work list that the main process wrote."""
        content = read_json_object(work_folder / PLAN_FOLDER / PLAN_FILE)
        content["splits"] = {split: SplitPlan(**plan) for split, plan in content["splits"].items()}
        return WorkPlan(**content)


def write_plan(options: TokenizeOptions) -> WorkPlan:
    """Read all manifests and write the work list.

    Raises:
        songgen.data.manifests.findings.ManifestError: if manifests have problems; it lists all of them, and nothing is
            encoded.
    """
    folder = options.work_folder / PLAN_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    findings = ManifestFindings()
    plan = WorkPlan()
    errors: list[ValueError] = []
    for split, specs in options.splits.items():
        manifests = replace(
            options.manifests,
            max_rows=options.max_rows.get(split),
            spool_folder=options.work_folder / EMBEDDED_AUDIO_FOLDER,
        )
        try:
            rows = read_clip_rows(specs, manifests, findings)
            plan.splits[split] = _write_rows(folder / f"{split}.jsonl", rows, options.chunk_rows)
        except ValueError as error:
            errors.append(error)
    if errors:
        if not (options.work_folder / CHUNK_FOLDER).exists():
            remove_workspace(options.work_folder)
        raise errors[-1]  # findings are shared: the last error lists the problems of all splits
    plan.notices, plan.num_notices = findings.notices, findings.num_notices
    plan.repeated_rows = findings.repeated_rows
    (folder / PLAN_FILE).write_text(json.dumps(asdict(plan)), encoding="utf-8")
    return plan


def _write_rows(path: Path, rows: Iterator[ClipRow], max_chunk_rows: int) -> SplitPlan:
    starts = array("q")
    languages: Counter[str] = Counter()
    with path.open("wb") as file:
        for row in rows:
            starts.append(file.tell())
            if row.lyrics.strip():
                languages[row.language] += 1
            file.write(row.to_json().encode("ascii") + b"\n")
        end = file.tell()
    size = chunk_size(len(starts), max_chunk_rows)
    return SplitPlan(len(starts), size, [*starts[::size], end], dict(languages))


def chunk_size(num_rows: int, max_rows: int) -> int:
    """Return the number of rows of a chunk: small enough for several processes, and a power of two times eight.

    So the size seldom changes as a corpus grows, and chunks of an earlier run can be reused.
    """
    size = MIN_CHUNK_ROWS
    while size * WANTED_CHUNKS < num_rows:
        size *= 2
    return min(size, max_rows)


def read_chunk(work_folder: Path, plan: WorkPlan, chunk: Chunk) -> tuple[bytes, list[ClipRow]]:
    """Return the rows of a chunk, and their bytes for its key."""
    offsets = plan.splits[chunk.split].offsets
    start, end = offsets[chunk.index], offsets[chunk.index + 1]
    with (work_folder / PLAN_FOLDER / f"{chunk.split}.jsonl").open("rb") as file:
        file.seek(start)
        content = file.read(end - start)
    return content, [ClipRow.from_json(line) for line in content.decode("ascii").splitlines()]
