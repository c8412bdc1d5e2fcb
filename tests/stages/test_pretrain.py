import json
import os
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file

import model.training
import stages.pretrain
from model.checkpoints import load_model
from model.finetuning import finetune
from model.network import RCMAE
from model.pretraining import pretrain
from stages.curves import read_curves
from stages.params import load
from storage.store import checkpoint_folder
from tests.conftest import ROOT
from tests.model.tiny_training import write_features

TINY = {
    "model": {"frames": 20, "patch_mels": 4, "width": 16, "depth": 1, "heads": 2, "decoder_width": 12},
    "pretrain": {"epochs": 2, "batch_size": 8},
    "finetune": {"epochs": 2, "batch_size": 8},
    "logmel": {"n_mels": 16},
    "augment": {"method": "masking"},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with dvc.yaml, tiny params and features, which is the current one, and a store of its own."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for group, values in TINY.items():
        params[group] |= values
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    write_features(tmp_path / "data/features")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    return tmp_path


def change(project, group, **values):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[group] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def test_the_stage_leaves_a_model_curves_and_no_checkpoints(project):
    stages.pretrain.run(load("pretrain", project))
    network, config = load_model(project / "data/pretrained", RCMAE)
    assert network.config.width == 16 and config["logmel"]["n_mels"] == 16
    stats = json.loads((project / "data/features/stats.json").read_text())
    assert config["scale"] == {"level": "remove", "mean": 0.0, "std": stats["within_std"]}
    assert config["norm_pix_loss"] is True
    curves = read_curves(project / "metrics/pretrain")
    assert curves.index.tolist() == [1, 2]
    assert {"loss", "contrastive", "reconstruction", "covariance_above_floor", "effective_rank"} <= set(curves)
    metrics = json.loads((project / "metrics/pretrain/metrics.json").read_text())
    losses = ("contrastive", "variance_covariance", "reconstruction")
    assert metrics == {name: pytest.approx(curves[name][2]) for name in losses}
    assert not any((project / "store/checkpoints").glob("*/step_*"))


def test_no_epochs_leave_the_seeded_initial_weights(project):
    change(project, "pretrain", epochs=0)
    stages.pretrain.run(load("pretrain", project))
    first = (project / "data/pretrained/model.safetensors").read_bytes()
    stages.pretrain.run(load("pretrain", project))
    assert (project / "data/pretrained/model.safetensors").read_bytes() == first
    assert json.loads((project / "metrics/pretrain/metrics.json").read_text()) == {}
    assert (project / "metrics/pretrain/plots/metrics").is_dir()
    assert read_curves(project / "metrics/pretrain").empty


class KilledError(Exception):
    pass


def stop_after_one_checkpoint(monkeypatch):
    save = model.training.save_state

    def save_and_stop(*arguments):
        save(*arguments)
        raise KilledError

    monkeypatch.setattr(model.training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(model.training, "save_state", save_and_stop)


def test_a_killed_stage_resumes_its_own_run_and_no_other(project, monkeypatch, caplog):
    caplog.set_level("INFO")
    stages.pretrain.run(load("pretrain", project))
    whole = (project / "data/pretrained/model.safetensors").read_bytes()
    curves = read_curves(project / "metrics/pretrain")
    with monkeypatch.context() as patch:
        stop_after_one_checkpoint(patch)
        with pytest.raises(KilledError):
            stages.pretrain.run(load("pretrain", project))
    change(project, "pretrain", learning_rate=0.01)
    stages.pretrain.run(load("pretrain", project))
    assert "resuming" not in caplog.text
    change(project, "pretrain", learning_rate=0.001)
    stages.pretrain.run(load("pretrain", project))
    assert "resuming after step 1" in caplog.text
    assert (project / "data/pretrained/model.safetensors").read_bytes() == whole
    assert read_curves(project / "metrics/pretrain").equals(curves)


def test_the_fingerprint_covers_settings_data_and_code(project):
    data, settings = project / "data/features", {"seed": 0}
    folders = [checkpoint_folder("pretrain", settings, [data], pretrain)]
    assert checkpoint_folder("pretrain", settings, [data], pretrain) == folders[0]
    folders.append(checkpoint_folder("pretrain", {"seed": 1}, [data], pretrain))
    folders.append(checkpoint_folder("finetune", settings, [data], pretrain))
    folders.append(checkpoint_folder("pretrain", settings, [data], finetune))
    with (data / "original.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    folders.append(checkpoint_folder("pretrain", settings, [data], pretrain))
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("processes", [2])
def test_torchrun_runs_the_stage_on_several_processes(project, processes):
    stages.pretrain.run(load("pretrain", project))
    alone = load_file(project / "data/pretrained/model.safetensors")
    one = read_curves(project / "metrics/pretrain")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "stages.pretrain"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", *launcher], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    together = load_file(project / "data/pretrained/model.safetensors")
    assert together.keys() == alone.keys()
    two = read_curves(project / "metrics/pretrain")
    assert two["loss"].tolist() == pytest.approx(one["loss"].tolist(), rel=0.02)  # bf16, where the device has it
    change(project, "pretrain", batch_size=7)
    done = subprocess.run([sys.executable, "-m", *launcher], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "pretrain: batch_size 7 does not divide among 2 processes" in done.stderr
