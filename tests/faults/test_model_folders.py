"""Model folders of strangers and damaged ones: nothing outside of them is copied, nothing changed is used unnoticed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diagnoses import findings
from launching import write_config
from training_fakes import write_dataset, write_model_folder

from songgen.cli.main import main
from songgen.conditioning.caption_tokenizer import caption_tokenizer_fingerprint, train_caption_tokenizer
from songgen.doctor import Level, examine
from songgen.doctor.hashes import accept
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.generation.processing_songgen import SongGenProcessor
from songgen.models import SongGenForConditionalGeneration
from songgen.models.folder import copy_vocabularies
from songgen.runtime.file_hashes import HASHES_FILE, read_hashes
from songgen.tasks import MIXED
from songgen.train.launch import run_training
from songgen.train.publishing.hub import select_files

SECRET = "a private line of another folder"


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose model folder has all parts, and hashes of them."""
    world = tmp_path_factory.mktemp("world")
    write_model_folder(world / "model")
    captions = [f"a song, number {index}, slow and warm" for index in range(40)]
    tokenizer = train_caption_tokenizer(captions, 300, world / "model" / "caption_tokenizer")
    accept(world / "model")
    fingerprint = caption_tokenizer_fingerprint(tokenizer)
    write_dataset(world / "data", world / "model", 7, 3, caption_tokenizer_fingerprint=fingerprint)
    return world


@pytest.fixture
def world(complete: Path, tmp_path: Path) -> Path:
    """A copy, beside a folder with private files."""
    private = tmp_path / "private" / "keys"
    private.mkdir(parents=True)
    for name in ("README.md", "config.json", "vocab.json", "model.safetensors", "notes.txt"):
        (private / name).write_text(SECRET)
    return Path(shutil.copytree(complete, tmp_path / "world"))


def link(name: str, target: str) -> Callable[[Path], None]:
    def attack(model: Path) -> None:
        path = model / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(model.parents[1] / "private" / "keys" / target)

    return attack


def named(key: str, path: str) -> Callable[[Path], None]:
    def attack(model: Path) -> None:
        place = path.format(private=model.parents[1] / "private" / "keys")
        config = json.loads((model / "config.json").read_text())
        config[key] = {**config[key], "path": place} if isinstance(config[key], dict) else place
        (model / "config.json").write_text(json.dumps(config))

    return attack


ATTACKS = {
    "linked file": link("text_encoder/README.md", "README.md"),
    "linked vocabulary": link("text_encoder/vocab.json", "vocab.json"),
    "linked lyrics vocabulary": link("lyrics_tokenizer.json", "vocab.json"),
    "second lyrics vocabulary": link("vocab.json", "vocab.json"),
    "linked text beside a tokenizer": link("caption_tokenizer/notes.txt", "notes.txt"),
    "linked folder": link("voice_encoder", "."),
    "path upwards": named("text_encoder", "../../private/keys"),
    "path down and up": named("voice_encoder", "text_encoder/../../../private/keys"),
    "absolute path": named("audio_codec", "{private}"),
    "home": named("audio_codec", "~/keys"),
    "tokenizer upwards": named("caption_tokenizer", "../../private/keys"),
    "absolute tokenizer": named("caption_tokenizer", "{private}"),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_run_does_not_carry_out_files_from_outside_of_its_model_folder(
    world: Path, tmp_path: Path, attack: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    attack(world / "model")
    accept(world / "model")  # the stranger would have recorded hashes that fit
    config = write_config(world, output_dir=str(tmp_path / "run"), max_steps=1, do_eval=False)
    assert run_training([str(config)], MIXED) == EXIT_ERROR
    shown = "".join(capfd.readouterr())
    assert "outside of the model folder" in shown or "a link out of the model folder" in shown
    assert not contains_secret(tmp_path / "run")
    try:
        files, _ = select_files(world / "model")
    except ValueError:
        return
    sources = [file.source if isinstance(file.source, bytes) else file.source.read_bytes() for file in files]
    assert not [source for source in sources if SECRET.encode() in source]


def test_links_to_folders_inside_of_a_part_are_not_followed(world: Path, tmp_path: Path) -> None:
    """Neither copied nor published; the part works without them."""
    (world / "model" / "text_encoder" / "more").symlink_to(tmp_path / "private")
    config = write_config(world, output_dir=str(tmp_path / "run"), max_steps=1, do_eval=False)
    assert run_training([str(config)], MIXED) == EXIT_DONE
    assert not contains_secret(tmp_path / "run")
    assert not [file for file in select_files(tmp_path / "run")[0] if "more" in file.name]


def test_a_path_in_a_model_folder_is_not_looked_for_in_the_current_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    named("text_encoder", "private/keys")(world / "model")
    accept(world / "model")
    config = write_config(world, output_dir=str(tmp_path / "run"), max_steps=1, do_eval=False)
    assert run_training([str(config)], MIXED) == EXIT_ERROR
    assert "private/keys" in "".join(capfd.readouterr()) and not contains_secret(tmp_path / "run")


@pytest.mark.parametrize("name", ["README.md", "LICENSE"])
def test_a_linked_card_is_not_published(world: Path, name: str) -> None:
    (world / "model" / name).symlink_to(world.parent / "private" / "keys" / "README.md")
    files, left_out = select_files(world / "model")
    assert left_out[name] == "a link to somewhere else"
    assert not [file for file in files if file.source == world / "model" / name]


def test_a_part_that_the_user_names_is_copied_from_anywhere(world: Path, tmp_path: Path) -> None:
    """Only the model folder itself must not reach out; the configuration of the run is the user's."""
    encoder = (world / "model" / "text_encoder").rename(tmp_path / "my_encoder")
    tokenizer = (world / "model" / "caption_tokenizer").rename(tmp_path / "my_tokenizer")
    named("text_encoder", "google/flan-t5-large")(world / "model")
    (world / "model" / HASHES_FILE).unlink()
    (encoder / "pytorch_model.bin").write_bytes(b"a pickle")
    config = write_config(
        world, output_dir=str(tmp_path / "run"), max_steps=1, do_eval=False, text_encoder=str(encoder),
        description_tokenizer_name=str(tokenizer),
    )  # fmt: skip
    assert run_training([str(config)], MIXED) == EXIT_DONE
    run = tmp_path / "run"
    written = json.loads((run / "config.json").read_text())
    assert written["text_encoder"]["path"] == "text_encoder" and written["caption_tokenizer"] == "caption_tokenizer"
    assert (run / "text_encoder" / "model.safetensors").is_file()
    assert not (run / "text_encoder" / "pytorch_model.bin").exists(), "only listed endings are copied"
    open_everything(run)


def test_a_snapshot_of_the_hubs_cache_opens_and_is_copied(complete: Path, tmp_path: Path) -> None:
    """Its files are links to the contents of the same repository, and those alone may be followed."""
    repository = tmp_path / "cache" / "models--someone--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted((complete / "model").rglob("*.*"))):
        blob = shutil.copyfile(path, repository / "blobs" / str(number))
        place = snapshot / path.relative_to(complete / "model")
        place.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(place.relative_to(repository).parts) - 1)
        place.symlink_to(f"{up}blobs/{blob.name}")
    model = SongGenForConditionalGeneration.from_pretrained(snapshot)
    model.save_pretrained(tmp_path / "copy")
    copy_vocabularies(snapshot, tmp_path / "copy")
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_symlink()]
    open_everything(tmp_path / "copy")
    assert {file.name for file in select_files(snapshot)[0]} >= {"config.json", "text_encoder/model.safetensors"}
    (snapshot / "text_encoder" / "vocab.json").symlink_to(complete / "data" / "dataset.json")
    with pytest.raises(ValueError, match="a link out of the model folder"):
        model.save_pretrained(tmp_path / "other")


