"""Answers of models are read tolerantly, and what is taken keeps to the schema; tags have one written form."""

import json
import time
from typing import Any

import pytest
from descriptions import ANALYSIS, answer, values

from songgen.data.manifests.tags import TAG_WORDS, missing_tag_kinds
from songgen.prepare.describing.conversation import PROMPT_FILE, load_prompt
from songgen.prepare.describing.loose_json import find_object, repair_encoding
from songgen.prepare.describing.tag_record import (
    InvalidDescription,
    lyric_problems,
    read_description,
    shared_run,
    sung_instruments,
)
from songgen.prepare.describing.tag_vocabulary import KIND_OF_TAG, canonical_tag, kind_of, nearest_tags, tempo_tag

RIGHT = read_description(answer())


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(InvalidDescription) as caught:
        read_description(text)
    return caught.value.problems


def test_a_right_answer_is_taken_as_it_is() -> None:
    analysis = {name: value for name, value in RIGHT.analysis.items() if name in ANALYSIS}
    assert {**RIGHT.variants, "analysis": analysis, "lyrical_rap_check": RIGHT.lyrical_rap_check} == values()
    assert RIGHT.variants == {name: text for name, text in values().items() if isinstance(text, str)}
    assert RIGHT.analysis == {**ANALYSIS, "lyrical_rap_check": False}


PLAIN = answer()
LISTED = json.dumps(values(), indent=4)
LOOSE = {
    "a fence": f"```json\n{PLAIN}\n```",
    "a fence that never closes": f"```json\n{PLAIN}",
    "text around it": f"Sure, here {{it}} is:\n{PLAIN}\nI hope {{this}} helps!",
    "a draft before it": f"{answer(simplified='techno')}\nNo, rather:\n{PLAIN}",
    "a wrapping object": json.dumps({"result": values()}),
    "a wrapping list": json.dumps([values()]),
    "single quotes": str(values()),
    "smart quotes": PLAIN.replace('{"', "{“").replace('": "', "”: “").replace('", "', "”, “").replace('":', "”:"),
    "commas too many": LISTED.replace("\n    }", ",\n    },").replace('"\n        ]', '",\n        ],'),
    "a missing brace": PLAIN[:-1],
    "a missing comma": LISTED.replace('",\n    "use_cases"', '"\n    "use_cases"'),
    "a comment": LISTED.replace('"synonyms"', '// other words\n    "synonyms"'),
    "bare keys": PLAIN.replace('"simplified"', "simplified").replace('"tempo"', "tempo"),
    "other spellings of keys": PLAIN.replace("use_cases", "Use Cases").replace("lyrical_rap_check", "lyricalRapCheck"),
    "analysis beside the rest": json.dumps({**{k: v for k, v in values().items() if k != "analysis"}, **ANALYSIS}),
    "lists where texts belong": answer(synonyms=["club music", "synth-driven"]),
    "texts where lists belong": answer(analysis={**ANALYSIS, "mood": "emotional, driving, atmospheric"}),
    "a boolean in words": answer(lyrical_rap_check="No"),
    "a tag with capitals": answer(simplified="Melodic Techno."),
    "blanks and line breaks": PLAIN.replace("club music, ", "club music,\\n   "),
}


@pytest.mark.parametrize("text", LOOSE.values(), ids=LOOSE.keys())
def test_the_same_answer_in_a_loose_form_is_the_same_description(text: str) -> None:
    assert read_description(text) == RIGHT


def test_quotes_inside_of_texts_stay() -> None:
    text = answer(descriptive="DESCRIPTIVE").replace("DESCRIPTIVE", "it's a \"fat\", wobbling bass, isn't it")
    assert read_description(text).descriptive == "it's a \"fat\", wobbling bass, isn't it"
    single = "{'descriptive': 'it's loud, isn't it', 'simplified': 'rock'}"
    assert find_object(single, {"simplified"}) == {"descriptive": "it's loud, isn't it", "simplified": "rock"}


def test_an_arrow_that_was_read_in_the_wrong_encoding_is_mended() -> None:
    assert read_description(answer(synonyms="strings â†’ orchestral")).synonyms == "strings → orchestral"
    assert read_description(answer(synonyms={"strings": "orchestral"})).synonyms == "strings → orchestral"
    assert repair_encoding("â€œdrumsâ€\x9d, cafÃ©") == "“drums”, café"
    assert repair_encoding("café – “naïve” 静かな") == "café – “naïve” 静かな"


def test_a_number_is_a_tempo() -> None:
    assert read_description(answer(analysis={**ANALYSIS, "tempo": 124})).tempo == "124 bpm"


def test_all_problems_are_listed_at_once() -> None:
    text = answer(
        simplified="elektronic",
        expanded="x" * 200,
        synonyms="",
        use_cases={"a": 1},
        analysis={"genre": [], "instruments": [1], "tempo": "fast"},
        lyrical_rap_check="perhaps",
    )
    assert problems_of(text) == (
        "mood is missing",
        "expanded has 200 characters; it must have fewer than 200",
        "synonyms is empty",
        "use_cases must be a text",
        "genre is empty",
        "instruments must be a list of texts",
        "lyrical_rap_check must be true or false",
        "simplified must be one of the valid tags, 'elektronic' is not one; "
        "similar tags are electronic, electro, mellotron",
    )


@pytest.mark.parametrize(
    "text", ["", "I cannot hear anything.", "{}", "{" * 30_000, '{"a":' * 5_000, '{"a": "' * 5_000]
)
def test_an_answer_without_the_object_is_refused_quickly(text: str) -> None:
    start = time.process_time()
    assert problems_of(text) == ("there is no JSON object with the fields that were asked for",)
    assert time.process_time() - start < 5


