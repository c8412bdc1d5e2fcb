"""The benchmark of an ablation: what it notes of a command, and what stages import."""

import yaml

from benchmarks import ablation
from stages.params import read
from tests.conftest import ROOT


def test_a_command_is_timed_with_the_stages_it_ran(tmp_path):
    copy = ablation.Copy(tmp_path, whole=False)
    read(copy.root / "params.yaml")  # valid
    first = copy.timed("first", "dvc", "repro", "download")
    again = copy.timed("again", "dvc", "repro", "download")
    assert (first["stages run"], again["stages run"]) == (1, 0)
    assert 0 < first["s in stages"] < first["s"]
    assert again["s in stages"] == 0
    assert len(list((copy.root / "data/raw").rglob("*.flac"))) == 2 * 3 * 8


def test_stages_that_need_no_torch_do_not_import_it():
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    by_stage = {row["stage"]: row for row in ablation.imports(stages[:3], rounds=1)}
    assert not any(row["torch"] for row in by_stage.values())
    assert list(by_stage) == stages[:3]
