"""What closes the doors of the security table in docs/trust.md, as far as no fault case has it."""

import ast
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from launching import ROOT, make_world, records, write_config
from limits import SAFETY_SECONDS
from preprocess_fakes import options_for, read_manifest, run, write_corpus, write_manifest

from songgen.environment import QUIET_ENVIRONMENT
from songgen.exit_codes import EXIT_ERROR
from songgen.runtime.terminal import PrintableFormatter, printable
from songgen.tasks import MIXED
from songgen.train.launch import run_training
from songgen.train.reporting.trackers import Trackers

HUB_TOKEN = "hf_" + "Secret" * 6
WANDB_KEY = "0123456789abcdef" * 2 + "01234567"

PRODUCT = sorted(path for folder in ("songgen", "training", "helpers") for path in (ROOT / folder).rglob("*.py"))

DYNAMIC_IMPORTS = {
    "songgen/__init__.py": "the public names",
    "songgen/cli/main.py": "the table of subcommands",
    "songgen/ui/commands.py": "the table of commands that the page starts",
    "songgen/codecs/registry.py": "the kinds of codecs",
    "songgen/families/registry.py": "the table of families",
    "songgen/families/flow/pipeline.py": "the table of components",
    "songgen/families/use/generating.py": "the table of options",
    "songgen/generation/demucs_weights.py": "the networks of demucs",
    "songgen/train/optimization/optimizer.py": "one name, for a package that may be absent",
}
"""Files that may import a module by a name in a variable or late -> the closed table that the name comes from."""

COPYING = {
    "songgen/runtime/model_folders.py": "copy_part: files of models, by ending, never through a link out of the folder",
    "songgen/tokenize/finalize.py": "shards, whose hashes were compared before",
    "songgen/train/output_folder.py": "a whole run moved to a backup next to it",
    "songgen/ui/workspace.py": "a folder that the user deletes, moved to the trash; a link is moved as a link",
    "songgen/ui/folders/trash.py": "likewise, back to where it was, into the folders of the page",
    "helpers/demo/build_page.py": "a song that the demo itself has made",
    "helpers/demo/report_flow.py": "likewise",
    "helpers/demo/demo_songs/speech.py": "the data folder of an installed package",
}
"""Files that may copy, link or move a file -> what they do so with."""

UNPICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "joblib", "marshal"}
"""Modules that make objects out of files; JSON, YAML read safely, and safetensors hold data alone."""

