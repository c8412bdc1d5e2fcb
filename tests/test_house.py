"""The house as dvc.yaml describes it: its stages, what each depends on, and which way imports run."""

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

PACKAGES = ("audio", "model", "evaluation", "stages")
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@cache
def imported(module: Path) -> frozenset[Path]:
    """First-party files that `module` imports, anywhere in it, relative to the root."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] not in PACKAGES:
                continue
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                path = Path(*parts[:end])
                for file in (path / "__init__.py", path.with_suffix(".py")):
                    if (ROOT / file).is_file():
                        found.add(file)
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


def module_of(stage: str) -> Path:
    return Path("stages", stage.replace("-", "_") + ".py")


def test_the_eight_stages_in_their_order():
    assert list(STAGES) == [
        "download",
        "prompt-generation",
        "diffusion-augment",
        "logmel-feature",
        "pretrain",
        "finetune",
        "score",
        "report",
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_runs_its_own_small_module(stage):
    module = module_of(stage)
    assert STAGES[stage]["cmd"] == f"python -m stages.{module.stem}"
    assert len((ROOT / module).read_text().splitlines()) <= 130


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_first_party_modules_that_the_stage_imports(stage):
    """DVC follows no imports: a module that is not listed could change without the stage running again."""
    deps = [Path(dep) for dep in STAGES[stage]["deps"] if Path(dep).parts[0] in PACKAGES]
    folders = [dep for dep in deps if (ROOT / dep).is_dir()]
    needed = {file for file in reached(module_of(stage)) if not set(folders) & set(file.parents)}
    assert {dep for dep in deps if dep.suffix == ".py"} == needed


def test_imports_run_one_way():
    allowed = {
        "audio": {"audio"},
        "model": {"model", "audio"},
        "evaluation": {"evaluation", "model", "audio"},
        "stages": {"stages", "evaluation", "model", "audio"},
    }
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            module = file.relative_to(ROOT)
            assert {path.parts[0] for path in imported(module)} <= allowed[package], module
