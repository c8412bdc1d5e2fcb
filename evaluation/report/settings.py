"""The params as the report shows them: with their meaning, the paper's value, and that of the full-size run."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

_OVERRIDE = re.compile(r"(?:^|\s)-S\s+'?([\w.]+)=([^'\s]+)'?")
_COMMENT = re.compile(r"^(\s*)([\w]+):(?:[^#\"]|\"[^\"]*\")*(?:#\s*(.*))?$")


def settings(params: object, keys: list[str], described: Path, full_size: Path) -> list[dict]:
    """A row per param of `keys` and the groups in it: key, value, meaning, paper (what it says), full, differs.

    `described` is params.yaml, whose comments say `meaning; paper: value`. `full_size` is the script of the full-size
    run: `differs` says that it sets the key to another value than this run, `full` is that value.
    """
    comments, overrides = _comments(described), full_size_overrides(full_size)
    rows = []
    for key, value in _flat({key: getattr(params, key) for key in keys}):
        meaning, _, paper = comments.get(key, "").partition("paper: ")
        full = overrides.get(key)
        # a value that the script finds out when it starts cannot be compared
        differs = key in overrides and not str(full).startswith("$") and full != _plain(value)
        rows.append(
            {
                "key": key,
                "value": _text(value),
                "meaning": meaning.rstrip("; "),
                "paper": paper,
                "full": _text(full) if key in overrides else "",
                "differs": differs,
            }
        )
    return rows


def full_size_overrides(script: Path) -> dict[str, Any]:
    """The `-S key=value` of a script of `dvc exp run` lines, as YAML values."""
    lines = script.read_text(encoding="utf-8").splitlines()
    found = _OVERRIDE.findall("\n".join(line for line in lines if not line.startswith("#")).replace('"', ""))
    return {key: _plain(_number(yaml.safe_load(value))) for key, value in found}


def _comments(path: Path) -> dict[str, str]:
    group, found = "", {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _COMMENT.match(line):
            indent, key, comment = match.groups()
            group = group if indent else key
            found[f"{group}.{key}" if indent else key] = comment or ""
    return found


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, BaseModel):
            rows += _flat(dict(value), f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "all"
    return f"{value:g}" if isinstance(value, float) else "–" if value == "" else str(value)
