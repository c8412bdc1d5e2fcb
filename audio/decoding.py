"""Sound files of any format as blocks of samples: by libsndfile, and by FFmpeg's libraries (PyAV) where it knows none.

A file is recognised by what is in it, not by its name. Only regular files are opened, and no more than a block of a
file is in memory at once.
"""

import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile

from storage.shards import File

if TYPE_CHECKING:
    import av

BLOCK_SECONDS = 16  # read at once, so that an hour-long recording needs no more memory than a clip
BLOCK_SAMPLES = 2**20  # at most, over all channels
UNKNOWN_LENGTH = 0x7FFF_0000  # a length in a header from here on says that the recorder could not know it
UNKNOWN_FRAMES = 2**62
# What FFmpeg may take a file for. It knows playlists too, which would make it open other files and addresses.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,amr,aac,wav,caf,flac"
ESTIMATED = ("aac", "amr")  # their headers state no length, FFmpeg guesses it
PADDING = 4096  # samples, at most, that a codec puts before and behind the sound
PADDED = 30.0  # dB by which they lie below it
TOLERANCE = 0.5  # s between the length that a container states and what is in it: codecs pad
# libsndfile reads what there is of a truncated file without complaint, but notes it.
_SHOULD_BE = re.compile(r"(?:riff|riff size|form|data|data size|ssnd)\s*: (\d+) \(should be (\d+)\)", re.IGNORECASE)


