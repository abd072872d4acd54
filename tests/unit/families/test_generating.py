"""What families contribute to `songgen generate`."""

import importlib

import pytest

from songgen.families.registry import FAMILIES, PIPELINES
from songgen.families.use.generating import OptionGroup, SongCommand, SongOption, option_groups


def test_every_family_that_generates_shows_its_options_in_the_help() -> None:
    places = [place.partition(":") for place in (*FAMILIES.values(), *PIPELINES.values())]
    families = [getattr(importlib.import_module(module), name) for module, _, name in places]
    groups = option_groups()
    assert [family.songs.group for family in families] == groups
    names = [name for group in groups for name in group.names]
    assert len(names) == len(set(names)), "an option of two families is one of all"
    assert all(option.keywords.get("default") is None for group in groups for option in group.options)


def test_options_of_another_family_are_refused_with_reason_and_alternatives() -> None:
    own = OptionGroup("own models", (SongOption("mine", ""), SongOption("shared", "")))
    other = OptionGroup("others", (SongOption("theirs", "", reason="for a reason"), SongOption("shared", "")))
    command = SongCommand(own, None)  # type: ignore[arg-type]
    command.check_names({"mine": 1, "shared": 2}, [own, other], "own")
    with pytest.raises(ValueError) as error:
        command.check_names({"mine": 1, "theirs": 2}, [own, other], "own")
    assert str(error.value) == (
        "--theirs is for others (for a reason); this model is of the family own, whose own options are --mine, --shared"
    )
