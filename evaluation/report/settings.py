"""The params as the report shows them: with their meaning, the paper's value, and that of the full-size run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap


def settings(params: object, keys: list[str], described: Path, full_size: Path) -> list[dict]:
    """A row per param of `keys` and the groups in it: key, value, meaning, paper (what it says), full, differs.

    `described` is params.yaml, where the comment after a value says `meaning; paper: value`. `full_size` holds the
    overrides of the full-size run ({key: value}): `full` is its value of the key, `differs` says that this run has
    another one.
    """
    comments = _comments(YAML().load(described))
    overrides = YAML(typ="safe", pure=True).load(full_size)  # YAML 1.2, as DVC reads params: 1e-4 is a number
    rows = []
    for key, value in _flat({key: getattr(params, key) for key in keys}):
        meaning, _, paper = comments.get(key, "").partition("paper: ")
        full = overrides.get(key)
        rows.append(
            {
                "key": key,
                "value": _text(value),
                "meaning": meaning.rstrip("; "),
                "paper": paper,
                "full": _text(full) if key in overrides else "",
                "differs": key in overrides and full != (list(value) if isinstance(value, tuple) else value),
            }
        )
    return rows


def _comments(group: CommentedMap, prefix: str = "") -> dict[str, str]:
    """The comment that stands after each value: {"pretrain.epochs": "passes over the training normals"}."""
    found: dict[str, str] = {}
    for key, value in group.items():
        if isinstance(value, CommentedMap):
            found |= _comments(value, f"{prefix}{key}.")
        elif key in group.ca.items:
            after = group.ca.items[key][2].value  # with the comments and empty lines that follow it
            found[f"{prefix}{key}"] = after.splitlines()[0].removeprefix("#").strip()
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, BaseModel):
            rows += _flat(dict(value), f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "all"
    return f"{value:g}" if isinstance(value, float) else "–" if value == "" else str(value)
