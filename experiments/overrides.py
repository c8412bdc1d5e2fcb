"""Print a file of overrides as arguments of `dvc exp run`, a word to a line: -S, key=value, -S, key=value …

python -m experiments.overrides experiments/paper.yaml
"""

import sys
from pathlib import Path

from ruamel.yaml import YAML


def arguments(overrides: dict[str, object]) -> list[str]:
    """The words that set the overrides: {"augment.ddim_steps": [10, 50]} is set by -S augment.ddim_steps=[10,50]."""
    return [word for key, value in overrides.items() for word in ("-S", f"{key}={_text(value)}")]


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    path = Path(sys.argv[1])
    print("\n".join(arguments(YAML(typ="safe", pure=True).load(path))))


if __name__ == "__main__":
    main()
