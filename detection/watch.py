"""Watching a folder: every new recording is judged once, when it is completely written, and noted in a CSV.

The CSV is the only memory. A recording is known by its path below the folder, its size and its time of change, so that
a restart neither judges one twice nor misses one, and a file that is written again is judged again. A row is one write
to the end of the file; a row that a power cut left incomplete is taken out at the next start. The folder is looked at
every few seconds, which works on network shares too.
"""

import csv
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from audio.clips import AUDIO_SUFFIXES

COLUMNS = [
    "judged",  # time, ISO 8601
    "file",  # below the folder
    "bytes",
    "changed_ns",
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
    "warnings",
    "error",
]


class Seen(NamedTuple):
    """A file as it is known."""

    file: str
    bytes: int
    changed_ns: int


class Record:
    """The CSV of the judged recordings, locked against a second watcher for as long as it is open."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def __enter__(self) -> "Record":
        if not self.path.parent.is_dir():  # which the lock would make
            raise FileNotFoundError(f"{self.path}: no such folder to write to")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{self.path} is in use by another watcher") from None
        try:
            self._file = self.path.open("a+b", buffering=0)
            self._repair()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._lock.release()

    def _repair(self) -> None:
        self._file.seek(0)
        whole = self._file.read()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            self._file.truncate(end)
        if not end:
            self._append(COLUMNS)
        elif not whole.startswith(",".join(COLUMNS).encode() + b"\n"):
            raise OSError(f"{self.path} is not a watcher's record: its first line is another")

    def seen(self) -> set[Seen]:
        """All files that have a row."""
        with self.path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return {Seen(row["file"], int(row["bytes"]), int(row["changed_ns"])) for row in csv.DictReader(file)}

    def add(self, row: dict) -> None:
        """Append a row; it is on the disk when this returns."""
        self._append([row.get(column, "") for column in COLUMNS])

    def _append(self, values: list) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(_one_line(str(value)) for value in values)
        self._file.write(line.getvalue().encode("utf-8", "surrogateescape"))
        os.fsync(self._file.fileno())


def _one_line(text: str) -> str:
    # a line break within a row would pass for its end after a power cut
    return text.replace("\r", "\\r").replace("\n", "\\n")


def recordings(folder: Path) -> Iterator[Path]:
    """WAV and FLAC files in `folder` and the folders in it, in order of their names; hidden ones are left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in AUDIO_SUFFIXES and not hidden and path.is_file():
            yield path


def _state(path: Path, folder: Path) -> Seen | None:
    """What a file looks like now; None when it is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return Seen(_one_line(path.relative_to(folder).as_posix()), status.st_size, status.st_mtime_ns)


def watch(
    folder: Path, record: Record, judge: Callable[[Path], dict], stop: threading.Event, interval: float, settle: float
) -> None:
    """Judge every recording in `folder` that `record` does not know, until `stop` is set.

    `judge` returns the columns of a row and raises nothing. A file counts as completely written once its size and time
    have stayed the same for `settle` seconds. The folder is looked at every `interval` seconds. Raises OSError when the
    folder or the record cannot be used any more.
    """
    known = record.seen()
    waiting: dict[Seen, float] = {}  # since when a file has looked as it does (s)
    while not stop.is_set():
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder (any more)")
        now = time.monotonic()
        found = {state: path for path in recordings(folder) if (state := _state(path, folder)) and state not in known}
        waiting = {state: waiting.get(state, now) for state in found}
        for state, path in found.items():
            if stop.is_set():
                return
            if now - waiting[state] >= settle:
                row = judge(path)
                if _state(path, folder) == state:  # else it was written to meanwhile: once more, when it has settled
                    record.add(state._asdict() | row)
                    known.add(state)
        stop.wait(interval)
