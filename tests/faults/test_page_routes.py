"""Every address of `songgen ui`, attacked in the same ways: a new route is tested by being there.

What an endpoint reads from the address and from the body is found by recording what it asks for, so that every name is
attacked without a list of them.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from local_pages import Answer, Client, serving_page
from starlette.datastructures import QueryParams
from ui_workspace import (
    MARK,
    MODEL,
    PREPARED,
    RUN,
    SONGS,
    TOKENS,
    fill,
    known_values,
    make_workspace,
    parameters,
    write_job,
)

from songgen.jobs.record import find_jobs
from songgen.ui.configuring.planner import answer
from songgen.ui.configuring.worker import Worker
from songgen.ui.page import page_routes
from songgen.ui.site import Site
from songgen.ui.workspace import Workspace
from songgen.web import guard
from songgen.web.application import PageRoute

pytestmark = pytest.mark.case(35)

ROUTES = page_routes(Site(Workspace(Path("/nowhere"))))
READING = [route for route in ROUTES if "GET" in (route.methods or ())]
WRITING = [route for route in ROUTES if "POST" in (route.methods or ())]
JSON_WRITING = [route for route in WRITING if not hasattr(route, "max_bytes")]

SECRET_FOLDER = "elsewhere"

OUTSIDE = [
    "{elsewhere}", "{elsewhere}/" + RUN, "{elsewhere}/secret.json", "../elsewhere/" + RUN, "../elsewhere/secret.json",
    RUN + "/../../../elsewhere/" + MODEL, "outputs/linked_run", "outputs/linked.json", "datasets/linked_tokens",
    "datasets/linked_prepared", "../elsewhere/" + PREPARED,
    "~", "~/" + TOKENS, "~/secret.json", "file://{elsewhere}/secret.json", "outputs/linked_run/metrics.jsonl",
    "..%2felsewhere%2fsecret.json", "..\\elsewhere\\secret.json", "../elsewhere/" + SONGS,
]  # fmt: skip
"""Paths that lead out of the workspace."""

ODD = [
    "outputs/pipe", "outputs/loop", "/dev/zero", "/proc/self/environ", "/dev/stdin", "x" * 5000, "a\0b", "\0",
    "\ud800", "--config=/etc/passwd", "-x", "--help", "", " ", ".", "..", "/", "//", "outputs/run\n--x", "\r\nX-Set: 1",
    "{{7*7}}", "{0}", "%s%n", "<script>", "javascript:alert(1)", "CON", "é" * 200, "\u202egnp.exe", "-1", "1e999",
    "NaN",
    "9" * 4000, "²", "١", "sh -c id", "$(id)", "`id`", "doctor; id", "rm", "../../bin/sh",
]  # fmt: skip
"""Texts that are no path out of the workspace and may still be trouble."""

VALUES: list[Any] = [
    None, True, -1, 0, 10**18, 1.5e308, [], {}, [[]], [None], ["\0"], {"--x": 1}, {"a b": 1}, {"": ""},
    {"x": {"y": [{}]}},
    ["{elsewhere}"], {"output_dir": "{elsewhere}/new"}, {"values": {"--config": "/etc/passwd"}},
]  # fmt: skip
"""Values of bodies that are not texts."""


@dataclass
class Attacked:
    """A server on a workspace, next to a folder like it that must never be read."""

    workspace: Workspace
    elsewhere: Path
    client: Client
    asked: set[str] = field(default_factory=set)
    """Names that an endpoint has asked for since this was emptied."""
    opened: list[str] = field(default_factory=list)
    """Files and folders outside that were opened."""
    started: list[list[str]] = field(default_factory=list)
    """Command lines of programs."""

    def require_refusal(self, answer: Answer, what: str) -> None:
        assert answer.status < 500, f"{what}: {answer.status} {answer.body[:300]!r}"
        assert MARK.encode() not in answer.body, f"{what}: the answer shows a file outside"
        opened = list(self.opened)
        self.opened.clear()
        assert not opened, f"{what}: opened {opened[:3]}"
        assert "X-Set" not in answer.headers, what

    def filled(self, text: Any) -> Any:
        """A value with the name of the folder outside."""
        if isinstance(text, str):
            return text.replace("{elsewhere}", str(self.elsewhere))
        if isinstance(text, list):
            return [self.filled(item) for item in text]
        return {key: self.filled(item) for key, item in text.items()} if isinstance(text, dict) else text


class Recorded(dict[str, Any]):
    """A body that notes what is read of it."""

    def __init__(self, values: dict[str, Any], names: set[str]) -> None:
        super().__init__(values)
        self._names = names

    def get(self, key: str, default: Any = None) -> Any:
        self._names.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self._names.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._names.add(str(key))
        return super().__contains__(key)


_hooked: list[Attacked] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what is opened below the folder outside."""
    if (
        not _hooked
        or threading.current_thread() is threading.main_thread()
        or event not in ("open", "os.listdir", "os.scandir", "shutil.move", "os.rename", "os.remove")
    ):
        return
    for argument in arguments[:2]:
        if isinstance(argument, str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(argument).replace("\0", ""))
            if (path + "/").startswith(f"{_hooked[0].elsewhere}/"):
                _hooked[0].opened.append(f"{event} {path}")


