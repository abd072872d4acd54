"""What is not deleted because something uses it, and what the trash holds."""

import json
from pathlib import Path

import pytest

from songgen.families.use.song_folder import SONG_LOCK_FILE, SongRequest, Take, write_song_request
from songgen.jobs.record import create_job, find_jobs
from songgen.runtime.folder_lock import locked
from songgen.ui.folders import trash
from songgen.ui.parts.settings import trash_size
from songgen.ui.workspace import CONFIGS_FOLDER, SONGS_FOLDER, TRASH_FOLDER, Workspace, origin_file


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path.resolve())


def reasons(workspace: Workspace, folder: str) -> list[str]:
    return list(trash.uses(workspace, workspace.root / folder, [], find_jobs(workspace.jobs)))


def write(path: Path, text: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_songs_that_are_generated_in_a_terminal_are_not_deleted(workspace: Workspace) -> None:
    with locked(workspace.root / SONGS_FOLDER / "one", SONG_LOCK_FILE):
        assert len(reasons(workspace, "outputs/songs/one")) == len(reasons(workspace, "outputs/songs")) == 1
    assert reasons(workspace, "outputs/songs/one") == []


def test_models_of_songs_that_are_being_generated_are_not_deleted(workspace: Workspace) -> None:
    folder = workspace.root / "elsewhere" / "outputs" / "songs" / "one"
    folder.mkdir(parents=True)
    takes = (Take("a", "outputs/model"), Take("b", "org/model", ("outputs/voice:0.5",)))
    write_song_request(folder, SongRequest(takes, {"seed": 1}), {"caption": "outputs/other"})
    command = ("songgen", "generate", "--request=outputs/songs/one")
    create_job(workspace.jobs, command, title="t", cwd=workspace.root / "elsewhere", subject="outputs/songs/one")
    for name in ("model", "voice", "songs/one"):
        assert len(reasons(workspace, f"elsewhere/outputs/{name}")) == 1, "its paths begin where the job runs"
        assert reasons(workspace, f"outputs/{name}") == []
    assert reasons(workspace, "elsewhere/outputs/other") == []
    (folder / "request.json").write_text("damaged")
    assert reasons(workspace, "elsewhere/outputs/model") == []


def test_a_folder_of_too_many_folders_to_look_through_is_not_deleted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (workspace.root / "outputs" / "many" / str(number)).mkdir(parents=True)
    monkeypatch.setattr(trash, "MAX_FOLDERS", 4)
    assert reasons(workspace, "outputs/many") == []
    monkeypatch.setattr(trash, "MAX_FOLDERS", 3)
    assert reasons(workspace, "outputs/many") == [trash.TOO_MANY.format("outputs/many")]


def test_a_configuration_is_listed_restored_and_removed(workspace: Workspace) -> None:
    file = write(workspace.root / CONFIGS_FOLDER / "small.json", '{"seed": 1}')
    place = workspace.move_to_trash(file)
    (entry,) = trash.trashed(workspace)
    assert (entry.id, entry.folder, entry.size) == (place.name, "outputs/configs/small.json", 11)
    with pytest.raises(ValueError, match="nothing of this name"):
        trash.restore(workspace, origin_file(place).name)
    assert trash.restore(workspace, entry.id) == file and json.loads(file.read_text()) == {"seed": 1}
    assert list((workspace.root / TRASH_FOLDER).iterdir()) == []
    workspace.move_to_trash(file)
    assert trash.empty(workspace) == 11 and list((workspace.root / TRASH_FOLDER).iterdir()) == []


@pytest.mark.parametrize("is_file_first", [True, False])
def test_a_folder_and_a_file_of_one_name_are_apart_in_the_trash(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, is_file_first: bool
) -> None:
    """The record of the folder has the name of the file."""
    monkeypatch.setattr("songgen.ui.workspace.time.strftime", lambda form: "20260101-000000")
    file = write(workspace.root / "outputs" / "a.json", "file")
    inside = write(workspace.root / "outputs" / "a" / "inside", "folder")
    for path in (file, inside.parent) if is_file_first else (inside.parent, file):
        workspace.move_to_trash(path)
    entries = trash.trashed(workspace)
    assert sorted(entry.folder for entry in entries) == ["outputs/a", "outputs/a.json"]
    for entry in entries:
        trash.restore(workspace, entry.id)
    assert (file.read_text(), inside.read_text()) == ("file", "folder")


def test_sizes_are_recorded_when_something_is_moved(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write(workspace.root / "outputs" / "a" / "weights", "x" * 100)
    place = workspace.move_to_trash(workspace.root / "outputs" / "a")
    write(workspace.root / TRASH_FOLDER / "20260101-000000-of-an-earlier-version" / "file", "x" * 10)
    assert trash_size(workspace) == 110
    monkeypatch.setattr(trash, "size_of", lambda path: 0 if path != place else pytest.fail("it was walked again"))
    assert trash_size(workspace) == 100


def test_a_trash_that_is_a_link_does_not_break_the_settings(workspace: Workspace) -> None:
    (workspace.root / "outputs").mkdir()
    (workspace.root / TRASH_FOLDER).symlink_to(workspace.root)
    assert trash_size(workspace) == 0


def test_a_model_is_not_kept_by_a_text_that_cannot_be_a_path(workspace: Workspace) -> None:
    create_job(workspace.jobs, ("songgen", "generate", "--caption=a\0b"), title="t", cwd=workspace.root)
    assert reasons(workspace, "outputs/model") == []


def test_what_is_still_on_its_way_into_the_trash_is_not_listed(workspace: Workspace) -> None:
    """Moving between disks takes minutes, and its record is written first."""
    write(origin_file(workspace.root / TRASH_FOLDER / "20260101-000000-big"), '{"folder": "outputs/big"}')
    assert trash.trashed(workspace) == []
