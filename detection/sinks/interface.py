"""What a sink is given, what it must do, and how several are served so that none of them can stop the monitor."""

import json
import logging
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from detection.text import printable

if TYPE_CHECKING:
    from detection.judging import Judgement

IN_MEMORY = 10_000  # notes that wait for a sink which cannot take them, such as a table on a full disk
NAMESPACE = uuid.UUID("6a1a2a52-6a0c-4c43-9f53-2f1d7d2b8f5e")  # of the ids of recordings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """A judgement as the sinks get it.

    `json` is `Judgement.as_json` with `id`, `judged` (time), `outcome` (normal, anomalous or error), `anomalous_s` and
    what the monitor knows of the recording; `row` is the same as columns of a table. A recording that is judged again
    after a power cut has the same `id`, so that a receiver can tell a repetition.
    """

    json: dict[str, Any]
    row: dict[str, Any]
    sensor: str = ""  # channel_0, channel_1 … where each channel is judged; it is part of what the verdict is about

    @property
    def outcome(self) -> str:
        return self.json["outcome"]

    def text(self, windows: bool = True) -> str:
        """The note as one line of JSON; without `windows`, that list is left out."""
        return json.dumps({key: value for key, value in self.json.items() if windows or key != "windows"})


def note(judgement: "Judgement", channel: int | None = None, known_by: str = "", **source: Any) -> Note:
    """The note of a judgement.

    `channel` is given where each channel is judged; `known_by` tells the recording from every other, and is empty for
    live sound, which comes once; `source` is added to the note's JSON and row. A verdict with a figure that is not
    finite becomes an error.
    """
    verdict = judgement.verdict
    outcome = "error" if verdict is None else "anomalous" if verdict.anomalous else "normal"
    found, row = judgement.as_json(), judgement.row()
    try:
        json.dumps(found, allow_nan=False)
    except ValueError:
        outcome, message = "error", "the verdict has a figure that is not a finite number"
        found, row = {"error": message}, {"judged": row["judged"], "error": message}
    source |= {} if channel is None else {"channel": channel}
    recording = f"{known_by} {channel}".encode("utf-8", "backslashreplace").decode()  # a file's name need not be UTF-8
    first = {
        "id": str(uuid.uuid5(NAMESPACE, recording) if known_by else uuid.uuid4()),
        "judged": row["judged"],
        "outcome": outcome,
        "anomalous_s": row.get("anomalous_s", ""),
    }
    sensor = "" if channel is None else f"channel_{channel}"
    name = {"file": printable(str(source.get("file", judgement.file)))}
    return Note(first | found | source | name, name | row | source, sensor)


class Sink(Protocol):
    """Somewhere that verdicts go."""

    name: str

    def put(self, note: Note) -> None:
        """Take a note: when this returns, neither a kill nor a power cut loses it. Raises OSError if that fails."""

    def close(self) -> None:
        """Let go of files and connections."""


class Outage:
    """Says once that something fails, and once that it works again."""

    def __init__(self, name: str):
        self.name, self.lasts = name, False

    def begin(self, reason: object, then: str = "") -> None:
        """It fails now; `then` says what is done meanwhile."""
        if not self.lasts:
            log.warning("%s: %s%s", self.name, " ".join(str(reason).split()) or type(reason).__name__, then)
        self.lasts = True

    def end(self, then: str = "") -> None:
        """It works now."""
        if self.lasts:
            log.warning("%s: works again%s", self.name, then)
        self.lasts = False


class _Served:
    """A sink with the notes that wait for it in memory."""

    def __init__(self, sink: Sink):
        self.sink, self.outage, self.dropped = sink, Outage(f"sink {sink.name}"), 0
        self.waiting: deque[Note] = deque()

    def add(self, note: Note) -> None:
        if len(self.waiting) == IN_MEMORY:
            self.waiting.pop()
            self.dropped += 1
        self.waiting.append(note)

    def flush(self) -> bool:
        """Hand over what waits; whether nothing waits any more."""
        while self.waiting:
            try:
                self.sink.put(self.waiting[0])
            except Exception as error:  # whatever goes wrong in a sink, the monitor goes on
                self.outage.begin(error, "; verdicts wait for it")
                return False
            self.waiting.popleft()
        self.outage.end(f"; {self.dropped} verdicts were lost meanwhile" if self.dropped else "")
        self.dropped = 0
        return True


class Sinks:
    """Any number of sinks, and the record of what has been judged, which gets a note when all the others have it.

    So a monitor that is killed at any time judges once more what some sink may not have got.
    """

    def __init__(self, sinks: Sequence[Sink] = (), record: Sink | None = None):
        self.record = record
        self._sinks = [_Served(sink) for sink in sinks]
        self._record = [_Served(record)] if record else []

    def put(self, note: Note) -> None:
        """Hand a note to every sink. Raises nothing: what a sink cannot take waits for it."""
        for served in self._sinks + self._record:
            served.add(note)
        self.flush()

    def flush(self) -> None:
        """Hand over what waits. To be called every few seconds."""
        taken = [served.flush() for served in self._sinks]  # every sink, also after one that fails
        if all(taken):
            for served in self._record:
                served.flush()

    def close(self) -> None:
        self.flush()
        for served in self._sinks + self._record:
            served.sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
