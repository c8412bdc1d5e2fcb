"""Verdicts as a table, a CSV: for people, and the memory of the watcher of what has been judged.

A table is known as one of this program's by its first line; a file that begins otherwise is never written to. What was
damaged in a table stays as it is, is named once, and counts for nothing.
"""

import csv
import io
import logging
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from filelock import FileLock, Timeout

from detection.sinks.interface import Note
from detection.sinks.lines import add_line, beginning, opened
from storage.tables import plain_cell, safe_cell

KEY = ["judged", "file", "bytes", "changed_ns"]  # how every such table begins
COLUMNS = [
    *KEY,  # judged: time, ISO 8601; file: below the folder; bytes and changed_ns are empty for live sound
    "machine_type",
    "machine_id",
    "backend",
    "score",
    "threshold",
    "p_value",
    "n",
    "alpha",
    "calibration",
    "verdict",  # normal, anomalous, or empty with an error
    "anomalous_s",  # begin-end of the anomalous windows (s), separated by blanks
    "channel",
    "channels",  # how many rows this recording has, one for each channel; empty means one
    "drift",  # see detection.drift
    "warnings",
    "error",
]
LONGEST_HEADER = 2**16  # bytes

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """A recording as it is known: another size or time makes it another recording."""

    file: str
    bytes: int
    changed_ns: int


class Table:
    """The CSV at `path`, locked against a second program from the first use until `close`."""

    def __init__(self, path: Path, name: str = "csv"):
        self.path, self.name = path, name
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def open(self) -> Self:
        """Take the lock and begin the table. Raises OSError, and ValueError if it is in use or not a table of ours."""
        if self._lock.is_locked:
            return self
        if self.path.exists():  # before the lock's file is made beside what is someone else's
            with opened(self.path) as file:
                self._columns(file)
        elif not self.path.parent.is_dir():  # which the lock would make
            raise FileNotFoundError(f"{self.path}: no such folder to write to")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{self.path} is in use by another watcher") from None
        try:
            with opened(self.path) as file:
                self._begun(file)
        except BaseException:
            self._lock.release()
            raise
        return self

    def put(self, note: Note) -> None:
        self.open()
        with opened(self.path) as file:
            columns = self._begun(file)
            add_line(file, _line([note.row.get(column, "") for column in columns]))

    def close(self) -> None:
        self._lock.release()

    def seen(self) -> set[Seen]:
        """The recordings that have all their rows."""
        rows: Counter[Seen] = Counter()
        wanted: dict[Seen, int] = {}
        for row in self.rows():
            if row["changed_ns"]:
                state = Seen(plain_cell(row["file"]), int(row["bytes"]), int(row["changed_ns"]))
                rows[state] += 1
                wanted[state] = int(row.get("channels") or 1)
        return {state for state, count in rows.items() if count >= wanted[state]}

    def rows(self) -> Iterator[dict[str, str]]:
        """The whole rows as texts; what is damaged is left out, and named in the log at the end."""
        damaged = []
        with self.path.open("rb") as file:
            columns = _header(file.readline())
            for number, line in enumerate(file, 2):
                row = _row(line, columns)
                if row is None:
                    damaged.append(number)
                else:
                    yield row
        if damaged:
            which = f"line {damaged[0]} is" if len(damaged) == 1 else f"{len(damaged)} lines, first {damaged[0]}, are"
            log.warning("%s: %s cut or damaged: left as it is, and what it says counts for nothing", self.path, which)

    def _columns(self, file: io.FileIO) -> list[str]:
        """The table's columns, none if it is still empty. Raises ValueError if the file is not such a table."""
        start = beginning(file, LONGEST_HEADER)
        line, end, _ = start.partition(b"\n")
        if not end and _line(COLUMNS).startswith(line):  # empty, or begun when the power was cut
            return []
        columns = _header(line)
        if not end or columns[: len(KEY)] != KEY:
            raise ValueError(f"{self.path} is not a watcher's record: its first line is another; nothing was changed")
        return columns

    def _begun(self, file: io.FileIO) -> list[str]:
        columns = self._columns(file)
        if not columns:
            file.truncate(0)
            add_line(file, _line(COLUMNS))
        return columns or COLUMNS


def _line(values: list) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(_cell(value) for value in values)
    return line.getvalue().encode("utf-8", "surrogateescape")


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value))
    return safe_cell(one_line(value)) if isinstance(value, str) else value


def one_line(text: str) -> str:
    """`text` without line breaks, which would pass for the end of a row, and without NUL."""
    return text.replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0")


def cells(line: bytes) -> list[str]:
    """The cells of a line of a table. Raises ValueError where its quotes are broken."""
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _header(line: bytes) -> list[str]:
    try:
        return cells(line.removeprefix(BOM_UTF8))  # as a spreadsheet saves it
    except ValueError:
        return []


def _row(line: bytes, columns: list[str]) -> dict[str, str] | None:
    """A row by its columns; None if it is cut or damaged."""
    if not line.endswith(b"\n") or b"\0" in line:
        return None
    try:
        row = dict(zip(columns, cells(line), strict=True))
    except ValueError:
        return None
    numbers = (row["bytes"], row["changed_ns"])
    whole = all(text.isascii() and text.isdigit() for text in (*numbers, row.get("channels") or "1"))
    return row if whole or numbers == ("", "") else None
