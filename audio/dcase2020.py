"""The archives of DCASE 2020 Challenge Task 2: fetched once into a cache, verified, and unpacked safely."""

import errno
import hashlib
import logging
import re
import shutil
import stat
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import requests
import urllib3
from filelock import FileLock
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential
from tqdm import tqdm

from storage.files import naming_full_disk
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
LEAST_RATE = 1000  # bytes/s over a RATE_TIME; a server that sends less is given up
RATE_TIME = 60.0  # seconds
LARGEST = 20 * 10**9  # bytes, of an archive whose server does not say its size; those of DCASE 2020 are below 5 GB
# The WAVs of an archive, and the FLACs made of them while they lie there, take less than this times its size.
UNPACKED = 3
USER_AGENT = {"User-Agent": "rc-mae", "Accept-Encoding": "identity"}
PASSING = (
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
)
COMPRESSIONS = (ZIP_STORED, ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA)
ENCRYPTED = 0x1  # of a member's flags

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


class _PassingError(OSError):
    """A failure of the network or the server that may have passed when it is tried again."""


def fetch(archives: list[Archive], cache: Path, source: str, unpack_to: Path, patience: float = 1.0) -> list[Path]:
    """Paths of the verified archives: in the folder `source`, or downloaded to `cache` unless they are there, whole.

    `source`: a folder, the address of a mirror, or "" for Zenodo. `unpack_to`: where they will be unpacked, for the
    check that there is enough room for everything, which comes before the first byte. `patience`: seconds before the
    first retry, doubled each time. Raises OSError if there is not the room or the transfer fails for good or too often,
    ValueError for a checksum that differs and for a `source` with a password in it.
    """
    if source and not source.startswith(("http://", "https://")):
        source = _without_password(source)
        paths = [Path(source) / archive.file for archive in archives]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise ValueError(f"corpus.source {source} does not hold {', '.join(missing)}")
        _check_room({unpack_to: UNPACKED * sum(path.stat().st_size for path in paths)})
        for archive, path in zip(archives, paths, strict=True):
            _verify(path, archive)
        return paths
    if source != _without_password(source):
        raise ValueError(
            "corpus.source has a password in it, which would stand in params.yaml and dvc.lock: write it into ~/.netrc"
        )
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {archive: cache / archive.stored for archive in archives}  # only verified ones get this name
    there = {archive for archive, path in wanted.items() if _intact(path, archive)}
    sizes = {
        archive: path.stat().st_size if archive in there else _size(archive, source) for archive, path in wanted.items()
    }
    missing_bytes = sum(
        max(0, size - _partial_size(wanted[archive])) for archive, size in sizes.items() if archive not in there
    )
    _check_room({cache: missing_bytes, unpack_to: UNPACKED * sum(sizes.values())})
    for archive in (archive for archive in wanted if archive not in there):
        path = wanted[archive]
        lock = path.with_name(f"{path.name}.lock")
        with FileLock(lock):
            if not path.is_file():  # else another process has fetched it meanwhile
                _download(archive, archive.address(source), path, sizes[archive], patience)
            lock.unlink(missing_ok=True)
    return list(wanted.values())


def _without_password(text: str) -> str:
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1***@", text)


def _intact(path: Path, archive: Archive) -> bool:
    """Whether an archive is in the store, whole. A damaged one is named and removed."""
    if not path.is_file():
        return False
    try:
        _verify(path, archive)
    except ValueError:
        log.warning("%s is damaged and will be fetched again", path)
        path.unlink()
        return False
    return True


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _partial_size(path: Path) -> int:
    return _partial(path).stat().st_size if _partial(path).is_file() else 0


def _size(archive: Archive, source: str) -> int:
    """Size of an archive on its server (bytes), 0 if the server does not say."""
    try:
        answer = requests.head(archive.address(source), headers=USER_AGENT, timeout=TIMEOUT, allow_redirects=True)
        answer.raise_for_status()
        return _length(answer) or 0
    except OSError as error:  # requests' errors, too
        log.warning("size of %s unknown: %s", archive.file, _without_password(str(error)))
        return 0


def _length(answer: requests.Response) -> int | None:
    """Bytes of an answer's body, if it says. Raises OSError if what it says is no such number."""
    length = answer.headers.get("Content-Length")
    if length is not None and not re.fullmatch("[0-9]{1,18}", length):
        raise OSError(f"{_without_password(answer.url)}: the server gives the length {length!r}")
    return None if length is None else int(length)


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


