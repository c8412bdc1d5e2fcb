"""New healthy recordings and new machines, taken in without training.

A detector is never changed: what comes out is another one, with its own folder. The recordings are calibration from
then on. Since they shift what is known of their machine too, each is scored by a fit that did not see it
(cross-fitting), so that the promise about false alarms holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from audio.clips import digest, open_sound
from audio.recordings import piece_offsets
from detection import fitting, learned
from detection.description import Description, Entry, Machine, Recording, Recordings
from detection.detector import Detector
from detection.familiarity import Facts
from detection.fitting import Arrays
from detection.learned import clip_means, runs
from detection.names import BACKENDS

FEWEST = 2  # recordings: one alone cannot be scored by a fit that did not see it


@dataclass(frozen=True)
class Heard:
    """A recording as it is taken in."""

    file: str
    sha256: str  # of its samples
    representations: Arrays  # (W, d) by name, of its windows
    facts: Facts


def hear(detector: Detector, paths: Sequence[Path], channel: int = 0) -> list[Heard]:
    """The recordings in files. Raises ValueError with a line for every file that cannot be taken in, and its reason."""
    heard, wrong = [], []
    known = {row.sha256: row.file for row in detector.recordings.rows}
    for path in tqdm(paths, disable=None, unit="recording"):
        try:
            with open_sound(path, channel) as sound:
                pieces = list(sound.blocks(detector.front_end.sample_rate))
            sums = _digests(np.concatenate(pieces), detector.front_end.sample_rate)
            if twice := next((known[each] for each in sums if each in known), None):
                raise ValueError(f"is known already, as {twice}")
            known |= dict.fromkeys(sums, str(path))
            heard.append(Heard(str(path), sums[0], *detector.represented(pieces)))
        except (ValueError, OSError) as error:
            wrong.append(f"{path}: {str(error).removeprefix(f'{path}: ')}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return heard


def _digests(waveform: np.ndarray, sample_rate: int) -> list[str]:
    """Digests of the clips that training would have cut the recording into, and of the whole."""
    offsets = piece_offsets(len(waveform) / sample_rate)
    starts = [round(offset * sample_rate) for offset in offsets]
    pieces = [waveform[a:b] for a, b in zip(starts, [*starts[1:], len(waveform)], strict=True)]
    return list(dict.fromkeys([digest(waveform), *map(digest, pieces)]))


def calibrate(detector: Detector, identity: str, heard: Sequence[Heard], replace: bool) -> Detector:
    """The detector after fresh healthy recordings of a machine: they join its calibration, or replace it.

    To replace is for what has changed: after a service, with another microphone. What is known of the machine (its
    means and nearest neighbours) then comes from the new recordings alone; otherwise they are added to it.
    """
    number = detector.identities.index(identity)
    description = detector.description
    rows = detector.recordings.rows
    gone = np.array([replace and row.machine == number for row in rows], bool)
    training = sum(row.machine == number and row.role == "training" for row in rows)
    kept = 0 if replace else max(training, 1)
    arrays = detector.arrays()
    return _taken_in(
        detector, description, arrays, number, heard, kept, detector.recordings.chosen(~gone), "calibrated"
    )


def enrol(detector: Detector, machine_type: str, machine_id: str, heard: Sequence[Heard]) -> Detector:
    """The detector that also knows a machine which the networks never heard.

    It shares the covariance of its type, or of all machines where the type is new. -log p does not exist for it.
    """
    name = f"{machine_type}/{machine_id}"
    if name in detector.identities:
        raise ValueError(f"machine {machine_type} {machine_id} is known already: calibrate takes in recordings of it")
    machine = Machine(type=machine_type, id=machine_id, trained=False)
    types = [known.type for known in detector.description.machines]
    neighbour = types.index(machine_type) if machine_type in types else None
    machines = [*detector.description.machines, machine]
    description = detector.description.model_copy(update={"machines": machines})
    arrays = _with_machine(detector.arrays(), neighbour)
    return _taken_in(detector, description, arrays, len(types), heard, 0, detector.recordings, "enrolled")


def _with_machine(arrays: Arrays, neighbour: int | None) -> Arrays:
    """The arrays of an ensemble with one more machine, of which nothing is known yet."""
    grown: Arrays = {}
    for name, own in learned.backend_arrays(arrays).items():
        grown |= _named(name, fitting.with_machine(own, neighbour))
    for key in arrays.keys() - grown.keys():
        if key.startswith("mean_"):
            grown[key] = np.append(arrays[key], np.float32(np.nan))
        elif key.startswith("std_"):
            std = arrays[key][neighbour] if neighbour is not None else np.nanmean(arrays[key])
            grown[key] = np.append(arrays[key], std).astype(np.float32)
    return grown


def _with_recordings(arrays: Arrays, machine: int, heard: Sequence[Heard], kept: float) -> Arrays:
    """The arrays of an ensemble after recordings of a machine were taken in."""
    arrays = dict(arrays)
    for name, own in learned.backend_arrays(arrays).items() if heard else ():
        x = np.concatenate([each.representations[BACKENDS[name]] for each in heard])
        arrays |= _named(name, fitting.with_recordings(own, machine, x, kept))
    return arrays


def _named(backend: str, own: Arrays) -> Arrays:
    """A back-end's arrays by the names that they have in the ensemble, see `detection.learned`."""
    return {f"backends.{backend}.{key}": array for key, array in own.items()}


