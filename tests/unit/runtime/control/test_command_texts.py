"""The texts of commands: one reader for every source, which answers a wrong one with what is possible."""

import pytest

from songgen.runtime.control.commands import FORMS, Action, Command, help_text, parse, receive


@pytest.mark.parametrize(
    ("text", "action", "argument", "at"),
    [
        ("save", Action.SAVE, None, None),
        ("  QUIT ", Action.STOP, None, None),
        ("stop", Action.STOP, None, None),
        ("lr 1.0e-3", Action.LEARNING_RATE, 1e-3, None),
        ("lr 1e-3@500", Action.LEARNING_RATE, 1e-3, 500),
        ("lr @ 500 1e-3", Action.LEARNING_RATE, 1e-3, 500),
        ("lr reset", Action.LEARNING_RATE, "auto", None),
        ("lr", Action.LEARNING_RATE, None, None),
        ("eval_quit@9", Action.EVALUATE_AND_STOP, None, 9),
        ("sample 3", Action.SAMPLE, 3, None),
        ("sample", Action.SAMPLE, None, None),
        ("loss_scale 8192", Action.LOSS_SCALE, 8192.0, None),
        ("time to 500", Action.TIME, 500, None),
        ("event", Action.EVENT, "show", None),
        ("event clear", Action.EVENT, "clear", None),
    ],
)
def test_a_command_is_read_and_its_text_is_the_same_command(
    text: str, action: Action, argument: object, at: int | None
) -> None:
    command = parse(text, "the test")
    assert (command.action, command.argument, command.at) == (action, argument, at)
    assert parse(command.text, "the test") == command


def test_a_number_keeps_every_bit_in_its_text() -> None:
    value = 0.1 + 0.2
    assert parse(Command(Action.LEARNING_RATE, "", value / 1e4).text, "").argument == value / 1e4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no command; possible: save, quit, lr"),
        ("sav", "there is no command 'sav'; did you mean save? Possible: save, quit"),
        ("zzzz", "there is no command 'zzzz'. Possible"),
        ("lr 5", "lr: 5 is above 1; expected lr X (learning rate of the next step"),
        ("lr nan", "nan is not a positive number"),
        ("lr -1e-4", "-1e-4 is not a positive number"),
        ("lr 1 2", "takes one number, got 1 2"),
        ("sample 1.5", "takes a whole number from 1"),
        ("time 500", "takes nothing or 'to STEP', got '500'"),
        ("event all", "takes show or clear"),
        ("save now", "save: takes no argument, got 'now'; expected save (save a checkpoint"),
        ("save@", "after @ comes the number of a step"),
        ("save@-1", "after @ comes the number of a step"),
        ("save@5x", "after @ comes the number of a step"),
        ("time@5", "only commands that act on the run can be scheduled"),
        ("lr@5", "only commands that act on the run can be scheduled"),
        ("save" + " " * 300, "at most 200 characters"),
    ],
)
def test_a_wrong_command_is_answered_with_what_is_possible(text: str, problem: str) -> None:
    answers: list[tuple[str, bool]] = []
    assert receive(text, "the test", lambda answer, is_done: answers.append((answer, is_done))) is None
    [(answer, is_done)] = answers
    assert problem in answer and not is_done


def test_help_names_every_command_and_is_answered_at_once() -> None:
    assert all(form.usage in help_text() for form in FORMS.values()) and set(FORMS) == set(Action)
    answers: list[str] = []
    assert receive("help", "the test", lambda answer, is_done: answers.append(answer)) is None
    assert answers == [help_text()]
