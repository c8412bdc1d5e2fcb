"""The house as dvc.yaml describes it: its stages, what each depends on, and which way imports run."""

import ast
import json

import pytest
import yaml

from stages.dependencies import is_module, module_of, modules
from storage.imports import PACKAGES, imported
from tests.conftest import ROOT

SHARED = {
    "__init__",
    "check",
    "command",
    "curves",
    "dependencies",
    "learn",
    "params",
    "paths",
    "store",
    "summary",
}
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


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
    """A stage calls what other packages hold: it defines no classes, and its functions fit a screen."""
    module = module_of(stage)
    assert STAGES[stage]["cmd"] == f"python -m stages.{module.stem}"
    defined = ast.parse((ROOT / module).read_text(encoding="utf-8")).body
    assert not [node.name for node in defined if isinstance(node, ast.ClassDef)]
    functions = {node.name: node for node in defined if isinstance(node, ast.FunctionDef)}
    assert "run" in functions
    for name, function in functions.items():
        assert function.end_lineno - function.lineno < 50, f"{module}: {name} is longer than 50 lines"


def test_dvc_metrics_fit_a_screen():
    """They are read in a terminal; what is finer goes to data/scores and the report."""
    files = [file for stage in STAGES.values() for entry in stage.get("metrics", []) for file in entry]

    def values(figures):
        return sum(map(values, figures.values())) if isinstance(figures, dict) else 1

    assert sum(values(json.loads((ROOT / file).read_text(encoding="utf-8"))) for file in files) <= 30


def test_nothing_but_stages_and_what_all_stages_share_lies_in_stages():
    """So that no stage grows a second module; what it computes belongs into another package."""
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")}
    assert modules <= {module_of(stage).stem for stage in STAGES} | SHARED


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_first_party_modules_that_the_stage_imports(stage):
    """DVC follows no imports: a module that is not listed could change without the stage running again."""
    deps = STAGES[stage]["deps"]
    assert [dep for dep in deps if is_module(dep)] == [*map(str, modules(stage, deps))], "python -m stages.dependencies"


def test_imports_run_one_way():
    storage = {"storage"}
    audio = storage | {"cluster", "audio"}
    model = audio | {"model"}
    allowed = {
        "storage": storage,
        "cluster": {"cluster"},
        "audio": audio,
        "model": model,
        "augmentation": model | {"augmentation"},
        "detection": model | {"detection"},
        "peers": model | {"peers", "detection"},
        "evaluation": model | {"augmentation", "peers", "detection", "evaluation"},
        "stages": set(PACKAGES),
    }
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            module = file.relative_to(ROOT)
            assert {path.parts[0] for path in imported(module)} <= allowed[package], module
