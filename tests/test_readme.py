"""What README and guide name exists: files, scripts, flags, subcommands, targets, extras, headings, Python names."""

import argparse
import ast
import functools
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import songgen
from songgen.cli.main import COMMANDS, parse_words
from songgen.cli.run_arguments import split_off_launch
from songgen.cli.training.train import add_task_option
from songgen.config import RunConfig
from songgen.config.foreign.ignored import ALIASES
from songgen.config.foreign.spellings import SPELLINGS, experiment_folder, translate
from songgen.config.keys import all_keys
from songgen.config.loading import read_config_file
from songgen.config.recipes import PREPARING, TRAINING, find_recipe
from songgen.config.types import parse_text

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/guide.md", "docs/zh/guide.md")
COMMAND_PAGES = (
    *PAGES,
    "docs/preparing.md",
    "docs/prepare_captions.md",
    "docs/prepare_signal.md",
    "docs/review.md",
    "docs/ui.md",
    "docs/zh/ui.md",
    "docs/benchmarks.md",
    "docs/coming_from.md",
    "docs/finetuning.md",
    "docs/finetuning_acestep.md",
    "docs/zh/finetuning_acestep.md",
)
LINKED_PAGES = (
    *COMMAND_PAGES,
    "docs/hardware.md",
    "docs/architecture.md",
    "docs/formats.md",
    "docs/configuration.md",
    "docs/trust.md",
    "CHANGELOG.md",
)
FEWEST_COMMANDS = dict.fromkeys(COMMAND_PAGES, 0) | {
    "README.md": 16, "docs/guide.md": 16, "docs/zh/guide.md": 16, "docs/preparing.md": 8, "docs/review.md": 2,
    "docs/benchmarks.md": 6, "docs/coming_from.md": 7, "docs/finetuning.md": 8,
    "docs/finetuning_acestep.md": 22, "docs/zh/finetuning_acestep.md": 22,
}  # fmt: skip
"""Fewer would mean that the pages are not read as they should be."""
CONFIGURED = ("preprocess_data.py", "run_training_mixed.py", "run_training_dual_track.py", "run_training_flow.py")
PLACEHOLDERS = ("SCRIPT", "CONFIG.json")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FOREIGN_CELLS = re.compile(r"^\| there \|.*(?:\n\|.*)*", re.MULTILINE)
"""A table that compares another program with this one: its first column names what the other one has."""
OUR_FOLDERS = re.compile(r"(?:helpers|training|benchmarks|docs|tests|songgen)/[\w./-]*\w/?")
TEST_NAME = re.compile(r"`((?:tests/)?[\w/]*test_\w+\.py)(?:::(\w+))?`")
OTHER_FLAGS = {"--help", "--extra-index-url", "--local-dir", "--data_dir", "--repeat_count", "--output_name"}
"""Flags of pip and of the hub's client, and the one that everything has."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text_of(page)) if name == language]


def inline_code(page: str) -> list[str]:
    """Every code span of a page, except those that name what another program has."""
    text = FOREIGN_CELLS.sub(lambda table: re.sub(r"^\|[^|]*\|", "|", table[0], flags=re.MULTILINE), text_of(page))
    return CODE.findall(FENCE.sub("", text))


def commands(page: str) -> list[list[str]]:
    """Every command of a page's shell blocks and inline code, as words, without comments and variables before it."""
    lines = [line for body in blocks(page, "bash") for line in body.replace("\\\n", " ").splitlines()]
    starts = ("accelerate launch ", "python ", "songgen ", "make ", "pip install ")
    lines += [code for code in inline_code(page) if code.startswith(starts)]
    found = []
    for part in (part for line in lines for part in line.split(" && ")):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            found.append(words)
    return found


@functools.cache
def declared_flags(script: Path) -> frozenset[str]:
    """Every flag that a script, or a module beside it or of `songgen.cli` that it imports, declares."""
    flags: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            flags.update(name for name in names if isinstance(name, str) and name.startswith("--"))
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_command = node.module.startswith("songgen.cli.") and not script.is_relative_to(ROOT / "songgen")
            imported = (ROOT if is_command else script.parent).joinpath(*node.module.split(".")).with_suffix(".py")
            flags |= declared_flags(imported) if imported.is_file() else set()
    return frozenset(flags)


def subcommand_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"songgen {name}", exit_on_error=False, conflict_handler="resolve")
    importlib.import_module(COMMANDS[name].module).add_arguments(parser)
    return parser


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every flag of a parser and of its actions' parsers."""
    flags = {flag for action in parser._actions for flag in action.option_strings}
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return flags.union(*(flags_of(each) for action in actions for each in action.choices.values()))


def launcher_flags() -> set[str]:
    from accelerate.commands.launch import launch_command_parser

    return {flag for action in launch_command_parser()._actions for flag in action.option_strings}


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_file(name: str, kind: str) -> Path:
    """A configuration that a command names, from the repository's folder."""
    return ROOT / name if (ROOT / name).is_file() else find_recipe(name, kind)


