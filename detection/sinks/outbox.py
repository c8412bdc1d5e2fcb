"""Verdicts that wait on the disk until a receiver has them."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = 0x52434D41  # application id of the database, by which another program's is told apart


class Outbox:
    """A queue of texts in the SQLite file at `path`, which one program uses at a time, from any of its threads.

    It holds at most `limit` texts. When it is full, a new text takes the place of the newest: what has waited longest
    is kept, so that the beginning of an outage is not lost, and so is the present state. `dropped` counts.
    """

    def __init__(self, path: Path, limit: int):
        """Open or make the queue. Raises OSError, and ValueError if the file is another's, damaged or in use."""
        self.path, self.limit, self.dropped = path, limit, 0
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._named_errors():
            self._database = sqlite3.connect(path, timeout=0, check_same_thread=False, isolation_level=None)
        try:
            with self._named_errors():
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA synchronous = FULL")
            with self._transaction() as database:
                self._prepare(database)
                self._count = database.execute("SELECT COUNT(*) FROM texts").fetchone()[0]
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, database: sqlite3.Connection) -> None:
        found = database.execute("PRAGMA application_id").fetchone()[0]
        if found != OURS and database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise ValueError(f"{self.path} is another program's database; nothing was changed")
        database.execute(f"PRAGMA application_id = {OURS}")
        database.execute("CREATE TABLE IF NOT EXISTS texts (number INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT)")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._named_errors():
            self._database.execute("BEGIN EXCLUSIVE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname in ("SQLITE_BUSY", "SQLITE_LOCKED"):
                raise ValueError(f"{self.path} is in use by another monitor") from None
            if error.sqlite_errorname in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                raise ValueError(f"{self.path} is no queue of verdicts, or damaged ({error}): move it away") from None
            raise OSError(f"{self.path}: {error}") from None

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> None:
        """Put a text last; it is on the disk when this returns. Raises OSError."""
        with self._lock:
            full = self._count >= self.limit
            with self._transaction() as database:
                if full:
                    database.execute("DELETE FROM texts WHERE number = (SELECT MAX(number) FROM texts)")
                database.execute("INSERT INTO texts (text) VALUES (?)", (text,))
            self._count += not full
            self.dropped += full

    def first(self) -> tuple[int, str] | None:
        """The text that has waited longest, with its number; None if none waits. Raises OSError."""
        if not self._count:
            return None
        with self._transaction() as database:
            return database.execute("SELECT number, text FROM texts ORDER BY number LIMIT 1").fetchone()

    def remove(self, number: int) -> None:
        """Take the text of this number out. Raises OSError."""
        with self._lock:
            with self._transaction() as database:
                gone = database.execute("DELETE FROM texts WHERE number = ?", (number,)).rowcount
            self._count -= gone

    def close(self) -> None:
        with self._lock:
            self._database.close()