def _taken_in(
    detector: Detector,
    description: Description,
    arrays: Arrays,
    machine: int,
    heard: Sequence[Heard],
    kept: float,
    others: Recordings,
    what: Literal["calibrated", "enrolled"],
) -> Detector:
    if len(heard) < FEWEST and not kept:
        raise ValueError(f"{len(heard)} recording, at least {FEWEST} are needed")
    final = _with_recordings(arrays, machine, heard, kept)
    scores: dict[str, np.ndarray] = {}
    folds = runs(len(heard))
    for fold in np.unique(folds):
        rest = [each for each, number in zip(heard, folds, strict=True) if number != fold]
        out = [each for each, number in zip(heard, folds, strict=True) if number == fold]
        of_rest = _standardised(_with_recordings(arrays, machine, rest, kept), machine, {})
        for name, of_clips in _scores(detector, of_rest, out, machine).items():
            scores.setdefault(name, np.empty(len(heard)))[folds == fold] = of_clips
    final = _standardised(final, machine, scores)
    # the combinations anew, from the parts' cross-fitted scores and the standards that they are judged by
    scores |= learned.combine(final, scores, machine)
    final = _standardised(final, machine, scores)
    rows = [Recording(machine=machine, role="calibration", file=each.file, sha256=each.sha256) for each in heard]
    spectra = np.stack([each.facts.spectrum for each in heard]).astype(np.float32)
    new = Recordings(rows, scores, spectra, np.array([each.facts.frames for each in heard]))
    entry = Entry(
        when=datetime.now().astimezone().isoformat(timespec="seconds"),
        what=what,
        machine=f"{description.machines[machine].type}/{description.machines[machine].id}",
        recordings={each.file: each.sha256 for each in heard},
    )
    description = description.model_copy(update={"journal": [*description.journal, entry]})
    return detector.changed(description, final, others.joined(new))


def _standardised(arrays: Arrays, machine: int, scores: dict[str, np.ndarray]) -> Arrays:
    """The arrays with the mean that a machine's z-scores refer to taken from `scores`, or 0 where none is known."""
    arrays = dict(arrays)
    for key in arrays:
        if key.startswith("mean_"):
            found = scores.get(key.removeprefix("mean_"))
            arrays[key] = arrays[key].copy()
            if found is not None and np.isfinite(found).any():
                arrays[key][machine] = np.nanmean(found)
            elif np.isnan(arrays[key][machine]):
                arrays[key][machine] = 0.0
    return arrays


def _scores(detector: Detector, arrays: Arrays, heard: Sequence[Heard], machine: int) -> dict[str, np.ndarray]:
    """Scores (n,) of recordings under every single back-end that has learned `arrays`, as ones of `machine`."""
    counts = [len(next(iter(each.representations.values()))) for each in heard]
    clips = np.repeat(np.arange(len(heard)), counts)
    x = {name: np.concatenate([each.representations[name] for each in heard]) for name in heard[0].representations}
    found = detector.scored(arrays, x)
    return {name: clip_means(of_all[:, machine], clips) for name, of_all in found.items() if name in BACKENDS}
