"""A section states everything about itself in one place; codes, phases and networks follow from it."""

import ast
from pathlib import Path

import songgen.prepare.steps
from songgen.data.reject_codes import REJECT_CODES
from songgen.prepare.engine.section import LENGTH_CODES, Phase
from songgen.prepare.sections import CUTTING_STEP, REFUSAL_CODES, SECTIONS, Sections
from songgen.prepare.steps.filters import FilterOptions
from songgen.prepare.steps.transcription import TranscribeOptions

STEPS_FOLDER = Path(songgen.prepare.steps.__file__ or "").parent


def test_options_are_found_by_class_and_by_name() -> None:
    sections = Sections({name: section.options() for name, section in SECTIONS.items()})
    assert sections.get(FilterOptions) == sections["filter"] == FilterOptions()
    changed = sections.with_values({"filter": {"min_seconds": 5.0}})
    assert changed.require(FilterOptions).min_seconds == 5.0 and changed["split"] == sections["split"]


def test_every_section_has_options_of_its_own_class() -> None:
    assert len({section.options for section in SECTIONS.values()}) == len(SECTIONS)
    names = [step.name for section in SECTIONS.values() for step in section.steps]
    assert len(set(names)) == len(names) and CUTTING_STEP in names


def test_keys_of_networks_and_main_keys_exist() -> None:
    for section in SECTIONS.values():
        keys = {key for network in section.networks for key in (network.model, network.revision)} | {section.main_key}
        assert all(hasattr(section.options(), key) for key in keys - {""}), section.name


def test_codes_of_two_sections_have_one_meaning() -> None:
    for section in SECTIONS.values():
        for code, content in section.refusal_codes.items():
            assert REFUSAL_CODES[code] == content and content.meaning, f"{section.name}: {code}"
    owners = [code for section in SECTIONS.values() for code in section.refusal_codes]
    assert {code for code in owners if owners.count(code) > 1} == set(LENGTH_CODES)


def test_every_code_that_a_step_writes_is_stated_in_its_section() -> None:
    """Codes are written as literals: the second argument of `Refusal`, the first of `_refusal` and `_refuse`."""
    checked = 0
    for section in SECTIONS.values():
        for step in section.steps:
            for code in literal_codes(STEPS_FOLDER / f"{step.__module__.rsplit('.', 1)[1]}.py"):
                assert code in section.refusal_codes or code in REJECT_CODES, f"{section.name}: {code}"
                checked += 1
    assert checked > 5


def literal_codes(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            place = {"Refusal": 1, "_refusal": 0, "_refuse": 0}.get(name)
            code = node.args[place] if place is not None and len(node.args) > place else None
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                found.append(code.value)
    return found


def test_the_second_recognizer_runs_only_if_one_is_named() -> None:
    section = SECTIONS["transcribe"]
    assert [step.name for step in section.make_steps(TranscribeOptions())] == ["transcribe"]
    both = section.make_steps(TranscribeOptions(agreement_model="second"))
    assert [step.name for step in both] == ["transcribe", "transcribe_second"]
    assert section.phase is Phase.SONGS
