"""The server: uvicorn on an address of this machine, with deadlines for slow clients.

This is the only module that knows uvicorn. `_Connection` uses parts of its HTTP/1.1 protocol class that are not
documented, so setup.py allows one minor version.
"""

import asyncio
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from songgen.web.access import Access
from songgen.web.answers import ProblemAnswer, problem_response
from songgen.web.application import PageRoute, make_app

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
"""Maximum number of connections at the same time; a browser opens six."""

MAX_HEADER_BYTES = 1 << 14
"""Number of bytes after which an unfinished request line with headers is refused."""

REQUEST_SECONDS = 20.0
"""Time for a request to arrive completely, and for the next one on an open connection to begin."""

FILE_PAUSE_SECONDS = 30.0
"""Time after which a client that sends a file is disconnected if nothing arrives. The file as a whole may take long."""

STALL_SECONDS = 30.0
"""Time after which a client that does not read its answer is disconnected; browsers resume a track where they were."""

STOP_SECONDS = 1
"""Time for answers to finish when the server is stopped. Saving a correction takes milliseconds; a player that has
stopped reading would never finish."""

_JOIN_SECONDS = 30.0
"""Seconds to wait for the thread of a server that stops; it ends with the process at the latest."""


class LocalServer:
    """Server of routes for clients that have the token."""

    def __init__(
        self,
        routes: Sequence[PageRoute],
        access: Access,
        port: int = 0,
        answer_problem: ProblemAnswer = problem_response,
    ) -> None:
        """Listen; requests wait until `serve` is called.

        Args:
            routes: the pages. `/` must be one of them.
            access: who may see them, and the address to listen on.
            port: TCP port; 0 takes a free one.
            answer_problem: returns the answer to a request that is refused or fails.

        Raises:
            ValueError: if the address cannot be used.
        """
        is_ipv6 = ":" in access.host
        try:
            self._socket = socket.create_server(
                (access.host, port),
                family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
                dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6(),
            )
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"{access.host}, port {port}: cannot be used ({error}); name another with --port, 0 takes a free one"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._access = access
        # Cookies know no ports: two servers on one machine must not take each other's.
        app = make_app(routes, access, f"songgen-{self.port}", answer_problem)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=_Connection,
                loop="asyncio",
                ws="none",
                lifespan="off",
                workers=1,
                proxy_headers=False,  # otherwise clients could forge their address by X-Forwarded-For
                server_header=False,
                access_log=False,  # it would show the token of the first request
                log_config=None,
                # Pages that fail are in the log of `songgen.web` already; what else uvicorn calls an error is an answer
                # that was cut off by a stop, which happens whenever a player is open.
                log_level=logging.CRITICAL,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_keep_alive=math.ceil(REQUEST_SECONDS) + 1,  # the deadline of `_Connection` is earlier
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )

    @property
    def url(self) -> str:
        """Address to open, with the token."""
        host = f"[{self._access.host}]" if ":" in self._access.host else self._access.host
        return f"http://{host}:{self.port}/?token={self._access.token}"

    def serve(self) -> None:
        """Answer requests until `stop` is called or, in the main thread, SIGINT or SIGTERM arrives."""
        with self._stopping_on_signals():
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Let `serve` finish its answers and return; may be called from any thread."""
        self._server.should_exit = True

    @contextmanager
    def running(self) -> Iterator["LocalServer"]:
        """Serve in a thread, in this context."""
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop()
            thread.join(_JOIN_SECONDS)

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM only stop the server, in this context.

        uvicorn handles both while it runs. When it has stopped, it raises them again for the handlers from before,
        which would end the process; here those handlers are harmless, so that `serve` returns.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Deadline:
    """Deadline for a client."""

    def __init__(self, passed: Callable[[str], None], reason: str) -> None:
        self._passed = passed
        self._reason = reason
        self._timer: asyncio.TimerHandle | None = None

    @property
    def when(self) -> float:
        """End of the time on the event loop's clock; infinite while it does not run."""
        return math.inf if self._timer is None else self._timer.when()

    def begin(self, seconds: float) -> None:
        """Start the time, unless it runs already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._passed, self._reason)

    def end(self) -> None:
        """Stop the time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Flow(FlowControl):
    """Flow of a connection that tells when reading continues: uvicorn pauses it while the page is behind."""

    def __init__(self, transport: asyncio.Transport, resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._resumed = resumed

    def resume_reading(self) -> None:
        was_paused = self.read_paused
        super().resume_reading()
        if was_paused:
            self._resumed()


class _Connection(H11Protocol):
    """Connection with deadlines.

    uvicorn waits without limit for the rest of a request and for a client that does not read. So that slow clients
    cannot take all places, a connection is aborted unless each request arrives, and each answer is read, in time. If
    all places are taken, the connection that has waited longest for a request gives its place to a new one.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first request, or close the connection if there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._watch)
        self._request = _Deadline(self._abort, "no complete request in time")
        self._reading = _Deadline(self._abort, "the client does not read its answer")
        self._is_idle = False  # whether the last request was answered and no byte of the next one has arrived
        if len(self.connections) > MAX_CONNECTIONS and not self._make_room():
            self._abort("too many connections")
        else:
            self._watch()

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for a request; return False if all are being answered.

        So clients that open many connections and send nothing cannot keep others out: they only lose their own places.
        """
        others = [other for other in self.connections if isinstance(other, _Connection) and other is not self]
        oldest = min(others, key=lambda other: other._request.when)
        if oldest._request.when == math.inf:
            return False
        oldest._abort("another client needs the place")
        return True

    def data_received(self, data: bytes) -> None:
        """Start the time of a request with its first bytes, and stop it with its last."""
        if self._is_idle:
            self._is_idle = False
            self._request.end()
        super().data_received(data)
        if self._carries_file:
            self._request.end()
        self._watch()

    def on_response_complete(self) -> None:
        """Start the time until the next request."""
        self._is_idle = True
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Start the time of a client that does not read."""
        super().pause_writing()
        self._reading.begin(STALL_SECONDS)

    def resume_writing(self) -> None:
        """Stop the time of a client that does not read."""
        super().resume_writing()
        self._reading.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all times."""
        super().connection_lost(exc)
        self._request.end()
        self._reading.end()

    def _watch(self) -> None:
        # The client has to act unless the whole request is here and its answer is not finished yet. This includes a
        # connection that is being closed: it stays open until the client has read what is left of the answer.
        is_received = self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)
        is_answering = is_received and self.cycle is not None and not self.cycle.response_complete
        # While reading is paused, it is the page that is behind, and the client cannot send.
        if is_answering or (self.flow.read_paused and not self.transport.is_closing()):
            self._request.end()
        else:
            self._request.begin(FILE_PAUSE_SECONDS if self._carries_file else REQUEST_SECONDS)

    @property
    def _carries_file(self) -> bool:
        """Whether a request that the access checks have passed is sending a file, whose route reads it as it comes."""
        is_sending = self.conn.their_state is h11.SEND_BODY and self.scope is not None
        return is_sending and self.scope["state"].get("carries_file", False)

    def _abort(self, reason: str) -> None:
        logger.info("connection closed: %s", reason)
        self.connections.discard(self)  # the loop closes it later; several clients may arrive before
        self._request.end()
        self.transport.abort()