def check_configured(words: list[str]) -> None:
    """Read a launch of ours as its script would: file, keys, values, contradictions."""
    files = [word for word in words[:1] if not word.startswith("--")]
    # `songgen prepare` writes data.json with the keys of the shipped file for preprocessing.
    files = [
        "helpers/training_configs/data_musiccaps.json" if Path(name).name == "data.json" else name for name in files
    ]
    values = dict(read_config_file(find_file(files[0], TRAINING))[0]) if files else {}
    overrides, rest = {}, words[len(files) :]
    while rest:
        flag = rest.pop(0)
        assert flag.startswith("--"), f"{flag} is neither a flag nor its value"
        name = ALIASES.get(flag[2:], flag[2:])
        assert name in all_keys() or name in SPELLINGS, f"{flag} is no key"
        given = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        overrides[name] = parse_text(given, (SPELLINGS if name in SPELLINGS else all_keys())[name].annotation)
    translated, uses, problems = translate(overrides)
    assert not problems, problems
    values |= translated
    named = experiment_folder(values, uses)
    RunConfig.from_dict({**values, **(named.keys if named is not None else {})})


def check_preparation(words: list[str]) -> None:
    """Read the arguments of `songgen prepare`; a placeholder stands for the smallest file."""
    from songgen.prepare.config import load_prepare_config

    smallest = ["--inputs", '["songs"]', "--output_dir", "out"]
    load_prepare_config(
        [*smallest, *words[1:]] if words[0] in PLACEHOLDERS else [str(find_file(words[0], PREPARING)), *words[1:]]
    )


def preparation_flags() -> set[str]:
    """Every flag of `songgen prepare`."""
    from songgen.prepare.config import help_text

    keys = set(re.findall(r"^  (--[\w.]+)  ", help_text(), re.MULTILINE))
    return keys | {key.split(".")[0] for key in keys}


def check_subcommand(name: str, *words: str) -> None:
    """Read the arguments of `songgen NAME` as it would."""
    assert name in COMMANDS, f"songgen has no command {name}"
    if not words:
        return
    parsed = parse_words(subcommand_parser(name), words)
    if name == "prepare":
        check_preparation(list(words))
    elif name in ("train", "tokenize") and parsed.config not in PLACEHOLDERS:
        check_configured(split_off_launch(parsed, *([add_task_option] if name == "train" else []))[0])


def check_command(words: list[str]) -> None:
    """Fail if a command could not be understood by what it calls."""
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "accelerate" and arguments[:1] == ["launch"]:
        place = next(index for index, word in enumerate(arguments) if word.endswith(".py") or word in PLACEHOLDERS)
        for flag, value in zip(arguments[1:place], arguments[2 : place + 1], strict=True):
            assert not flag.startswith("--") or flag in launcher_flags(), flag
            assert flag != "--config_file" or (ROOT / value).is_file(), value
        if arguments[place] not in PLACEHOLDERS:
            check_command(["python", *arguments[place:]])
    elif program == "python" and arguments:
        script = ROOT / arguments[0]
        assert script.is_file(), f"there is no {arguments[0]}"
        if script.name in CONFIGURED:
            check_configured(arguments[1:])
        else:
            unknown = {word for word in arguments[1:] if word.startswith("--")} - declared_flags(script) - {"--help"}
            assert not unknown, f"{arguments[0]} has no {', '.join(unknown)}"
    elif program == "songgen" and "--help" not in arguments:
        check_subcommand(*arguments)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
        wanted = [word for word in arguments if "=" not in word and not word.startswith("-")]
        variables = [word.split("=")[0] for word in arguments if "=" in word]
        assert set(wanted) <= set(targets), f"the Makefile has no {wanted}"
        assert all(re.search(rf"^{name} \?=", text_of("Makefile"), re.MULTILINE) for name in variables), variables


@pytest.mark.parametrize("page", COMMAND_PAGES)
def test_commands_are_understood(page: str) -> None:
    found = commands(page)
    assert len(found) >= FEWEST_COMMANDS[page]
    problems = []
    for words in found:
        try:
            check_command(words)
        except (AssertionError, ValueError, argparse.ArgumentError) as error:
            problems.append(f"{shlex.join(words)}: {error}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "command",
    [
        "accelerate launch training/run_training_mixed.py helpers/training_configs/mixed_pro/step1.json --learning 1",
        "accelerate launch training/run_training_mixed.py helpers/training_configs/mixed_pro/step9.json",
        "accelerate launch --config_file helpers/accelerate_configs/nine_gpus.yaml SCRIPT CONFIG.json",
        "accelerate launch --gpus 8 SCRIPT CONFIG.json",
        "accelerate launch training/run_training_mixed.py helpers/training_configs/mixed_pro/step1.json --dtype int8",
        "python helpers/fit_spectral_codec.py --songs here",
        "python helpers/model_init_scripts/init_model_mixed.py out --size small",
        "songgen sing",
        "songgen train mixed_pro/step9.json",
        "songgen train mixed_pro/step1.json --learning 1",
        "songgen train mixed_pro/step1.json --config_file nine_gpus.yaml",
        "songgen tokenize data_musiccaps.json --num_processes many",
        "songgen tokenizer --manifest a.jsonl --to here",
        "songgen generate --model a --out b.wav --words c",
        "songgen prepare helpers/prepare_configs/offline.json --filter.min_secnds 3",
        "songgen prepare CONFIG.json --exprot ace",
        "make everything",
        "make demo PYTHONS=python3",
    ],
)
def test_a_wrong_command_is_noticed(command: str) -> None:
    with pytest.raises((AssertionError, ValueError, argparse.ArgumentError, SystemExit)):
        check_command(shlex.split(command))