@dataclass
class Stream:
    """An open sound file: what its header says, and its samples."""

    sample_rate: int  # Hz
    channels: int
    seconds: float | None  # of sound, as the header states; None if it does not
    bits: int  # 16 if no sample has more, else 24
    blocks: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))  # float32, (samples, channels), full scale 1
    warnings: list[str] = field(default_factory=list)
    truncated: str = ""  # what says that the file is not whole; may be known only after the last block

    @property
    def block_length(self) -> int:
        """Samples per channel that are read at once."""
        return max(1, min(BLOCK_SECONDS * self.sample_rate, BLOCK_SAMPLES // self.channels))


class _File(FileIO):
    """A file as FFmpeg wants it: without a name to guess its format by; a seek beyond its ends is answered with -1."""

    def __init__(self, path: Path):
        super().__init__(path, "rb")
        self.name = ""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


@contextmanager
def decode(path: File) -> Iterator[Stream]:
    """Open a sound file. Raises ValueError, naming it, if it cannot be opened, or while its blocks are read.

    A truncated file has blocks as far as it goes. A WAV whose header states fewer samples than there are is read to
    the end of the file.
    """
    with ExitStack() as stack:
        file = stack.enter_context(_regular_file(path) if isinstance(path, Path) else path.open("rb"))
        size = file.seek(0, 2)
        if not size:
            raise ValueError(f"{path}: the file is empty")
        file.seek(0)
        seconds = _seconds_beyond_header(file, size)
        file.seek(0)
        if seconds is not None:
            stream = _by_ffmpeg(stack, path, file, size, {"ignore_length": "1"})
            stream.seconds = seconds
            stream.warnings.append("the header states a wrong length: read to the end of the file")
        else:
            stream = _by_either(stack, path, file, size)
        yield stream


def _by_either(stack: ExitStack, path: File, file: BinaryIO, size: int) -> Stream:
    try:
        sound = stack.enter_context(
            soundfile.SoundFile(file.fileno() if isinstance(file, _File) else file, closefd=False)
        )
    except soundfile.LibsndfileError as error:
        return _by_ffmpeg(stack, path, file, size, {}, _reason(error))
    if sound.frames < UNKNOWN_FRAMES:
        return _by_libsndfile(path, file, size, sound)
    stream = _by_ffmpeg(stack, path, file, size, {})  # a FLAC that was streamed; libsndfile fails at its end
    stream.warnings.append("the header states no length: read to the end of the file")
    return stream


def _regular_file(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return _File(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except PermissionError:
        raise ValueError(f"{path}: may not be read (permission denied)") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
    raise ValueError(f"{path}: {what}, not a file of sound")


def _seconds_beyond_header(file: BinaryIO, size: int) -> float | None:
    """Length (s) of a WAV that goes on, for a second at least, where its header says that it ends; else None.

    A recorder that is switched off leaves a length of 0, or of what it had written when it last looked.
    """
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return None
    bytes_per_second, long_length = 1, 0
    while len(chunk := file.read(8)) == 8:
        name, length, start = chunk[:4], int.from_bytes(chunk[4:], "little"), file.tell()
        if name == b"fmt ":
            bytes_per_second = max(1, int.from_bytes(file.read(12)[8:], "little"))
        elif name == b"ds64":
            long_length = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data":
            end = start + (long_length if head[:4] == b"RF64" and length == 0xFFFF_FFFF else length)
            if size - end < bytes_per_second:
                return None
            file.seek(end)
            after = file.read(9)  # chunks begin at even places, which not every writer keeps to
            if _is_chunk(after[:8], size - end) or _is_chunk(after[1:], size - end):
                return None
            return (size - start) / bytes_per_second
        file.seek(start + length + length % 2)
    return None


def _is_chunk(header: bytes, room: int) -> bool:
    return bool(re.fullmatch(rb"[ -~]{4}", header[:4])) and int.from_bytes(header[4:], "little") <= room


# ------------------------------------------------------------------------------------------------------ libsndfile


def _by_libsndfile(path: File, file: BinaryIO, size: int, sound: soundfile.SoundFile) -> Stream:
    bits = 16 if sound.subtype in ("PCM_16", "PCM_S8", "PCM_U8") else 24
    stream = Stream(sound.samplerate, sound.channels, sound.frames / sound.samplerate, bits)
    for there, whole in ((int(found[2]), int(found[1])) for found in _SHOULD_BE.finditer(sound.extra_info)):
        if whole >= UNKNOWN_LENGTH:
            stream.warnings = ["the header states no length: read to the end of the file"]
        elif there < whole:
            stream.truncated = f"{there} of {whole} bytes are there"
    if sound.format == "OGG" and not _ogg_ends(path):
        stream.truncated = "its last page is missing"
    stream.blocks = _blocks_of_libsndfile(path, file, size, sound, stream)
    return stream


def _blocks_of_libsndfile(
    path: File, file: BinaryIO, size: int, sound: soundfile.SoundFile, stream: Stream
) -> Iterator[np.ndarray]:
    read, broken = 0, False
    while not broken:
        block = np.empty((stream.block_length, stream.channels), np.float32)
        try:
            block = sound.read(out=block)
        except soundfile.LibsndfileError as error:
            if file.tell() < size:
                raise ValueError(f"{path}: cannot be decoded ({_reason(error)}) after {_at(read, stream)}") from None
            block, broken = block[: max(0, sound.tell() - read)], True
        if not len(block):
            break
        read += len(block)
        yield block
    if broken or read < sound.frames:
        stream.truncated = stream.truncated or f"it breaks off after {_at(read, stream)}"


def _ogg_ends(path: File) -> bool:
    """Whether the last page in an Ogg file is marked as the last of the stream."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 2**17))  # a page is shorter than that
        _, _, page = file.read().rpartition(b"OggS")
    return len(page) > 1 and bool(page[1] & 4)


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".") or "damaged"


def _at(read: int, stream: Stream) -> str:
    return f"{read / stream.sample_rate:.4g} s"


# ---------------------------------------------------------------------------------------------------------- FFmpeg


def _by_ffmpeg(
    stack: ExitStack, path: File, file: BinaryIO, size: int, options: dict[str, str], reason: str = ""
) -> Stream:
    try:
        import av  # which takes long, and is not there where only judging is installed
    except ModuleNotFoundError:
        raise ValueError(f"{path}: cannot be decoded ({reason or 'by libsndfile'}; av is not installed)") from None
    file.seek(0)
    options = options | {"format_whitelist": CONTAINERS}
    try:
        container = stack.enter_context(av.open(file, "r", options=options, metadata_errors="ignore"))
        if len(container.streams) and not container.streams.audio:
            raise ValueError(f"{path}: has no sound in it")
        track = container.streams.audio[0]
        sample_rate, channels, depth = track.rate, track.channels, track.format.name
    except (av.FFmpegError, IndexError, AttributeError) as error:  # a track of an unknown codec has no attributes
        if path.suffix.lower() == ".raw":
            raise ValueError(f"{path}: a .raw file does not say its sample rate: WAV or FLAC is needed") from None
        raise ValueError(f"{path}: cannot be decoded ({reason or _ffmpeg_reason(error)})") from None
    if not sample_rate or not channels:
        raise ValueError(f"{path}: cannot be decoded (its header is damaged)")
    seconds = None if container.duration is None else container.duration / av.time_base
    if track.duration is not None and track.time_base is not None:
        seconds = float(track.duration * track.time_base)
    stream = Stream(sample_rate, channels, seconds, 16 if depth.rstrip("p") in ("s16", "u8") else 24)
    stream.blocks = _blocks_of_ffmpeg(path, file, size, container, track, stream)
    if track.codec_context.codec.lossy:
        stream.blocks = _without_padding(stream.blocks)
    return stream


def _blocks_of_ffmpeg(
    path: File,
    file: BinaryIO,
    size: int,
    container: "av.container.InputContainer",
    track: "av.AudioStream",
    stream: Stream,
) -> Iterator[np.ndarray]:
    import av

    to_float = av.AudioResampler(format="fltp", layout=track.layout, rate=stream.sample_rate)
    parts: list[np.ndarray] = []  # each (channels, samples)
    waiting, read, broken = 0, 0, False
    try:
        for frame in container.decode(track):
            for part in to_float.resample(frame):
                parts.append(part.to_ndarray())
                waiting += parts[-1].shape[1]
            if waiting >= stream.block_length:
                yield np.concatenate(parts, axis=1).T
                read, waiting, parts = read + waiting, 0, []
    except (av.FFmpegError, ValueError) as error:  # ValueError: the format changes on the way
        if file.tell() < size:
            raise ValueError(
                f"{path}: cannot be decoded ({_ffmpeg_reason(error)}) after {_at(read + waiting, stream)}"
            ) from None
        broken = True
    if parts:
        yield np.concatenate(parts, axis=1).T
        read += waiting
    stated = 0 if stream.seconds is None or container.format.name in ESTIMATED else stream.seconds
    if broken or stated - read / stream.sample_rate > TOLERANCE:
        stream.truncated = f"it breaks off after {_at(read, stream)}"


def _without_padding(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """`blocks` without the near silence that a codec puts at both ends to fill its frames.

    Some containers do not say how much it is. A machine that falls silent for a tenth of a second sounds broken.
    """
    last = None
    for block in blocks:
        if last is None:
            last = block[_padding(block) :]
        elif len(block) < PADDING:
            last = np.concatenate([last, block])
        else:
            yield last
            last = block
    if last is not None:
        yield last[: len(last) - _padding(last[::-1])]


def _padding(block: np.ndarray, step: int = 64) -> int:
    """Number of samples at the beginning of a block (samples, channels) that are padding, in whole steps."""
    head = block[: min(PADDING, len(block) // step * step)]
    power = np.square(head).reshape(-1, step * block.shape[1]).mean(axis=1)
    loud = power > np.square(block).mean() * 10 ** (-PADDED / 10)
    return step * int(loud.argmax()) if loud.any() else 0


def _ffmpeg_reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or "damaged"
