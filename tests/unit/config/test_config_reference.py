from songgen.config.keys import all_keys
from songgen.config.reference import OTHER_DEFAULTS, REFERENCE_FILE, reference_text


def test_the_written_reference_is_up_to_date() -> None:
    written = REFERENCE_FILE.read_text(encoding="utf-8")
    assert written == reference_text(), "run `python -m songgen.config.reference`"


def test_every_key_stands_in_the_reference() -> None:
    text = reference_text()
    assert not [name for name in all_keys() if f"| `{name}` |" not in text]


def test_defaults_that_differ_do_differ() -> None:
    assert not [name for name, (published, _) in OTHER_DEFAULTS.items() if all_keys()[name].default == published]
