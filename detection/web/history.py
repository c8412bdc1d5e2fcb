"""The last verdicts of each machine: those of this page, and those in the record of a watcher, which is only read."""

import math
import threading
from codecs import BOM_UTF8
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from detection.sinks.table import cells
from detection.text import printable
from storage.tables import plain_cell

VERDICTS = 100  # kept of each machine
UNJUDGED = 5  # recordings without a verdict that are kept
TAIL = 1_000_000  # bytes of the record's end that are read: some thousand rows
LONGEST_HEADER = 10_000  # bytes
FIGURES = ("score", "threshold", "p_value", "alpha", "n", "drift")
NEEDED = {"judged", "file", "machine_type", "machine_id", "verdict", "error"}  # columns of a record


@dataclass
class _Machines:
    """Verdicts by machine, and what got none, each in the order of their times."""

    verdicts: dict[tuple[str, str], deque[dict]] = field(default_factory=dict)
    unjudged: deque[dict] = field(default_factory=lambda: deque(maxlen=UNJUDGED))

    def add(self, entry: dict) -> None:
        if entry["error"]:
            self.unjudged.append(entry)
        else:
            machine = entry["machine_type"], entry["machine_id"]
            self.verdicts.setdefault(machine, deque(maxlen=VERDICTS)).append(entry)


class History:
    """What `machines` (ids by type) were said to be. Any number of threads may use it at once."""

    def __init__(self, machines: dict[str, list[str]], record: Path | None = None):
        self.machines = [(machine_type, machine_id) for machine_type, ids in machines.items() for machine_id in ids]
        self.record = record
        self._lock = threading.Lock()
        self._added = 0
        self._here = _Machines()
        self._recorded = _Machines()
        self._state: tuple[int, int] | None = None  # of the record when it was read
        self._error = ""

    def add(self, judgement: dict[str, Any]) -> None:
        """Note a judgement, as `Judgement.as_json` gives it, as one of now."""
        time = datetime.now().astimezone().isoformat(timespec="milliseconds")
        with self._lock:
            self._added += 1
            self._here.add(_entry(judgement | {"judged": time}))

    def version(self) -> str:
        """Changes when `as_json` does."""
        with self._lock:
            self._refresh()
            return f"{self._added}-{self._state}-{self._error}"

    def as_json(self) -> dict[str, Any]:
        """Verdicts of each machine and recordings without one, oldest first, and what is wrong with the record."""
        with self._lock:
            self._refresh()
            found = dict.fromkeys([*self.machines, *self._recorded.verdicts, *self._here.verdicts])
            return {
                "machines": [
                    {"machine_type": machine[0], "machine_id": machine[1], "verdicts": self._verdicts(machine)}
                    for machine in found
                ],
                "unjudged": _in_time(self._recorded.unjudged, self._here.unjudged)[-UNJUDGED:],
                "record_error": self._error,
            }

    def _verdicts(self, machine: tuple[str, str]) -> list[dict]:
        return _in_time(*(part.verdicts.get(machine, ()) for part in (self._recorded, self._here)))[-VERDICTS:]

    def _refresh(self) -> None:
        """Read the record's end again where it has changed."""
        if self.record is None:
            return
        try:
            status = self.record.stat()
            state = status.st_mtime_ns, status.st_size
            if state == self._state:
                return
            self._recorded, bad = _read(self.record)
            self._state = state
            self._error = f"{bad} of its last rows cannot be read" if bad else ""
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._state, self._recorded, self._error = None, _Machines(), printable(reason or type(error).__name__)


def _in_time(*parts: Any) -> list[dict]:
    return sorted((entry for part in parts for entry in part), key=lambda entry: datetime.fromisoformat(entry["time"]))


def _read(record: Path) -> tuple[_Machines, int]:
    """What the last rows of a record say, and how many of them cannot be read. Raises OSError and ValueError."""
    if not record.is_file():
        raise ValueError("there is no such file (yet)" if not record.exists() else "it is not a file")
    with record.open("rb") as file:
        columns = cells(file.readline(LONGEST_HEADER).removeprefix(BOM_UTF8))  # as a spreadsheet saves it
        if not set(columns) >= NEEDED:
            raise ValueError("it is not the record of a watcher")
        begin = file.tell()
        end = file.seek(0, 2)
        file.seek(max(begin, end - TAIL))
        whole = file.tell() == begin
        lines = file.read(TAIL).split(b"\n")[:-1]  # what follows the last line break is still being written
    found, bad = _Machines(), 0
    for line in lines if whole else lines[1:]:
        try:
            found.add(_entry(dict(zip(columns, map(plain_cell, cells(line)), strict=True))))
        except ValueError:
            bad += 1
    return found, bad


def _entry(said: dict[str, Any]) -> dict[str, Any]:
    """A verdict as the page shows it, from a judgement or a row of a record. Raises ValueError where it is neither."""
    if datetime.fromisoformat(said["judged"]).tzinfo is None:
        raise ValueError("a time without its zone")
    channel = said.get("channel", "")
    file = f"{said['file']}, channel {channel}" if channel != "" else said["file"]
    entry = {"time": said["judged"], "file": printable(file), "error": printable(said.get("error") or "")}
    if entry["error"]:
        return entry
    if said["verdict"] not in ("normal", "anomalous"):
        raise ValueError("neither a verdict nor an error")
    entry |= {name: printable(said[name]) for name in ("machine_type", "machine_id", "verdict")}
    warnings = said.get("warnings") or ""
    entry["warnings"] = printable(warnings if isinstance(warnings, str) else "; ".join(warnings))
    return entry | {name: _number(said.get(name)) for name in FIGURES}


def _number(value: Any) -> float | None:
    if value in (None, ""):
        return None
    if not math.isfinite(number := float(value)):
        raise ValueError("a figure that is not a number")
    return number
