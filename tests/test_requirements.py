"""What is imported is declared, and what is declared has a version in constraints.txt."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stages.dependencies import PACKAGES
from tests.conftest import ROOT

TESTS = "requirements-test.txt"
FILES = sorted(path.name for path in ROOT.glob("requirements*.txt"))


def required(file: str) -> dict[str, Requirement]:
    """The requirements in a file, without those of files that it includes."""
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def third_party(files: list[Path]) -> set[str]:
    """The top-level names of all libraries that `files` import."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {*PACKAGES, "experiments", "benchmarks", "docs", "tests", "detect"}


@pytest.mark.parametrize("folders", [(*PACKAGES, "experiments"), ("benchmarks", "tests")])
def test_every_library_that_is_imported_is_declared(folders):
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")] + [ROOT / "detect.py"]
    declared = {name for file in FILES if file != TESTS or "tests" in folders for name in required(file)}
    providers = packages_distributions()
    undeclared = {
        name
        for name in third_party(files)
        if not declared & {canonicalize_name(provider) for provider in providers.get(name, [name])}
    }
    assert not undeclared


@pytest.mark.parametrize("file", FILES)
def test_constraints_name_a_version_within_the_bounds(file):
    pinned = dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8")))
    for name, requirement in required(file).items():
        assert name in pinned, f"{name} has no version in constraints.txt: make constraints"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{name}=={pinned[name]}"
