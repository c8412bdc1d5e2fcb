"""What surrounds every stage: the wall time it keeps for the report."""

import shutil

import pytest
import yaml

from stages.command import duration_key
from stages.params import read
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("group", "key", "value", "changed"),
    [
        (None, "lambda_con", 0.9, {"pretrain": True, "finetune": True, "logmel-feature": False}),
        ("finetune", "epochs", 99, {"pretrain": False, "finetune": True, "score": True}),
        ("augment", "t0", 0.7, {"download": False, "diffusion-augment": True, "pretrain": True}),
        ("report", "gallery_clips", 1, {"score": False}),
    ],
)
def test_a_wall_time_belongs_to_the_params_of_its_stage_and_those_before(tmp_path, group, key, value, changed):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (params[group] if group else params)[key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    before, after = (read(root / "params.yaml") for root in (ROOT, tmp_path))
    found = {stage: duration_key(stage, after, tmp_path) != duration_key(stage, before, ROOT) for stage in changed}
    assert found == changed
