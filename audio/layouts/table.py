"""A table of recordings, `clips.csv`: a row per file, for recordings of any names in any folders."""

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd

from audio.layouts.files import NO_FILE, refuse_file
from audio.layouts.folders import NO_TYPE, checked
from audio.layouts.words import SPLIT_WORDS, WORDS, condition_of, split_of
from audio.names import shown
from audio.recordings import Recording, Refusal

TABLE = "clips.csv"
SYNONYMS = {
    "file": ("file", "filename", "file_name", "path"),
    "machine_type": ("machine_type", "type"),
    "machine_id": ("machine_id", "id", "machine"),
    "condition": ("condition", "label", "class", "state"),
    "split": ("split",),
}
NEEDED = ("file", "machine_id")


def in_table(folder: Path) -> list[Recording | Refusal]:
    """The recordings that the folder's table lists, each by file, machine_type, machine_id, condition and split.

    Columns are named in upper or lower case and separated by commas, semicolons or tabs. `condition` (see
    `audio.layouts.words`; normal where there is no such column), `machine_type` and `split` may be left out. An id is
    shown as it is written; but where all ids of the table are numbers of one or two digits, or id_NN, they are shown as
    DCASE writes them: 0, 00 and id_00 are id_00.

    Raises ValueError naming the table for columns that are missing and where none of its files is there.
    """
    path = folder / TABLE
    table = _read(path)
    if table.empty:
        raise ValueError(f"{path} lists no recordings")
    given = table.groupby("machine_type")["split"].agg(lambda split: (split != "").mean())
    if mixed := sorted(given.index[(given > 0) & (given < 1)]):
        raise ValueError(
            f"{path}: {', '.join(mixed)}: split is given for some clips; give it for all of a type or none"
        )
    if table["machine_id"].str.fullmatch(r"(id_)?\d{1,2}").all():
        table["machine_id"] = "id_" + table["machine_id"].str.removeprefix("id_").str.zfill(2)
    seen = Counter()
    found = []
    for row in table.to_dict("records"):
        seen[row["file"]] += 1
        found.append(_row(folder, row, seen[row["file"]] > 1))
    missing = [one.file for one in found if isinstance(one, Refusal) and one.reason == NO_FILE]
    if len(missing) == len(found):
        raise ValueError(f"{path}: no such file: {', '.join(missing[:3])}; none of the {len(missing)} listed is there")
    return found


def _read(path: Path) -> pd.DataFrame:
    first_line = path.open(encoding="utf-8-sig").readline()
    separator = max(",;\t", key=first_line.count)
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    names = {name: name.strip().casefold() for name in table.columns}
    table = table.rename(
        columns={name: key for key, words in SYNONYMS.items() for name in names if names[name] in words}
    )
    if missing := [name for name in NEEDED if name not in table.columns]:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
    for name, otherwise in (("machine_type", NO_TYPE), ("condition", "normal"), ("split", "")):
        if name not in table.columns:
            table[name] = otherwise
    return table[list(SYNONYMS)].apply(lambda column: column.str.strip())


def _row(folder: Path, row: dict[str, str], twice: bool) -> Recording | Refusal:
    file = row["file"].replace("\\", "/")
    if twice:
        return Refusal(file, "listed twice")
    if re.match(r"/|[A-Za-z]:", file) or os.path.normpath(file).startswith(".."):
        return Refusal(file, "lies outside the corpus folder")
    condition, split = condition_of(row["condition"]), split_of(row["split"])
    if row["split"] and not split:
        return Refusal(file, f"split {shown(row['split'])!r} is not {' or '.join(SPLIT_WORDS)}")
    if not condition:
        allowed = "; ".join(f"{name}: {', '.join(words)}" for name, words in WORDS.items())
        return Refusal(file, f"condition {shown(row['condition'])!r} is none of {allowed}")
    recording = checked(Recording(file, row["machine_type"], row["machine_id"], split, condition))
    if isinstance(recording, Refusal):
        return recording
    # A table may write Unicode in another form than the disk, as files from a Mac do.
    forms = [file, unicodedata.normalize("NFC", file), unicodedata.normalize("NFD", file)]
    on_disk = next((form for form in forms if os.path.lexists(folder / form)), file)
    return refuse_file(folder, on_disk) or recording.at(on_disk)
