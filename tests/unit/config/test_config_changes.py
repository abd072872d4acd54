"""Every key says what a change of it means to a run that goes on."""

from songgen.config.changes import EARLIER_DEFAULTS, KIND_OF, KINDS, SCHEDULE_KEYS, Change, has_changed
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


def test_a_default_of_earlier_versions_is_no_change() -> None:
    """Their runs have it in their saved configurations, and null means the same for models of tokens."""
    for key, earlier in EARLIER_DEFAULTS.items():
        assert all_keys()[key].default is None
        assert not has_changed(key, earlier, None) and not has_changed(key, None, earlier)
        assert has_changed(key, earlier + 1, None) and has_changed(key, earlier, earlier + 1)
    assert has_changed("seed", 35.0, None)
