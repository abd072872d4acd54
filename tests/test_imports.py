"""Imports go one way, and `import songgen` is quick."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS

ROOT = Path(__file__).resolve().parents[1]

LAYERS = (
    ("vocabulary", "tasks", "exit_codes", "environment"),
    ("runtime",),
    ("layout", "codecs", "conditioning", "lyrics", "config", "metrics"),
    ("models", "data", "web", "adapters", "jobs"),
    ("generation",),
    ("families",),
    ("train", "tokenize"),
    ("prepare", "tryout"),
    ("doctor", "planning"),
    ("ui",),
    ("cli",),
)
"""Parts of `songgen`, the lowest layer first, as docs/architecture.md has them."""

LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}

PREPARE_WINGS = (
    "engine",
    "timing",
    "listening",
    "describing",
    "output",
    "steps",
    "sections",
    "review",
    "report",
    "config",
    "inputs",
    "pins",
    "time_estimate",
    "preparation",
)
"""Wings and single modules of `songgen.prepare`, the lowest first."""

UPWARD = {("songgen/models/modeling_songgen.py", "songgen.generation.pipeline")}
"""The one import against the direction: the published `model.generate` is a method of the model."""

READS_CONFIG = {"config", "families", "train", "tokenize", "prepare", "tryout", "doctor", "planning", "ui", "cli"}

TRAINER_KNOWS = (
    "songgen.families.family",
    "songgen.families.model_facts",
    "songgen.families.objective",
    "songgen.families.registry",
    "songgen.families.songs",
    "songgen.families.trainable",
)
"""What `songgen.train` imports of the families: their interfaces, and no family."""

NOT_FOR_THE_TRAINER = ("models", "generation", "layout", "codecs", "conditioning", "lyrics", "vocabulary")
"""Parts that only families use in training."""

FAMILY_WORDS, MAX_LINES_WITH_THEM = re.compile("layout|codebook|vocal"), 20
"""Words of the token family, and the lines of the trainer that may hold one."""

MAX_MODULES = 15
"""Modules of one folder, `__init__.py` aside."""

MODULES = sorted((ROOT / "songgen").rglob("*.py"))


def imported_modules(source_text: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything of ours that a module of a package imports, also inside of functions."""
    for node in ast.walk(ast.parse(source_text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "songgen")
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            if source == "songgen":
                yield from ((node.lineno, f"songgen.{alias.name}") for alias in node.names)
            elif source.split(".")[0] == "songgen":
                yield node.lineno, source


def violations(source_text: str, module: Path) -> list[str]:
    """Imports of a module, given by its path in the repository, that point sideways or upwards."""
    found = []
    part = module.parts[1].removesuffix(".py")
    for line, name in imported_modules(source_text, module.parent.parts):
        if name == "songgen":  # for its place or version
            continue
        target = name.split(".")[1]
        where = f"{module}:{line} imports {name}"
        if part == "train" and (target in NOT_FOR_THE_TRAINER or (target == "families" and name not in TRAINER_KNOWS)):
            found.append(f"{where}: the trainer knows a model through its family alone")
            continue
        if target in (part, "__version__") or (str(module), name) in UPWARD:
            continue
        if target not in LEVELS:
            found.append(f"{where}, which is in no layer")
        elif LEVELS[target] >= LEVELS[part]:
            found.append(f"{where}, which is not below {part}")
        elif target == "config" and part not in READS_CONFIG:
            found.append(f"{where}: parts take plain values")
    return found


def test_every_part_has_a_layer() -> None:
    parts = {path.relative_to(ROOT / "songgen").parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert parts <= set(LEVELS), "put the new part into LAYERS and into docs/architecture.md"


def test_imports_go_one_way() -> None:
    modules = [path for path in MODULES if path != ROOT / "songgen" / "__init__.py"]
    assert len(modules) > 20
    found = [
        violation
        for path in modules
        for violation in violations(path.read_text(encoding="utf-8"), path.relative_to(ROOT))
    ]
    assert not found, "\n".join(found)


def test_the_trainer_speaks_of_no_tokens() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (ROOT / "songgen" / "train").rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FAMILY_WORDS.search(line)
    ]
    assert len(found) <= MAX_LINES_WITH_THEM, "\n".join(found)


def test_no_folder_holds_more_modules_than_one_can_survey() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in MODULES if path.name != "__init__.py")
    assert not {folder: count for folder, count in counts.items() if count > MAX_MODULES}


