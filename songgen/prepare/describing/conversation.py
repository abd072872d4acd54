"""The conversation with an audio language model: question, answer, and problems of the answer, until none is left."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from songgen.prepare.describing.tag_record import InvalidDescription, SongDescription, read_description
from songgen.prepare.describing.tag_vocabulary import vocabulary_text

PROMPT_FILE = Path(__file__).parent / "prompts" / "describe.txt"
"""Prompt that is used if the configuration names none."""

TAGS_PLACE = "{tags}"
"""Placeholder for the valid tags in a prompt."""

QUESTION = "Write the JSON object for this recording."
"""Text of the request next to the audio."""

_COMPLAINT = "This cannot be used:\n{problems}\nWrite the whole JSON object again, with these corrected, the rest kept."
_KEPT_ANSWER = 4000
"""Characters of an answer that are repeated to the model."""


@dataclass(frozen=True)
class Conversation:
    """A request about one recording, with earlier answers."""

    samples: np.ndarray
    """Mono samples at the model's sample rate; full scale is 1.0."""

    prompt: str
    """Instructions to the model."""

    turns: tuple[tuple[str, str], ...] = ()
    """Earlier answers, each with a message about its problems."""

    def messages(self, audio: object) -> list[dict[str, object]]:
        """Return the conversation in the form that chat templates and chat servers take.

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
    """An answer of a model."""

    text: str
    """Text of the answer."""

    confidence: float | None = None
    """Geometric mean of its token probabilities; None if the model does not give them."""

    refused: str = ""
    """Why the model refuses to answer; then it is not asked again."""


class Describer(Protocol):
    """An audio language model behind any interface."""

    sample_rate: int
    """Sample rate of the recordings that it takes."""

    def answer(self, conversations: Sequence[Conversation]) -> list[Answer]:
        """Answer each conversation.

        Raises:
            ValueError: If the model cannot be reached or used; with a suggested fix.
        """


@dataclass(frozen=True)
class Described:
    """Result for one recording."""

    description: SongDescription | None
    """Description; None if no answer could be used."""

    attempts: int
    """Number of answers that were needed."""

    problems: tuple[str, ...] = ()
    """Problems of the last answer that could not be used."""

    confidence: float | None = None
    """Confidence of the answer that was used."""


@dataclass
class _Asked:
    """State of one recording while answers are requested."""

    conversation: Conversation
    problems: tuple[str, ...] = ()
    attempts: int = 0
    result: Described | None = field(default=None)


def load_prompt(file: str, extra_tags: Collection[str] = ()) -> str:
    """Return a prompt with the valid tags filled in.

    Args:
        file: prompt with `{tags}` in place of the valid tags (optional); empty for the prompt of this project.
        extra_tags: further valid tags.

    Raises:
        ValueError: If the file cannot be read or is empty.
    """
    path = Path(file) if file else PROMPT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt_file: {path} cannot be read ({error}); start from {PROMPT_FILE}") from error
    if not text.strip():
        raise ValueError(f"prompt_file: {path} is empty; start from {PROMPT_FILE}")
    return text.replace(TAGS_PLACE, vocabulary_text(extra_tags)).strip()


def describe_all(
    describer: Describer,
    conversations: Sequence[Conversation],
    checks: Sequence[Callable[[SongDescription], list[str]]],
    *,
    attempts: int,
    extra_tags: Collection[str] = (),
) -> list[Described]:
    """Ask about each recording until the answer follows the schema and passes its check.

    Args:
        describer: the model.
        conversations: one for each recording.
        checks: for each recording, a function that returns further problems of a description.
        attempts: most answers that are requested for each recording.
        extra_tags: further valid tags.
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
    """Keep the description, or continue the conversation with its problems."""
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
    # Only the last answer is repeated: problems of earlier ones are corrected or reported again.
    turns = ((answer.text[:_KEPT_ANSWER], complaint),)
    entry.conversation = Conversation(before.samples, before.prompt, turns)