def test_a_description_has_fewer_than_200_characters() -> None:
    assert len(read_description(answer(descriptive="x" * 199)).descriptive) == 199
    assert problems_of(answer(descriptive="x" * 200))


@pytest.mark.parametrize("character", ["\0", "\ud800"])
def test_characters_that_cannot_be_stored_are_refused(character: str) -> None:
    assert problems_of(answer(expanded=f"a{character}b")) == ("expanded holds characters that cannot be stored",)


def test_singing_alone_needs_no_instruments() -> None:
    assert read_description(answer(analysis={**ANALYSIS, "instruments": []})).instruments == ()


def test_the_valid_tags_can_be_extended() -> None:
    assert problems_of(answer(simplified="zydeco"))
    assert read_description(answer(simplified="Zydeco"), ("zydeco",)).simplified == "zydeco"


LYRICS = "Hold me under the golden moon\nplay your guitar and strings for me tonight"


def test_a_description_that_quotes_the_lyrics_is_found() -> None:
    quoting = read_description(answer(descriptive="Someone asks to hold me, under the GOLDEN moon, over soft pads."))
    [problem] = lyric_problems(quoting, LYRICS, "en")
    assert "hold me under the golden moon" in problem
    assert lyric_problems(quoting, LYRICS, "en", max_shared_words=6) == []
    assert lyric_problems(quoting, "", "en") == []
    assert lyric_problems(RIGHT, LYRICS, "en") == []


@pytest.mark.parametrize(
    ("text", "is_about_words"),
    [
        ("The lyrics are about loss.", True),
        ("A man sings softly about his home town.", True),
        ("The song tells a story over drums.", True),
        ("A lyrical violin line sings over warm pads.", False),
        ("A man sings softly over drums about to explode.", False),
    ],
)
def test_a_sentence_about_the_words_is_found(text: str, is_about_words: bool) -> None:
    assert bool(lyric_problems(read_description(answer(descriptive=text)), "")) == is_about_words


def test_shared_runs_are_those_of_a_naive_search() -> None:
    left, right = "a b c d e f b c d", "x b c d e y d e f b c"
    words = left.split()
    runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    longest = max((run for run in runs if f" {' '.join(run)} " in f" {right} "), key=len)
    assert shared_run(left, right, "en") == tuple(longest) == ("d", "e", "f", "b", "c")
    assert shared_run("", right, "en") == () == shared_run("z", right, "en")
    assert "".join(shared_run("我爱月亮代表", "月亮代表我的心", "zh")) == "月亮代表"


def test_instruments_that_are_sung_about_are_found() -> None:
    assert sung_instruments(["electric piano", "Guitars", "strings", "bass"], LYRICS) == ["Guitars", "strings"]
    assert sung_instruments(["bass"], "all about that basset") == []


@pytest.mark.parametrize(
    ("written", "tag", "kind"),
    [
        ("Hip Hop", "hip-hop", "style"),
        ("RnB", "r&b", "style"),
        ("blues", "blues", "style"),
        ("synths", "synthesizer", "instruments"),
        ("drum", "drums", "instruments"),
        ("Female Vocals", "female vocal", "voice"),
        ("128 BPM", "128 bpm", "tempo"),
        ("a minor", "A minor", "key"),
        ("B flat Major", "Bb major", "key"),
        ("kazooish", None, None),
    ],
)
def test_a_tag_has_one_written_form(written: str, tag: str | None, kind: str | None) -> None:
    assert (canonical_tag(written), kind_of(written)) == (tag, kind)


def test_every_tag_is_its_own_written_form_and_is_found_in_captions() -> None:
    assert sum(map(len, TAG_WORDS.values())) == len(KIND_OF_TAG) > 300
    for tag, kind in KIND_OF_TAG.items():
        assert canonical_tag(tag) == tag
        assert kind not in missing_tag_kinds(f"xx {tag}, yy")


@pytest.mark.parametrize(
    ("written", "tag"),
    [
        ("fast", "fast tempo"),
        ("Mid-tempo groove", "medium tempo"),
        ("around 120", "120 bpm"),
        ("Fast (140 BPM)", "140 bpm"),
        ("120-130 bpm", "125 bpm"),
        ("slow, then fast", None),
        ("steady", None),
    ],
)
def test_a_tempo_in_words_becomes_a_tag(written: str, tag: str | None) -> None:
    assert tempo_tag(written) == tag


def test_a_tag_inside_of_a_longer_text_is_named_first() -> None:
    assert nearest_tags("sad piano ballad") == ["ballad", "piano", "sad"]


def test_the_prompt_names_every_field_and_every_tag(tmp_path: Any) -> None:
    prompt = load_prompt("", ("zydeco",))
    fields = [*values(), *ANALYSIS]
    assert all(f'"{name}"' in prompt for name in fields)
    assert all(tag in prompt for tag in (*KIND_OF_TAG, "zydeco"))
    assert "fewer than 200" in prompt and "{tags}" not in prompt
    own = tmp_path / "own.txt"
    own.write_text("Say {x}: {tags}", encoding="utf-8")
    assert load_prompt(str(own)).startswith("Say {x}: style: a cappella")
    for bad in ("", "missing"):
        own.write_text(" \n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"prompt_file: .*{PROMPT_FILE.name}"):
            load_prompt(str(own if not bad else tmp_path / bad))
