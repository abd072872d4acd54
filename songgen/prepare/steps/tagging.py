"""The step that adds tags, descriptions and captions, from an audio language model or from measurements."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from songgen.data.audio import AudioRejected
from songgen.data.manifests.raw_rows import caption_of_variants, join_tags
from songgen.prepare.describing.chat_server import ServerDescriber, ServerSettings
from songgen.prepare.describing.conversation import Conversation, Described, Describer, describe_all, load_prompt
from songgen.prepare.describing.loose_json import require_json_repair
from songgen.prepare.describing.paid_answers import PaidAnswers
from songgen.prepare.describing.song_tags import Facts, SongTags, compose_tags
from songgen.prepare.describing.tag_record import (
    MAX_SHARED_WORDS,
    SongDescription,
    lyric_problems,
    shared_run,
    sung_instruments,
)
from songgen.prepare.engine.audio_files import read_audio
from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.section import HubNetwork, Phase, RefusalCode, Section
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.timing.lyrics_alignment import written_lines
from songgen.tasks import MIX

NOTHING_KNOWN = "music"
"""Caption of a clip of which nothing is known, since training needs one."""

BATCHES_OF_REQUESTS = 2
"""Clips in a batch for a server, for each concurrent request."""


@dataclass(frozen=True)
class TagOptions:
    """Options of describing clips."""

    backend: Literal["none", "local", "server"] = "none"
    """Source of descriptions: `local` a model that runs here with transformers, `server` one behind the OpenAI chat
    protocol (recordings are sent there), `none` no model, only tags of tempo, key, voice and energy as far as they are
    measured."""

    overwrite: bool = False
    """Whether existing captions and tags are replaced."""

    caption: Literal["tags", "sampled", "simplified", "expanded", "descriptive", "synonyms", "use_cases"] = "tags"
    """Source of the caption: the line of tags, one of the descriptions, or `sampled`, a random one of them that is the
    same in every run. A clip without description gets the line of tags."""

    prompt_file: str = ""
    """File with a prompt of your own, in which `{tags}` becomes the valid tags. Empty: the prompt of this package
    (`describing/prompts/describe.txt`)."""

    extra_tags: tuple[str, ...] = ()
    """Further valid tags."""

    model: str = "Qwen/Qwen2-Audio-7B-Instruct"
    """Hub id or folder of an audio language model with safetensors files; for a server, the model's name there."""

    revision: str = ""
    """Branch, tag or commit of the model on the hub; empty for the main branch. Its first commit is kept in the work
    folder (`networks.json`) and used by all later runs."""

    device: str = ""
    """Device of a local model, such as `cuda:0`; empty for the GPU if there is one."""

    batch_size: int = 4
    """Number of clips that a local model processes at once."""

    url: str = ""
    """Base address of the server, such as `http://127.0.0.1:8000/v1`."""

    api_key_variable: str = ""
    """Environment variable that holds the server's key (its name, not the key); empty for a server without one."""

    timeout_seconds: float = 120.0
    """Longest time for an answer of the server, in seconds."""

    retries: int = 5
    """Number of times that a request is repeated if the server is unreachable, busy, or sends a broken answer."""

    concurrency: int = 4
    """Number of requests at the same time."""

    max_requests: int = 0
    """Most requests that each process of a run sends, as a limit of costs; 0 for no limit."""

    temperature: float | None = 0.0
    """Temperature in requests to the server; null for servers that take none. A local model always decodes greedily."""

    log_probabilities: bool = False
    """Whether the server is asked for token probabilities, for `description_confidence`."""

    attempts: int = 3
    """Most answers for each clip; each request after the first lists the problems of the previous answer."""

    max_new_tokens: int = 600
    """Most tokens of an answer."""

    max_seconds: float = 30.0
    """Longest passage that the model gets, the middle of a longer clip. Qwen2-Audio takes 30 s."""

    max_shared_words: int = MAX_SHARED_WORDS
    """Longest run of words that a description may share with the lyrics."""

    without_description: Literal["tags", "refuse"] = "tags"
    """What happens to a clip without a usable answer: it gets `tags` as with the backend `none`, or it is refused."""

    def __post_init__(self) -> None:
        """Check all values."""
        problems = []
        for name in ("batch_size", "attempts", "max_new_tokens"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.max_seconds > 0:
            problems.append(f"max_seconds must be above 0, got {self.max_seconds:g}")
        if self.max_shared_words < 0:
            problems.append(f"max_shared_words must not be negative, got {self.max_shared_words}")
        if self.backend == "local" and not self.model:
            problems.append("model is empty: name an audio language model")
        problems += self._problems_of_parts()
        if problems:
            raise ValueError("; ".join(problems))

    def _problems_of_parts(self) -> Iterator[str]:
        """Yield the problems of the server's settings and of the prompt, if they are used."""
        parts: list[Callable[[], object]] = [self.server] if self.backend == "server" else []
        if self.backend != "none" or self.prompt_file:
            parts.append(self.prompt)
        for part in parts:
            try:
                part()
            except ValueError as error:
                yield str(error)

    def server(self) -> ServerSettings:
        """Return the options of the server."""
        return ServerSettings(
            url=self.url,
            model=self.model,
            api_key_variable=self.api_key_variable,
            timeout_seconds=self.timeout_seconds,
            retries=self.retries,
            concurrency=self.concurrency,
            max_requests=self.max_requests,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            log_probabilities=self.log_probabilities,
        )

    def prompt(self) -> str:
        """Return the prompt with the valid tags filled in."""
        return load_prompt(self.prompt_file, self.extra_tags)


_OF_ALL = ("backend", "caption", "overwrite")
_OF_MODELS = ("model", "extra_tags", "attempts", "max_new_tokens", "max_seconds", "max_shared_words")
_OF_BACKEND = {"none": (), "local": ("revision",), "server": ("url", "temperature", "log_probabilities")}


class TagStep(Step):
    """Gives each clip without a caption `tags`, `variants`, `analysis` and `caption`.

    The provenance lists which tags were measured, given or described by the model, the confidence of each source, the
    number of answers and their problems. Measures: `description_confidence` (mean token probability of the model, if
    known), `description_attempts`, `description_failed` (1 if no answer could be used), `shared_words`
    (longest run of words that a description shares with the lyrics) and `sung_instruments` (instruments whose
    names are also in the lyrics).
    """

    name: ClassVar[str] = "tag"
    version = 2

    def __init__(self, options: TagOptions) -> None:
        """Read the prompt; the model is loaded by `start`."""
        self.options = options
        if options.backend == "local":
            self.batch_size = options.batch_size
        elif options.backend == "server":
            self.batch_size = options.concurrency * BATCHES_OF_REQUESTS
        self._listens = options.backend != "none"
        self._prompt = options.prompt() if self._listens else ""
        self._describer: Describer | None = None
        self._has_read_paid = False

    def parameters(self) -> JsonObject:
        """Return everything that an answer depends on, with the prompt as a hash; not device, retries and the like."""
        names = (*_OF_ALL, *_OF_BACKEND[self.options.backend])
        if self._listens:
            names = (*names, *_OF_MODELS, "without_description")
        values = asdict(self.options)
        made = {name: list(value) if isinstance(value := values[name], tuple) else value for name in names}
        if self._listens:
            made["prompt"] = hashlib.sha256(self._prompt.encode()).hexdigest()
        return made

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return the facts about the clip, with its lyrics only if a description is compared with them."""
        made = {"facts": asdict(Facts.of(record)), "tags": list(record.tags), "variants": dict(record.variants)}
        if self._listens:
            made |= {"lyrics": record.lyrics, "language": record.language}
        return made

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return the mix if a model gets it."""
        return [record.audio[MIX]] if self._listens else []

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether there is no caption, or it is to be replaced."""
        return self.options.overwrite or not record.caption

    def start(self) -> None:
        """Load the model, or read the server's key.

        Raises:
            ValueError: If that fails; with a suggested fix.
        """
        options = self.options
        if self._listens:
            require_json_repair()
        if options.backend == "server":
            self._describer = ServerDescriber(options.server())
        elif options.backend == "local":
            from songgen.prepare.describing.audio_llm import LocalDescriber

            self._describer = LocalDescriber(
                options.model,
                revision=options.revision,
                device=options.device,
                max_new_tokens=options.max_new_tokens,
            )

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Describe the clips of a batch together."""
        found: dict[str, Described | Refusal] = {}
        asked: list[tuple[SongRecord, Conversation]] = []
        for record in records:
            if not self._listens or self._is_labelled(record):
                continue
            try:
                asked.append((record, Conversation(self._hear(record, folder), self._prompt)))
            except AudioRejected as error:
                found[record.id] = Refusal(self.name, error.code, error.reason)
        if asked:
            found |= self._describe(asked, folder)
        return [self._outcome(record, found.get(record.id)) for record in records]

    def _is_labelled(self, record: SongRecord) -> bool:
        """Return whether a record only lacks the choice of its caption."""
        return not self.options.overwrite and bool(record.tags or record.variants)

    def _hear(self, record: SongRecord, folder: WorkFolder) -> np.ndarray:
        assert self._describer is not None, "start comes before run"
        samples, rate = read_audio(folder.track(record, MIX), sample_rate=self._describer.sample_rate)
        surplus = max(0, len(samples) - round(self.options.max_seconds * rate))
        return samples[surplus // 2 : len(samples) - (surplus - surplus // 2)]

    def _describe(self, asked: Sequence[tuple[SongRecord, Conversation]], folder: WorkFolder) -> dict[str, Described]:
        assert self._describer is not None, "start comes before run"
        paid = self._paid_answers(folder)
        checks = [
            partial(
                lyric_problems,
                lyrics=_words(record),
                language=record.language,
                max_shared_words=self.options.max_shared_words,
            )
            for record, _ in asked
        ]
        try:
            described = describe_all(
                self._describer,
                [conversation for _, conversation in asked],
                checks,
                attempts=self.options.attempts,
                extra_tags=self.options.extra_tags,
            )
        except BaseException:
            if paid is not None:
                paid.keep_batch(folder.root)
            raise
        if paid is not None:
            paid.forget_batch()
        return {record.id: result for (record, _), result in zip(asked, described, strict=True)}

    def _paid_answers(self, folder: WorkFolder) -> PaidAnswers | None:
        """Return the store of a server's answers, including those of earlier runs; None without a server."""
        if not isinstance(self._describer, ServerDescriber):
            return None
        if not self._has_read_paid:
            self._describer.paid.read(folder.root)
            self._has_read_paid = True
        return self._describer.paid

    def _outcome(self, record: SongRecord, found: Described | Refusal | None) -> StepOutput:
        if isinstance(found, Refusal):
            return StepOutput(refusal=found)
        if self._is_labelled(record):
            return StepOutput({"caption": self._caption(record.id, record.tags, record.variants)})
        description = None if found is None else found.description
        if found is not None and description is None and self.options.without_description == "refuse":
            reason = f"none of {found.attempts} answers could be used: {'; '.join(found.problems)}"
            return StepOutput(refusal=Refusal(self.name, "no_valid_description", reason))
        made = compose_tags(Facts.of(record), description)
        changes: dict[str, Any] = {"tags": made.names}
        if description is not None:
            changes |= {"variants": description.variants, "analysis": description.analysis}
        changes["caption"] = self._caption(record.id, made.names, changes.get("variants", {}))
        changes["measures"] = _measures(record, found)
        changes["provenance"] = {self.name: _details(record, made, found)}
        return StepOutput(changes)

    def _caption(self, record_id: str, tags: Sequence[str], variants: Any) -> str:
        """Return the caption; the line of tags replaces a missing description."""
        line = join_tags(tags)
        choice = self.options.caption
        if choice == "sampled":
            chosen = caption_of_variants({**variants, "tag_line": line}, record_id)
        else:
            chosen = variants.get(choice)
        return chosen or line or next((text for text in variants.values() if text), NOTHING_KNOWN)


def _words(record: SongRecord) -> str:
    """Return the lyrics without section tags."""
    return "\n".join(line.text for line in written_lines(record.lyrics))


def _measures(record: SongRecord, found: Described | None) -> dict[str, float]:
    if found is None:
        return {}
    made = {"description_attempts": float(found.attempts), "description_failed": float(found.description is None)}
    if found.confidence is not None:
        made["description_confidence"] = found.confidence
    if found.description is not None:
        words = _words(record)
        runs = (shared_run(text, words, record.language) for text in found.description.variants.values())
        made["shared_words"] = float(max(map(len, runs)))
        made["sung_instruments"] = float(len(sung_instruments(found.description.instruments, words)))
    return made


def _details(record: SongRecord, made: SongTags, found: Described | None) -> JsonObject:
    """Return the provenance in addition to version and parameters."""
    confidence = {
        name: record.measures[f"{name}_confidence"]
        for name in ("tempo", "key")
        if getattr(record, name) and f"{name}_confidence" in record.measures
    }
    doubts = list(made.doubts)
    details: JsonObject = {"sources": made.sources}
    if found is not None:
        details |= {"attempts": found.attempts, "problems": list(found.problems)}
        if found.confidence is not None:
            confidence["description"] = found.confidence
        if found.description is not None:
            doubts += _doubted_instruments(found.description, _words(record))
    return details | {"confidence": confidence, "doubts": doubts}


def _doubted_instruments(description: SongDescription, words: str) -> list[str]:
    sung = sung_instruments(description.instruments, words)
    return [f"also named in the lyrics, perhaps not heard: {name}" for name in sung]


SECTION = Section(
    "tag",
    "tags and caption of clips without one: by an audio language model, or by what was measured",
    TagOptions,
    Phase.DESCRIBED,
    [TagStep],
    main_key="backend",
    networks=[HubNetwork("model", "revision", is_used=lambda options: options.backend == "local")],
    refusal_codes={
        "no_valid_description": RefusalCode(
            "no answer of the audio language model followed the schema, and such clips are left out"
        ),
    },
)
