"""The sound files in a folder, at any depth, and what is left out of it and why."""

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from audio.clips import AUDIO_SUFFIXES
from audio.names import shown
from audio.recordings import Refusal


@dataclass
class Listing:
    """Paths relative to the folder that was listed, with '/' between their parts."""

    sounds: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  # files that are no sound files by their names
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_files(folder: Path) -> Listing:
    """All files below `folder` but hidden ones. Folders that are links are followed, each folder is looked at once.

    Refused are folders and sound files that may not be read, and sound files that are no regular files (a pipe would be
    waited for without end).
    """
    listing = Listing()
    seen: dict[tuple[int, int], str] = {}
    waiting = deque([""])
    while waiting:
        place = waiting.popleft()
        try:
            status = (folder / place).stat()
            first = seen.setdefault((status.st_dev, status.st_ino), place or ".")
            if first != (place or "."):
                listing.notes.append(f"{place} is the same folder as {first}, through a link: looked at once")
                continue
            with os.scandir(folder / place) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            listing.refusals.append(Refusal(f"{place or '.'}/", f"the folder cannot be read ({_reason(error)})"))
            continue
        for entry in inside:
            file = f"{place}/{entry.name}" if place else entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                waiting.append(file)
            elif Path(entry.name).suffix.lower() not in AUDIO_SUFFIXES:
                listing.others.append(file)
            elif refusal := refuse_file(folder, file):
                listing.refusals.append(refusal)
            else:
                listing.sounds.append(file)
    return listing


def refuse_file(folder: Path, file: str) -> Refusal | None:
    """Why the file cannot be opened as a recording, without opening it; None if it can."""
    path = folder / file
    try:
        if not path.is_file():
            if path.is_symlink() and not path.exists():
                return Refusal(file, "a link to a file that is not there")
            return Refusal(
                file, "no regular file (a folder, a pipe, a socket or a device)" if path.exists() else NO_FILE
            )
        if not os.access(path, os.R_OK):
            return Refusal(file, "may not be read (permission denied)")
    except OSError as error:
        return Refusal(file, f"cannot be read ({_reason(error)})")
    return None


def refuse_name(file: str) -> Refusal | None:
    """Why a file of this name cannot stand in a table of recordings; None if it can."""
    if any("\udc80" <= one <= "\udcff" for one in file):
        return Refusal(shown(file), "its name is not UTF-8: rename it")
    return None


NO_FILE = "no such file"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
