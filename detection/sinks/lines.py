"""Adding lines to a text file so that each is there whole or not at all, and never glued to a broken one before it."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened(path: Path) -> Iterator[io.FileIO]:
    """The file at `path`, made where it is not there, to read and to add lines to.

    It is opened for every line, so that a table that was moved away is begun anew. Raises OSError when that cannot be
    done or `path` is no regular file.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: no such folder to write to")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
    with path.open("a+b", buffering=0) as file:
        yield file


def beginning(file: io.FileIO, most: int) -> bytes:
    """The first bytes of the file, at most `most`."""
    return os.pread(file.fileno(), most, 0)


def add_line(file: io.FileIO, line: bytes) -> None:
    """Write `line`, which has no line break, as a line of its own; it is on the disk when this returns.

    If that fails, on a full disk, nothing of it stays. Raises OSError.
    """
    end = file.seek(0, os.SEEK_END)
    broken = end > 0 and (file.seek(end - 1), file.read(1))[1] != b"\n"
    data = (b"\n" if broken else b"") + line + b"\n"
    try:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise
