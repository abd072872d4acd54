"""Publishing: only what is on the list, private, in one commit, and what was uploaded opens again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

import huggingface_hub
import pytest
import torch
from adapters_fakes import make_adapter
from checkpoint_fakes import FORK
from fake_hub import TOKEN, USER, FakeHub, running_hub
from huggingface_hub import constants
from limits import SAFETY_SECONDS
from tiny_flow import write_tiny_pipeline
from training_fakes import write_model_folder

from songgen.adapters.choice import base_of, parse_choice
from songgen.adapters.folder import read_adapter, write_adapter
from songgen.cli.main import main
from songgen.config import RunConfig
from songgen.doctor.hashes import accept
from songgen.families.flow.model import FlowModel
from songgen.families.registry import family_of
from songgen.models import SongGenForConditionalGeneration
from songgen.runtime.model_folders import resolve_folder
from songgen.train.launch import _require_possible
from songgen.train.publishing import hub as hub_module
from songgen.train.publishing.hub import MAX_SAMPLES, publish, push_to_hub, select_files

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SECRET = "hf_" + "x" * 12


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and nothing else, made once; tests copy it."""
    return write_model_folder(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def run_folder(published: Path, tmp_path: Path) -> Path:
    """The folder of a run that ended: a model among everything that must not leave the machine."""
    folder = tmp_path / "my-song-model"
    subprocess.run(["cp", "-r", str(published), str(folder)], check=True)
    config = {
        "learning_rate": 1e-4,
        "seed": 1,
        "output_dir": "/data/someone/run",
        "train_dataset_name": "/data/someone/songs+~/more",
        "wandb_run_name": SECRET,
    }
    (folder / "training_config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text('{"step": 3, "epoch": 1.5, "eval/loss": 2.25}\n')
    private_files = {
        "checkpoint-3/optimizer.safetensors": b"state",
        "checkpoint-3/model.safetensors": b"state",
        "optimizer.safetensors": b"state",
        "pytorch_model.bin": b"pickle",
        "wandb/run-1/config.yaml": b"wandb",
        "wandb_run_id.txt": b"wandb",
        "tensorboard/events.out": b"events",
        ".run.lock": b"{}",
        "notes.txt": b"private",
        "audio_codec/evil.bin": b"pickle",
        "audio_codec/.cache/x.json": b"{}",
        "text_encoder/checkpoint-1/model.safetensors": b"state",
        "text_encoder/optimizer.safetensors": b"state",
    }
    for name, content in private_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for step in (2, 3):
        for index in range(6):
            for track in ("mix", "vocal"):
                sample = folder / f"samples/step_{step:08d}/clip{index}_generated_{track}.wav"
                sample.parent.mkdir(parents=True, exist_ok=True)
                sample.write_bytes(f"RIFF {step} {index} {track}".encode())
    original = folder / "samples/step_00000000/clip0_original_mix.wav"
    original.parent.mkdir(parents=True)
    original.write_bytes(b"somebody's recording")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "audio_codec" / "link.json").symlink_to(tmp_path / "secret.json")
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub, and the client pointed at it."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        huggingface_hub.close_session()


EXPECTED = {
    "README.md",
    "config.json",
    "file_hashes.json",
    "model.safetensors",
    "lyrics_tokenizer.json",
    "training_config.json",
    *(f"samples/step_00000003/clip{index}_generated_mix.wav" for index in range(6)),
    *(f"samples/step_00000003/clip{index}_generated_vocal.wav" for index in range(2)),
}


def expected_names(folder: Path) -> set[str]:
    """The list above and the data files of the frozen networks, by an independent rule."""
    parts = ("text_encoder", "voice_encoder", "audio_codec")
    allowed = {f"{part}/{path.name}" for part in parts for path in (folder / part).iterdir() if path.is_file()}
    return EXPECTED | (
        allowed - {"audio_codec/evil.bin", "audio_codec/link.json", "text_encoder/optimizer.safetensors"}
    )


def test_only_listed_files_are_chosen(run_folder: Path) -> None:
    files, left_out = select_files(run_folder)
    assert {file.name for file in files} == expected_names(run_folder)
    assert sum(file.name.startswith("samples/") for file in files) == MAX_SAMPLES
    assert set(left_out) == {
        "audio_codec/evil.bin",
        "audio_codec/.cache/x.json",
        "audio_codec/link.json",
        "text_encoder/optimizer.safetensors",
        "text_encoder/checkpoint-1/model.safetensors",
    }


def test_neither_secrets_nor_places_are_published(run_folder: Path) -> None:
    files, _ = select_files(run_folder)
    texts = {file.name: file.source for file in files if isinstance(file.source, bytes)}
    assert set(texts) == {"README.md", "training_config.json"}
    for text in texts.values():
        assert SECRET.encode() not in text and b"someone" not in text
    shown = json.loads(texts["training_config.json"])
    assert shown["train_dataset_name"] == "songs+more" and shown["learning_rate"] == 1e-4


def test_a_readme_of_ones_own_is_kept(run_folder: Path) -> None:
    (run_folder / "README.md").write_text("---\nlicense: mit\n---\nmine")
    files, _ = select_files(run_folder)
    assert [file.source for file in files if file.name == "README.md"] == [run_folder / "README.md"]


def test_shards_are_taken_by_the_index(run_folder: Path) -> None:
    (run_folder / "model.safetensors").rename(run_folder / "model-00001-of-00001.safetensors")
    index = run_folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    accept(run_folder)
    names = {file.name for file in select_files(run_folder)[0]}
    assert {"model-00001-of-00001.safetensors", "model.safetensors.index.json"} <= names
    index.write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors", "b": "../secret.safetensors"}})
    )
    with pytest.raises(ValueError, match=r"secret\.safetensors"):
        select_files(run_folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_model_is_refused(run_folder: Path, missing: str) -> None:
    (run_folder / missing).unlink()
    with pytest.raises(ValueError, match=f"not a complete model folder: .*{missing}"):
        push_to_hub(run_folder, "someone/model", dry_run=True)


def test_a_model_that_would_not_open_elsewhere_is_refused(run_folder: Path) -> None:
    path = run_folder / "config.json"
    config = json.loads(path.read_text())
    config["audio_codec"]["path"] = "/data/someone/codec"
    path.write_text(json.dumps(config))
    accept(run_folder)
    with pytest.raises(ValueError, match="audio_codec: /data/someone/codec"):
        select_files(run_folder)


def test_dry_run_shows_everything_and_touches_nothing(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_client", lambda: pytest.fail("a dry run needs no client"))
    before = sorted(run_folder.rglob("*"))
    assert main(["push", str(run_folder), "someone/model", "--dry_run"]) == 0
    shown = capsys.readouterr().out
    for name in expected_names(run_folder):
        assert name in shown
    assert f"{(run_folder / 'model.safetensors').stat().st_size:,}  model.safetensors" in shown
    assert "evil.bin (only" in shown
    assert "nothing was uploaded" in shown and "private" in shown
    assert sorted(run_folder.rglob("*")) == before


def test_without_an_account_it_says_how_to_get_one(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["push", str(run_folder), "someone/model"]) == 2
    assert "hf auth login" in capsys.readouterr().err


def test_what_is_uploaded_opens_again(run_folder: Path, server: FakeHub, tmp_path: Path) -> None:
    push = push_to_hub(run_folder, license_name="apache-2.0")
    assert push.repo_id == f"{USER}/my-song-model"
    repository = server.repositories[push.repo_id]
    assert repository.private
    assert push.revision == repository.commits[-1] and len(repository.commits) == 2, "one commit"
    assert set(repository.files) == expected_names(run_folder)
    for file in push.files:
        wanted = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
        assert repository.files[file.name] == wanted
    assert "model.safetensors" in repository.lfs_files and "config.json" not in repository.lfs_files
    assert b"license: apache-2.0" in repository.files["README.md"]
    assert any("/storage/" in path and path.count("/") == 3 for _, path, _ in server.requests), "one was sent in parts"
    assert not any("torch" in agent for _, _, agent in server.requests), "no telemetry in the user agent"

    original = SongGenForConditionalGeneration.from_pretrained(run_folder)
    cache = str(tmp_path / "cache")
    model = SongGenForConditionalGeneration.from_pretrained(push.repo_id, revision=push.revision, cache_dir=cache)
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.audio_codec.fingerprint == original.audio_codec.fingerprint
    assert model.text_encoder.fingerprint == original.text_encoder.fingerprint
    assert (resolve_folder(push.repo_id, cache_dir=cache) / "lyrics_tokenizer.json").is_file()


def test_an_adapter_that_is_uploaded_is_found_by_its_id(server: FakeHub, tmp_path: Path) -> None:
    _, adapter = make_adapter()
    folder = tmp_path / "singer"
    folder.mkdir()
    write_adapter(folder, adapter.config, adapter.weights, adapter.recipe)
    assert main(["push", str(folder), f"{USER}/singer", "--base", "someone/base"]) == 0
    repository = server.repositories[f"{USER}/singer"]
    assert repository.private and b"base_model: someone/base" in repository.files["README.md"]
    choice = parse_choice(f"{USER}/singer:0.5")
    assert choice.strength == 0.5 and base_of(choice.folder) == "someone/base"
    found = read_adapter(choice.folder)
    assert found.weights.keys() == adapter.weights.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in adapter.weights.items())


def test_a_second_upload_changes_what_changed(run_folder: Path, server: FakeHub) -> None:
    first = push_to_hub(run_folder, "someone/model")
    (run_folder / "README.md").write_text("---\n---\nbetter words")
    second = push_to_hub(run_folder, "someone/model")
    assert second.revision != first.revision
    assert server.repositories["someone/model"].files["README.md"].endswith(b"better words")


def test_a_public_repository_is_not_used_for_a_private_upload(run_folder: Path, server: FakeHub) -> None:
    push_to_hub(run_folder, "someone/model", private=False)
    repository = server.repositories["someone/model"]
    assert not repository.private
    commits = list(repository.commits)
    with pytest.raises(ValueError, match="public already"):
        push_to_hub(run_folder, "someone/model")
    assert repository.commits == commits


@pytest.mark.parametrize("failing", ["whoami", "repos/create", "preupload", "storage", "commit"])
def test_a_failed_upload_ends_no_run(
    run_folder: Path, server: FakeHub, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.failing_path = failing
    assert publish(run_folder, None, private=True) is None
    assert f"try again with `songgen push {run_folder}`" in caplog.text
    asked = [path for _, path, _ in server.requests]
    assert any(failing in path for path in asked)
    assert failing == "commit" or not any("/commit/" in path for path in asked), "it went on after the failure"
    assert "403 Forbidden" in caplog.text and TOKEN not in caplog.text
    assert not any(repository.files for repository in server.repositories.values()), "all or nothing"
    server.failing_path = None
    assert publish(run_folder, "someone/model", private=True) is not None


@pytest.mark.faults
def test_the_command_uploads_by_the_environment_alone(run_folder: Path, repository_root: Path) -> None:
    """A process of its own: endpoint and token come from the environment, as for a user."""
    with running_hub() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(repository_root),
        }
        environment.pop("HF_HUB_DISABLE_TELEMETRY", None)
        command = [sys.executable, "-m", "songgen.cli.main", "push", str(run_folder), "someone/model"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SAFETY_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        repository = hub.repositories["someone/model"]
        assert repository.private and set(repository.files) == expected_names(run_folder)
        assert f"revision {repository.commits[-1]}" in done.stdout
        assert TOKEN not in done.stdout + done.stderr
        assert not any("telemetry" in path or "agent" in path for _, path, _ in hub.requests)


@pytest.mark.parametrize(
    "name",
    ["a/b/c", "two words", "me/two words", "-x", "x.", "a--b", "a..b", "x.git", "n" * 97, "me/", "m\u00fcsik", "../x"],
)
def test_names_that_the_hub_does_not_take_are_refused_before_anything_else(
    name: str, run_folder: Path, tmp_path: Path
) -> None:
    """In a dry run, before an upload, and before a training that ends with one."""
    for dry_run in (True, False):
        with pytest.raises(ValueError, match="the hub has no repositories of the name"):
            push_to_hub(run_folder, name, dry_run=dry_run)
    config = RunConfig.from_dict(
        {
            "model_name_or_path": "model", "save_to_disk": "data", "output_dir": str(tmp_path / "run"),
            "push_to_hub": True, "hub_model_id": name,
        }
    )  # fmt: skip
    with pytest.raises(ValueError, match="the hub has no repositories of the name"):
        _require_possible(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_killed_during_an_upload_it_leaves_nothing_or_everything(run_folder: Path, server: FakeHub) -> None:
    """The repository has no file until the one commit, and the same upload completes it."""
    push_to_hub(run_folder, "someone/model")
    total, expected, left = len(server.requests), expected_names(run_folder), []
    for number in (0, 1, total // 2, total - 3, total - 2, total - 1):
        server.repositories.clear()
        server.objects.clear()
        server.requests.clear()
        child = FORK.Process(target=push_and_leave, args=(run_folder,))

        def kill(request: int, child: ForkProcess = child, number: int = number) -> None:
            if request == number and child.pid is not None:
                os.kill(child.pid, signal.SIGKILL)

        server.before_request = kill
        child.start()
        child.join(600)
        server.before_request = lambda request: None
        assert child.exitcode == -signal.SIGKILL
        left.append({name for repository in server.repositories.values() for name in repository.files})
        assert left[-1] in (set(), expected)
    assert left[0] == left[1] == left[2] == set()
    push_to_hub(run_folder, "someone/model")
    assert set(server.repositories["someone/model"].files) == expected


def push_and_leave(folder: Path) -> None:
    """Upload in a process of its own."""
    push_to_hub(folder, "someone/model")
    os._exit(0)


@pytest.mark.faults
def test_a_pipeline_is_uploaded_whole_and_opens_again(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_pipeline(tmp_path / "song")
    push = push_to_hub(folder)
    files = server.repositories[push.repo_id].files
    assert set(files) == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} | {
        "README.md"
    }
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    opened, original = FlowModel.open(push.repo_id, revision=push.revision), FlowModel.open(folder)
    for name, tensor in original.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name
    assert family_of(push.repo_id, push.revision).name == "flow matching"
