"""A chat server is asked in its protocol, again where that helps, and never for more than was agreed."""

import base64
import io
import logging
import pickle
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest
import soundfile
from descriptions import FakeServer, Reply, fake_server

from songgen.prepare.describing import chat_server
from songgen.prepare.describing.chat_server import SAMPLE_RATE, ServerDescriber, ServerSettings
from songgen.prepare.describing.conversation import Conversation

KEY = "sk-very-secret-0123456789"
RIGHT = Reply("a waltz")


def conversation(number: int = 0) -> Conversation:
    samples = 0.1 * np.sin(np.arange(SAMPLE_RATE // 4) * (0.05 + 0.01 * number))
    return Conversation(samples.astype(np.float32), "Describe.")


def describer(server: FakeServer, **settings: Any) -> ServerDescriber:
    values = {"url": server.url, "model": "ears", "first_delay": 0.01, "timeout_seconds": 5.0} | settings
    return ServerDescriber(ServerSettings(**values))


def test_a_request_is_what_the_protocol_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONG_KEY", f"{KEY}\n")
    asked = Conversation(conversation().samples, "Describe.", (("first", "wrong"),))
    with fake_server(RIGHT) as server:
        [answer] = describer(server, api_key_variable="SONG_KEY", max_new_tokens=99).answer([asked])
    assert answer.text == "a waltz" and answer.confidence is None
    [request], [headers], [path] = server.requests, server.headers, server.paths
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("ears", 99, 0.0)
    assert "logprobs" not in request
    assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant", "user"]
    audio, text = request["messages"][1]["content"]
    assert (audio["type"], audio["input_audio"]["format"], text["type"]) == ("input_audio", "wav", "text")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["input_audio"]["data"])), dtype="float32")
    assert rate == SAMPLE_RATE
    np.testing.assert_allclose(samples, asked.samples, atol=1 / 32768)


def test_a_server_that_takes_no_temperature_gets_none_and_one_without_a_key_no_header() -> None:
    with fake_server(RIGHT) as server:
        describer(server, temperature=None).answer([conversation()])
    assert "temperature" not in server.requests[0]
    assert "Authorization" not in server.headers[0]


def test_the_confidence_is_the_mean_probability_of_the_tokens() -> None:
    choice = {"logprobs": {"content": [{"logprob": -0.1}, {"logprob": -0.3}]}}
    with fake_server(Reply("a waltz", choice=choice)) as server:
        [answer] = describer(server, log_probabilities=True).answer([conversation()])
    assert server.requests[0]["logprobs"] is True
    assert answer.confidence == pytest.approx(np.exp(-0.2))


def test_text_in_parts_is_joined_and_a_refusal_is_no_text() -> None:
    parts = Reply(message={"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "waltz"}]})
    refusal = Reply(message={"content": None, "refusal": "I cannot hear music."})
    with fake_server(parts, refusal, Reply(message={"content": None})) as server:
        asked = describer(server)
        assert asked.answer([conversation()])[0].text == "a waltz"
        assert asked.answer([conversation()])[0].refused == "the model refuses: I cannot hear music."
        assert asked.answer([conversation()])[0].text == ""


@pytest.mark.parametrize(
    "bad",
    [
        Reply("busy", status=429),
        Reply("internal", status=500),
        Reply("overloaded", status=503),
        Reply(body=b"<html>not json</html>"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"error": {"message": "the worker died"}}'),
        Reply(body=b"[1, 2]"),
        Reply(body=b'{"choices": [{"mess', headers=(("Content-Length", "100000"),)),
    ],
    ids=["429", "500", "503", "html", "no choices", "error with status 200", "a list", "cut off"],
)
def test_what_may_pass_is_tried_again(bad: Reply) -> None:
    with fake_server(bad, bad, RIGHT) as server:
        [answer] = describer(server, retries=2).answer([conversation()])
    assert answer.text == "a waltz"
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2]


def test_a_server_that_is_too_slow_is_asked_again_and_given_up() -> None:
    with fake_server(Reply(wait=1.0)) as server:
        with pytest.raises(ValueError, match=r"does not answer \(2 tries; the last: .*timed out"):
            describer(server, retries=1, timeout_seconds=0.2).answer([conversation()])


def test_waiting_doubles_and_the_server_may_ask_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server.random, "uniform", lambda low, high: 1.0)
    waited: list[float | None] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            return False

    asks = Reply("busy", status=429, headers=(("Retry-After", "0.5"),))
    with fake_server(Reply("", status=500), Reply("", status=500), asks, RIGHT) as server:
        assert describer(server, first_delay=0.1)._ask(conversation(), Stop()).text == "a waltz"
    assert waited == [0.1, 0.2, 0.5]
    patient = describer(server)
    assert patient._delay(20, None) == patient._delay(0, 1e9) == chat_server.LONGEST_DELAY


def test_a_server_that_never_answers_is_given_up_with_the_reason() -> None:
    with fake_server(Reply("all seats taken", status=503)) as server:
        with pytest.raises(ValueError, match=r"does not answer \(3 tries; the last: status 503 .*all seats taken"):
            describer(server, retries=2).answer([conversation()])
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ValueError, match=f"{url} does not answer .*refused"):
        describer(FakeServer((), url=url), retries=0).answer([conversation()])


