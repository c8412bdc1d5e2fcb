"""A store outside DVC's outputs, whose entries are named by a hash of everything that determines them.

What a key holds, everywhere in this project: the content of the data, the settings, the versions of the libraries that
compute, and `code_of` the function that computes the entry. So an entry is found again as long as making it again would
give the same, and an edit of what computes it, wherever that stands, makes it anew.

Two things stand outside, and why:
- Augmented clips: their key holds the number `augmentation.audioldm.FRONT_END` in place of the code. To generate the
  clips of a corpus takes from minutes to weeks of a GPU, and an edit that changes no sample must not cost that. Whoever
  changes what is generated raises the number; tests hold the keys and the clips of today. Their key does not hold what
  changes single samples by one step of 16 bit, either: the library versions, the number of threads, and the clips that
  happened to be generated together (`augment.batch_size`).
- Archives: their key is the MD5 that the list of archives gives; nothing here computes them.
"""

import hashlib
import inspect
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import platformdirs
from filelock import FileLock, Timeout

from storage.files import naming_full_disk, sha256, whole_file
from storage.imports import ROOT, reached
from storage.remote import Place, fetch, names, remove, send

LISTED = 100  # keys, above which the list of an object store is read instead of asking for each
COPIED = 32  # entries at once, from an object store

Content = TypeVar("Content")


def store_place(kind: str) -> Place:
    """Where the store keeps `kind` (augmented, features, checkpoints, archives …), outside DVC's outputs.

    DVC deletes a stage's outputs before it runs, so what must survive a killed or repeated run lives here, under names
    that are hashes of all that determines the content. It is no parameter: `dvc exp run --temp` and queue workers run
    in another folder and must find the same store. `RCMAE_STORE` overrides the place: a folder, or the address of an
    object store.
    """
    root = os.environ.get("RCMAE_STORE") or str(platformdirs.user_cache_path("rc-mae"))
    return Place(root if "://" in root else Path(root).resolve()) / kind


def store_folder(kind: str) -> Path:
    """Absolute folder of the store for `kind`, for what stays on this machine even if the store is an object store:
    checkpoints, archives, wall times."""
    return store_place(kind).folder


