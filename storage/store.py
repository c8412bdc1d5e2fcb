"""A store outside DVC's outputs, whose entries are named by a hash of everything that determines them."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock


def store_folder(kind: str) -> Path:
    """Absolute folder of the store for `kind` (augmented, features, checkpoints, archives …), outside DVC's outputs.

    DVC deletes a stage's outputs before it runs, so what must survive a killed or repeated run lives here, under names
    that are hashes of all that determines the content. It is no parameter: `dvc exp run --temp` and queue workers run
    in another folder and must find the same store. `RCMAE_STORE` overrides the place.
    """
    root = os.environ.get("RCMAE_STORE") or platformdirs.user_cache_path("rc-mae")
    return Path(root).resolve() / kind


def key_of(**determinants: Any) -> str:
    """Name of an entry: the SHA-256 of everything that determines its content, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()


class Store:
    """Files named by their key. An entry that is there is complete: it is written aside and moved into place.

    >>> with store.put(key, ".flac") as path:
    ...     if path:
    ...         write_clip(path, waveform)
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, key: str, suffix: str) -> Path:
        """Where the entry is or will be, in one of 256 folders."""
        return self.folder / key[:2] / f"{key}{suffix}"

    def has(self, key: str, suffix: str) -> bool:
        return self.path(key, suffix).is_file()

    @contextmanager
    def put(self, key: str, suffix: str) -> Iterator[Path | None]:
        """Make an entry: write the yielded path; it becomes the entry if the block ends without an exception.

        Other processes that want the same entry wait, and then are given None: it is there, nothing is to be made.
        Who makes several entries at once must ask for them in sorted order, each once, so that no two wait for each
        other.
        """
        final = self.path(key, suffix)
        if final.is_file():
            yield None
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = final.with_name(f".{key}.lock")
        with FileLock(lock):
            if final.is_file():
                yield None
            else:
                temporary = final.with_name(f".{key}.{os.getpid()}{suffix}")
                try:
                    yield temporary
                    temporary.replace(final)
                finally:
                    temporary.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)  # only now: whoever still waits for this lock finds the entry there
