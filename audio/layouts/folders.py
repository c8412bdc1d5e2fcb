"""Recordings of machines in folders of any names: `<machine>/*`, `<type>/<machine>/{normal,anomaly}/*` and the like."""

import re
from collections import Counter
from dataclasses import dataclass

from audio.layouts.words import CONTAINERS, condition_of, conditions_in, split_of
from audio.names import display_name
from audio.recordings import Recording, Refusal

NO_TYPE = "machine"  # the type of machines that lie in no folder of a type


@dataclass(frozen=True)
class Place:
    """What the folders above a file say."""

    file: str
    machine: tuple[str, ...]  # folders that name the machine, outermost first
    split: str
    condition: str


def in_folders(files: list[str], root: str) -> list[Recording | Refusal]:
    """What the places of `files` say. `root` is the name of the folder that they are relative to.

    A machine is named by the folders above its condition (normal, anomaly, or one of their synonyms), or below it where
    there are none above; without a folder of a condition by the folders down to the first that holds recordings itself.
    The last of them is the machine's name, the one before, where there is one, its type. Where there are none the
    machine is `root`. A folder that says the split may stand anywhere. Without a folder of a condition, a word in the
    file's name tells it (`ok_001.wav`), and where there is none the recording is normal, if it is not of a test split.
    """
    places = _machines_of_plain_folders([_place(file) for file in files])
    depth = max((len(place.machine) for place in places), default=0)
    common = 0  # folders around all of them
    while depth - common > 2 and len({place.machine[: common + 1] for place in places}) == 1:
        common += 1
    named = any(place.machine for place in places)
    return [_recording(place, place.machine[common:], root, named) for place in places]


def _place(file: str) -> Place:
    split = condition = ""
    above: list[str] = []  # the folder of the condition
    below: list[str] = []
    for folder in file.split("/")[:-1]:
        if not split and split_of(folder):
            split = split_of(folder)
        elif not condition and condition_of(folder):
            condition = condition_of(folder)
        elif folder.casefold() not in CONTAINERS:
            (below if condition else above).append(folder)
    return Place(file, tuple(above or below), split, condition)


def _machines_of_plain_folders(places: list[Place]) -> list[Place]:
    """Places with the machine of those without a condition and a split cut where recordings begin to lie."""
    plain = {place.machine for place in places if not (place.split or place.condition)}
    return [
        place
        if place.split or place.condition
        else Place(place.file, _first_holder(place.machine, plain), place.split, place.condition)
        for place in places
    ]


def _first_holder(machine: tuple[str, ...], holders: set[tuple[str, ...]]) -> tuple[str, ...]:
    return next((machine[:end] for end in range(1, len(machine)) if machine[:end] in holders), machine)


def _recording(place: Place, machine: tuple[str, ...], root: str, named: bool) -> Recording | Refusal:
    stem = place.file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    if not machine and named:
        return Refusal(place.file, "lies beside the folders of machines, so that its machine is not known")
    if len(machine) > 2:
        return Refusal(place.file, f"lies deeper than <type>/<machine>: is {'/'.join(machine[:-2])} the corpus folder?")
    said = {place.condition} if place.condition else conditions_in(stem)
    if len(said) > 1:
        return Refusal(place.file, "its name says normal and anomaly")
    if not said and place.split == "test":
        return Refusal(place.file, "a test recording of which neither folder nor name says whether it is normal")
    condition = next(iter(said), "normal")
    *machine_type, machine_id = machine or (root,)
    of_type = machine_type or [root if machine and re.fullmatch(r"id_\d{2}", machine_id) else NO_TYPE]
    number = int(stem) if re.fullmatch(r"\d{8}", stem) else None
    return checked(Recording(place.file, of_type[0], machine_id, place.split, condition, number))


def checked(recording: Recording) -> Recording | Refusal:
    """The recording under the display names of its machine, or why it is not taken."""
    try:
        recording = recording.renamed(display_name(recording.machine_type), display_name(recording.machine_id))
    except ValueError as error:
        return Refusal(recording.file, str(error))
    if recording.condition == "anomaly" and recording.split == "train":
        return Refusal(recording.file, "an anomaly in the training split, which holds normal sounds alone")
    return recording


def deepest(files: list[str], count: int = 3) -> str:
    """The folders that hold most of `files`, to be read."""
    folders = Counter(file.rpartition("/")[0] or "." for file in files)
    return ", ".join(f"{folder} ({number})" for folder, number in folders.most_common(count))
