"""An audio language model behind a server with the OpenAI chat protocol and audio input.

Recordings leave this machine: they are sent to the server in the configuration. Lyrics and file names are not sent. The
key is read from an environment variable at the start; it is neither stored nor shown. The standard library is used in
place of the openai package, so that redirects are refused, responses are limited in size and time, and every request
counts towards `max_requests`.
"""

import base64
import hashlib
import http.client
import io
import ipaddress
import json
import logging
import math
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import soundfile

from songgen.data.manifests.clip import escaped
from songgen.prepare.describing.conversation import Answer, Conversation
from songgen.prepare.describing.paid_answers import PaidAnswers
from songgen.runtime.json_files import parse_json

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
"""Sample rate of the recordings that are sent; the published audio language models take this one."""

LONGEST_DELAY = 120.0
"""Longest wait in seconds between two tries, even if the server asks for a longer one."""

MAX_RESPONSE_BYTES = 4 << 20
"""Largest response that is read."""

SHOWN_CHARACTERS = 300
"""Characters of a server's message that are shown."""

_BAD_REQUEST = (400, 413, 422)
"""Statuses with which a server may refuse one recording, or every request."""

_TRY_AGAIN = (408, 425, 429)
"""Statuses, in addition to 5xx, after which the same request may succeed later."""

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


@dataclass(frozen=True)
class ServerSettings:
    """The server and how requests are sent to it.

    Raises:
        ValueError: If values are wrong; lists all problems.
    """

    url: str
    """Base address, such as `http://127.0.0.1:8000/v1`; requests go to `<url>/chat/completions`."""

    model: str
    """Name of the model on the server."""

    api_key_variable: str = ""
    """Environment variable that holds the key; empty for a server without one."""

    timeout_seconds: float = 120.0
    """Longest time for one answer, in seconds."""

    retries: int = 5
    """Number of times that a request is repeated if the server is unreachable, busy, or sends a broken answer."""

    concurrency: int = 4
    """Number of requests at the same time."""

    max_requests: int = 0
    """Most requests that are sent, including repeated ones; 0 for no limit."""

    max_new_tokens: int = 600
    """Most tokens of an answer."""

    temperature: float | None = 0.0
    """Temperature in the request; None for servers that do not take one."""

    log_probabilities: bool = False
    """Whether the server is asked for token probabilities."""

    first_delay: float = 1.0
    """Seconds before the first repetition; each further wait is twice as long."""

    def __post_init__(self) -> None:
        """Check all values."""
        problems = [*self._address_problems()]
        if not self.model:
            problems.append("model is empty: name the model as the server calls it")
        if self.api_key_variable and not _VARIABLE_NAME.fullmatch(self.api_key_variable):
            # The message does not repeat the value, which may be the key itself.
            problems.append("api_key_variable must be the name of an environment variable, not the key")
        if not 0 < self.timeout_seconds < math.inf:
            problems.append(f"timeout_seconds must be above 0, got {self.timeout_seconds:g}")
        if self.concurrency < 1:
            problems.append(f"concurrency must be at least 1, got {self.concurrency}")
        for name in ("retries", "max_requests"):
            if getattr(self, name) < 0:
                problems.append(f"{name} must not be negative, got {getattr(self, name)}")
        if problems:
            raise ValueError("; ".join(problems))

    def _address_problems(self) -> list[str]:
        if not self.url:
            return ["url is empty: name the base address of the server, such as http://127.0.0.1:8000/v1"]
        try:
            parts = urlsplit(self.url)
            is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            return ["url cannot be read as an address"]
        if parts.username is not None or parts.password is not None:
            return ["url must not contain a name and password, since the data set stores it; use api_key_variable"]
        if not is_usable or parts.query or parts.fragment or not self.url.isprintable() or " " in self.url:
            return [f"url must be the base address of a server, such as http://127.0.0.1:8000/v1, got {self.url!r}"]
        return []


