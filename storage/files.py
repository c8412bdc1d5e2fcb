"""Files and folders that appear whole or not at all, and the digest of a file."""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from safetensors import SafetensorError

UNFINISHED = ".unfinished"  # how the name of a file or folder ends that is still being written
ABANDONED = 24 * 3600.0  # seconds without a change, after which what another computer was writing counts as abandoned
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Readable(Protocol):
    """A path, or a file elsewhere that opens like one (see storage.shards)."""

    def open(self, mode: Literal["rb"], /) -> Any: ...


class DiskFullError(OSError):
    """A file could not be written for want of room: names it, the bytes that it needs and those that are free."""


@contextmanager
def whole_file(path: Path, needed: int = 0) -> Iterator[Path]:
    """A path to write beside `path`, in its folder; it becomes `path` when the block ends without an exception.

    `needed`: bytes that will be written, if known, for the message of the DiskFullError that a full disk raises.
    """
    unfinished = _aside(path)
    try:
        with naming_full_disk(path, unfinished, needed):
            yield unfinished
            unfinished.chmod(0o644)  # safetensors lets only its owner read what it writes
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill beside `folder`; it becomes `folder` when the block ends without an exception.

    What `folder` was is removed, and so is what killed runs left there. Raises DiskFullError on a full disk.
    """
    unfinished = _aside(folder)
    unfinished.mkdir(parents=True)
    sweep(folder.parent)
    try:
        with naming_full_disk(folder, unfinished):
            yield unfinished
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{threading.get_ident()}{UNFINISHED}")


def _here() -> str:
    """Names the computer, or the container on it, within which process numbers can be compared."""
    processes = Path("/proc/self/ns/pid")
    computer = f"{platform.node()} {processes.stat().st_ino if processes.exists() else ''}"
    return hashlib.sha256(computer.encode()).hexdigest()[:8]


def sweep(folder: Path) -> list[Path]:
    """Remove what processes that are no more were writing in `folder`; returns what was removed.

    A process of another computer cannot be asked: what it was writing goes after a day without a change.
    """
    removed = []
    for path in folder.glob(f".*{UNFINISHED}"):
        with suppress(OSError):  # not ours to remove, or gone meanwhile
            if _abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
    return removed


def _abandoned(unfinished: Path) -> bool:
    import psutil

    writer = re.search(rf"\.(\w+)-(\d+)-\d+{re.escape(UNFINISHED)}$", unfinished.name)
    if writer is None:
        return False
    if writer[1] == _here():
        return not psutil.pid_exists(int(writer[2]))
    changed = max(path.stat().st_mtime for path in (unfinished, *unfinished.rglob("*")))
    return time.time() - changed > ABANDONED


@contextmanager
def naming_full_disk(path: Path, unfinished: Path, needed: int = 0) -> Iterator[None]:
    """Raise DiskFullError, one line about `path`, if writing the file or folder `unfinished` fails for want of room.

    `needed`: bytes to be written, if known. Libraries say so in their own ways, or just that there was an error.
    """
    try:
        yield
    except DiskFullError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # libsndfile's errors are RuntimeErrors
        number = (isinstance(error, OSError) and error.errno) or _error_number(error, unfinished)
        if number not in FULL:
            raise
        size = f"{needed} bytes" if needed else f"more than {_size(unfinished)} bytes"
        free = shutil.disk_usage(unfinished.parent).free
        reason = f"{os.strerror(number)}: {size} are needed, {free} are free"
        raise DiskFullError(f"{path} cannot be written: {reason}") from error


def _error_number(error: Exception, unfinished: Path) -> int:
    """The system's number for what went wrong: as safetensors quotes it, or as the system gives it when asked again."""
    if quoted := re.search(r"\(os error (\d+)\)", str(error)):
        return int(quoted[1])
    probe = unfinished / UNFINISHED if unfinished.is_dir() else unfinished
    had = probe.stat().st_size if probe.is_file() else None
    try:
        with probe.open("ab") as file:
            file.write(bytes(2**16))
    except OSError as refusal:
        return refusal.errno or 0
    finally:
        if had is None:
            probe.unlink(missing_ok=True)
        else:
            os.truncate(probe, had)
    return 0


def _size(unfinished: Path) -> int:
    files = unfinished.rglob("*") if unfinished.is_dir() else [unfinished]
    return sum(file.stat().st_size for file in files if file.is_file())


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON to `path`, whole or not at all; its folder is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """The JSON object in the file `path`. Raises ValueError, naming it, when it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: not a JSON object")
    return value


def sha256(file: Readable) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_yaml(path: Path) -> Any:
    """The content of the YAML file `path`. Raises ValueError, one line that names it, when it is none."""
    import yaml  # a slow import

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a number or date that is none
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise ValueError(f"{path} is not YAML that can be read: its values are nested too deeply") from None