LISTENING = {
    "http.server",
    "socketserver",
    "wsgiref",
    "xmlrpc.server",
    "gradio",
    "flask",
    "fastapi",
    "uvicorn",
}
"""Modules that wait for requests."""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called, as far as it has one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def imports(tree: ast.AST) -> Iterator[str]:
    """Full name of every module that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call gives for a keyword; None where it gives none."""
    found = next((entry.value for entry in call.keywords if entry.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else found


def doors(source: str, file: str = "") -> list[str]:
    """Everything in a program text through which input could become code, or data could leave or enter unasked."""
    tree = ast.parse(source)
    found = [name for name in imports(tree) if name.split(".")[0] in UNPICKLING]
    for call, name in calls(tree):
        last = name.split(".")[-1]
        is_open = (
            name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
            or last in ("embed_storage", "register_for_checkpointing", "load_state", "save_state")
            or keyword(call, "shell") is True
            or (last == "load" and name.startswith("torch.") and keyword(call, "weights_only") is not True)
            or (last == "load" and name.startswith(("np.", "numpy.")))
            or (name.startswith("yaml.") and "load" in last and last != "safe_load")
            or (last == "snapshot_download" and keyword(call, "allow_patterns") is None)
            or (last == "import_module" and not isinstance(call.args[0], ast.Constant) and file not in DYNAMIC_IMPORTS)
            or (re.match(r"Auto\w+\.from_pretrained", name) and keyword(call, "trust_remote_code") is not False)
        )
        if is_open:
            found.append(f"{name} (line {call.lineno})")
    return found


def listeners(source: str) -> list[str]:
    """Everything in a program text that waits for requests."""
    tree = ast.parse(source)
    found = [name for name in imports(tree) if any(f"{name}.".startswith(f"{known}.") for known in LISTENING)]
    found += [name for _, name in calls(tree) if name.split(".")[-1] in ("listen", "create_server", "start_server")]
    return found


def copies(source: str) -> list[str]:
    """Everything in a program text that makes another file with the content of one."""
    linking = {"hardlink_to", "symlink_to", "link_to", "copy_into", "move_into"}
    found = []
    for call, name in calls(ast.parse(source)):
        is_copy = name.startswith("shutil.") and name.split(".")[1] in {
            "copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "make_archive",
        }  # fmt: skip
        if is_copy or name in ("os.link", "os.symlink", "os.sendfile") or name.split(".")[-1] in linking:
            found.append(f"{name} (line {call.lineno})")
    return found


def test_one_function_copies_files_of_models() -> None:
    """What a stranger's model folder reaches by a link or a path would become a file of the run, and be published."""
    assert copies("shutil.copytree(a, b)") and copies("Path(a).hardlink_to(b)") and not copies("tensor.copy_(other)")
    imported = [path for path in PRODUCT if "from shutil import" in path.read_text(encoding="utf-8")]
    assert not imported, "call them with their module, so that this test sees them"
    found = {path.relative_to(ROOT).as_posix() for path in PRODUCT if copies(path.read_text(encoding="utf-8"))}
    assert found == set(COPYING)


def test_nothing_turns_input_into_code() -> None:
    assert len(PRODUCT) > 100
    found = {}
    for path in PRODUCT:
        file = path.relative_to(ROOT).as_posix()
        if opened := doors(path.read_text(encoding="utf-8"), file):
            found[file] = opened
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "yaml.load(text)",
        "yaml.full_load(text)",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "subprocess.run(text, shell=True)",
        "importlib.import_module(config.name)",
        "AutoTokenizer.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
        "snapshot_download(name)",
        "accelerator.save_state(folder)",
        "audio.embed_storage(rows)",
    ],
)
def test_the_walk_sees_open_doors(source: str) -> None:
    assert doors(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
        "json.loads(text)",
        "model.eval()",
        "re.compile(text)",
        "model.load(path)",
    ],
)
def test_the_walk_passes_over_closed_ones(source: str) -> None:
    assert not doors(source)


@pytest.mark.case(35)
def test_only_the_local_server_waits_for_requests() -> None:
    """Whatever else listens would have to test host, token, origin, address and paths by itself."""
    assert listeners("from http.server import HTTPServer") and listeners("socket.create_server(place)")
    found = {path.relative_to(ROOT).as_posix() for path in PRODUCT if listeners(path.read_text(encoding="utf-8"))}
    assert found == {"songgen/web/server.py"}


def python(program: str, **environment: str) -> str:
    """Run a program without the variables that the tests set; returns what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name not in QUIET_ENVIRONMENT}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SAFETY_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.faults
@pytest.mark.parametrize("entrance", ["songgen.cli.main", "songgen.train.launch", "songgen.tokenize"])
def test_libraries_are_quiet_from_their_first_import(entrance: str) -> None:
    """The hub's client reads its variables when it is imported, so they must be set before."""
    program = (
        f"import {entrance}\n"
        "from huggingface_hub import constants\n"
        "import os\n"
        "from transformers.utils import is_env_variable_true\n"
        "assert constants.HF_HUB_DISABLE_TELEMETRY and constants.HF_HUB_DISABLE_UPDATE_CHECK\n"
        "assert is_env_variable_true('DISABLE_SAFETENSORS_CONVERSION')\n"
        "print(os.environ['WANDB_ERROR_REPORTING'], os.environ['DO_NOT_TRACK'])"
    )
    assert python(program).split() == ["false", "1"]


def test_the_environment_has_the_last_word() -> None:
    assert python("import songgen, os; print(os.environ['DO_NOT_TRACK'])", DO_NOT_TRACK="0").strip() == "0"


@pytest.mark.faults
def test_bitsandbytes_fetches_no_code_when_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    raise SystemExit('code was fetched')\n")
    program = "import songgen, bitsandbytes, importlib.util\nprint(importlib.util.find_spec('kernels'))"
    assert python(program, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])).strip() == "None"


