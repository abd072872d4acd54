"""The conversation with an audio language model: the question, its answer, and what is wrong with it, asked again."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from songgen.prepare.describing.tag_record import InvalidDescription, SongDescription, read_description
from songgen.prepare.describing.tag_vocabulary import vocabulary_text

PROMPT_FILE = Path(__file__).parent / "prompts" / "describe.txt"
"""The prompt that is used where the configuration names none."""

TAGS_PLACE = "{tags}"
"""Where the valid tags go in a prompt."""

QUESTION = "Write the JSON object for this recording."
"""Said beside the audio."""

_COMPLAINT = "This cannot be used:\n{problems}\nWrite the whole JSON object again, with these mended and all else kept."
_KEPT_ANSWER = 4000


@dataclass(frozen=True)
class Conversation:
    """What a model is asked about one recording, with what was said so far."""

    samples: np.ndarray
    """Mono, full scale is 1.0, at the model's sample rate."""

    prompt: str
    """What it is to do."""

    turns: tuple[tuple[str, str], ...] = ()
    """Earlier answers, each with what is wrong with it."""

    def messages(self, audio: object) -> list[dict[str, object]]:
        """Return the conversation in the form of chat templates and chat servers.

        Args:
            audio: entry that stands for the recording, such as `{"type": "audio", ...}`.
        """
        made: list[dict[str, object]] = [{"role": "system", "content": [_text(self.prompt)]}]
        made.append({"role": "user", "content": [audio, _text(QUESTION)]})
        for answer, complaint in self.turns:
            made.append({"role": "assistant", "content": [_text(answer)]})
            made.append({"role": "user", "content": [_text(complaint)]})
        return made


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@dataclass(frozen=True)
class Answer:
    """What a model has said."""

    text: str
    """All of it."""

    confidence: float | None = None
    """Geometric mean of its tokens' probabilities, where the model gives them."""

    refused: str = ""
    """Why it will not answer at all; then there is no use in asking again."""


class Describer(Protocol):
    """An audio language model behind any interface."""

    sample_rate: int
    """Of the recordings that it takes."""

    def answer(self, conversations: Sequence[Conversation]) -> list[Answer]:
        """Answer each conversation.

        Raises:
            ValueError: the model cannot be reached or used at all; says the way out.
        """


@dataclass(frozen=True)
class Described:
    """What came of asking about one recording."""

    description: SongDescription | None
    """None when no answer could be used."""

    attempts: int
    """Answers that it took."""

    problems: tuple[str, ...] = ()
    """What was wrong with the last answer that could not be used."""

    confidence: float | None = None
    """Of the answer that was taken."""


@dataclass
class _Asked:
    """One recording while it is asked about."""

    conversation: Conversation
    problems: tuple[str, ...] = ()
    attempts: int = 0
    result: Described | None = field(default=None)


def load_prompt(file: str, extra_tags: Collection[str] = ()) -> str:
    """Return a prompt with the valid tags filled in.

    Args:
        file: text with `{tags}` where the valid tags go (it may have none); empty for the prompt of this project.
        extra_tags: valid tags besides those of the vocabulary.

    Raises:
        ValueError: the file cannot be read or is empty.
    """
    path = Path(file) if file else PROMPT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt_file: {path} cannot be read ({error}); {PROMPT_FILE} is one to start from") from error
    if not text.strip():
        raise ValueError(f"prompt_file: {path} is empty; {PROMPT_FILE} is one to start from")
    return text.replace(TAGS_PLACE, vocabulary_text(extra_tags)).strip()


def describe_all(
    describer: Describer,
    conversations: Sequence[Conversation],
    checks: Sequence[Callable[[SongDescription], list[str]]],
    *,
    attempts: int,
    extra_tags: Collection[str] = (),
) -> list[Described]:
    """Ask about each recording until the answer keeps to the schema and passes its check.

    Args:
        describer: the model.
        conversations: one for each recording.
        checks: for each recording, what else is wrong with a description.
        attempts: most answers that are asked for, each.
        extra_tags: valid tags besides those of the vocabulary.
    """
    asked = [_Asked(conversation) for conversation in conversations]
    for _ in range(attempts):
        pending = [number for number, entry in enumerate(asked) if entry.result is None]
        if not pending:
            break
        answers = describer.answer([asked[number].conversation for number in pending])
        for number, answer in zip(pending, answers, strict=True):
            _take(asked[number], answer, checks[number], extra_tags)
    return [entry.result or Described(None, entry.attempts, entry.problems) for entry in asked]


def _take(
    entry: _Asked,
    answer: Answer,
    check: Callable[[SongDescription], list[str]],
    extra_tags: Collection[str],
) -> None:
    """Keep a description, or note what is wrong with it and continue the conversation."""
    entry.attempts += 1
    if answer.refused:
        entry.result = Described(None, entry.attempts, (answer.refused,))
        return
    try:
        description = read_description(answer.text, extra_tags)
        problems = check(description)
    except InvalidDescription as error:
        problems = list(error.problems)
    if not problems:
        entry.result = Described(description, entry.attempts, entry.problems, answer.confidence)
        return
    entry.problems = tuple(problems)
    complaint = _COMPLAINT.format(problems="\n".join(f"- {problem}" for problem in problems))
    before = entry.conversation
    # Only the last answer: what was wrong before it is mended or is said again.
    turns = ((answer.text[:_KEPT_ANSWER], complaint),)
    entry.conversation = Conversation(before.samples, before.prompt, turns)
