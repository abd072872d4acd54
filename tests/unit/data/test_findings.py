from songgen.data.manifests.findings import MAX_KINDS, Notices


def test_few_notices_are_lines_of_their_own_and_many_are_one() -> None:
    notices = Notices()
    for number in range(3):
        notices.add("is odd", f"a{number}")
    for number in range(48):
        notices.add(f"is missing; rename it to b{number}", f"b{number}", kind="is missing; rename it to NAME")
    notices.add("something else")
    assert notices.lines() == [
        "a0: is odd",
        "a1: is odd",
        "a2: is odd",
        "something else",
        "48 times: is missing; rename it to NAME: b0, b1, b2, b3, b4 and 43 more",
    ]
    assert notices.num_lines == 5


def test_notices_of_two_sources_are_counted_together() -> None:
    first, second = Notices(), Notices()
    for notices in (first, second):
        for number in range(10):
            notices.add("is odd", str(number))
    first.update(second)
    assert first.lines() == ["20 times: is odd: 0, 1, 2, 3, 4 and 15 more"]


def test_memory_is_bounded_and_control_characters_are_escaped() -> None:
    notices = Notices()
    for number in range(MAX_KINDS + 7):
        notices.add(f"\x1b[31m{number}", "x\n")
    assert len(notices.lines()) == MAX_KINDS and notices.num_lines == MAX_KINDS + 7
    assert notices.lines()[0] == r"x\n: \x1b[31m0"