def key_of(**determinants: Any) -> str:
    """Name of an entry: the SHA-256 of everything that determines its content, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()


def code_of(*functions: Callable) -> str:
    """SHA-256 of the modules of `functions` and of all first-party modules that these import, directly or not.

    The package storage is left out: it keeps what was computed and computes nothing.
    """
    modules = {Path(inspect.getfile(function)).resolve().relative_to(ROOT) for function in functions}
    files = sorted({file for module in modules for file in reached(module) if file.parts[0] != "storage"})
    return hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in files)).hexdigest()


def checkpoint_folder(stage: str, settings: dict, inputs: list[Path], training: Callable) -> Path:
    """Where a run of `stage` keeps its checkpoints, so that no run with another key resumes from them.

    The key is of its settings, the content of its input folders and the code of the function `training`.
    """
    data = [{path.name: sha256(path) for path in sorted(folder.iterdir())} for folder in inputs]
    return store_folder("checkpoints") / f"{stage}-{key_of(settings=settings, data=data, code=code_of(training))[:16]}"


class Store:
    """Files with one `suffix`, named by their key, each with the SHA-256 of its content in a file beside it.

    An entry that is there is complete: it is written in the folder `unfinished` and moved into place. In an object
    store it is complete too; here are copies of those that were made or asked for here.

    >>> with store.put(key) as path:
    ...     if path:
    ...         write_clip(path, waveform)
    """

    def __init__(self, place: Path | Place, suffix: str):
        self.place, self.suffix = place if isinstance(place, Place) else Place(place), suffix

    @property
    def folder(self) -> Path:
        """Where the entries, or the copies of them here, lie."""
        return self.place.folder

    def path(self, key: str) -> Path:
        """Where the entry, or the copy of it here, is or will be, in one of 256 folders."""
        return self.folder / key[:2] / f"{key}{self.suffix}"

    def keys(self) -> Iterator[str]:
        """The keys of all entries, unread and in no order."""
        found = {path.name for path in self.folder.glob(f"??/*{self.suffix}")}
        if self.place.address:
            found.update(names(self.place.address))
        return (name.removesuffix(self.suffix) for name in found if name.endswith(self.suffix))

    def find(self, key: str) -> Path | None:
        """The entry, if it is there and whole; None otherwise. One that is damaged is named and removed.

        From an object store it is copied. Raises OSError if that cannot be reached.
        """
        if self._whole(key):
            return self.path(key)
        if self.path(key).is_file():
            self._remove_damaged(key)
        if self.place.address and fetch(self._address(key), self.path(key)):
            self._write_digest(key, self.path(key))
            return self.path(key)
        return None

    def lacking(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` whose entry is not there or not whole. Of many in an object store only the list is read."""
        asked = set(keys)
        if self.place.address and len(asked) > LISTED:
            return asked - {name.removesuffix(self.suffix) for name in names(self.place.address)}
        return {key for key in asked if not self.find(key)}

    def bring(self, keys: Iterable[str]) -> None:
        """Copy those of the entries that are only in an object store, many at once."""
        if self.place.address:
            with ThreadPoolExecutor(COPIED) as pool:
                list(pool.map(self.find, keys))

    @contextmanager
    def put(self, key: str, needed: int = 0) -> Iterator[Path | None]:
        """Make an entry: write the yielded path; it becomes the entry if the block ends without an exception.

        Other processes that want the same entry wait, and then are given None: it is there, nothing is to be made.
        Who makes several entries at once must ask for them in sorted order, each once, so that no two wait for each
        other. `needed`: bytes that will be written, if known. Raises DiskFullError on a full disk.
        """
        if self.find(key):
            yield None
            return
        with self._locked(key):
            if self._whole(key):
                yield None
                return
            final = self.path(key)
            unfinished = self._unfinished / f"{key}-{secrets.token_hex(4)}{self.suffix}"
            try:
                with naming_full_disk(final, unfinished, needed):
                    yield unfinished
                    final.parent.mkdir(exist_ok=True)
                    self._write_digest(key, unfinished)
                    if self.place.address:  # before it is here: what is here need not be sent any more
                        send(unfinished, self._address(key))
                    unfinished.chmod(0o644)  # safetensors lets only its owner read what it writes
                    unfinished.replace(final)
            finally:
                unfinished.unlink(missing_ok=True)

    def get(self, key: str, make: Callable[[Path], None], read: Callable[[Path], Content]) -> Content:
        """What `read` gets from the entry, which `make` writes first where it is not there.

        An entry that is whole but that `read` refuses with a ValueError, as a pickle, is made again, once.
        """
        self._make(key, make)
        try:
            return read(self.path(key))
        except (ValueError, EOFError, BadZipFile) as error:
            self._name_damaged(key, str(error))
            self.remove(key)
        self._make(key, make)
        return read(self.path(key))

    def _make(self, key: str, make: Callable[[Path], None]) -> None:
        with self.put(key) as path:
            if path:
                make(path)

    def remove(self, key: str) -> None:
        """Remove an entry, if it is there."""
        if self.place.address:
            remove(self._address(key))
        self._remove_here(key)

    def _remove_here(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)
        self._digest(key).unlink(missing_ok=True)

    def sweep(self) -> list[Path]:
        """Remove what killed processes left half-written; returns what was removed."""
        removed = []
        for lock in self._unfinished.glob("*.lock"):
            with suppress(OSError, Timeout), FileLock(lock, timeout=0):  # else its writer lives
                for path in self._unfinished.glob(f"*{lock.stem}-*"):
                    path.unlink()
                    removed.append(path)
                lock.unlink()
        return removed

    @property
    def _unfinished(self) -> Path:
        return self.folder / "unfinished"

    def _address(self, key: str) -> str:
        return f"{self.place}/{key[:2]}/{key}{self.suffix}"

    def _write_digest(self, key: str, entry: Path) -> None:
        with whole_file(self._digest(key)) as file:
            file.write_text(sha256(entry))

    def _digest(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.sha256"

    def _whole(self, key: str) -> bool:
        try:
            return self._digest(key).read_text(encoding="ascii").strip() == sha256(self.path(key))
        except PermissionError:
            raise
        except (OSError, ValueError):  # one of the two is not there, or cannot be read
            return False

    def _remove_damaged(self, key: str) -> None:
        with self._locked(key):
            if self.path(key).is_file() and not self._whole(key):  # else another process made it again meanwhile
                self._name_damaged(key, "its content does not match its checksum")
                self._remove_here(key)

    def _name_damaged(self, key: str, reason: str) -> None:
        logging.warning("entry %s of the store is damaged and will be made again: %s", self.path(key), reason)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        self._unfinished.mkdir(parents=True, exist_ok=True)
        lock = self._unfinished / f"{key}.lock"
        with FileLock(lock):
            yield
            lock.unlink(missing_ok=True)  # not after an exception: whoever waits for it now makes the entry
