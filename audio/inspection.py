"""What a corpus would become, told from names, headers and the beginnings of some recordings.

For `python -m stages.download --check`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from audio.clips import RATES, SHORTEST_SECONDS
from audio.headers import Header, listen
from audio.importing import Plan, refusals_text
from audio.recordings import Recording, Refusal, piece_offsets
from audio.splitting import check_corpus, check_enough

# Calibration recordings that a false-alarm rate needs: one more, divided by it, must be whole or more.
FALSE_ALARMS = {0.1: 9, 0.05: 19, 0.01: 99}
FEW_ANOMALIES = 10  # below which an AUC says little
LISTENED = 100  # recordings, at most, whose first seconds are listened to


class Clip(NamedTuple):
    """A clip that would be made."""

    machine_type: str
    machine_id: str
    split: str
    condition: str
    seconds: float


@dataclass
class Inspection:
    """What was found in a corpus. `error` is what would stop an import, "" if nothing would."""

    where: Path
    clips: list[Clip]
    recordings: int
    rates: Counter = field(default_factory=Counter)  # files per sample rate (Hz)
    channels: Counter = field(default_factory=Counter)  # files per number of channels
    domains: Counter = field(default_factory=Counter)  # files per domain, where the layout tells domains
    listened: int = 0  # recordings whose first seconds were listened to
    warnings: list[Refusal] = field(default_factory=list)  # of these, what is to be known of recordings that are taken
    notes: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    error: str = ""

    def text(self) -> str:
        """All of it, to be read."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        machines = {clip[:2] for clip in self.clips}
        types = {clip.machine_type for clip in self.clips}
        hours = sum(clip.seconds for clip in self.clips) / 3600
        yield (
            f"{self.where}: {_count(len(types), 'machine type')}, {_count(len(machines), 'machine')}, "
            f"{_count(self.recordings, 'recording')}, {hours:.2f} h, {_count(len(self.clips), 'clip')}"
        )
        if self.rates:
            yield f"sample rates: {_counted(self.rates, 'Hz')}; channels: {_counted(self.channels)}"
        if self.domains:
            yield f"domains: {_counted(self.domains)}"
        yield ""
        yield _table(self.clips).to_string(index=False)
        for title, lines in (("assumed, and left out", self.notes), ("too little for", list(_too_little(self.clips)))):
            if lines:
                yield f"\n{title}:"
                yield from (f"  {line}" for line in lines)
        if self.warnings:
            yield f"\nread with a warning, {len(self.warnings)} of the {self.listened} that were listened to:"
            yield refusals_text(self.warnings)
        if self.refusals:
            yield f"\nfaults, {len(self.refusals)} (corpus.on_bad_clip: skip leaves them out):"
            yield refusals_text(self.refusals)
        heard = f"the first seconds of {_count(self.listened, 'recording')}" if self.listened else "no samples"
        yield f"\n{self.error or 'it can be trained on'}; {heard} were read, the run checks all"


def inspect_plan(plan: Plan, folder: Path, channel: int, on_bad_clip: str) -> Inspection:
    """What would be imported of `folder`; `channel`, from 0, and `on_bad_clip`, error or skip, as in the import."""
    reasons = {one.file: _fault(plan.headers[one.file], channel) for one in plan.recordings}
    readable = [file for file, reason in reasons.items() if not reason]
    beginnings = listen(folder, readable[:: max(1, math.ceil(len(readable) / LISTENED))], channel)
    reasons |= {file: one.error for file, one in beginnings.items()}
    clips, refusals = [], list(plan.refusals)
    for one in plan.recordings:
        if reason := reasons[one.file]:
            refusals.append(Refusal(one.file, reason))
        else:
            clips += _clips_of(plan, one, plan.headers[one.file])
    heard = [header for header in plan.headers.values() if not header.error]
    found = Inspection(
        folder,
        clips,
        len(plan.recordings),
        Counter(header.sample_rate for header in heard),
        Counter(header.channels for header in heard),
        Counter(one.domain for one in plan.recordings if one.domain),
        len(beginnings),
        [Refusal(file, "; ".join(one.warnings)) for file, one in beginnings.items() if one.warnings],
        plan.notes,
        refusals,
    )
    found.error = _error(clips, folder)
    if refusals and on_bad_clip == "error" and not found.error:
        found.error = "the faults stop the run"
    return found


