"""Files in an object store, S3 or any other that fsspec knows: each is there whole or not at all.

Who may read and write there is said by the environment, as the libraries for each kind of store have it: for S3
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a server other than Amazon's, AWS_ENDPOINT_URL.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import platformdirs

from storage.files import whole_file


class Place:
    """Where a store keeps its entries: a folder, or an object store's address and the folder of copies of them here."""

    def __init__(self, where: Path | str):
        """`where` is a folder, or an address as s3://bucket/prefix."""
        self.address = str(where).rstrip("/") if "://" in str(where) else ""
        copies = platformdirs.user_cache_path("rc-mae") / "copies" / hashlib.sha256(self.address.encode()).hexdigest()
        self.folder = copies if self.address else Path(where)

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.address}/{name}" if self.address else self.folder / name)

    def __str__(self) -> str:
        return self.address or str(self.folder)

    def __reduce__(self) -> tuple:  # on another machine the copies lie elsewhere
        return Place, (self.address or self.folder,)


def fetch(address: str, path: Path) -> bool:
    """Copy the file at `address` to `path`, whole or not at all; whether it is there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _reached(address) as (system, name):
        try:
            with whole_file(path) as unfinished:
                system.get_file(name, str(unfinished))
        except FileNotFoundError:
            return False
    return True


def send(path: Path, address: str) -> None:
    """Copy the file at `path` to `address`, where it appears when all of it is there. Raises OSError."""
    with _reached(address) as (system, name):
        system.put_file(str(path), name)


def names(address: str) -> list[str]:
    """The names of all files below `address`, without the folders that they are in. Raises OSError."""
    with _reached(address) as (system, name):
        return [PurePosixPath(found).name for found in system.find(name)]


def remove(address: str) -> None:
    """Remove the file at `address`, if it is there. Raises OSError."""
    with _reached(address) as (system, name), suppress(FileNotFoundError):
        system.rm_file(name)


@contextmanager
def _reached(address: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system for `address` and the name there. What goes wrong becomes an OSError of one line."""
    try:
        import fsspec

        # without a memory of what is there: other machines write too
        yield fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        raise OSError(f"{address}: {error}: pip install -r requirements-cluster.txt") from None
    except Exception as error:  # each store's library has errors of its own
        raise OSError(f"{address}: {' '.join(str(error).split())[:300]}") from error
