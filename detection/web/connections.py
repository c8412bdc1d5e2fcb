"""HTTP connections that nobody can hold for good, and a log that nobody can fill.

uvicorn limits the size of a request's head and the time between two requests, but not the time that a client takes to
send a request or to read the answer, nor the number of connections.
"""

import asyncio
import logging
import resource
import time
from dataclasses import dataclass, replace
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 16  # connections that wait to be accepted
DESCRIPTORS = 1024  # file descriptors, where the system allows as many
FEWEST = 8  # connections, however few descriptors there are
KEPT_FREE = 64 + 4 * BACKLOG  # of them, for files and for connections that are about to be refused


@dataclass(frozen=True)
class Limits:
    """What a client may use. Times in s."""

    connections: int = 64  # at once
    head: float = 10.0  # from the opening of a connection, or the last answer, to the end of a request's head
    body: float = 15.0  # within which a part of the body must come, again and again:
    part: int = 150_000  # bytes; less than is read from a connection at once
    unread: float = 30.0  # a request whose answer was given before its end; an answer that is not being read


class Connection(H11Protocol):
    """A connection that is cut when its client is slower than `limits`.

    When there are too many connections, the one that has waited longest for its client makes room; where the server is
    at work for all of them, the new one is refused.
    """

    def __init__(self, *arguments: Any, limits: Limits, **named: Any):
        super().__init__(*arguments, **named)
        self.limits = limits
        self.cut = False
        self.awaited: str | None = None  # what the client must do next: head, body, rest or read; None: nothing
        self.since = 0.0  # when it last did something towards it, on the loop's clock (s)
        self._received = 0  # bytes of the body since the last part of it was due
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._follow()
        current = [one for one in self.connections if not one.cut]
        if len(current) > self.limits.connections:
            idle = [one for one in current if one.awaited and one is not self]
            min(idle, key=lambda one: (one.awaited == "body", one.since), default=self)._cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cut:
            return
        super().data_received(data)
        self._received += len(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._follow()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._follow()

    def _awaited(self) -> str | None:
        answered = self.cycle is None or self.cycle.response_complete
        if self.conn.their_state is h11.SEND_BODY:
            return "rest" if answered else "body"
        if self.flow.write_paused or self.conn.their_state is h11.ERROR:
            return "read"
        return "head" if answered else None

    def _follow(self) -> None:
        """Give the client its time for what it must do next; none passes while the server is at work for it."""
        before, self.awaited = self.awaited, self._awaited()
        if self.awaited != before or self.awaited == "body":
            self.since = self.loop.time()
        if self.awaited == before:
            return  # a byte now and then gives no more time
        self._stop_timer()
        if self.awaited == "body":
            self._await_part()
        elif self.awaited is not None:
            due = self.limits.head if self.awaited == "head" else self.limits.unread
            self._timer = self.loop.call_later(due, self._cut)

    def _await_part(self) -> None:
        self._received = 0
        self._timer = self.loop.call_later(self.limits.body, self._check_part)

    def _check_part(self) -> None:
        if self._received < self.limits.part:
            self._cut()
        else:
            self._await_part()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        self.cut = True
        self._stop_timer()
        self.transport.abort()


class OnceASecond(logging.Filter):
    """Lets one warning or error of a logger through in a second, and says with the next how many it held back."""

    def __init__(self) -> None:
        super().__init__()
        self._last, self._held = -1.0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        if self._last >= 0 and now - self._last < 1:
            self._held += 1
            return False
        if self._held:
            record.msg, record.args = f"{record.getMessage()} (and {self._held} more like it)", ()
        self._last, self._held = now, 0
        return True


def affordable(limits: Limits) -> Limits:
    """`limits` with as many connections as the process may have file descriptors for; raises their soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:  # RLIM_INFINITY is -1
        soft = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return replace(limits, connections=min(limits.connections, max(soft - KEPT_FREE, FEWEST)))
