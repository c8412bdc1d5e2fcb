"""Which sound files lie in a folder."""

from collections.abc import Iterator
from pathlib import Path

from audio.clips import AUDIO_SUFFIXES


def recordings(folder: Path) -> Iterator[Path]:
    """Sound files in `folder` and the folders in it, in order of their names; hidden ones are left out."""
    for path in files(folder):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            yield path


def files(folder: Path) -> Iterator[Path]:
    """All files in `folder` and the folders in it, in order of their names; hidden ones are left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path