def inspect_clips(where: Path, clips: list[Clip]) -> Inspection:
    """What a description of simulated machines would give."""
    return Inspection(where, clips, len(clips), error=_error(clips, where))


def _error(clips: Iterable[Clip], where: Path) -> str:
    try:
        check_corpus((clip[:4] for clip in clips), where)
        check_enough((clip[:4] for clip in clips), where)
    except ValueError as error:
        return str(error)
    return ""


def _fault(header: Header, channel: int) -> str:
    if header.error:
        return header.error
    if header.seconds < SHORTEST_SECONDS:
        return f"{header.seconds:.3g} s, shorter than {SHORTEST_SECONDS} s"
    if channel >= header.channels:
        return f"no channel {channel}, it has {header.channels} (counted from 0)"
    if not RATES[0] <= header.sample_rate <= RATES[1]:
        return f"sample rate of {header.sample_rate} Hz, allowed are {RATES[0]} to {RATES[1]}"
    return ""


def _clips_of(plan: Plan, one: Recording, header: Header) -> list[Clip]:
    offsets = piece_offsets(header.seconds)
    ends = [*offsets[1:], header.seconds]
    return [
        Clip(one.machine_type, one.machine_id, plan.division.of(one.file, start), one.condition, end - start)
        for start, end in zip(offsets, ends, strict=True)
    ]


def _counted(values: Counter, unit: str = "") -> str:
    named = (
        f"{value} {unit}".strip() + f" ({_count(count, 'file')})" * (len(values) > 1)
        for value, count in values.most_common()
    )
    return ", ".join(named)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _table(clips: list[Clip]) -> pd.DataFrame:
    """A row per machine: hours, and its clips by split."""
    rows: dict[tuple[str, str], Counter] = defaultdict(Counter)
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for clip in clips:
        rows[clip[:2]][f"{clip.split} {clip.condition}"] += 1
        seconds[clip[:2]] += clip.seconds
    columns = {
        "train normal": "train",
        "calibration normal": "calibration",
        "test normal": "test healthy",
        "test anomaly": "test faulty",
    }
    return pd.DataFrame(
        {"type": machine[0], "machine": machine[1], "hours": f"{seconds[machine] / 3600:.2f}"}
        | {title: counts[name] for name, title in columns.items()}
        for machine, counts in sorted(rows.items())
    )


def _too_little(clips: list[Clip]) -> Iterator[str]:
    """What cannot be done or said for want of clips, a line each."""
    counts = Counter((clip[:2], clip.split, clip.condition) for clip in clips)
    machines = sorted({clip[:2] for clip in clips})

    def few(split: str, condition: str, least: int) -> list[tuple[str, str]]:
        return [machine for machine in machines if counts[machine, split, condition] < least]

    if len(machines) == 1:
        yield "fine-tuning and -log p, which need two machines: other back-ends decide"
    for rate, least in FALSE_ALARMS.items():
        if without := few("calibration", "normal", least):
            yield (
                f"a false-alarm rate of {rate:g} promised by a machine's own calibration clips, which takes {least}: "
                f"{_machines(without, machines)}"
            )
    if without := few("test", "normal", 1):
        yield f"a measured false-alarm rate, which needs healthy test clips: {_machines(without, machines)}"
    if without := few("test", "anomaly", 1):
        yield f"AUC, and the share of faults that is found, which need anomalies: {_machines(without, machines)}"
    if without := [one for one in few("test", "anomaly", FEW_ANOMALIES) if counts[one, "test", "anomaly"]]:
        yield f"a trusty AUC, which needs {FEW_ANOMALIES} anomalies at the least: {_machines(without, machines)}"


def _machines(some: list[tuple[str, str]], machines: list[tuple[str, str]], most: int = 4) -> str:
    if len(some) == len(machines) > 1:
        return "all machines"
    names = ", ".join(" ".join(one) for one in some[:most])
    return names + f" and {len(some) - most} more" * (len(some) > most)
