"""Watching a folder: every new recording is judged once, when it is completely written, and noted in a table.

The table is the only memory. A recording is known by its path below the folder, its size and its time of change, so
that a restart neither judges one twice nor misses one, and a file that is written again is judged again. The table gets
its row when all sinks have the verdict, so that a monitor which is killed at any time loses none. The folder is looked
at every few seconds, which works on network shares too.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audio.clips import AUDIO_SUFFIXES
from audio.folders import files
from detection.sinks.interface import Outage, Sinks, note
from detection.sinks.table import Seen, Table, one_line

if TYPE_CHECKING:
    from detection.judging import Judgement

EVERY, SETTLE = 2.0, 3.0  # s: how often the folder is looked at, and how long a complete file has been left alone
PATIENCE = 60.0  # s that a file is left alone which is shorter than its header says: the rest may still come

log = logging.getLogger(__name__)


def _state(path: Path, folder: Path) -> Seen | None:
    """What a file looks like now; None when it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Seen(one_line(path.relative_to(folder).as_posix()), status.st_size, status.st_mtime_ns)


class _Folder:
    """The folder as it looks now, and what has been said of it."""

    def __init__(self, path: Path):
        self.path = path
        self._outage = Outage(str(path))
        self._passed_over = {".csv", ".jsonl", *AUDIO_SUFFIXES}  # suffixes of which nothing is to be said (any more)

    def recordings(self) -> dict[Seen, Path]:
        """The recordings in it by what they look like; none while the folder cannot be read, which is said once."""
        try:
            if not self.path.is_dir():
                raise FileNotFoundError("no such folder (any more); it is waited for")
            found = list(files(self.path))
        except OSError as error:
            self._outage.begin(error)
            return {}
        self._outage.end()
        for path in found:
            if (suffix := path.suffix.lower()) not in self._passed_over:
                self._passed_over.add(suffix)
                log.warning("%s is no recording that can be read, nor is any %s file", path, suffix or "such")
        sounds = (path for path in found if path.suffix.lower() in AUDIO_SUFFIXES)
        return {state: path for path in sounds if (state := _state(path, self.path))}


def watch(
    folder: Path,
    judge: Callable[[Path, str], "Sequence[Judgement]"],
    sinks: Sinks,
    stop: threading.Event,
    interval: float = EVERY,
    settle: float = SETTLE,
    patience: float = PATIENCE,
) -> None:
    """Judge every recording in `folder` that `sinks.record`, a `Table`, does not know, until `stop` is set.

    `judge` gets a path and the name it has below the folder, and returns a judgement for each channel that is judged;
    it raises nothing. A file counts as completely written once its size and time have stayed the same for `settle`
    seconds, for `patience` if it is truncated. The folder is looked at every `interval` seconds; while it is gone, it
    is waited for.
    """
    if not isinstance(sinks.record, Table):
        raise TypeError("a watcher needs a record to know what it has judged")
    known = sinks.record.seen()
    looked_at = _Folder(folder)
    waiting: dict[Seen, float] = {}  # since when a file has looked as it does (s)
    truncated: set[Seen] = set()  # what waits for `patience`
    while not stop.is_set():
        now = time.monotonic()
        found = {state: path for state, path in looked_at.recordings().items() if state not in known}
        waiting = {state: waiting.get(state, now) for state in found}
        truncated &= waiting.keys()
        for state, path in found.items():
            if stop.is_set():
                return
            if now - waiting[state] < (patience if state in truncated else settle):
                continue
            judgements = judge(path, state.file)
            if _state(path, folder) != state:
                continue  # it was written to meanwhile: again when it has settled
            if any(map(_is_truncated, judgements)) and now - waiting[state] < patience:
                truncated.add(state)
                continue
            _hand_over(judgements, state, sinks)
            known.add(state)
        sinks.flush()
        stop.wait(interval)


def _is_truncated(judgement: "Judgement") -> bool:
    warnings = judgement.verdict.warnings if judgement.verdict else ()
    return any("truncated" in text for text in (judgement.error, *warnings))


def _hand_over(judgements: "Sequence[Judgement]", state: Seen, sinks: Sinks) -> None:
    several = len(judgements) > 1
    for channel, judgement in enumerate(judgements):
        known_by, which = " ".join(map(str, state)), channel if several else None
        sinks.put(note(judgement, which, known_by, **state._asdict(), channels=len(judgements)))
