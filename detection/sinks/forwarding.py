"""Sinks that send verdicts over a network: each verdict waits on the disk until the receiver has confirmed it."""

import logging
import random
import threading
import time
from typing import Protocol

from detection.sinks.interface import Note, Outage
from detection.sinks.outbox import Outbox

DELAYS = (1.0, 60.0)  # s: first and longest time between two attempts
GRACE = 5.0  # s that `close` gives to what can still be sent

log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The receiver will never take this text, whatever happens."""


class Transport(Protocol):
    """How a text is sent. All of it runs in the one thread of its `Forwarding`."""

    def text(self, note: Note) -> str:
        """What is sent of a note. Called from the monitor's thread."""

    def send(self, text: str) -> None:
        """Send and wait for the confirmation. Raises OSError when that fails, and RefusedError."""

    def idle(self, seconds: float) -> None:
        """Wait at most that long, and keep the connection meanwhile. Raises OSError when that fails."""

    def disconnect(self) -> None:
        """Break the connection off, where there is one."""


class Forwarding:
    """A sink that sends what is in its `outbox` by `transport`, in order, from a thread of its own.

    While the receiver cannot be reached it is tried again after 1 s, then ever more rarely, at least once a minute.
    """

    def __init__(self, name: str, outbox: Outbox, transport: Transport, delays: tuple[float, float] = DELAYS):
        self.name, self.outbox, self._transport, self._delays = name, outbox, transport, delays
        self._outage = Outage(f"sink {name}")
        self._refused = 0
        self._closing = threading.Event()
        self._end = float("inf")  # when the thread must have ended
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, note: Note) -> None:
        before = self.outbox.dropped
        self.outbox.add(self._transport.text(note))
        if self.outbox.dropped > before == 0:
            log.warning("sink %s: %d verdicts wait, the newest are dropped from here on", self.name, len(self.outbox))

    @property
    def dropped(self) -> int:
        """How many verdicts were dropped: there was no more room, or the receiver refused them."""
        return self.outbox.dropped + self._refused

    def close(self) -> None:
        """Send what can be sent at once; the rest stays on the disk for the next start."""
        self._end = time.monotonic() + GRACE
        self._closing.set()
        self._thread.join(GRACE + 1)
        if len(self.outbox):
            log.warning("sink %s: %d verdicts wait for the next start", self.name, len(self.outbox))
        self.outbox.close()

    def _run(self) -> None:
        delay = self._delays[0]
        while not self._closing.is_set() or (
            len(self.outbox) and not self._outage.lasts and time.monotonic() < self._end
        ):
            try:
                self._step()
                delay = self._delays[0]
            except (OSError, ValueError) as error:
                self._transport.disconnect()
                self._outage.begin(error, "; verdicts wait on the disk")
                self._closing.wait(delay * random.uniform(0.5, 1))
                delay = min(2 * delay, self._delays[1])
        self._transport.disconnect()

    def _step(self) -> None:
        first = self.outbox.first()
        if first is None:
            self._transport.idle(0.25)
        else:
            number, text = first
            try:
                self._transport.send(text)
            except RefusedError as error:
                if not self._refused:
                    log.warning("sink %s: %s; such verdicts are dropped", self.name, error)
                self._refused += 1
            self.outbox.remove(number)
        self._outage.end(f"; {self.dropped} verdicts were dropped so far" if self.dropped else "")
