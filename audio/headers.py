"""What the headers of many sound files say, read by several threads."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from audio.decoding import decode


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
    files = list(files)
    with ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as threads:
        return dict(zip(files, threads.map(lambda file: read_header(folder / file), files), strict=True))
