"""The pages: README is short, and method.md holds every decision that the report shows."""

import re

import pandas as pd
import yaml

from docs.pictures import most_anomalous
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


def test_the_clip_that_is_explained_is_the_most_anomalous_of_its_machine():
    rows = [
        *(("fan", "test", "normal", score) for score in (100.0, 110.0)),
        ("fan", "test", "anomaly", 120.0),
        *(("pump", "test", "normal", score) for score in (1.0, 1.1)),
        ("pump", "test", "anomaly", 3.0),  # the lower score, but much further above its machine's normal clips
        ("pump", "train", "normal", 900.0),
    ]
    scores = pd.DataFrame(rows, columns=["machine_type", "split", "condition", "combined"]).assign(machine_id="id_00")
    assert most_anomalous(scores, "combined")["combined"] == 3.0
