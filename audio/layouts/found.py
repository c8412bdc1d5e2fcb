"""All that is found in a corpus folder: recordings of known machines, and what is left out and why."""

from dataclasses import dataclass
from pathlib import Path

from audio.clips import AUDIO_SUFFIXES
from audio.layouts.dcase import in_dcase, read_truth
from audio.layouts.files import list_files, refuse_name
from audio.layouts.folders import deepest, in_folders
from audio.layouts.table import TABLE, in_table
from audio.recordings import Recording, Refusal

EXAMPLE = "<machine>/normal/*.wav and, where there are any, <machine>/anomaly/*.wav"


@dataclass(frozen=True)
class Found:
    """What a corpus folder holds. `refusals` are files that would be recordings, `notes` what else is to be known."""

    recordings: list[Recording]
    refusals: list[Refusal]
    notes: list[str]


def find_recordings(folder: Path) -> Found:
    """The recordings in `folder` in any of the known layouts (docs/recordings.md). Opens no sound file.

    Raises ValueError naming the folder if it does not exist, or holds no recording whose machine can be told.
    """
    if not folder.is_dir():
        hint = "" if folder.is_absolute() else "; runs elsewhere (dvc exp run --temp or --queue) need its absolute path"
        raise ValueError(f"{folder} does not exist{hint}")
    listing = list_files(folder)
    unnamed = {file: refusal for file in listing.sounds if (refusal := refuse_name(file))}
    listing.sounds = [file for file in listing.sounds if file not in unnamed]
    listing.refusals += unnamed.values()
    notes = list(listing.notes)
    if (folder / TABLE).is_file():
        found = in_table(folder)
        listing.refusals.clear()  # of files that the table may not list; those that it lists it looks at itself
        if unlisted := len(set(listing.sounds) - {one.file for one in found}):
            notes.append(f"{unlisted} sound files are not in {TABLE} and are not taken")
    else:
        root = folder.absolute().name
        found, rest, more = in_dcase(listing.sounds, root, read_truth(folder, listing.others))
        found += in_folders(rest, root)
        notes += more
        if others := [file for file in listing.others if "ground_truth" not in file]:
            some = ", ".join(others[:3]) + ", …" * (len(others) > 3)
            notes.append(f"no sound files by their names: {len(others)}, {some}")
    recordings = [one for one in found if isinstance(one, Recording)]
    refusals = listing.refusals + [one for one in found if isinstance(one, Refusal)]
    if not recordings:
        raise ValueError(_nothing(folder, listing.sounds, listing.others, refusals))
    return Found(recordings, refusals, notes)


def _nothing(folder: Path, sounds: list[str], others: list[str], refusals: list[Refusal]) -> str:
    if not sounds and not refusals:
        what = f"; it has {deepest(others)}" if others else ""
        return f"{folder} holds no sound files ({' '.join(AUDIO_SUFFIXES)}){what}"
    first = refusals[0]
    hint = "" if (folder / TABLE).is_file() else f"; a layout that would fit: {EXAMPLE}"
    return (
        f"{folder} has sound files ({len(sounds)}), in {deepest(sounds)}, none that can be taken: "
        f"{first.file} {first.reason}{hint}"
    )
