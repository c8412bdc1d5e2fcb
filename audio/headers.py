"""What the headers of many sound files say, and their beginnings, read by several threads."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from audio.clips import open_sound
from audio.decoding import decode

Found = TypeVar("Found")


class Header(NamedTuple):
    """What the header of a sound file says; all 0 and `error` where it cannot be read."""

    seconds: float = 0.0
    sample_rate: int = 0  # Hz
    channels: int = 0
    error: str = ""


def read_header(path: Path) -> Header:
    """The header of the sound file at `path`; its samples are counted where the header states no length."""
    try:
        with decode(path) as sound:
            seconds = sound.seconds
            if seconds is None:
                seconds = sum(map(len, sound.blocks)) / sound.sample_rate
            return Header(seconds, sound.sample_rate, sound.channels)
    except ValueError as error:
        return Header(error=str(error).removeprefix(f"{path}: "))


def read_headers(folder: Path, files: Iterable[str]) -> dict[str, Header]:
    """The headers of `files` in `folder`."""
    return _each(read_header, folder, files)


class Beginning(NamedTuple):
    """What is to be said of the first seconds of a recording: warnings, or the error that stops it from being read."""

    warnings: list[str]
    error: str = ""


def listen(folder: Path, files: Iterable[str], channel: int) -> dict[str, Beginning]:
    """The beginnings of `files` in `folder`, half a minute of each (two blocks), in one of their channels."""

    def beginning(path: Path) -> Beginning:
        try:
            with open_sound(path, channel) as sound:
                for _ in islice(sound.blocks(sound.sample_rate), 2):
                    pass
                return Beginning(sound.warnings)
        except ValueError as error:
            return Beginning([], str(error).removeprefix(f"{path}: "))

    return _each(beginning, folder, files)


def _each(read: Callable[[Path], Found], folder: Path, files: Iterable[str]) -> dict[str, Found]:
    files = list(files)
    with ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as threads:
        return dict(zip(files, threads.map(lambda file: read(folder / file), files), strict=True))
