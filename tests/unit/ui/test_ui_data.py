"""Data on the page: list, one data set, the form of prepare, tokenize, review; paths outside are refused everywhere."""

import html
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from limits import SAFETY_SECONDS
from local_pages import Client, serving_page
from prepare_songs import write_song
from preprocess_fakes import options_for, read_manifest, write_corpus, write_manifest
from preprocess_fakes import run as tokenize_corpus
from review_songs import EVIL, write_work_folder

from songgen.jobs.record import create_job
from songgen.prepare.config import load_prepare_config
from songgen.prepare.output.next_steps import missing_parts
from songgen.prepare.output.writers import PreparedInfo
from songgen.prepare.preparation import prepare
from songgen.prepare.review.desk import Clip, ReviewDesk
from songgen.ui.commands import command_form, command_values, command_words
from songgen.ui.configuring.labels import LABELS as CONFIGURATION_LABELS
from songgen.ui.datasets import read_data_set
from songgen.ui.parts.tokenize import FURTHER_KEYS, LAUNCH_OPTIONS, PART_KEYS
from songgen.ui.preparing import form as preparing
from songgen.ui.preparing.labels import LABELS, OPTION_LABELS
from songgen.ui.preparing.song_count import count_songs
from songgen.ui.workspace import Workspace
from songgen.web.guard import DOCUMENT_POLICY


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which `songgen prepare` has run once: two songs, and one that is too short."""
    root = tmp_path_factory.mktemp("prepared").resolve()
    write_song(root / "songs", "river.wav", seed=1, lyrics="la la la", prompt=EVIL)
    write_song(root / "songs", "lake.wav", seed=2, prompt=None)
    write_song(root / "songs", "short.wav", seconds=0.5, seed=3)
    argv = ["--inputs", str(root / "songs"), "--output_dir", str(root / "datasets" / "mine")]
    argv += ["--voice", "null", "--measure", "null", "--duplicates", "null", "--export", "ljspeech"]
    assert prepare(load_prepare_config(argv)) is not None
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    shutil.copytree(prepared, folder)
    return folder.resolve()


@pytest.fixture
def client(root: Path) -> Iterator[Client]:
    with serving_page(Workspace(root)) as client:
        yield client


MINE = quote("datasets/mine", safe="")


def page(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status == status, answer.body
    return answer.body.decode()


# ---- data sets


def test_the_list_has_every_data_set_with_its_size(client: Client) -> None:
    [entry] = client.get("/api/data").json["entries"]
    assert (entry["folder"], entry["kind"], entry["state"]) == ("datasets/mine", "songs", "finished")
    assert entry["rows"] == 2 and entry["hours"] == pytest.approx(6 / 3600, rel=0.01)


def test_an_empty_workspace_says_what_to_do_first(tmp_path: Path) -> None:
    with serving_page(Workspace(tmp_path.resolve())) as client:
        assert client.get("/api/data").json["entries"] == []
        text = page(client, "/data")
    assert 'href="/data/prepare"' in text and "build_songs.py" in text


def test_a_data_set_shows_parts_reasons_notices_and_lists(client: Client) -> None:
    text = page(client, f"/data/set/{MINE}")
    assert "too_short" in text and "the song or the clip is shorter" in text
    assert "train.txt" in text and "|la la la" in text
    assert "lake_prompt.txt" in text  # the notice on the missing caption
    assert f"/review/{MINE}/" in text and f"/data/tokenize?data={MINE}" in text


def test_clips_without_lyrics_are_a_warning_with_what_to_do(root: Path, client: Client) -> None:
    assert 'id="without-lyrics"' not in page(client, f"/data/set/{MINE}")
    path = root / "datasets/mine/metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    text = ""
    for missing, instrumental in ((1, False), (1, True), (2, False)):
        changed = [
            row | ({"lyrics": "[verse]", "instrumental": instrumental} if number < missing else {})
            for number, row in enumerate(rows)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
        expected = 0 if instrumental else missing
        assert read_data_set(root / "datasets/mine").without_lyrics == expected
        text = page(client, f"/data/set/{MINE}")
        assert ("1 of 2 clips have no lyrics" in text) == (expected == 1)
    assert "No clip has lyrics" in text and "It is empty: no clip has lyrics" in text
    assert f'class="button" href="/data/tokenize?data={MINE}"' in text, "preparing again is the main button"
    again = "/data/prepare?from=datasets%2Fmine&amp;output=datasets%2Fmine"
    assert f'class="button main" href="{again}' in text
    form = page(client, f"{again.replace('&amp;', '&')}&songs=songs")
    assert 'name="output_dir" value="datasets/mine"' in form


def test_the_texts_in_the_form_of_ljspeech_are_those_that_export_writes(root: Path, client: Client) -> None:
    written = (root / "datasets/mine/train.txt").read_bytes()
    (root / "datasets/mine/train.txt").unlink()
    answer = client.get(f"/data/files/{MINE}/lists/train.txt")
    assert answer.body == written and answer.headers["Content-Type"].startswith("text/plain")
    assert written.decode().splitlines()[0] in html.unescape(page(client, f"/data/set/{MINE}"))
    for name in ("validation.txt", "prepared.json", "..%2Ftrain.txt"):
        assert client.get(f"/data/files/{MINE}/lists/{name}").status == 404


def test_unfinished_tokens_lead_to_the_songs_that_they_are_made_of(root: Path, client: Client) -> None:
    work = root / "datasets/mine_tokens.work"
    work.mkdir()
    (work / "tokenize_status.json").write_text(json.dumps({"status": "stopped", "run_id": "x"}))
    (work / "plan.json").touch()
    text = page(client, "/data/set/datasets%2Fmine_tokens")
    assert f'href="/data/tokenize?data={MINE}"' in text and 'href="/data/prepare"' not in text


def test_a_data_set_that_is_gone_is_a_message(client: Client) -> None:
    assert "is not a data set" in page(client, "/data/set/datasets%2Fgone", 404)
    assert client.get("/api/data/set/datasets%2Fgone").json == {"is_there": False, "work": None, "job": None}


def test_tokens_show_what_was_rejected_and_why(root: Path, client: Client) -> None:
    write_corpus(root / "corpus", 3)
    rows = read_manifest(root / "corpus/metadata.jsonl")
    write_manifest(root / "corpus/metadata.jsonl", [*rows, rows[0] | {"fname": "gone", "audio_abspath": "gone.wav"}])
    tokenize_corpus(options_for(root / "corpus/metadata.jsonl", root / "datasets/tokens", max_bad_fraction=0.9))
    text = page(client, "/data/set/datasets%2Ftokens")
    assert "file_missing" in text and "there is no such audio file" in text
    assert 'href="/configure?data=datasets%2Ftokens"' in text
    kinds = {entry["folder"]: entry["kind"] for entry in client.get("/api/data").json["entries"]}
    assert kinds["datasets/tokens"] == "tokens"


@pytest.mark.parametrize("report", [{}, {"stages": 1, "histograms": []}, {"stages": [], "histograms": [{"edges": 1}]}])
def test_a_report_of_another_form_hides_its_figures_only(root: Path, client: Client, report: Any) -> None:
    assert "Distribution of the clips" in page(client, f"/data/set/{MINE}")
    (root / "datasets/mine/report.json").write_text(json.dumps(report))
    text = page(client, f"/data/set/{MINE}")
    assert "too_short" in text and "Distribution of the clips" not in text


def test_a_report_of_tokens_of_another_form_is_not_used(root: Path, client: Client) -> None:
    write_corpus(root / "corpus", 2)
    tokenize_corpus(options_for(root / "corpus/metadata.jsonl", root / "datasets/tokens"))
    for report in ({"splits": []}, {"splits": {"train": 5}}, {"splits": {"train": {"hours": "x", "rejected": [1]}}}):
        (root / "datasets/tokens/report.json").write_text(json.dumps(report))
        assert "datasets/tokens" in page(client, "/data/set/datasets%2Ftokens")


OTHER_TYPES: list[dict[str, Any]] = [
    {"seconds": {"train": "long"}}, {"seconds": {}}, {"seconds": 1}, {"clips": 5}, {"clips": {"train": True}},
    {"refused": {"too_short": 1, "x": "many"}}, {"files": [1]}, {"without_caption": None},
]  # fmt: skip


def test_a_damaged_data_set_is_shown_with_its_problem_among_the_others(root: Path, client: Client) -> None:
    info = json.loads((root / "datasets/mine/prepared.json").read_text())
    del info["checksum"]  # as an earlier version wrote it
    (root / "datasets/broken").mkdir()
    for change in [{}, *OTHER_TYPES]:
        (root / "datasets/broken/prepared.json").write_text(json.dumps(info | change))
        assert (PreparedInfo.read(root / "datasets/broken") is None) == bool(change), change
    states = {entry["folder"]: entry["state"] for entry in client.get("/api/data").json["entries"]}
    assert states == {"datasets/mine": "finished", "datasets/broken": "failed"}
    assert "prepared.json cannot be read" in page(client, "/data/set/datasets%2Fbroken")
    for address in ("/api/overview", "/api/models"):
        assert client.get(address).status == 200


def test_in_a_folder_of_source_code_the_data_sets_of_its_tests_are_not_listed(root: Path, client: Client) -> None:
    shutil.copytree(root / "datasets/mine", root / "tests/mine")
    (root / "pyproject.toml").touch()
    assert [entry["folder"] for entry in client.get("/api/data").json["entries"]] == ["datasets/mine"]


def test_rows_are_texts_and_their_clips_are_heard(client: Client) -> None:
    answer = client.get(f"/api/data/set/{MINE}/rows?split=train&page=1").json
    rows = {row["id"].partition("~")[0]: row for row in answer["rows"]}
    assert rows["river"]["caption"] == EVIL and rows["lake"]["lyrics"] == "la la la"
    assert not answer["has_more"]
    name = quote(rows["river"]["tracks"]["mix"].removeprefix("audio/"), safe="")
    heard = client.get(f"/data/files/{MINE}/audio/{name}", Range="bytes=0-3")
    assert (heard.status, heard.body) == (206, b"RIFF")
    assert client.get(f"/api/data/set/{MINE}/rows?split=../../etc/passwd").status == 422
    assert client.get(f"/api/data/set/{MINE}/rows?page=zero").json["page"] == 1


def test_damaged_rows_are_shown_as_such(root: Path, client: Client) -> None:
    with (root / "datasets/mine/metadata.jsonl").open("a") as file:
        file.write('{"fname": \n[1]\n' + "[" * 5_000 + "\n")
    rows = client.get(f"/api/data/set/{MINE}/rows").json["rows"]
    assert [row["id"] for row in rows[2:]] == ["?", "?", "?"]


def test_the_report_of_somebody_else_runs_no_script(root: Path, client: Client) -> None:
    (root / "datasets/mine/report.html").write_text("<script>document.title = 'taken over'</script>")
    answer = client.get(f"/data/files/{MINE}/report.html")
    assert answer.headers.get_all("Content-Security-Policy") == [DOCUMENT_POLICY]
    assert "script" not in DOCUMENT_POLICY and DOCUMENT_POLICY.startswith("default-src 'none'")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


STEPS = ["take_in", "align", "segment", "agreement", "tag", "filter", "split"]
"""Steps of the data set of this module, in order."""


def test_the_progress_of_running_work_is_shown(root: Path, client: Client) -> None:
    shutil.rmtree(root / "datasets/mine")
    status = {
        "status": "running",
        "run_id": "x",
        "progress": {"phase": "segment", "done": 3, "total": 9, "unit": "records"},
    }
    (root / "datasets/mine.work/prepare_status.json").write_text(json.dumps(status))
    work = client.get(f"/api/data/set/{MINE}").json["work"]
    assert (work["progress"]["done"], work["progress"]["total"]) == (3, 9)
    steps = {step["name"]: step for step in work["steps"]}
    assert [*steps] == ["reading inputs", *STEPS, "writing the data set"]
    assert steps["segment"] == {
        "name": "segment", "summary": "clips of each song", "state": "failed", "unit": "songs",
    }  # fmt: skip
    assert [step["state"] for step in work["steps"]] == ["finished"] * 3 + ["failed"] + ["waiting"] * 5
    assert steps["filter"]["unit"] == "clips" and all(step["summary"] for step in work["steps"])
    assert work["state"] == "failed" and "killed" in work["detail"]  # nobody holds the lock
    assert "datasets/mine" in page(client, f"/data/set/{MINE}")
    assert read_data_set(root / "datasets/mine.work").folder == root / "datasets/mine"


def test_what_was_left_out_is_shown_before_there_is_a_data_set(root: Path, client: Client) -> None:
    shutil.rmtree(root / "datasets/mine")
    with (root / "datasets/mine.work/rejected.jsonl").open("a") as file:
        file.write("{damaged\n")
    assert [(entry.code, entry.count) for entry in read_data_set(root / "datasets/mine").refused] == [
        ("?", 1), ("too_short", 1),
    ]  # fmt: skip
    assert "too_short" in page(client, f"/data/set/{MINE}")
    assert read_data_set(root / "datasets/mine", with_reasons=False).refused == []


def test_corrections_that_are_not_applied_yet_are_offered(root: Path, client: Client) -> None:
    assert 'id="apply"' not in page(client, f"/data/set/{MINE}")
    address = f"/review/{MINE}/api/clips"
    first = client.get(address).json["clips"][0]["id"]
    version = client.get(f"{address}/{quote(first)}").json["clip"]["version"]
    saved = client.post(f"{address}/{quote(first)}", {"version": version, "changes": {"caption": "rock"}})
    assert saved.status == 200
    assert 'data-config="datasets/mine/prepare.json"' in page(client, f"/data/set/{MINE}")


OUTSIDE = ["..", "../..", "/etc", "~", "datasets/../../x", "\0", "out"]


ADDRESSES = [
    "/data/set/{}", "/api/data/set/{}", "/api/data/set/{}/rows", "/data/files/{}/report.html",
    "/data/files/{}/audio/x.wav", "/data/tokenize?data={}", "/review/{}/", "/review/{}/api/clips",
    "/api/prepare/songs?path={}", "/api/prepare/start?from={}",
]  # fmt: skip


def test_no_address_reaches_other_folders(client: Client, root: Path) -> None:
    (root / "out").symlink_to("/etc")
    for address in ADDRESSES:
        for folder in OUTSIDE:
            path = address.format(quote(folder, safe=""))
            assert client.get(path).status in (404, 422), path


def test_only_clips_of_the_data_set_are_sent(client: Client, root: Path) -> None:
    (root.parent / "secret.wav").write_bytes(b"secret")
    (root / "datasets/mine/audio/link.wav").symlink_to(root.parent / "secret.wav")
    for name in ("..%2Fprepared.json", "prepared.json", "..%2F..%2F..%2Fsecret.wav", "link.wav", "%00.wav"):
        assert client.get(f"/data/files/{MINE}/audio/{name}").status == 404, name


# ---- prepare


def test_songs_are_counted_before_they_are_prepared(root: Path) -> None:
    (root / "songs" / "other.m4a").touch()
    hidden = root / "songs" / ".cache"  # as preparing, which does not look into it
    hidden.mkdir()
    (hidden / "x.wav").touch()
    counted = count_songs(root / "songs")
    assert (counted.songs, counted.texts, counted.foreign, counted.is_complete) == (3, 5, 1, True)
    assert counted.names == ["lake.wav", "river.wav", "short.wav"]
    assert count_songs(root / "datasets/mine").tables == ["metadata.jsonl"]
    with pytest.raises(ValueError, match="single song"):
        count_songs(root / "songs/lake.wav")


def test_every_recipe_is_described_and_gives_every_field_a_value(root: Path) -> None:
    workspace = Workspace(root)
    fields = [*preparing.top_fields(), *(field for form in preparing.section_forms().values() for field in form.fields)]
    for name, meaning in preparing.recipes().items():
        assert meaning, f"songgen.ui.preparing.form.RECIPES says nothing about {name}"
        values = preparing.starting_values(name, workspace)
        assert {field.name for field in fields} | {*preparing.section_forms()} == {*values}
    assert values["separate"] is True and values["filter.preset"] == "TOTAL"
    assert preparing.starting_values("offline.json", workspace)["separate"] is False


def test_settings_of_a_data_set_are_imported(root: Path) -> None:
    values = preparing.starting_values("datasets/mine", Workspace(root))
    assert values["measure"] is False and values["export.formats"] == ("ljspeech",)


def test_only_what_differs_is_written_and_switches_switch(root: Path) -> None:
    workspace = Workspace(root)
    changes: dict[str, Any] = {
        "output_dir": "datasets/new", "measure": False, "measure.tempo": False, "separate": True,
        "split.min_train_text_length": 20, "filter.max_seconds": None,
    }  # fmt: skip
    values = preparing.configuration("cpu.json", ["songs"], ["songs/held_out"], changes, workspace)
    assert values == {
        "inputs": ["songs", {"name": "songs/held_out", "use_for": "eval"}],
        "output_dir": "datasets/new",
        "transcribe": {"model": "openai/whisper-small", "batch_size": 4},
        "split": {"eval_share": 0.02, "min_train_text_length": 20},
        "measure": None,
        "separate": {},
        "filter": {"max_seconds": None},
    }
    config = preparing.checked(values, workspace)
    assert config.sections["measure"] is None and config.sections["separate"] is not None
    assert [entry.use_for for entry in config.inputs] == [None, "eval"]


FORM = {"from": "offline.json", "songs": ["songs"], "held_out": [], "values": {"output_dir": "datasets/new"}}


def test_a_form_is_checked_saved_once_and_named_for_its_command(client: Client, root: Path) -> None:
    checked = client.post("/api/prepare/check", FORM).json
    assert checked["problem"] == "" and checked["existing"] == ""
    saved = client.post("/api/prepare/save", FORM).json
    assert saved == {"config": "outputs/configs/prepare-new.json", "subject": "datasets/new"}
    assert checked["command"] == f"songgen prepare {saved['config']}"
    assert json.loads((root / saved["config"]).read_text()) == json.loads(checked["json"])
    assert client.post("/api/prepare/save", FORM).json == saved
    other = {**FORM, "values": {"output_dir": "datasets/new", "seed": 7}}
    assert client.post("/api/prepare/save", other).json["config"] == "outputs/configs/prepare-new-2.json"


def test_problems_of_a_form_are_all_listed_and_nothing_is_saved(client: Client, root: Path) -> None:
    form = {
        **FORM,
        "values": {"output_dir": "datasets/new", "workers": 0, "split.eval_share": 2, "filter.min_clap_score": 1},
    }
    answer = client.post("/api/prepare/check", form).json
    assert "workers" in answer["problem"] and "eval_share" in answer["problem"]
    assert client.post("/api/prepare/save", form).status == 422
    assert not (root / "outputs").exists()


FOREIGN: list[dict[str, Any]] = [
    {"songs": ["/etc"]}, {"songs": ["songs/../../x"]}, {"held_out": ["~/x"]}, {"from": "/etc"}, {"songs": "songs"},
    {"values": {"output_dir": "/tmp/elsewhere"}}, {"values": {"output_dir": "out/new"}}, {"values": []},
    {"values": {"output_dir": "datasets/new", "report.lyrics_tokenizer": "/etc/passwd"}},
    {"values": {"output_dir": "datasets/new", "audio_roots": ["/"]}},
]  # fmt: skip


def test_a_form_names_nothing_outside(client: Client, root: Path) -> None:
    (root / "out").symlink_to("/tmp")
    for change in FOREIGN:
        assert client.post("/api/prepare/save", {**FORM, **change}).status == 422, change
        assert client.post("/api/prepare/check", {**FORM, **change}).status in (200, 422), change
    assert not (root / "outputs").exists()


def test_every_field_has_a_label() -> None:
    fields = [*preparing.top_fields(), *(field for form in preparing.section_forms().values() for field in form.fields)]
    assert {field.name for field in fields} == {*LABELS}
    options = {field.name for name in ("tokenizer", "init", "codec") for field in command_form(name).fields}
    assert options | {*LAUNCH_OPTIONS} == {*OPTION_LABELS}
    assert {*PART_KEYS, *FURTHER_KEYS} <= {*CONFIGURATION_LABELS}


def test_the_form_has_every_key_with_its_help(client: Client) -> None:
    text = page(client, f"/data/prepare?from={MINE}&songs=songs")
    for form in preparing.section_forms().values():
        for field in form.fields:
            assert f'name="{field.name}"' in text
            assert f'id="field-{field.name}-help"' in text


# ---- tokenize


def test_tokenizing_offers_what_is_missing_first(client: Client, root: Path) -> None:
    text = page(client, f"/data/tokenize?data={MINE}")
    assert 'data-command="tokenizer"' in text and 'data-command="init"' in text
    assert "datasets/mine/metadata.jsonl" in text and 'data-config="datasets/mine/data.json"' in text
    assert "downloaded when the model is made" in text and 'data-command="codec"' in text
    model = text[text.index('data-command="init"') :]
    assert model.index('id="init-audio_model"') < model.index("<details"), "the codec is not among the further options"

    words = ["songgen", "init", "--audio_model=./somewhere", "./outputs/untrained-mixed_pro"]
    job = create_job(Workspace(root).jobs, words, title="init", cwd=root, subject=words[-1])
    assert 'value="./somewhere"' in page(client, f"/data/tokenize?data={MINE}"), "what was entered is kept"
    shutil.rmtree(job)
    (root / "outputs/codec").mkdir(parents=True)
    text = page(client, f"/data/tokenize?data={MINE}")
    assert 'data-command="codec"' not in text and 'value="./outputs/codec"' in text, "the fitted codec is used"
    (root / "outputs/tokenizers").mkdir(parents=True)
    assert 'data-command="tokenizer"' not in page(client, f"/data/tokenize?data={MINE}")
    (root / "outputs/untrained-mixed_pro").mkdir()
    assert 'data-command="init"' not in page(client, f"/data/tokenize?data={MINE}")


def test_only_relative_folders_next_to_a_model_are_marked_as_paths(client: Client, root: Path) -> None:
    for model in ("~/models/new", "./outputs/new", "../models/new", "/other/models/new"):
        values = {"model_name_or_path": model}
        expected = model.replace("/new", "/tokenizers")
        assert missing_parts("datasets/mine", values, root)["tokenizer"]["out"] == expected
    (root / "datasets/mine/data.json").write_text(json.dumps(values))
    assert page(client, f"/data/tokenize?data={MINE}")  # also with a model outside of the folders of the page


def test_a_data_configuration_without_a_model_is_shown(client: Client, root: Path) -> None:
    (root / "datasets/mine/data.json").write_text("{}")
    assert 'data-command="init"' not in page(client, f"/data/tokenize?data={MINE}")


def test_a_folder_without_songs_says_what_to_do(client: Client) -> None:
    assert "prepare songs first" in page(client, "/data/tokenize?data=songs", 404)


def test_commands_are_read_back_from_their_words(root: Path) -> None:
    workspace = Workspace(root)
    for name, values in (
        ("prepare", {"config": "a.json"}),
        ("tokenize", {"config": "a.json", "devices": "2", "keys": {"long_clips": "crop", "max_text_length": "9"}}),
        ("tokenizer", {"manifest": ["a.jsonl", "b.jsonl"], "out": "tokenizers"}),
    ):
        words = command_words(name, values, workspace)
        assert command_words(name, command_values(words), workspace) == words
    with pytest.raises(ValueError, match="not a command"):
        command_values(["songgen", "jobs"])


def test_a_command_is_started_again_only_if_the_page_would_start_it(client: Client, root: Path) -> None:
    """A job may have been started in a terminal, or its file be somebody else's."""
    refused = (["jobs"], ["prepare", "/etc/passwd"], ["prepare", "a.json", "b.json"])
    for command in (["songgen", *words] for words in (*refused, ["doctor", "."])):
        folder = create_job(root / "outputs/jobs", command, title="x", cwd=root)
        job = folder / "job.json"
        job.write_text(json.dumps(json.loads(job.read_text()) | {"created": 1.0}))  # lost: it never began
        answer = client.post(f"/api/jobs/{folder.name}/again", {})
        assert answer.status == (200 if command[1] == "doctor" else 422), answer.body
    assert len(client.get("/api/jobs").json["jobs"]) == 5


