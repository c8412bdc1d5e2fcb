"""The archives of DCASE 2020 Challenge Task 2: fetched once into a cache, verified, and unpacked safely."""

import hashlib
import logging
import re
import shutil
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

import requests
from filelock import FileLock
from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt, wait_exponential
from tqdm import tqdm

from storage.tables import read_table

ALLOWED = {  # columns of the table of archives, and what may stand in them
    "subset": ("dev|additional|eval", "dev, additional and eval"),
    "machine_type": (r"[^/\\\0]+", "names without / and \\"),
    "zenodo_record": ("[0-9]+", "the digits 0 to 9"),
    "file": (r"[A-Za-z0-9_][A-Za-z0-9._-]*", "names of files without folders"),
    "md5": ("[0-9a-f]{32}", "32 digits 0 to 9 and a to f"),
}
ATTEMPTS = 8  # at one archive; each goes on where the one before broke off
TIMEOUT = (10, 60)  # seconds to connect, and between two packets
CHUNK = 2**16  # bytes
# The WAVs of an archive, and the FLACs made of them while they lie there, take less than this times its size.
UNPACKED = 3
USER_AGENT = {"User-Agent": "rc-mae", "Accept-Encoding": "identity"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """One archive of the table: its subset (dev, additional or eval), machine type, place on Zenodo and checksum."""

    subset: str
    machine_type: str
    zenodo_record: str
    file: str
    md5: str

    @property
    def stored(self) -> str:
        """Its name in the store: with the checksum, as archives of other years have the same names."""
        return f"{self.md5}-{self.file}"

    def address(self, source: str) -> str:
        """Where it is: on Zenodo, or at the mirror or in the folder `source`."""
        if not source:
            return f"https://zenodo.org/records/{self.zenodo_record}/files/{self.file}?download=1"
        return f"{source.rstrip('/')}/{self.file}"


def read_archives(path: Path) -> list[Archive]:
    """The table of archives at `path`. Raises ValueError naming the line of what is wrong."""
    try:
        rows = read_table(path, ALLOWED)
    except ValueError as error:
        raise ValueError(
            f"{error} (it must be a table of archives; for a folder of recordings give the folder)"
        ) from None
    archives = []
    for row in rows:
        for column, (pattern, allowed) in ALLOWED.items():
            if not re.fullmatch(pattern, row[column]):
                raise row.wrong(column, f"{row[column]!r}", f"allowed are {allowed}")
        archives.append(Archive(**{column: row[column] for column in ALLOWED}))
    return archives


def fetch(archives: list[Archive], cache: Path, source: str, unpack_to: Path, patience: float = 1.0) -> list[Path]:
    """Paths of the verified archives: in the folder `source`, or downloaded to `cache` unless they are there.

    `source`: a folder, the address of a mirror, or "" for Zenodo. `unpack_to`: where they will be unpacked, for the
    check that there is enough room for everything, which comes before the first byte. `patience`: seconds before the
    first retry, doubled each time. Raises OSError if there is not the room or the transfer keeps failing, ValueError
    for a checksum that differs.
    """
    if source and not source.startswith(("http://", "https://")):
        paths = [Path(source) / archive.file for archive in archives]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise ValueError(f"corpus.source {source} does not hold {', '.join(missing)}")
        _check_room({unpack_to: UNPACKED * sum(path.stat().st_size for path in paths)})
        for archive, path in zip(archives, paths, strict=True):
            _verify(path, archive)
        return paths
    cache.mkdir(parents=True, exist_ok=True)
    # Named by the checksum: archives of other years have the same names. Only verified ones get this name.
    cached = {archive: cache / archive.stored for archive in archives}
    sizes = {
        archive: path.stat().st_size if path.is_file() else _size(archive, source) for archive, path in cached.items()
    }
    to_come = [(sizes[archive], path) for archive, path in cached.items() if sizes[archive] and not path.is_file()]
    download = sum(size - _partial_size(path) for size, path in to_come)
    _check_room({cache: download, unpack_to: UNPACKED * sum(sizes.values())})
    for archive, path in cached.items():
        with FileLock(path.with_name(f"{path.name}.lock")):
            if not path.is_file():
                _download(archive, archive.address(source), path, patience)
    return list(cached.values())


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _partial_size(path: Path) -> int:
    return _partial(path).stat().st_size if _partial(path).is_file() else 0


def _size(archive: Archive, source: str) -> int:
    """Size of an archive on its server (bytes), 0 if the server does not say."""
    try:
        answer = requests.head(archive.address(source), headers=USER_AGENT, timeout=TIMEOUT, allow_redirects=True)
        answer.raise_for_status()
    except requests.RequestException as error:
        log.warning("size of %s unknown: %s", archive.file, error)
        return 0
    return int(answer.headers.get("Content-Length", 0))


def _check_room(needs: dict[Path, int]) -> None:
    """Raise OSError unless the folders' disks have room for so many bytes; those on one disk add up."""
    disks = defaultdict(list)
    for folder, size in needs.items():
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        disks[existing.stat().st_dev].append((existing, folder, size))
    for places in disks.values():
        need, free = sum(size for *_, size in places), shutil.disk_usage(places[0][0]).free
        where = " and ".join(str(folder) for _, folder, _ in places)
        if need > free:
            raise OSError(f"{where} need {need / 1e9:.3f} GB, {free / 1e9:.3f} GB are free")
        log.info("%s need %.3f GB, %.3f GB are free", where, need / 1e9, free / 1e9)


def _download(archive: Archive, url: str, path: Path, patience: float) -> None:
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=patience, max=60 * patience),
        retry=retry_if_exception(_may_pass),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    try:
        retrying(_transfer, url, _partial(path))
    except requests.RequestException as error:
        raise OSError(f"{url}: {error}; the next run goes on from {_partial_size(path)} bytes") from error
    try:
        _verify(_partial(path), archive)
    except ValueError:
        _partial(path).unlink()
        raise
    _partial(path).replace(path)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    return isinstance(error, requests.RequestException)


