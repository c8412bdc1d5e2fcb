"""Files and folders that appear whole or not at all, and the digest of a file."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import yaml


class Readable(Protocol):
    """A path, or a file elsewhere that opens like one (see storage.shards)."""

    def open(self, mode: Literal["rb"] = ..., /) -> IO[bytes]: ...


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write beside `path`, in its folder; it becomes `path` when the block ends without an exception."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield temporary
        temporary.chmod(0o644)  # safetensors lets only its owner read what it writes
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill beside `folder`; it becomes `folder` when the block ends without an exception.

    What a killed run left there is removed, and so is what `folder` was.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON to `path`, whole or not at all; its folder is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(file: Readable) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_yaml(path: Path) -> Any:
    """The content of the YAML file `path`. Raises ValueError, one line that names it, when it is none."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a number or date that is none
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise ValueError(f"{path} is not YAML that can be read: its values are nested too deeply") from None
