"""What surrounds every stage: the wall time it keeps for the report."""

import json
import shutil
import subprocess
import time

import pytest
import yaml

from stages.command import duration_key, durations, main
from stages.params import read
from storage import files
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


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    return tmp_path


def test_the_wall_time_of_the_last_run_is_kept(project):
    key = duration_key("download", read(project / "params.yaml"), ROOT)
    main(lambda params: None, "download")
    first = durations().find(key)
    seconds = json.loads(first.read_text())["seconds"]
    main(lambda params: time.sleep(0.2), "download")
    kept = json.loads(durations().find(key).read_text())
    assert kept["seconds"] >= seconds + 0.1 and kept["stage"] == "download"


def test_a_store_that_cannot_be_written_fails_no_stage(project, caplog):
    (project / "store").write_text("a file in the place of the store's folder")
    main(lambda params: None, "download")
    assert "the wall time of download could not be kept: " in caplog.text


def test_what_killed_runs_left_among_the_metrics_is_swept(project):
    with subprocess.Popen(["true"]) as process:
        left = project / "metrics" / "plots" / f".roc.json.{files._here()}-{process.pid}-1.unfinished"
    left.parent.mkdir(parents=True)
    left.touch()
    main(lambda params: None, "download")
    assert not left.exists()
