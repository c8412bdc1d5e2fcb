"""Recordings that are being received, and the last results with their sounds and pictures, in a temporary folder."""

import os
import shutil
import stat
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "detect-page-"
KEPT = 20  # results
PLACES = 8  # recordings that are received, wait or are judged at once
HELD = 400_000_000  # bytes of recordings that are received or wait


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone at the end, or, where this process is killed, when the next one begins."""
    _sweep(Path(tempfile.gettempdir()))
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
    lock = FileLock(made / "lock")
    lock.acquire(timeout=0)
    folder = made.rename(made.with_name(made.name.removeprefix(".")))  # now locked, it may be looked at
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _sweep(parent: Path) -> None:
    """Remove what killed processes of this user have left in `parent`: folders whose lock nobody holds."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and (folder / "lock").is_file():
                with FileLock(folder / "lock", timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


class BusyError(Exception):
    """There is no room for another recording now."""


class Uploads:
    """How many recordings, and bytes of them, are held until they are judged. For one thread."""

    def __init__(self, places: int = PLACES, held: int = HELD):
        self.places, self.held = places, held

    @contextmanager
    def place(self) -> Iterator["Upload"]:
        """A place for a recording. Raises BusyError when all are taken."""
        if self.places == 0:
            raise BusyError
        self.places -= 1
        upload = Upload(self)
        try:
            yield upload
        finally:
            self.places += 1
            self.held += upload.bytes


class Upload:
    """A recording that is being received."""

    def __init__(self, uploads: Uploads):
        self.uploads, self.bytes = uploads, 0

    def grow(self, count: int) -> None:
        """Note that as many bytes have come. Raises BusyError when all recordings together have too many."""
        if count > self.uploads.held:
            raise BusyError
        self.uploads.held -= count
        self.bytes += count


class Results:
    """The last results, newest first, each with its sound and its picture in `folder` until it is dropped."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._results: OrderedDict[str, dict] = OrderedDict()

    def add(self, number: str, result: dict) -> None:
        with self._lock:
            self._results[number] = result
            while len(self._results) > KEPT:
                old, _ = self._results.popitem(last=False)
                for path in self.folder.glob(f"{old}.*"):
                    path.unlink(missing_ok=True)

    def all(self) -> list[dict]:
        with self._lock:
            return list(reversed(self._results.values()))

    def file(self, number: str, suffix: str) -> Path | None:
        """The sound or the picture of a result that is still kept."""
        with self._lock:
            path = self.folder / f"{number}{suffix}"
            return path if number in self._results and path.is_file() else None
