"""The pages: README is short, and method.md holds every decision that the report shows."""

import re

import yaml

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_method_has_every_decision():
    page = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    for decision in yaml.safe_load((ROOT / "evaluation/report/decisions.yaml").read_text(encoding="utf-8")):
        param = f"`{decision['param']}`" if "param" in decision else ""
        assert f"| {decision['about']} | {decision['paper']} | {decision['reading']} | {param} |" in page


def test_commands_that_the_pages_name_exist():
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))) | {"learn"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"(?m)(?:`|^    )make ([a-z]+)", text)) <= targets, page.name
        for module in re.findall(r"python -m ((?:stages|experiments|benchmarks|augmentation)\.[a-z_.]+[a-z])", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{page.name} names {module}"
        for script in re.findall(r"experiments/[a-z0-9]+\.sh", text):
            assert (ROOT / script).is_file(), f"{page.name} names {script}"
