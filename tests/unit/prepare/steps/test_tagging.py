"""Every clip without a caption gets tags and a caption, from what was measured and from what a model has heard."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from descriptions import ANALYSIS, Reply, answer, fake_server, values
from tiny_audio_llm import PROMPT, save_tiny_audio_llm

from songgen.data.manifests.raw_rows import VARIANT_FIELDS
from songgen.data.manifests.tags import missing_tag_kinds
from songgen.prepare.describing.song_tags import Facts, compose_tags
from songgen.prepare.describing.tag_record import read_description
from songgen.prepare.engine.audio_files import write_audio
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import StepOutput, WorkFolder
from songgen.prepare.engine.store import apply_outcome
from songgen.prepare.steps.tagging import SECTION, TagOptions, TagStep

RATE = 16_000
MEASURES = {"tempo_confidence": 0.6, "key_confidence": 0.9, "loudness": -9.0}
KNOWN = Facts(tempo=123.7, key="A minor", is_sung=True, tempo_source="measured", key_source="measured")


@pytest.fixture
def folder(tmp_path: Path) -> WorkFolder:
    return WorkFolder(tmp_path / "work")


@pytest.fixture
def record(folder: WorkFolder) -> SongRecord:
    """A measured clip of two seconds with lyrics, without caption."""
    made = SongRecord(id="a", song="a", file="songs", line=1, duration=2.0, language="en", lyrics="[verse]\nla la la")
    made = replace(made, tempo=123.7, key="A minor", measures=MEASURES)
    return with_audio(made, folder)


def with_audio(record: SongRecord, folder: WorkFolder, seconds: float = 2.0) -> SongRecord:
    file = folder.new_file("take_in", record, "mix")
    samples = 0.1 * np.sin(np.arange(round(seconds * RATE)) * 0.1)
    write_audio(folder.path(file), samples.astype(np.float32), RATE)
    return replace(record, audio={"mix": file})


def tagged(record: SongRecord, folder: WorkFolder, **options: Any) -> SongRecord:
    """Run the step on one record as the runner does; its result travels as JSON."""
    step = TagStep(TagOptions(**options))
    assert step.is_needed(record)
    step.start()
    [outcome] = step.run([record], folder)
    json.dumps([step.parameters(), step.inputs(record), dict(outcome.changes)])
    [made] = apply_outcome(step, record, outcome)
    return made


def test_tags_stand_in_the_order_of_the_published_example() -> None:
    description = read_description(answer(analysis={**ANALYSIS, "mood": ["emotional", "driving", "atmospheric"]}))
    line = ", ".join(compose_tags(replace(KNOWN, key="minor"), description).names)
    assert (
        line
        == "melodic techno, male vocal, electronic, emotional, minor key, 124 bpm, synthesizer, driving, atmospheric"
    )
    assert missing_tag_kinds(line) == ()


def test_what_was_measured_wins_over_the_model() -> None:
    heard = read_description(answer(analysis={**ANALYSIS, "tempo": "90 bpm"}))
    assert "124 bpm" in compose_tags(KNOWN, heard).names and "90 bpm" not in compose_tags(KNOWN, heard).names
    assert "90 bpm" in compose_tags(Facts(is_sung=True), heard).names
    assert compose_tags(KNOWN, heard).sources["measured"] == ["A minor", "124 bpm"]
    assert compose_tags(replace(KNOWN, tempo_source="given"), heard).sources["given"] == ["124 bpm"]
    assert compose_tags(replace(KNOWN, tempo=123.6, is_sung=None), None).names == ["A minor", "124 bpm"]
    assert compose_tags(replace(KNOWN, tempo=None, is_sung=None), None).names == ["A minor"]
    assert compose_tags(replace(KNOWN, tempo=None, key="", is_sung=None), None).names == []


@pytest.mark.parametrize(
    ("is_sung", "heard", "tags", "doubts"),
    [
        (True, ["male vocal"], ["male vocal"], 0),
        (True, ["vocal", "choir"], ["choir"], 0),
        (True, ["piano"], ["vocal"], 0),
        (True, ["instrumental"], ["vocal"], 1),
        (False, ["male vocal"], ["instrumental"], 1),
        (False, ["piano"], ["instrumental"], 0),
        (None, ["female voice"], ["female vocal"], 0),
        (None, ["instrumental"], ["instrumental"], 0),
        (None, ["piano"], [], 0),
    ],
)
def test_whether_somebody_sings_is_known_better_than_heard(
    is_sung: bool | None, heard: list[str], tags: list[str], doubts: int
) -> None:
    texts = {"expanded": "dub", "descriptive": "Warm sounds."}
    description = read_description(answer(**texts, analysis={**ANALYSIS, "instruments": heard}))
    made = compose_tags(Facts(is_sung=is_sung), description)
    voices = {"male vocal", "choir", "vocal", "instrumental", "female vocal"}
    assert [tag for tag in made.names if tag in voices] == tags
    assert len(made.doubts) == doubts


def test_a_voice_is_found_in_the_sentence_and_in_the_check_for_rap() -> None:
    texts = {"expanded": "trap", "descriptive": "A woman's soft voice over drums.", "lyrical_rap_check": True}
    description = read_description(answer(**texts, analysis={**ANALYSIS, "instruments": ["alto saxophone"]}))
    assert compose_tags(Facts(), description).names[1:3] == ["female vocal", "rap vocal"]
    assert "saxophone" in compose_tags(Facts(), description).names


def test_without_a_model_the_measurements_make_the_caption(record: SongRecord, folder: WorkFolder) -> None:
    made = tagged(record, folder)
    assert made.caption == "vocal, energetic, A minor, 124 bpm"
    assert made.tags == ("vocal", "energetic", "A minor", "124 bpm")
    note = made.provenance["tag"]
    assert note["sources"] == {"measured": ["vocal", "energetic", "A minor", "124 bpm"]}
    assert note["confidence"] == {"tempo": 0.6, "key": 0.9}
    assert note["version"] == TagStep.version and note["parameters"]["backend"] == "none"


@pytest.mark.parametrize(
    ("changes", "caption"),
    [
        ({"lyrics": "", "lyrics_source": "instrumental"}, "instrumental, energetic, A minor, 124 bpm"),
        ({"lyrics": "", "voiced": ()}, "instrumental, energetic, A minor, 124 bpm"),
        ({"lyrics": "", "voiced": ((0.0, 1.0),)}, "vocal, energetic, A minor, 124 bpm"),
        ({"tempo": 70.0, "measures": {"loudness": -23.0}}, "vocal, calm, A minor, 70 bpm"),
        ({"tempo": 70.0}, "vocal, A minor, 70 bpm"),
        ({"tempo": None, "key": ""}, "vocal"),
        ({"tempo": None, "key": "", "lyrics": "[intro]"}, "music"),
    ],
)
def test_the_caption_says_what_is_known_and_is_never_empty(
    record: SongRecord, folder: WorkFolder, changes: dict[str, Any], caption: str
) -> None:
    assert tagged(replace(record, **changes), folder).caption == caption


def test_labelled_clips_are_left_as_they_are(record: SongRecord, folder: WorkFolder) -> None:
    assert not TagStep(TagOptions()).is_needed(replace(record, caption="A waltz."))
    listed = tagged(replace(record, tags=("pop", "sunny")), folder)
    assert (listed.caption, listed.tags) == ("pop, sunny", ("pop", "sunny"))
    described = replace(record, variants={"descriptive": "A slow waltz.", "simplified": "waltz"})
    assert tagged(described, folder, caption="descriptive").caption == "A slow waltz."
    assert tagged(described, folder).caption == "A slow waltz."
    again = tagged(replace(record, caption="A waltz.", tags=("waltz",)), folder, overwrite=True)
    assert again.tags[0] == "vocal"


@pytest.mark.parametrize("caption", ["tags", "sampled", *VARIANT_FIELDS])
def test_any_description_can_become_the_caption(record: SongRecord, folder: WorkFolder, caption: Any) -> None:
    with fake_server(Reply(answer())) as server:
        made = tagged(record, folder, backend="server", url=server.url, caption=caption)
    assert made.variants == {name: values()[name] for name in VARIANT_FIELDS}
    assert made.analysis == {**ANALYSIS, "lyrical_rap_check": False}
    line = "melodic techno, male vocal, electronic, emotional, A minor, 124 bpm, synthesizer, driving, atmospheric"
    assert made.tags == tuple(line.split(", "))
    if caption == "sampled":
        assert made.caption in {*made.variants.values(), line}
    else:
        assert made.caption == (line if caption == "tags" else values()[caption])


def test_sampled_captions_differ_between_clips_and_not_between_runs(record: SongRecord) -> None:
    step = TagStep(TagOptions(caption="sampled"))
    texts = read_description(answer()).variants
    drawn = [step._caption(f"clip {number}", ["pop"], texts) for number in range(60)]
    assert set(drawn) == {*texts.values(), "pop"}
    assert drawn == [step._caption(f"clip {number}", ["pop"], texts) for number in range(60)]


def test_a_wrong_answer_is_asked_again_with_what_is_wrong(record: SongRecord, folder: WorkFolder) -> None:
    replies = [Reply("no JSON"), Reply(answer(simplified="nothing")), Reply(answer())]
    with fake_server(*replies) as server:
        made = tagged(record, folder, backend="server", url=server.url)
    told = [[m["content"][0].get("text", "") for m in request["messages"][2:]] for request in server.requests]
    assert told[0] == []
    assert told[1][0] == "no JSON" and "- there is no JSON object" in told[1][1]
    assert "nothing" in told[2][0] and "- simplified must be one of the valid tags" in told[2][1]
    assert made.measures["description_attempts"] == 3 and made.measures["description_failed"] == 0
    assert made.provenance["tag"]["attempts"] == 3


def test_nothing_of_the_lyrics_is_sent_and_nothing_of_them_comes_back(record: SongRecord, folder: WorkFolder) -> None:
    sung = replace(record, lyrics="[chorus]\nhold me under the golden moon\nand play the synthesizer for me")
    quoting = answer(descriptive="A voice begs: hold me under the golden moon.")
    with fake_server(Reply(quoting), Reply(answer())) as server:
        made = tagged(sung, folder, backend="server", url=server.url)
    assert "golden moon" not in json.dumps(server.requests[0])
    assert "descriptive repeats words of the song" in json.dumps(server.requests[1])
    assert made.variants["descriptive"] == values()["descriptive"]
    assert made.measures["shared_words"] <= 1
    assert made.measures["sung_instruments"] == 1
    assert made.provenance["tag"]["doubts"] == ["also named in the lyrics, perhaps not heard: synthesizer"]


def test_a_clip_that_nobody_can_describe_gets_what_was_measured_or_is_left_out(
    record: SongRecord, folder: WorkFolder
) -> None:
    with fake_server(Reply("I am a teapot.")) as server:
        options: dict[str, Any] = {"backend": "server", "url": server.url, "attempts": 2}
        kept = tagged(record, folder, **options)
        refused = tagged(record, folder, **options, without_description="refuse")
    assert len(server.requests) == 4
    assert kept.caption == "vocal, energetic, A minor, 124 bpm"
    assert kept.measures["description_failed"] == 1
    assert kept.provenance["tag"]["problems"] == ["there is no JSON object with the fields that were asked for"]
    assert refused.refusal is not None and refused.refusal.code == "no_valid_description"
    assert refused.refusal.code in SECTION.refusal_codes


def test_answers_that_were_paid_for_outlast_the_batch_that_failed(record: SongRecord, folder: WorkFolder) -> None:
    records = [with_audio(replace(record, id=name), folder, len(name)) for name in ("a", "bb", "ccc")]
    with fake_server(Reply("no JSON"), Reply(answer())) as server:
        options = TagOptions(backend="server", url=server.url, concurrency=1, max_requests=2)
        sent = []
        for _ in range(2):
            step = TagStep(options)
            step.start()
            try:
                outcomes = step.run(records, folder)
            except ValueError as error:
                assert "max_requests: 2 requests have been sent" in str(error)
            sent.append(len(server.requests))
    assert sent == [2, 4]  # three clips, one of them asked twice; nothing is sent a second time
    assert all(outcome.changes["variants"] for outcome in outcomes)


def test_the_middle_of_a_long_clip_is_heard(record: SongRecord, folder: WorkFolder) -> None:
    step = TagStep(TagOptions(backend="server", url="http://127.0.0.1:1/v1", max_seconds=1.5))
    step.start()
    heard = step._hear(record, folder)
    whole = TagStep(TagOptions(backend="server", url="http://127.0.0.1:1/v1"))
    whole.start()
    np.testing.assert_array_equal(heard, whole._hear(record, folder)[RATE // 4 : -RATE // 4])


def test_a_file_that_cannot_be_read_refuses_its_clip_alone(record: SongRecord, folder: WorkFolder) -> None:
    lost = replace(record, id="b", audio={"mix": "audio/none.wav"})
    with fake_server(Reply(answer())) as server:
        step = TagStep(TagOptions(backend="server", url=server.url))
        step.start()
        outcomes: list[StepOutput] = step.run([lost, record], folder)
    assert outcomes[0].refusal is not None and outcomes[0].refusal.code == "file_missing"
    assert outcomes[1].changes["variants"]


def test_a_model_on_this_machine_describes_clips(record: SongRecord, folder: WorkFolder, tmp_path: Path) -> None:
    model = save_tiny_audio_llm(tmp_path / "model", learned=answer())
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT, encoding="utf-8")
    options: dict[str, Any] = {"backend": "local", "model": str(model), "prompt_file": str(prompt), "device": "cpu"}
    made = tagged(record, folder, **options)
    assert made.variants["simplified"] == "melodic techno"
    assert made.measures["description_confidence"] > 0.9
    assert made.provenance["tag"]["confidence"]["description"] == made.measures["description_confidence"]
    assert "device" not in made.provenance["tag"]["parameters"]


def test_the_result_depends_on_the_prompt_and_not_on_how_the_server_is_asked(tmp_path: Path) -> None:
    def parameters(**changes: Any) -> Any:
        return TagStep(TagOptions(backend="server", url="http://127.0.0.1:1/v1", **changes)).parameters()

    own = tmp_path / "own.txt"
    own.write_text("Describe. {tags}", encoding="utf-8")
    assert parameters() == parameters(concurrency=9, retries=1, max_requests=5, timeout_seconds=1.0)
    prompts = [
        parameters()["prompt"],
        parameters(prompt_file=str(own))["prompt"],
        parameters(extra_tags=("x",))["prompt"],
    ]
    assert len(set(prompts)) == 3
    assert "api_key_variable" not in parameters(api_key_variable="SONG_KEY")


def test_all_problems_of_the_options_are_listed_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        TagOptions(backend="server", prompt_file="missing.txt", attempts=0, batch_size=0, max_seconds=0)
    message = str(caught.value)
    assert all(name in message for name in ("url", "prompt_file", "attempts", "batch_size", "max_seconds"))
