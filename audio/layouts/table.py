"""A table of recordings, `clips.csv`: a row per file, for recordings of any names in any folders."""

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

from audio.layouts.files import NO_FILE, refuse_file, refuse_name
from audio.layouts.folders import NO_TYPE, checked
from audio.layouts.words import SPLIT_WORDS, WORDS, condition_of, split_of
from audio.names import shown
from audio.recordings import Recording, Refusal
from storage.tables import Row, read_table

TABLE = "clips.csv"
SYNONYMS = {
    "file": ("filename", "file_name", "path"),
    "machine_id": ("id", "machine"),
    "machine_type": ("type", "machine"),
    "condition": ("label", "class", "state"),
}
NEEDED = ("file", "machine_id")
OTHERWISE = {"machine_type": NO_TYPE, "condition": "normal", "split": ""}  # for a table without the column


def in_table(folder: Path) -> list[Recording | Refusal]:
    """The recordings that the folder's table lists, each by file, machine_type, machine_id, condition and split.

    Columns are named in upper or lower case and separated by commas, semicolons or tabs. `condition` (see
    `audio.layouts.words`; normal where there is no such column), `machine_type` and `split` may be left out. An id is
    shown as it is written; but where all ids of the table are numbers of one or two digits, or id_NN, they are shown as
    DCASE writes them: 0, 00 and id_00 are id_00.

    Raises ValueError naming the table for columns that are missing and where none of its files is there.
    """
    path = folder / TABLE
    rows = read_table(path, NEEDED, OTHERWISE, SYNONYMS)
    splits = defaultdict(set)
    for row in rows:
        splits[row["machine_type"]].add(row["split"] != "")
        if len(splits[row["machine_type"]]) > 1:
            what = f"given for some clips of {shown(row['machine_type'])!r}, not for others"
            raise row.wrong("split", what, "give it for all clips of a type or for none")
    dcase = all(re.fullmatch(r"(id_)?[0-9]{1,2}", row["machine_id"]) for row in rows)
    seen: set[str] = set()
    found = []
    for row in rows:
        machine_id = f"id_{row['machine_id'].removeprefix('id_').zfill(2)}" if dcase else row["machine_id"]
        found.append(_recording(folder, row, machine_id, row["file"] in seen))
        seen.add(row["file"])
    missing = [one.file for one in found if isinstance(one, Refusal) and one.reason == NO_FILE]
    if len(missing) == len(found):
        raise ValueError(f"{path}: no such file: {', '.join(missing[:3])}; none of the {len(missing)} listed is there")
    return found


def _recording(folder: Path, row: Row, machine_id: str, twice: bool) -> Recording | Refusal:
    file = row["file"].replace("\\", "/")
    condition, split = condition_of(row["condition"]), split_of(row["split"])
    wrong = None
    if twice:
        wrong = row.wrong("file", "listed twice", "each file is allowed once")
    elif re.match(r"/|[A-Za-z]:", file) or os.path.normpath(file).startswith(".."):
        wrong = row.wrong("file", "lies outside the corpus folder", "paths in it are allowed")
    elif row["split"] and not split:
        wrong = row.wrong("split", repr(shown(row["split"])), f"allowed are {', '.join(SPLIT_WORDS)}")
    elif not condition:
        words = "; ".join(f"for {name}: {', '.join(words)}" for name, words in WORDS.items())
        wrong = row.wrong("condition", repr(shown(row["condition"])), f"allowed are, {words}")
    if wrong:
        return Refusal(file, str(wrong))
    recording = checked(Recording(file, row["machine_type"], machine_id, split, condition))
    if isinstance(recording, Refusal):
        return recording
    # A table may write Unicode in another form than the disk, as files from a Mac do.
    forms = [file, unicodedata.normalize("NFC", file), unicodedata.normalize("NFD", file)]
    on_disk = next((form for form in forms if os.path.lexists(folder / form)), file)
    return refuse_name(on_disk) or refuse_file(folder, on_disk) or recording.at(on_disk)