def test_a_response_that_trickles_in_does_not_outlast_the_timeout() -> None:
    class Trickle:
        def read1(self, size: int) -> bytes:
            time.sleep(0.01)
            return b" "

    start = time.monotonic()
    with pytest.raises(chat_server._TryAgain, match="too long"):
        chat_server._read_until(Trickle(), start + 0.1)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (401, "tag.api_key_variable"),
        (403, "tag.api_key_variable"),
        (404, "tag.model"),
        (302, "redirects are not followed"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(status: int, fix: str) -> None:
    elsewhere = (("Location", "/v1/elsewhere"),) if status == 302 else ()
    with fake_server(Reply("no", status=status, headers=elsewhere), RIGHT) as server:
        with pytest.raises(ValueError, match=f"status {status}.*no.*{fix}"):
            describer(server).answer([conversation()])
    assert server.paths == ["/v1/chat/completions"]


def test_a_server_that_refuses_one_recording_only_costs_that_one() -> None:
    with fake_server(RIGHT, Reply("audio too long", status=400), RIGHT) as server:
        found = describer(server, concurrency=1).answer([conversation(number) for number in range(3)])
    assert [answer.text for answer in found] == ["a waltz", "", "a waltz"]
    assert "audio too long" in found[1].refused


def test_a_server_that_refuses_the_first_recording_stops_the_run() -> None:
    with fake_server(Reply("unknown parameter: temperature", status=400)) as server:
        with pytest.raises(ValueError, match="refuses the request: .*unknown parameter: temperature"):
            describer(server, concurrency=1).answer([conversation(), conversation()])
    assert len(server.requests) == 1


def test_requests_run_at_the_same_time_and_answers_keep_their_order() -> None:
    replies = [Reply(f"song {number}", wait=0.3) for number in range(6)]
    with fake_server(*replies) as server:
        found = describer(server, concurrency=3).answer([conversation(number) for number in range(6)])
    assert server.most_at_once == 3
    said = {str(request["messages"]): f"song {number}" for number, request in enumerate(server.requests)}
    asked = [str(describer(server)._request(conversation(number))["messages"]) for number in range(6)]
    assert [answer.text for answer in found] == [said[request] for request in asked]


def test_no_more_requests_are_sent_than_agreed() -> None:
    with fake_server(RIGHT) as server:
        frugal = describer(server, max_requests=3, concurrency=2)
        frugal.answer([conversation(), conversation()])
        with pytest.raises(ValueError, match="max_requests: 3 requests have been sent"):
            frugal.answer([conversation(), conversation()])
    assert len(server.requests) == 3


def test_repeated_requests_count_too() -> None:
    with fake_server(Reply("", status=500)) as server:
        with pytest.raises(ValueError, match="max_requests: 2"):
            describer(server, max_requests=2, retries=9).answer([conversation()])
    assert len(server.requests) == 2


def test_the_key_is_in_no_message_and_no_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SONG_KEY", KEY)
    settings = ServerSettings("http://models.example/v1", "ears", "SONG_KEY")
    with caplog.at_level(logging.DEBUG), fake_server(Reply(f"wrong key {KEY}", status=401)) as server:
        with pytest.raises(ValueError, match=r"wrong key \[key\]") as caught:
            describer(server, api_key_variable="SONG_KEY").answer([conversation()])
        ServerDescriber(settings)
    assert KEY not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text} {settings!r}"
    assert "unencrypted" in caplog.text
    assert KEY.encode() not in pickle.dumps(settings)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SONG_KEY", raising=False)
    with pytest.raises(ValueError, match="SONG_KEY is not set"):
        ServerDescriber(ServerSettings("http://127.0.0.1:1/v1", "ears", "SONG_KEY"))
    monkeypatch.setenv("SONG_KEY", f"{KEY}\r\nX-Other: 1")
    with pytest.raises(ValueError, match="SONG_KEY cannot be a key") as caught:
        ServerDescriber(ServerSettings("http://127.0.0.1:1/v1", "ears", "SONG_KEY"))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["", "models.example/v1", "file:///etc/passwd", "http://", "http://h:x/v1", "http://a b/v1", "http://h/v1?key=1"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url "):
        ServerSettings(url, "ears")


def test_secrets_in_the_settings_are_refused_and_not_repeated() -> None:
    for settings in ({"url": f"https://me:{KEY}@models.example/v1"}, {"api_key_variable": KEY}):
        with pytest.raises(ValueError, match="key") as caught:
            ServerSettings(**({"url": "https://models.example/v1", "model": "ears"} | settings))
        assert KEY not in str(caught.value)


def test_all_problems_of_the_settings_are_listed_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        ServerSettings("", "", timeout_seconds=0, concurrency=0, retries=-1, max_requests=-1)
    assert all(
        name in str(caught.value) for name in ("url", "model", "timeout", "concurrency", "retries", "max_requests")
    )


def test_a_server_on_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with fake_server(RIGHT) as server:
        assert describer(server).answer([conversation()])[0].text == "a waltz"
