"""Every key says what a change of it means to a run that goes on."""

from songgen.config.changes import KIND_OF, KINDS, SCHEDULE_KEYS, Change
from songgen.config.keys import all_keys


def test_every_key_is_of_exactly_one_kind() -> None:
    keys = {name for name, key in all_keys().items() if key.group != "ignored"}
    listed = [name for names in KINDS.values() for name in names]
    assert sorted(listed) == sorted(set(listed))
    assert keys - set(listed) == set(), "add the new key to songgen/config/changes.py"
    assert set(listed) - keys == set(), "these keys do not exist any more"


def test_a_key_of_the_schedule_changes_the_computation() -> None:
    assert {KIND_OF[name] for name in SCHEDULE_KEYS} == {Change.COMPUTATION}
    assert {name for name in KIND_OF if name.startswith(("lr_", "warmup_"))} <= SCHEDULE_KEYS
