"""Rules that a reader relies on and that no linter checks."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("songgen", "training", "helpers", "benchmarks", "tests")
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 100
MAX_SCRIPT_LINES = 30

FORBIDDEN_CODE = {
    r"weights_only\s*=\s*False": "unpickles: torch.load takes weights_only=True here",
    r"allow_pickle\s*=\s*True": "unpickles: store plain arrays",
    r"^\s*(import|from)\s+(pickle|cPickle|cloudpickle|dill|shelve|joblib)\b": "pickle runs foreign code",
    r"trust_remote_code\s*=\s*True": "runs code from the hub",
    r"\b(all_)?gather_object\b|\bbroadcast_object_list\b": "pickles what it exchanges: use agreement",
}
"""Pattern -> why it must not stand in the product (tests may write such files to see them refused)."""

MACHINE_PATHS = re.compile(r"(?<![\w.$}/])/(home|root|Users|work|mnt|scratch|workspace|hpc\w*)/\w+")
FORBIDDEN_TEXT = {
    r"hf_[A-Za-z0-9]{30,}": "looks like a token of the hub",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----": "a private key",
}


def source_files() -> list[Path]:
    """Every Python file of the repository."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def text_files() -> list[Path]:
    """Every text file that is, or is about to be, in version control; without git, the Python files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        return source_files()
    endings = {".py", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".md", ".txt", ".cfg", ".sh", ""}
    paths = [ROOT / line for line in listing.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path.suffix in endings]


def function_lengths(path: Path) -> list[tuple[str, int]]:
    """Name and number of lines of every function of a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, functions)]
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in nodes]


def matches(paths: list[Path], patterns: dict[str, str]) -> list[str]:
    """Every place where one of the patterns stands, with the reason that goes with it."""
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found += [
                f"{path.relative_to(ROOT)}:{number}: {why}"
                for pattern, why in patterns.items()
                if re.search(pattern, line)
            ]
    return found


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()}
    assert len(lengths) > 20
    long = [f"{path.relative_to(ROOT)}: {length} lines" for path, length in lengths.items() if length > MAX_FILE_LINES]
    assert not long, "\n".join(long)


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {name} has {length} lines"
        for path in source_files()
        for name, length in function_lengths(path)
        if length > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_scripts_only_launch() -> None:
    scripts = sorted((ROOT / "training").glob("*.py"))
    long = [path.name for path in scripts if len(path.read_text(encoding="utf-8").splitlines()) > MAX_SCRIPT_LINES]
    assert not long, f"a script parses, builds and calls one function: {long}"


def test_no_pickle_and_no_remote_code() -> None:
    product = [path for path in source_files() if not path.is_relative_to(ROOT / "tests")]
    found = matches(product, FORBIDDEN_CODE)
    assert not found, "\n".join(found)


def test_no_machine_paths_and_no_secrets() -> None:
    found = matches(text_files(), {MACHINE_PATHS.pattern: "a path of one machine", **FORBIDDEN_TEXT})
    assert not found, "\n".join(found)


def test_data_folders_hold_no_code() -> None:
    """A Python file in datasets/ would shadow the installed library of that name."""
    found = [path for folder in ("datasets", "outputs") for path in (ROOT / folder).glob("*.py")]
    assert not found


@pytest.mark.parametrize(
    ("line", "patterns"),
    [
        ("torch.load(path, weights_only=False)", FORBIDDEN_CODE),
        ("    import pickle", FORBIDDEN_CODE),
        ("from dill import loads", FORBIDDEN_CODE),
        ("numpy.load(path, allow_pickle = True)", FORBIDDEN_CODE),
        ("load(name, trust_remote_code=True)", FORBIDDEN_CODE),
        ('"/ho' + 'me/someone/data"', {MACHINE_PATHS.pattern: ""}),
        ("cd /wo" + "rk/main", {MACHINE_PATHS.pattern: ""}),
    ],
)
def test_the_patterns_match(line: str, patterns: dict[str, str]) -> None:
    assert any(re.search(pattern, line) for pattern in patterns)


@pytest.mark.parametrize("line", ["weights_only=True", "https://example.org/home/x", "./work/x", "a / root / b"])
def test_the_patterns_leave_alone(line: str) -> None:
    assert not any(re.search(pattern, line) for pattern in [*FORBIDDEN_CODE, MACHINE_PATHS.pattern])
