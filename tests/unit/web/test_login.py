"""The login page: what a browser without the token gets, and what it may send."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest
from local_pages import Answer, Client, Notebook, serving

from songgen.web import guard
from songgen.web.login import MAX_LOGIN_BYTES, TEXTS

TOKEN = "a-token-that-somebody-chose"
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(Notebook().routes(), token=TOKEN) as client:
        yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WRONG_SECONDS", 0.05)


def log_in(client: Client, token: str, **headers: str | None) -> Answer:
    body = urlencode({"token": token}).encode()
    sent = {"Cookie": None, "Content-Type": FORM, "Accept": HTML} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return client.send("POST", "/login", body, headers=sent)


def test_a_browser_without_the_token_is_asked_for_it(client: Client) -> None:
    answer = client.get("/", Cookie=None, Accept=HTML)
    page = answer.body.decode()
    assert answer.status == 401 and answer.headers["Content-Type"].startswith("text/html")
    assert 'type="password"' in page and "terminal" in page and TOKEN not in page and "Notes" not in page


@pytest.mark.parametrize("path", ["/items/1", "/nothing", "/login"])
def test_every_other_page_leads_to_the_first_one(client: Client, path: str) -> None:
    """Whether it exists or not."""
    answer = client.get(path, Cookie=None, Accept=HTML)
    assert (answer.status, answer.headers["Location"], answer.body) == (303, "/", b"")


def test_scripts_get_json(client: Client) -> None:
    for path in ("/", "/items/1"):
        answer = client.get(path, Cookie=None, Accept="application/json")
        assert answer.status == 401 and "token" in answer.json["error"]


def test_the_right_token_becomes_a_cookie(client: Client) -> None:
    answer = log_in(client, f" {TOKEN}\n")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "SameSite=Strict", "Path=/"}
    assert client.get("/", Cookie=cookie).status == 200


def test_a_chosen_secret_opens_the_page_at_another_address() -> None:
    with serving(Notebook().routes(), "0.0.0.0", TOKEN) as client:
        own = {"Host": "192.168.0.17:9999", "Origin": "http://192.168.0.17:9999"}
        assert client.get("/", Cookie=None, Accept=HTML, Host=own["Host"]).status == 401
        assert log_in(client, TOKEN, **own).status == 303
        assert log_in(client, TOKEN, Host="evil.example", Origin="http://evil.example").status == 403


@pytest.mark.parametrize("token", ["", "guess", TOKEN[:-1], TOKEN + "x", "a" * 3000, "\udcff", "令牌", '"><script>'])
def test_a_wrong_token_is_said_and_opens_nothing(client: Client, token: str) -> None:
    answer = client.send("POST", "/login", urlencode({"token": token}, errors="surrogateescape").encode(),
                         headers={"Cookie": None, "Content-Type": FORM})  # fmt: skip
    assert answer.status == 401 and "Set-Cookie" not in answer.headers
    assert TEXTS["en"]["wrong"] in answer.body.decode() and "guess" not in answer.body.decode()
    assert b"<script" not in answer.body


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", None])
def test_another_page_cannot_send_the_form(client: Client, origin: str | None) -> None:
    answer = log_in(client, TOKEN, Origin=origin)
    assert answer.status == 403 and "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"token=" + b"x" * MAX_LOGIN_BYTES, {}, 413),
        (b"", {"Content-Length": "9" * 20}, 413),
        (b"", {"Content-Length": None}, 411),
        (b"token=x", {"Content-Type": "application/json"}, 415),
        (b"token=x", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (b"\xff=x", {}, 400),
        (b"a=1&b=2&c=3&d=4&token=5", {}, 400),
        (b"tok", {}, 401),
    ],
)
def test_what_is_not_the_form_is_refused(
    client: Client, body: bytes, headers: dict[str, str | None], status: int
) -> None:
    answer = client.send("POST", "/login", body, headers={"Cookie": None, "Content-Type": FORM, **headers})
    assert answer.status == status and "Set-Cookie" not in answer.headers


def test_a_wrong_token_is_answered_late(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WRONG_SECONDS", 0.4)
    for refuse in (lambda: log_in(client, "guess"), lambda: client.get("/?token=guess", Cookie=None)):
        begin = time.monotonic()
        assert refuse().status == 401
        assert time.monotonic() - begin >= 0.4


def test_while_many_guess_nothing_is_looked_at_and_who_is_in_stays_in(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "WRONG_SECONDS", 2.0)
    with ThreadPoolExecutor(guard.MAX_WAITING) as pool:
        guesses = [pool.submit(log_in, client, "guess") for _ in range(guard.MAX_WAITING)]
        end = time.monotonic() + 1.5
        while (status := log_in(client, TOKEN).status) != 429:
            assert time.monotonic() < end, f"the right token is looked at ({status}), which shows that it is right"
            time.sleep(0.02)
        assert client.get("/").status == 200
        assert {guess.result().status for guess in guesses} == {401}
    assert log_in(client, TOKEN).status == 303


@pytest.mark.parametrize(
    ("headers", "language"),
    [
        ({}, "en"),
        ({"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}, "zh-CN"),
        ({"Accept-Language": "fr, en"}, "en"),
        ({"Accept-Language": "en", "Cookie": "songgen-language=zh"}, "zh-CN"),
        ({"Accept-Language": "x" * 5000, "Cookie": 'songgen-language="><script>'}, "en"),
    ],
)
def test_the_login_speaks_the_language_of_the_browser(client: Client, headers: dict[str, str], language: str) -> None:
    page = client.send("GET", "/", headers={"Cookie": None, "Accept": HTML, **headers}).body.decode()
    assert f'<html lang="{language}">' in page and "<script" not in page
    assert (TEXTS["zh"]["title"] in page) == (language == "zh-CN")


def test_every_text_is_in_every_language() -> None:
    assert {frozenset(texts) for texts in TEXTS.values()} == {frozenset(TEXTS["en"])}


def test_the_login_page_may_load_nothing_at_all(client: Client) -> None:
    headers = client.get("/", Cookie=None, Accept=HTML).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store" and headers["X-Frame-Options"] == "DENY"
    assert "form-action 'none'" in client.get("/").headers["Content-Security-Policy"], "other pages keep theirs"
