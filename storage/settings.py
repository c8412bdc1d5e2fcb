"""Settings that people write into files: groups that take no unknown key, and what is wrong with them, in one line."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """Settings that belong together. A key that the group does not have is a mistake; none can be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def ascending(pair: tuple) -> tuple:
    """`pair` itself. Raises ValueError when its first value is above the second."""
    if pair[0] > pair[1]:
        raise ValueError("the first value must not be above the second")
    return pair


def dotted(place: Sequence[str | int]) -> str:
    """A place in a file as its readers call it.

    >>> dotted(("pretrain", "mask_ratio", 1))
    'pretrain.mask_ratio[1]'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def mistake(path: Path, key: str, error: Any, known: str, secret: bool = False) -> str:
    """What is wrong in the file at `path`: the key, its value, and what is allowed, in one line.

    `error` is one of those that pydantic's ValidationError lists, `key` the name of its place, empty for the whole
    file. `known` is what the keys of this file are: "a parameter". A value that may be `secret` is not shown.
    """
    if error["type"] == "missing":
        return f"{path}: {key} is missing"
    if error["type"] == "extra_forbidden":
        return f"{path}: {key} is not {known}"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict):  # a rule between several keys, whose message names them
        return f"{path}: {key}: {message}" if key else f"{path}: {message}"
    value = "" if secret else f" is {reprlib.repr(error['input'])}"
    return f"{path}: {key}{value}: {message[0].lower()}{message[1:]}"
