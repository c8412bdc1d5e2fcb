"""The words that folders, file names and tables use for a condition or a split, in any case."""

import re

WORDS = {
    "normal": ("normal", "normals", "healthy", "ok", "good"),
    "anomaly": (
        "anomaly", "anomalies", "anomalous", "abnormal", "abnormals", "faulty", "fault", "faults", "bad", "nok", "ng",
        "defect", "defects", "defective", "broken",
    ),
}  # fmt: skip
SPLIT_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "source_test", "target_test", "test_rename"),
}
CONTAINERS = {"data", "dataset", "audio", "sound", "sounds", "recordings", "raw", "wav", "wavs", "flac", "clips"}
_CONDITION = {word: condition for condition, words in WORDS.items() for word in words}
_SPLIT = {word: split for split, words in SPLIT_WORDS.items() for word in words}


def condition_of(word: str) -> str:
    """normal or anomaly, or "" if the word says neither."""
    return _CONDITION.get(word.strip().casefold(), "")


def split_of(word: str) -> str:
    """train or test, or "" if the word says neither."""
    return _SPLIT.get(word.strip().casefold(), "")


def conditions_in(stem: str) -> set[str]:
    """The conditions that are said in a file name: the words between its blanks, points, hyphens and underscores.

    >>> conditions_in("Pump3_OK-0012"), conditions_in("pump3")
    ({'normal'}, set())
    """
    return {condition for word in re.split(r"[\W_]+", stem) if (condition := condition_of(word))}