def test_scripts_import_no_library_before_songgen() -> None:
    """Imports are sorted, so that a library that a script imports itself would come first and miss the variables."""
    libraries = {"huggingface_hub", "transformers", "datasets", "accelerate", "evaluate", "wandb", "diffusers"}
    scripts = [path for folder in ("training", "helpers") for path in (ROOT / folder).rglob("*.py")]
    early = {str(path.relative_to(ROOT)): found for path in scripts if (found := _imported_at_once(path) & libraries)}
    assert len(scripts) > 5 and not early


def _imported_at_once(path: Path) -> set[str]:
    """Packages that a script imports when it is loaded."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    statements = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name.split(".")[0] for node in statements for name in imports(node)}


def test_credentials_reach_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from the environment nor from a command line; wandb keeps both in what it writes if it may."""
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["run_training_mixed.py", f"--hub_token={HUB_TOKEN}"])
    trackers = Trackers(
        tmp_path, ("wandb", "tensorboard"), config={"note": f"use {HUB_TOKEN}", "wandb_api_key": WANDB_KEY}
    )
    trackers.log({"train/loss": 1.0}, 1)
    trackers.log_audio("song", np.zeros(800), 16000, 1)
    trackers.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files) and any("tfevents" in path.name for path in files)
    secrets = (HUB_TOKEN.encode(), WANDB_KEY.encode())
    assert not [path.name for path in files if any(secret in path.read_bytes() for secret in secrets)]


def test_a_token_in_the_configuration_stops_the_launch_and_is_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, output_dir=str(tmp_path / "run"), wandb_run_name=f"with {HUB_TOKEN}")
    assert run_training([str(config), "--hub_token", HUB_TOKEN], MIXED) == EXIT_ERROR
    assert not (tmp_path / "run").exists()
    shown = "".join(capfd.readouterr())
    assert "wandb_run_name" in shown and "hub_token" in shown and HUB_TOKEN not in shown


EVIL = "\x1b[2J\x1b]0;title\x07red\x9b31m"


def test_log_lines_hold_no_control_characters() -> None:
    record = logging.LogRecord("songgen", logging.WARNING, "", 1, "a caption: %s\nnext\tline", (EVIL,), None)
    assert PrintableFormatter("%(levelname)s: %(message)s").format(record) == "WARNING: a caption: red31m\nnext\tline"


def test_preprocessing_prints_and_lists_names_from_outside_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_corpus(tmp_path / "corpus", 4)
    rows = read_manifest(manifest)
    rows[0] |= {"caption": EVIL, "lyrics": EVIL, "audio_file_name": f"{EVIL}.wav", "fname": EVIL}
    rows[1] |= {"energy_of_nothing": EVIL, "language": EVIL}
    write_manifest(manifest, rows)
    run(options_for(manifest, tmp_path / "data", max_bad_fraction=0.9))
    printed = "".join(capsys.readouterr())
    assert "left out: 1 x file_missing" in printed and printable(printed) == printed.replace("\r", "")
    listed = (tmp_path / "data" / "rejected.jsonl").read_text(encoding="utf-8")
    assert listed.count("\n") == len([json.loads(line) for line in listed.splitlines()]) >= 1
    assert printable(listed) == listed


def _network_namespace() -> str:
    """Why a process cannot be put into an empty network; empty if it can."""
    try:
        result = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, timeout=10)
    except OSError as error:
        return str(error)
    return result.stderr.strip() if result.returncode else ""


@pytest.mark.case(32)
def test_training_needs_no_network(tmp_path: Path) -> None:
    """In a network namespace without any interface: whatever tried to connect would fail."""
    if reason := _network_namespace():
        pytest.skip(f"no network namespace can be made here: {reason}")
    world = make_world(tmp_path)
    config = write_config(world, output_dir=str(tmp_path / "run"), num_train_epochs=1, predict_with_generate=True)
    script = ROOT / "training" / "run_training_mixed.py"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB_"))}
    result = subprocess.run(
        ["unshare", "-rn", sys.executable, str(script), str(config)],
        env=environment | {"ACCELERATE_USE_CPU": "true", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=SAFETY_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    assert len(records(tmp_path / "run")) == 5 and (tmp_path / "run" / "model.safetensors").is_file()
    interfaces = subprocess.run(["unshare", "-rn", "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
    assert [line.split(":")[0].strip() for line in interfaces.stdout.splitlines()[2:]] == ["lo"]