sys.addaudithook(_note)


@contextmanager
def recording(attacked: Attacked) -> Iterator[None]:
    """Note what endpoints ask for, and let no program start."""

    def recorded_parse(content: bytes, **options: Any) -> Any:
        value = parse_json(content, **options)
        return Recorded(value, attacked.asked) if isinstance(value, dict) else value

    def refused_start(command: Any, *arguments: Any, **options: Any) -> Any:
        attacked.started.append([str(word) for word in command])
        raise OSError("nothing is started in this test")

    def noting(name: str) -> Any:
        original = getattr(QueryParams, name)

        def method(self: QueryParams, key: Any, *arguments: Any) -> Any:
            if key != "token":  # the access checks do
                attacked.asked.add(f"?{key}")
            return original(self, key, *arguments)

        return method

    def ask_here(self: Worker, kind: str, request: Any) -> Any:
        """Answer as the process does that checks configurations, where it can be seen what is opened."""
        return json.loads(json.dumps(answer(kind, json.loads(json.dumps(dict(request))))))

    parse_json = guard.parse_json
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "parse_json", recorded_parse)
        patch.setattr(subprocess, "Popen", refused_start)
        patch.setattr(Worker, "ask", ask_here)
        patch.setenv("HOME", str(attacked.elsewhere))
        for name in ("get", "__getitem__", "__contains__"):
            patch.setattr(QueryParams, name, noting(name), raising=False)
        _hooked.append(attacked)
        try:
            yield
        finally:
            _hooked.clear()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("page")
    workspace = make_workspace(folder / "workspace")
    elsewhere = make_workspace(folder / SECRET_FOLDER, MARK).root
    (elsewhere / "secret.json").write_text(json.dumps({"output_dir": MARK, "text": MARK}))
    outputs = workspace.root / "outputs"
    (outputs / "linked_run").symlink_to(elsewhere / RUN)
    (outputs / "linked.json").symlink_to(elsewhere / "secret.json")
    (workspace.root / TOKENS).with_name("linked_tokens").symlink_to(elsewhere / TOKENS)
    (workspace.root / PREPARED).with_name("linked_prepared").symlink_to(elsewhere / PREPARED)
    (outputs / "loop").symlink_to("loop")
    os.mkfifo(outputs / "pipe")
    before = Path.cwd()
    os.chdir(workspace.root)
    with serving_page(workspace) as client:
        attacked = Attacked(workspace, elsewhere, client)
        with recording(attacked):
            yield attacked
    os.chdir(before)


def name_of(route: PageRoute) -> str:
    return f"{'POST' if 'POST' in (route.methods or ()) else 'GET'} {route.path}"