# ---- review


def test_the_review_of_a_data_set_has_relative_addresses_and_saves(client: Client, root: Path) -> None:
    write_work_folder(root / "datasets")
    folder = quote("datasets/songs", safe="")
    assert client.get(f"/review/{folder}").headers["Location"] == f"/review/{folder}/"
    text = page(client, f"/review/{folder}/")
    assert 'href="assets/review.css"' in text and '"/assets' not in text and f'href="/data/set/{folder}"' in text
    assert client.get(f"/review/{folder}/assets/look.css").status == 200
    clips = client.get(f"/review/{folder}/api/clips").json["clips"]
    assert [entry["id"] for entry in clips][:2] == ["river_000", "river_001"]
    version = client.get(f"/review/{folder}/api/clips/river_000").json["clip"]["version"]
    saved = client.post(f"/review/{folder}/api/clips/river_000", {"version": version, "changes": {"caption": "rock"}})
    assert saved.json["clip"]["caption"] == "rock"
    assert client.get(f"/review/{folder}/audio/river_000/mix").status == 200
    shutil.rmtree(root / "datasets/songs.work")
    assert client.get(f"/review/{folder}/api/clips").status == 404


def test_a_data_set_that_is_being_opened_keeps_no_other_review_waiting(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_work_folder(root / "datasets")
    (root / "datasets/large.work").mkdir()
    shutil.copy(root / "datasets/songs.work/records.jsonl", root / "datasets/large.work")
    opened, go_on, read = threading.Event(), threading.Event(), ReviewDesk.clips

    def clips(desk: ReviewDesk) -> list[Clip]:
        if desk.folder.root.name == "large.work" and not opened.is_set():
            opened.set()
            assert go_on.wait(SAFETY_SECONDS)
        return read(desk)

    monkeypatch.setattr(ReviewDesk, "clips", clips)
    thread = threading.Thread(target=client.get, args=("/review/datasets%2Flarge/api/clips",))
    thread.start()
    try:
        assert opened.wait(SAFETY_SECONDS)
        assert client.get("/review/datasets%2Fsongs/api/clips").status == 200
    finally:
        go_on.set()
        thread.join()


def test_the_review_plays_no_songs_outside(client: Client, root: Path, tmp_path: Path) -> None:
    song = write_song(tmp_path / "private", "diary.wav")
    work = write_work_folder(root / "datasets")
    lines = (work / "records.jsonl").read_text().splitlines()
    record = json.loads(lines[0]) | {"audio": {"mix": str(song)}}
    (work / "records.jsonl").write_text(json.dumps(record) + "\n")
    answer = client.get(f"/review/{quote('datasets/songs', safe='')}/audio/river_000/mix")
    assert answer.status == 404


def test_the_review_is_in_the_language_of_the_browser(client: Client, root: Path) -> None:
    write_work_folder(root / "datasets")
    answer = client.get("/review/datasets%2Fsongs/", Accept_Language="zh-CN,zh;q=0.9")
    assert "审听" in answer.body.decode() and 'lang="zh-CN"' in answer.body.decode()