def _transfer(url: str, partial: Path) -> None:
    """Append what is missing of `url` to `partial`; all of it if the server cannot start in the middle."""
    have = partial.stat().st_size if partial.is_file() else 0
    headers = USER_AGENT | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, timeout=TIMEOUT, stream=True) as answer:
        if answer.status_code == 416:  # nothing lies beyond what is there: complete, or not of this file
            if answer.headers.get("Content-Range") != f"bytes */{have}":
                partial.unlink()
                raise requests.ConnectionError(f"{partial.name} does not belong to {url}, starting again")
            return
        answer.raise_for_status()
        if not (answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")):
            have = 0
        rest = int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        total = None if rest is None else have + rest
        bar = tqdm(total=total, initial=have, desc=partial.name[33:], unit="B", unit_scale=True, disable=None)
        try:
            with partial.open("ab" if have else "wb") as file, bar:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        except requests.RequestException:
            raise
        except OSError as error:  # of the disk; trying again would not help
            raise OSError(error.errno, error.strerror, str(partial)) from error
    if total is not None and partial.stat().st_size != total:  # urllib3 says so itself only since version 2
        raise requests.ConnectionError(f"{partial.stat().st_size} of {total} bytes came")


def _verify(path: Path, archive: Archive) -> None:
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        why = "broken, or of another year: DCASE 2021's archives have the same names"
        raise ValueError(f"{archive.file} has md5 {md5}, not {archive.md5} ({why})")


def unpack(archives: list[Path], folder: Path) -> None:
    """Unpack the archives into `folder`, nothing outside it and no links.

    All members of all archives are looked at before the first is written. Raises ValueError naming archive and member.
    """
    size = 0
    for archive in archives:
        try:
            with ZipFile(archive) as zipped:
                members = zipped.infolist()
        except BadZipFile as error:
            raise ValueError(f"{archive}: {error}") from None
        for member in members:
            path = PurePosixPath(member.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in member.filename:
                raise ValueError(f"{archive}: {member.filename!r} would be written outside the target folder")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"{archive}: {member.filename!r} is a link")
        size += sum(member.file_size for member in members)
    _check_room({folder: 2 * size})  # the WAVs, and the FLACs made of them
    for archive in archives:
        with ZipFile(archive) as zipped:
            zipped.extractall(folder)