class ServerDescriber:
    """A client that sends several recordings at the same time."""

    sample_rate = SAMPLE_RATE

    def __init__(self, settings: ServerSettings) -> None:
        """Read the key; nothing is sent yet.

        Raises:
            ValueError: If the environment variable of the key is not set.
        """
        self.settings = settings
        self.paid = PaidAnswers()
        self._address = f"{settings.url.rstrip('/')}/chat/completions"
        self._key = _read_key(settings.api_key_variable)
        self._lock = threading.Lock()
        self._num_requests = 0
        self._num_answers = 0
        host = urlsplit(settings.url).hostname or ""
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if _is_loopback(host):
            handlers.append(urllib.request.ProxyHandler({}))
        elif self._key and settings.url.startswith("http:"):
            logger.warning("the key of %s goes to %s unencrypted; use https", settings.api_key_variable, host)
        self._opener = urllib.request.build_opener(*handlers)

    def answer(self, conversations: Sequence[Conversation]) -> list[Answer]:
        """Answer each conversation.

        Raises:
            ValueError: If the server cannot be reached or refuses every request, or `max_requests` is used up.
        """
        stop = threading.Event()

        def ask(conversation: Conversation) -> Answer:
            try:
                return self._ask(conversation, stop)
            except BaseException:
                stop.set()
                raise

        try:
            with ThreadPoolExecutor(self.settings.concurrency) as pool:
                asked = [pool.submit(ask, conversation) for conversation in conversations]
        finally:
            stop.set()  # if a signal ended the wait, no further request is sent
        # The first error is the cause; requests that were stopped because of it raise _Stopped.
        errors = [error for entry in asked if (error := entry.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, _Stopped)):
            raise error
        return [entry.result() for entry in asked]

    def _ask(self, conversation: Conversation, stop: threading.Event) -> Answer:
        """Send one conversation, with retries while they may help."""
        body = json.dumps(self._request(conversation)).encode("ascii")
        name = hashlib.sha256(body).hexdigest()
        if (paid := self.paid.take(name)) is not None:
            return paid
        problem = ""
        for number in range(self.settings.retries + 1):
            if stop.is_set():
                raise _Stopped
            self._count_request()
            try:
                answer = _read_answer(self._send(body))
                if answer.refused:
                    answer = replace(answer, refused=f"the model refuses: {self._shown(answer.refused)}")
            except _TryAgain as error:
                problem = self._shown(str(error))
                if number < self.settings.retries:
                    stop.wait(self._delay(number, error.seconds))
                continue
            except _Refused as error:
                if self._num_answers == 0:
                    raise ValueError(f"{self.settings.url} refuses the request: {self._shown(str(error))}") from None
                return Answer("", refused=f"the server refuses it: {self._shown(str(error))}")
            except _Unusable as error:
                raise ValueError(f"{self.settings.url}: {self._shown(str(error))}") from None
            with self._lock:
                self._num_answers += 1
            self.paid.add(name, answer)
            return answer
        raise ValueError(
            f"{self.settings.url} does not answer ({self.settings.retries + 1} tries; the last: {problem}). "
            "Results so far are kept: start again when the server is available, or with a lower tag.concurrency"
        )

    def _request(self, conversation: Conversation) -> dict[str, Any]:
        audio = {"data": base64.b64encode(encode_wav(conversation.samples)).decode("ascii"), "format": "wav"}
        messages = conversation.messages({"type": "input_audio", "input_audio": audio})
        request = {"model": self.settings.model, "messages": messages, "max_tokens": self.settings.max_new_tokens}
        if self.settings.temperature is not None:
            request["temperature"] = self.settings.temperature
        if self.settings.log_probabilities:
            request["logprobs"] = True
        return request

    def _count_request(self) -> None:
        with self._lock:
            if 0 < self.settings.max_requests <= self._num_requests:
                raise ValueError(
                    f"max_requests: {self.settings.max_requests} requests have been sent in this run. Results so far "
                    "are kept: raise it, or start again to send as many more"
                )
            self._num_requests += 1

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._address, data=body, headers=headers, method="POST")
        deadline = time.monotonic() + self.settings.timeout_seconds
        try:
            with self._opener.open(request, timeout=self.settings.timeout_seconds) as response:
                return _read_until(response, deadline)
        except urllib.error.HTTPError as error:
            raise _problem_of_status(error) from None
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are kinds of OSError
            raise _TryAgain(f"{getattr(error, 'reason', error) or type(error).__name__}") from None

    def _delay(self, number: int, asked: float | None) -> float:
        """Return the seconds before the next try: as the server asks, or doubled each time, with random jitter."""
        waited = self.settings.first_delay * 2**number * random.uniform(0.75, 1.25)
        return min(LONGEST_DELAY, waited if asked is None else asked)

    def _shown(self, text: str) -> str:
        """Return a message of the server in a form that can be shown: short, printable, without the key."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return escaped(text[:SHOWN_CHARACTERS])


class _Stopped(Exception):
    """Another request of the batch has failed, and retries do not help."""


class _TryAgain(Exception):
    """The same request may succeed later."""

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class _Refused(Exception):
    """The server does not accept this request."""


class _Unusable(Exception):
    """No request will succeed."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would send recording and key to an address that is not in the configuration."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def encode_wav(samples: np.ndarray) -> bytes:
    """Return mono samples at `SAMPLE_RATE` as the bytes of a 16-bit WAV file."""
    made = io.BytesIO()
    soundfile.write(made, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return made.getvalue()


def _read_key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"api_key_variable: the environment variable {variable} is not set; export it, or leave it empty"
        )
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"api_key_variable: the value of {variable} cannot be a key: it has unusual characters")
    return key


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_until(response: Any, deadline: float) -> bytes:
    """Read a response until a deadline; a socket's own timeout restarts with every byte."""
    parts: list[bytes] = []
    size = 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MAX_RESPONSE_BYTES:
            raise _TryAgain(f"the response has more than {MAX_RESPONSE_BYTES >> 20} MB")
        if time.monotonic() > deadline:
            raise _TryAgain("the response took too long")
    return b"".join(parts)