@pytest.mark.parametrize("page", (*COMMAND_PAGES, "docs/trust.md"))
def test_flags_in_the_text_exist(page: str) -> None:
    helpers = [script for folder in ("helpers", "benchmarks") for script in (ROOT / folder).rglob("*.py")]
    known = {f"--{name}" for name in all_keys()} | OTHER_FLAGS | launcher_flags()
    known |= {flag for script in helpers for flag in declared_flags(script)}
    known |= {flag for name in COMMANDS for flag in flags_of(subcommand_parser(name))}
    known |= preparation_flags()
    named = {flag for code in inline_code(page) for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code)}
    assert not named - known


@pytest.mark.parametrize("page", LINKED_PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (folder / name).resolve() if name else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", (*PAGES, "docs/architecture.md", "docs/coming_from.md"))
def test_files_in_the_text_exist(page: str) -> None:
    named = {path for code in inline_code(page) for path in OUR_FOLDERS.findall(code) if code.startswith(path)}
    assert named
    assert not {path for path in named if not (ROOT / path).exists()}


@pytest.mark.parametrize("page", (*PAGES, "docs/trust.md", "docs/coming_from.md"))
def test_names_in_the_text_are_those_of_the_program(page: str) -> None:
    """Words such as `save_to_disk` that stand alone in code must occur somewhere in the program."""
    folders = ("songgen", "helpers", "training")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".json")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in paths) + text_of("Makefile")
    names = {code for code in inline_code(page) if re.fullmatch(r"[a-zA-Z]+(_[a-zA-Z0-9]+)+", code)}
    words = set(re.findall(r"\w+", source))
    assert not names - words


def test_comparisons_name_keys_that_exist() -> None:
    """What another program's setting is here: a key of a run, or a key or section of preparing."""
    preparing = {flag.removeprefix("--") for flag in preparation_flags()}
    codes = inline_code("docs/coming_from.md")
    dotted = {code for code in codes if re.fullmatch(r"[a-z_]+\.[a-z_]+", code)}
    dotted -= {code for code in dotted if code.endswith((".json", ".jsonl"))}
    assert len(dotted) >= 6
    assert not dotted - preparing
    keys = {code for code in codes if code in all_keys()}
    assert len(keys) >= 40, "the page no longer names its keys as it should"
    assert not {code for code in codes if re.fullmatch(r"(lr|save|eval|logging|loss|codebook|freeze)_\w+", code)} - keys


def test_what_another_program_has_is_not_taken_for_ours() -> None:
    assert "evaluation_strategy" in CODE.findall(text_of("docs/coming_from.md"))
    assert "evaluation_strategy" not in inline_code("docs/coming_from.md")
    assert "eval_strategy" in inline_code("docs/coming_from.md")


def test_extras_exist() -> None:
    """Of this folder: `pip install songgen[8bit]` would ask an index for a package of that name."""
    declared = text_of("setup.py").split("extras_require={")[1].split("}")[0]
    extras = set(re.findall(r'^\s+"(\w+)":', declared, re.MULTILINE))
    paths = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "songgen").rglob("*.py")]
    paths += (ROOT / "helpers").rglob("*.yaml")
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    named = {name for group in re.findall(r"\"\.\[([\w,]+)\]\"", text) for name in group.split(",")}
    assert named >= {"train", "prepare", "8bit", "deepspeed", "separate"} and not named - extras
    assert not re.findall(r"install[^\n]* '?songgen\[", text)


@pytest.mark.parametrize("page", PAGES)
def test_python_compiles_and_its_imports_exist(page: str) -> None:
    for body in blocks(page, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "songgen":
                module = songgen if node.module == "songgen" else importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{node.module} has no {missing}"


@pytest.mark.parametrize(("page", "fewest"), [("docs/architecture.md", 10)])
def test_the_page_names_tests_that_exist(page: str, fewest: int) -> None:
    found = TEST_NAME.findall(text_of(page))
    assert len(found) >= fewest
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for name, function in found:
        path = files.get(Path(name).name)
        if path is None or (function and f"def {function}(" not in path.read_text(encoding="utf-8")):
            missing.append(f"{name}::{function}")
    assert not missing


def test_what_is_to_be_extended_exists() -> None:
    names = [code for code in inline_code("docs/architecture.md") if re.fullmatch(r"songgen(\.\w+){2,}", code)]
    assert len(names) > 10
    missing = []
    for name in names:
        parent, _, attribute = name.rpartition(".")
        module = importlib.import_module(parent)
        # A module is an attribute of its package only once something has imported it.
        is_module = hasattr(module, "__path__") and importlib.util.find_spec(name) is not None
        if not (is_module or hasattr(module, attribute)):
            missing.append(name)
    assert not missing
