"""Judging files: which machine a file is a recording of, and the verdict as a line, as JSON and as a row of a table."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from audio.clips import open_sound
from audio.manifest import ClipName
from detection.detector import Detector, Measured, Verdict
from detection.text import printable
from detection.watch import recordings

NOTED = ("machine_type", "machine_id", "backend", "score", "threshold", "p_value", "n", "alpha", "calibration")


@dataclass(frozen=True)
class Judgement:
    """What became of one file: a verdict, or why there is none."""

    file: str
    verdict: Verdict | None = None
    error: str = ""
    measured: Measured | None = None  # what the verdict comes from

    @property
    def name(self) -> str:
        """The file's name to be read: line breaks, and bytes that are no characters, are escaped."""
        return printable(self.file)

    def line(self) -> str:
        """The judgement in one readable line."""
        if self.verdict is None:
            return f"{self.name}: not judged: {printable(self.error)}"
        verdict = self.verdict
        return f"{self.name}: {verdict.sentence}{_times(verdict)}"

    def as_json(self) -> dict:
        """The judgement as an object: `file` with `error`, or with `verdict`, its figures and the windows (s)."""
        if self.verdict is None:
            return {"file": self.file, "error": self.error}
        return {
            "file": self.file,
            "verdict": self.verdict.word,
            "sentence": self.verdict.sentence,
            **asdict(self.verdict),
        }

    def row(self) -> dict:
        """The judgement as the columns of the watcher's table, see `detection.watch`."""
        row = {"judged": datetime.now().astimezone().isoformat(timespec="seconds"), "error": self.error}
        if self.verdict is not None:
            names = (
                "machine_type",
                "machine_id",
                "backend",
                "score",
                "threshold",
                "p_value",
                "n",
                "alpha",
                "calibration",
            )
            row |= {name: getattr(self.verdict, name) for name in names} | {"verdict": self.verdict.word}
            row["warnings"] = "; ".join(self.verdict.warnings)
            spans = (f"{one.start:.1f}-{one.end:.1f}" for one in self.verdict.windows if one.anomalous)
            row["anomalous_s"] = " ".join(spans)
        return row


@dataclass(frozen=True)
class Judge:
    """Judges files by one detector; what is not said of the machine is taken from each file's path.

    `machine_type` and `machine_id` may be None. A path tells the type by a folder that is called like it, the id by a
    DCASE base name (normal_id_00_00000003) or a folder called like it; where the detector knows only one, it is that.
    """

    detector: Detector
    machine_type: str | None = None
    machine_id: str | None = None
    backend: str | None = None
    channel: int = 0

    def __call__(self, path: Path, name: str | None = None) -> Judgement:
        """Judge the file at `path`; `name` is what it is called in the judgement. Never raises for a bad file."""
        name = name or str(path)
        try:
            if path.is_dir():
                raise ValueError("no WAV or FLAC file in this folder")
            if not path.exists():
                raise ValueError("no such file")
            machine = self.machine(path)
            identity = self.detector.identity(*machine)
            measured = self.detector.measure_file(path, identity, self.backend, self.channel)
            return Judgement(name, self.detector.judge(measured, identity, self.backend), measured=measured)
        except (ValueError, OSError) as error:
            return Judgement(name, error=str(error).removeprefix(f"{path}: "))

    def each_channel(self, path: Path, name: str | None = None) -> list[Judgement]:
        """A judgement for each channel of a recording, as of a sensor of its own; the name says which channel."""
        name = name or str(path)
        try:
            with open_sound(path) as sound:
                channels = sound.channels
        except (ValueError, OSError):
            channels = 1
        if channels == 1:
            return [replace(self, channel=0)(path, name)]
        return [replace(self, channel=each)(path, f"{name}, channel {each}") for each in range(channels)]

    def machine(self, path: Path) -> tuple[str, str]:
        """Type and id of the machine that `path` is a recording of. Raises ValueError when that cannot be told."""
        known = self.detector.machines
        machine_type = self.machine_type or _one_of(path, list(known))
        if machine_type is None:
            raise ValueError(f"which machine is it? Say --machine, one of: {', '.join(known)}")
        machine_id = self.machine_id
        if machine_id is None and machine_type in known:
            machine_id = _named_id(path) or _one_of(path, known[machine_type])
            if machine_id is None:
                raise ValueError(f"which {machine_type} is it? Say --id, one of: {', '.join(known[machine_type])}")
        machine_type, machine_id = self.detector.identity(machine_type, machine_id or "").split("/")
        return machine_type, machine_id


def _one_of(path: Path, names: list[str]) -> str | None:
    """The only name, or the one that the nearest folder of that kind has."""
    folders = (part for part in reversed(path.absolute().parts[:-1]) if part in names)
    return names[0] if len(names) == 1 else next(folders, None)


def _named_id(path: Path) -> str | None:
    try:
        return ClipName.parse(path.stem).machine_id
    except ValueError:
        return None


def machine_id(text: str) -> str:
    """A machine id as the corpus writes it: "0", "00" and "id_00" are id_00; anything else stays as it is."""
    return f"id_{int(text):02d}" if re.fullmatch(r"\d{1,2}", text) else text


def expand(paths: list[str]) -> Iterator[Path]:
    """The files that are meant by files and folders; a folder stands for all recordings in it, or itself if none is."""
    for path in map(Path, paths):
        yield from (path.is_dir() and list(recordings(path))) or [path]


def _times(verdict: Verdict) -> str:
    if len(verdict.windows) == 1:
        return ""
    spans = [f"{_clock(one.start)}-{_clock(one.end)}" for one in verdict.windows if one.anomalous]
    among = f"{len(spans)} of {len(verdict.windows)} windows above the threshold"
    return f"; {among}{': ' if spans else ''}{', '.join(spans)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"