def _problem_of_status(error: urllib.error.HTTPError) -> Exception:
    try:
        said = error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        said = ""
    message = f"status {error.code} {error.reason}: {_error_message(said)}"
    if error.code in _TRY_AGAIN or error.code >= 500:
        return _TryAgain(message, _retry_after(error.headers.get("Retry-After")))
    if error.code in _BAD_REQUEST:
        return _Refused(message)
    if error.code in (401, 403):
        return _Unusable(f"{message}; check the key in the variable that tag.api_key_variable names")
    if 300 <= error.code < 400:
        return _Unusable(f"{message}; redirects are not followed: set tag.url to the address that it leads to")
    return _Unusable(f"{message}; check tag.url and tag.model")


def _error_message(said: str) -> str:
    """Return the message in an error body, or the body."""
    try:
        values = parse_json(said)
        error = values.get("error", values)
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, AttributeError):
        return said.strip()


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None if it is missing or a date."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _read_answer(content: bytes) -> Answer:
    try:
        values = parse_json(content)
        choice = values["choices"][0]
        message = choice["message"]
        text = message.get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        said = _error_message(content[:4096].decode("utf-8", "replace"))
        raise _TryAgain(f"the response is not a chat completion: {said}") from None
    if isinstance(text, list):
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if isinstance(text, str) and text.strip():
        return Answer(text, _confidence(choice))
    if message.get("refusal"):
        return Answer("", refused=str(message["refusal"]))
    return Answer("")


def _confidence(choice: dict[str, Any]) -> float | None:
    """Return the geometric mean of the token probabilities; None if the server does not give their logarithms."""
    try:
        logarithms = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
        return math.exp(sum(logarithms) / len(logarithms))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
