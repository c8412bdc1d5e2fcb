"""Which files of this project a module imports."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("storage", "cluster", "audio", "model", "augmentation", "peers", "detection", "evaluation", "stages")


@cache
def imported(module: Path) -> frozenset[Path]:
    """First-party files that `module` imports, anywhere in it; all paths are relative to the repository's root."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.level:
                raise ValueError(f"{module}: relative import")
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] not in PACKAGES:
                continue
            for end in range(1, len(parts) + 1):
                path = Path(*parts[:end])
                found |= {file for file in (path / "__init__.py", path.with_suffix(".py")) if (ROOT / file).is_file()}
    return frozenset(found)


def reached(module: Path) -> set[Path]:
    """`module` and all first-party files that it imports, directly or not, but `__init__.py` with just a docstring."""
    seen, waiting = set(), [module]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting.extend(imported(file))
    return {file for file in seen if file.name != "__init__.py" or len(ast.parse((ROOT / file).read_text()).body) > 1}