def any_route(*routes: list[PageRoute]) -> Any:
    return pytest.mark.parametrize("route", [route for found in routes for route in found], ids=name_of)


def choices(attacked: Attacked, route: PageRoute) -> list[dict[str, str]]:
    """Values of the parameters of a route: first those for which it shows something, then others."""
    attacked.asked.clear()
    if not find_jobs(attacked.workspace.jobs):  # a test has removed it
        write_job(attacked.workspace.root, "a job", "a line\n")
    known = known_values(attacked.workspace)
    names = parameters(route)
    found = [dict(zip(names, values, strict=True)) for values in product(*(known.get(name) or ["x"] for name in names))]
    if route not in READING or not names:
        return found
    return sorted(found, key=lambda values: attacked.client.get(fill(route, values)).status >= 400)


def addresses(attacked: Attacked, route: PageRoute) -> list[str]:
    """Addresses of a route that lead to something there is, as far as it is known."""
    found = [fill(route, values) for values in choices(attacked, route)]
    attacked.asked.clear()
    return found


def send(attacked: Attacked, route: PageRoute, address: str, body: Any = None) -> Answer:
    if route in READING:
        return attacked.client.get(address)
    if route in JSON_WRITING:
        return attacked.client.post(address, {} if body is None else body)
    return attacked.client.send("POST", address, b"RIFF", headers={"Content-Type": "application/octet-stream"})


def test_every_route_is_there_once() -> None:
    found = [name_of(route) for route in ROUTES]
    assert len(found) == len({*found})