def _download(archive: Archive, url: str, path: Path, size: int, patience: float) -> None:
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=patience, max=60 * patience),
        retry=retry_if_exception_type(_PassingError),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    try:
        retrying(_transfer, url, _partial(path), size)
    except _PassingError as error:
        raise OSError(f"{url}: {error}; the next run goes on from {_partial_size(path)} bytes") from None
    try:
        _verify(_partial(path), archive)
    except ValueError:
        _partial(path).unlink()
        raise
    _partial(path).replace(path)


def _transfer(url: str, partial: Path, size: int) -> None:
    """Append what is missing of `url` to `partial`; all of it if the server cannot start in the middle.

    `size`: of all of it (bytes), 0 if it is not known. Raises _PassingError for what may pass, OSError for what cannot.
    """
    have = partial.stat().st_size if partial.is_file() else 0
    headers = USER_AGENT | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, timeout=TIMEOUT, stream=True) as answer:
            if answer.status_code == 416:  # nothing lies beyond what is there: complete, or not of this file
                if answer.headers.get("Content-Range") != f"bytes */{have}":
                    partial.unlink()
                    raise _PassingError(f"{partial.name} does not belong to it, starting again")
                return
            answer.raise_for_status()
            if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
                raise OSError(f"{url}: the server sends it as {encoding}, which was not asked for")
            if not (answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")):
                have = 0
            rest = _length(answer)
            _receive(answer, partial, have, size if rest is None else have + rest)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:  # urllib3's while the body is read
        reason = _without_password(" ".join(str(error).split()))
        if _may_pass(error):
            raise _PassingError(reason) from None
        raise OSError(f"{url}: {reason}") from None


def _receive(answer: requests.Response, partial: Path, have: int, size: int) -> None:
    """Write the body of `answer` behind the first `have` bytes of `partial`. `size`: of all of it, 0 if unknown."""
    bar = tqdm(total=size or None, initial=have, desc=partial.name[33:], unit="B", unit_scale=True, disable=None)
    since, since_bytes, most = time.monotonic(), have, size or LARGEST
    slow = False
    with naming_full_disk(partial, partial, size), partial.open("ab" if have else "wb") as file, bar:
        while not slow and have <= most and (chunk := answer.raw.read1(CHUNK)):
            file.write(chunk)
            have += len(chunk)
            bar.update(len(chunk))
            if (passed := time.monotonic() - since) > RATE_TIME:
                slow = have - since_bytes < LEAST_RATE * passed
                since, since_bytes = (since, since_bytes) if slow else (time.monotonic(), have)
    if have > most:
        partial.unlink()
        raise OSError(f"{_without_password(answer.url)}: sends more than the {most} bytes that it should have")
    if slow:
        raise _PassingError(f"{have - since_bytes} bytes came in {passed:.0f} s")
    if size and have != size:
        raise _PassingError(f"{have} of {size} bytes came")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    if isinstance(error, requests.exceptions.SSLError):
        return False
    return isinstance(error, PASSING)


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
    seen: dict[PurePosixPath, Path] = {}  # name: the archive that has it
    for archive in archives:
        try:
            with ZipFile(archive) as zipped:
                members = zipped.infolist()
        except (BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise ValueError(f"{archive}: {error}") from None
        for member in members:
            name = _checked(archive, member)
            if name in seen and not member.is_dir():
                raise ValueError(f"{archive}: {member.filename!r} is in {seen[name]}, too: which to take is not known")
            seen[name] = archive
        size += sum(member.file_size for member in members)
    _check_room({folder: 2 * size})  # the WAVs, and the FLACs made of them
    for archive in archives:
        with ZipFile(archive) as zipped:
            for member in zipped.infolist():
                _extract(zipped, member, folder)


def _checked(archive: Path, member: ZipInfo) -> PurePosixPath:
    """Where a member will lie. Raises ValueError for one that must not or cannot be unpacked."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.filename:
        raise ValueError(f"{archive}: {member.filename!r} would be written outside the target folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{archive}: {member.filename!r} is a link")
    if member.flag_bits & ENCRYPTED:
        raise ValueError(f"{archive}: {member.filename!r} is encrypted")
    if member.compress_type not in COMPRESSIONS:
        raise ValueError(f"{archive}: {member.filename!r} is compressed by method {member.compress_type}, unknown here")
    return path


def _extract(zipped: ZipFile, member: ZipInfo, folder: Path) -> None:
    try:
        zipped.extract(member, folder)
    except (BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, LZMAError) as error:
        raise ValueError(f"{zipped.filename}: {member.filename!r} is damaged: {error}") from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # of the disk; these two are of the archive
            raise
        raise ValueError(f"{zipped.filename}: {member.filename!r} is damaged: {error}") from None
