"""Many small files as few large ones: tar files in WebDataset's format, and an index to read any of them from there.

`pack` moves files of a folder into shards, `Folder` reads them wherever they lie: `read_clip(Folder(raw) / name)`.
"""

import hashlib
import io
import tarfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from storage.files import whole_file

AUTO = 20_000  # files, above which a folder is packed if nobody says otherwise
FILES = 1000  # in a shard, on average
INDEX = "shards.npy"
BLOCK = 512  # bytes; tar fills up with zeros


@dataclass(frozen=True)
class Member:
    """A file in a shard. Reads like a path: `open`, `suffix`, its name as text."""

    shard: Path
    name: str
    offset: int  # of its first byte in the shard
    size: int  # bytes

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file's content. Raises OSError if the shard is shorter than it should be."""
        with self.shard.open(mode) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self}: the shard is truncated")
        return io.BytesIO(content)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


@dataclass(frozen=True)
class Content:
    """A file in memory, as it travels to another machine. Reads like a path."""

    name: str  # for messages
    data: bytes

    def open(self, mode: str = "rb") -> BinaryIO:
        return io.BytesIO(self.data)

    @classmethod
    def of(cls, file: "File") -> "Content":
        """The content of `file`, under its name."""
        with file.open("rb") as opened:
            return cls(str(file), opened.read())

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        return self.name


File = Path | Member | Content  # what can be opened and read, wherever it lies


class Folder:
    """The files of a folder, whether they lie there or in its shards: `folder / "fan/train/a.flac"`.

    The index is memory-mapped: it takes no memory that grows with the number of files, and processes share it.
    """

    def __init__(self, path: Path):
        self.path = path

    def __truediv__(self, name: str) -> Path | Member:
        """The file called `name`: that in a shard if there is one, else a path, which need not exist."""
        if self._index is None:
            return self.path / name
        encoded = name.encode()
        row = bisect_left(self._index, encoded, key=lambda entry: entry["name"])
        if row == len(self._index) or self._index[row]["name"] != encoded:
            return self.path / name
        _, shard, offset, size = self._index[row].item()
        return Member(self.path / shard_name(shard), name, offset, size)

    def __str__(self) -> str:
        return str(self.path)

    def __reduce__(self) -> tuple:  # a worker process maps the index itself
        return Folder, (self.path,)

    @cached_property
    def _index(self) -> np.ndarray | None:
        path = self.path / INDEX
        return np.load(path, mmap_mode="r") if path.is_file() else None


class Loaded:
    """Some files of a folder in memory: what a unit of work takes along. Used as the `Folder` that they come from."""

    def __init__(self, folder: Folder, names: Iterable[str]):
        self._files = {name: Content.of(folder / name) for name in names}

    def __truediv__(self, name: str) -> Content:
        return self._files[name]


def shard_name(number: int) -> str:
    """File name of a shard. Numbered as WebDataset does it: clips-{000000..000039}.tar are all of forty shards."""
    return f"clips-{number:06d}.tar"


def wanted(shards: str | int, files: int) -> bool:
    """Whether a folder of so many files is to be packed; `shards` is auto, never, or a number: above so many."""
    if shards == "never":
        return False
    return files > (AUTO if shards == "auto" else int(shards))


def pack(folder: Path, names: Iterable[str]) -> None:
    """Move the files `names` of `folder` into shards beside them, in the order of their names, and write the index.

    A shard ends after a file whose name has a hash divisible by FILES. So it is the names that decide where shards
    end, not how many come before: a file more or less changes the shard that it belongs to, or splits it, and only
    that is stored and sent again. The same files give the same bytes.
    """
    rows: list[tuple[bytes, int, int, int]] = []
    for number, group in enumerate(_groups(sorted(names, key=str.encode))):
        with whole_file(folder / shard_name(number)) as path, tarfile.open(path, "w") as shard:
            for name in group:
                offset, size = _append(shard, folder / name, name)
                rows.append((name.encode(), number, offset, size))
        for name in group:
            (folder / name).unlink()
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    width = max((len(name) for name, *_ in rows), default=1)
    types = [("name", f"S{width}"), ("shard", "<u4"), ("offset", "<u8"), ("size", "<u8")]
    with whole_file(folder / INDEX) as path, path.open("wb") as file:
        np.save(file, np.array(rows, types), allow_pickle=False)


def _groups(names: list[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for name in names:
        group.append(name)
        if int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % FILES == 0:
            yield group
            group = []
    if group:
        yield group


def _append(shard: tarfile.TarFile, path: Path, name: str) -> tuple[int, int]:
    """Append a file, without its time, owner and rights; return offset and size of its content."""
    entry = tarfile.TarInfo(name)
    entry.size = path.stat().st_size
    with path.open("rb") as file:
        shard.addfile(entry, file)
    return shard.offset - -(-entry.size // BLOCK) * BLOCK, entry.size