def contains_secret(folder: Path) -> bool:
    return any(SECRET in path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def open_everything(folder: Path) -> None:
    """Open a model with all its parts, as training and generation do."""
    SongGenForConditionalGeneration.from_pretrained(folder).load_frozen("text_encoder", "voice_encoder", "audio_codec")
    SongGenProcessor(folder)


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_no_flipped_bit_of_a_model_folder_is_used_unnoticed(complete: Path, tmp_path: Path, place: float) -> None:
    """Every file, at several places: opening names it, and so does the doctor."""
    names = sorted(read_hashes(complete / "model") or {})
    assert len(names) >= 12 and "caption_tokenizer/tokenizer.json" in names
    for name in [*names, HASHES_FILE]:
        model = Path(shutil.copytree(complete / "model", tmp_path / name.replace("/", "-") / "model"))
        flip(model / name, place)
        if name != "caption_tokenizer/spiece.model":  # for other programs: nothing here reads it
            with pytest.raises(ValueError, match=Path(name).name):
                open_everything(model)
        assert any(name.endswith(finding.where) for finding in findings(model, Level.ERROR)), name
        shutil.rmtree(model.parent)


def test_a_change_on_purpose_is_accepted(complete: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Path(shutil.copytree(complete / "model", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "train_every_eos": False}))
    with pytest.raises(ValueError, match=r"(?s)config\.json: it has .*songgen doctor .* --accept"):
        SongGenForConditionalGeneration.from_pretrained(model)
    assert main(["doctor", str(model)]) == EXIT_ERROR
    assert main(["doctor", str(model), "--accept"]) == EXIT_DONE
    assert "every byte is as written" in capsys.readouterr().out
    assert not SongGenForConditionalGeneration.from_pretrained(model).config.train_every_eos


def test_a_folder_without_hashes_opens(complete: Path, tmp_path: Path) -> None:
    """Another program wrote it, or an earlier version."""
    model = Path(shutil.copytree(complete / "model", tmp_path / "model"))
    (model / HASHES_FILE).unlink()
    open_everything(model)
    (finding,) = [entry for entry in examine(model).findings if entry.where == HASHES_FILE]
    assert finding.level is Level.OK and "no hashes" in finding.what


def test_every_written_folder_has_hashes_of_all_it_needs(world: Path, tmp_path: Path) -> None:
    config = write_config(world, output_dir=str(tmp_path / "run"), max_steps=1, do_eval=False)
    assert run_training([str(config)], MIXED) == EXIT_DONE
    assert set(read_hashes(tmp_path / "run") or {}) == set(read_hashes(world / "model") or {})
    write_model_folder(tmp_path / "api")
    assert "model.safetensors" in (read_hashes(tmp_path / "api") or {})
    flip(tmp_path / "run" / "model.safetensors", 0.9)
    with pytest.raises(ValueError, match=r"model\.safetensors: its hash does not fit"):
        select_files(tmp_path / "run")