@any_route(ROUTES)
def test_nobody_without_token_host_and_origin_gets_in(attacked: Attacked, route: PageRoute) -> None:
    address = addresses(attacked, route)[0]
    method = "GET" if route in READING else "POST"
    own = {} if route in READING else {"Content-Type": "application/json"}
    for headers, status in [
        ({"Cookie": None}, 401),
        ({"Cookie": f"songgen-{attacked.client.server.port}=guess"}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Host": f"127.0.0.1.evil.example:{attacked.client.server.port}"}, 403),
    ]:
        answer = attacked.client.send(method, address, None if route in READING else b"{}", headers=own | headers)
        assert answer.status == status, headers
    assert not attacked.asked, "the endpoint was called"


@any_route(WRITING)
def test_no_other_page_writes(attacked: Attacked, route: PageRoute) -> None:
    address = addresses(attacked, route)[0]
    kind = "application/json" if route in JSON_WRITING else "application/octet-stream"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", None):
        answer = attacked.client.send("POST", address, b"{}", headers={"Content-Type": kind, "Origin": origin})
        assert answer.status == 403
    for form in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
        assert attacked.client.send("POST", address, b"{}", headers={"Content-Type": form}).status == 415
    for length, status in [
        (str(getattr(route, "max_bytes", guard.MAX_BODY_BYTES) + 1), 413),
        ("9" * 19, 413),
        (None, 411),
    ]:
        headers = {"Content-Type": kind, "Content-Length": length}
        assert attacked.client.send("POST", address, headers=headers).status == status
    assert not attacked.asked


@any_route(JSON_WRITING)
def test_only_json_objects_of_sane_size_are_read(attacked: Attacked, route: PageRoute) -> None:
    address = addresses(attacked, route)[0]
    deep = b'{"values":' * 100_000
    bodies = [
        b"",
        b"[]",
        b"{",
        b'{"a": 1e999}',
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b"\xff",
        deep,
        b'{"a":' + b"9" * 5000,
    ]
    for body in bodies:
        assert attacked.client.post(address, body).status == 400, body[:40]
    assert not attacked.asked


@any_route(ROUTES)
def test_other_methods_are_refused(attacked: Attacked, route: PageRoute) -> None:
    address = addresses(attacked, route)[0]
    twins = [other for other in ROUTES if other.path_regex.fullmatch(address)]
    allowed = {method for other in twins for method in other.methods or ()}
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - allowed:
        body = None if method == "GET" else {}
        assert attacked.client.send(method, address, body).status == 405, method


def with_queries(attacked: Attacked, route: PageRoute, address: str) -> tuple[dict[str, str], list[Answer]]:
    """Known values of what an endpoint asks for, and its answers: it asks for more once it has got the first ones."""
    known = {name: values[0] for name, values in known_values(attacked.workspace).items()}
    given: dict[str, str] = {}
    answers = []
    while True:
        attacked.asked.clear()
        answers.append(send(attacked, route, f"{address}?{urlencode(given)}" if given else address))
        new = {name[1:] for name in attacked.asked if name.startswith("?")} - {*given}
        if not new:
            return given, answers
        given |= {name: known.get(name, "1") for name in sorted(new)}


@any_route(READING)
def test_what_is_there_is_shown(attacked: Attacked, route: PageRoute) -> None:
    """Without this, the refusals below could be those of a page that refuses everything."""
    statuses = {address: [answer.status for answer in with_queries(attacked, route, address)[1]]
                for address in addresses(attacked, route)}  # fmt: skip
    found = [status for several in statuses.values() for status in several]
    assert min(found) < 400 and max(found) < 500, statuses


@pytest.mark.faults
@any_route([route for route in ROUTES if parameters(route)])
def test_no_path_in_an_address_leads_out(attacked: Attacked, route: PageRoute) -> None:
    known = choices(attacked, route)[0]
    for name in parameters(route):
        for attack in [*OUTSIDE, *ODD]:
            attack = attacked.filled(attack) or "%00"
            address = fill(route, known | {name: attack})
            if len(address) < guard.MAX_BODY_BYTES:
                attacked.require_refusal(send(attacked, route, address), f"{address[:200]}")
        for raw in ("%00", "%", "%zz", "%FF%FE", "..%2F..%2Felsewhere%2Fsecret.json", "%2e%2e%2felsewhere", "..", "."):
            address = fill(route, known | {name: "RAW"})
            attacked.require_refusal(send(attacked, route, address.replace("RAW", raw)), raw)


@pytest.mark.faults
@any_route(READING)
def test_no_query_leads_out(attacked: Attacked, route: PageRoute) -> None:
    for address in addresses(attacked, route)[:4]:
        given, answers = with_queries(attacked, route, address)
        for found in answers:
            attacked.require_refusal(found, address)
        for name in sorted(given):
            for attack in [*OUTSIDE, *ODD]:
                pairs = given | {name: attacked.filled(attack)}
                query = "&".join(
                    f"{key}={quote(value, safe='', errors='surrogatepass')}" for key, value in pairs.items()
                )
                attacked.require_refusal(send(attacked, route, f"{address}?{query}"), f"{address}?{query[:200]}")
            attacked.require_refusal(send(attacked, route, f"{address}?{name}=a&{name}=b&{name}"), name)


@pytest.mark.faults
@any_route(JSON_WRITING)
def test_no_text_in_a_body_leads_out(attacked: Attacked, route: PageRoute) -> None:
    before = sorted(path for path in attacked.elsewhere.rglob("*"))
    for address in addresses(attacked, route)[:3]:
        asked: set[str] = set()
        known: dict[str, Any] = {name: values[0] for name, values in known_values(attacked.workspace).items()}
        known |= {"values": {}, "keys": {}, "kill": False}
        while True:
            attacked.asked.clear()
            given = {name: known.get(name, "x") for name in sorted(asked)}
            attacked.require_refusal(send(attacked, route, address, given), address)
            new = {name for name in attacked.asked if not name.startswith("?")} - asked
            if not new:
                break
            asked |= new
        for name in sorted(asked):
            for attack in [*OUTSIDE, *ODD, *VALUES]:
                value = attacked.filled(attack)
                for body in (given | {name: value}, given | {name: {name: value, "config": value, "output": value}}):
                    attacked.require_refusal(send(attacked, route, address, body), f"{address} {name} {attack!r:.100}")
    assert sorted(path for path in attacked.elsewhere.rglob("*")) == before, "something was written outside"