def wing_violations(source_text: str, module: Path) -> list[str]:
    """Imports between the wings of `songgen.prepare` that do not point downwards."""
    own = PREPARE_WINGS.index(module.parts[2].removesuffix(".py"))
    found = []
    for line, name in imported_modules(source_text, module.parent.parts):
        _, part, *path = name.split(".")
        if part == "prepare" and (not path or path[0] not in PREPARE_WINGS or PREPARE_WINGS.index(path[0]) > own):
            found.append(f"{module}:{line} imports {name}, which is not below it")
    return found


def test_wings_of_prepare_import_downwards() -> None:
    modules = [path.relative_to(ROOT) for path in (ROOT / "songgen" / "prepare").rglob("*.py")]
    modules.remove(Path("songgen/prepare/__init__.py"))
    assert {path.parts[2].removesuffix(".py") for path in modules} == set(PREPARE_WINGS)
    found = [line for path in modules for line in wing_violations((ROOT / path).read_text(encoding="utf-8"), path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("statement", "wing", "is_found"),
    [
        ("from songgen.prepare.steps.filters import FilterStep", "engine", True),
        ("from ..config import PrepareConfig", "report", True),
        ("def late():\n    from songgen.prepare import preparation", "review", True),
        ("from songgen.prepare.engine.step import Step", "steps", False),
        ("from .record import SongRecord", "engine", False),
    ],
)
def test_the_walk_over_the_wings_sees(statement: str, wing: str, is_found: bool) -> None:
    assert bool(wing_violations(statement, Path("songgen/prepare") / wing / "example.py")) is is_found


@pytest.mark.parametrize(
    ("statement", "part", "expected"),
    [
        ("from songgen.train.trainer import Trainer", "models", "not below"),
        ("from songgen.codecs import load_codec", "lyrics", "not below"),
        ("from ..config import RunConfig", "models", "plain values"),
        ("def late():\n    import songgen.cli.main", "data", "not below"),
        ("from songgen import anything_new", "cli", "no layer"),
        ("from songgen.train.step import Outcome", "families", "not below"),
        ("from songgen.families.tokens.family import TOKENS", "train", "through its family"),
        ("from songgen.layout import TokenLayout", "train", "through its family"),
        ("from songgen.families.objective import Objective", "train", None),
        ("from songgen.vocabulary import AudioVocabulary", "models", None),
        ("from .decoder import Decoder", "models", None),
    ],
)
def test_the_walk_sees(statement: str, part: str, expected: str | None) -> None:
    found = violations(statement, Path("songgen") / part / "example.py")
    assert (len(found) == 1 and expected in found[0]) if expected else not found


def test_import_of_the_package_is_quick() -> None:
    heavy = ("torch", "transformers", "accelerate", "datasets", "diffusers", "peft", "wandb", "pyarrow")
    program = f"import songgen, sys; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=SAFETY_SECONDS
    )
    assert result.stdout.strip() == "[]"


def test_public_names_load_without_the_training_libraries() -> None:
    """Transformers itself loads accelerate where it is installed; the others are ours to keep away."""
    program = (
        "import songgen, sys\n"
        "for name in songgen.__all__: getattr(songgen, name)\n"
        "print([name for name in ('datasets', 'diffusers', 'peft', 'pyarrow', 'wandb') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=SAFETY_SECONDS
    )
    assert result.stdout.strip() == "[]"


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports anywhere, the documented import upwards left out."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        where = path.relative_to(ROOT)
        found = {target for _, target in imported_names(path.read_text(encoding="utf-8"), where.parent.parts)}
        found = {target if target in names else target.rpartition(".")[0] for target in found}
        graph[name] = {target for target in found if (str(where), target) not in UPWARD} & set(names) - {name}
    return graph


def imported_names(source_text: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """As `imported_modules`, with the names that are imported: they may be modules."""
    for node in ast.walk(ast.parse(source_text)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    yield from imported_modules(source_text, package)


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside of functions and for types only count as well."""
    graph = import_graph()
    # Modules are taken away while they import nothing that is left: what stays imports in a circle.
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not graph, sorted(graph)
