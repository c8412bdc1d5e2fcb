"""The modules that each stage imports, which dvc.yaml must name: DVC itself follows no imports.

`python -m stages.dependencies` writes them into dvc.yaml, below each stage's other dependencies.
"""

import re
from pathlib import Path

import yaml

from storage.imports import PACKAGES, ROOT, reached


def module_of(stage: str) -> Path:
    """The file of a stage's module."""
    return Path("stages", stage.replace("-", "_") + ".py")


def modules(stage: str, deps: list[str]) -> list[Path]:
    """The files that `stage` needs as dependencies beside the folders which `deps`, its entry in dvc.yaml, names."""
    folders = {Path(dep) for dep in deps if (ROOT / dep).is_dir()}
    return sorted(file for file in reached(module_of(stage)) if not folders & set(file.parents))


def is_module(dep: str) -> bool:
    """Whether a dependency is a module of this project."""
    return dep.endswith(".py") and dep.split("/")[0] in PACKAGES


def write() -> None:
    """Replace the modules in the dependencies of each stage in dvc.yaml; all else in it stays as it is."""
    path = ROOT / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    for stage, entry in yaml.safe_load(text)["stages"].items():
        deps = [dep for dep in entry["deps"] if not is_module(dep)] + [*map(str, modules(stage, entry["deps"]))]
        lines = "".join(f"    - {dep}\n" for dep in deps)
        listed = re.search(rf"(?ms)^  {stage}:\n.*?^    deps:\n((?:    - .*?\n)+)", text)
        if not listed:
            raise ValueError(f"dvc.yaml: {stage} has no list of dependencies")
        text = text[: listed.start(1)] + lines + text[listed.end(1) :]
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
