import json

import pytest

import stages.finetune
import stages.pretrain
from model.checkpoints import load_model
from model.network import RCMAE, IdentityClassifier
from stages.curves import read_curves
from stages.params import load
from tests.model.tiny_training import IDENTITIES
from tests.stages.test_pretrain import KilledError, change, project, stop_after_one_checkpoint  # noqa: F401


def test_the_stage_leaves_a_classifier_curves_and_no_checkpoints(project):  # noqa: F811
    stages.pretrain.run(load("pretrain", project))
    stages.finetune.run(load("finetune", project))
    network, config = load_model(project / "data/finetuned", IdentityClassifier)
    assert isinstance(network, IdentityClassifier)
    assert config["identities"] == IDENTITIES
    _, pretrained = load_model(project / "data/pretrained", RCMAE)
    assert {key: config[key] for key in ("logmel", "scale", "sizes")} == {
        key: pretrained[key] for key in ("logmel", "scale", "sizes")
    }
    curves = read_curves(project / "metrics/finetune")
    assert {"loss", "supervised_contrastive", "cross_entropy", "effective_rank", "learning_rate"} <= set(curves)
    metrics = json.loads((project / "metrics/finetune/metrics.json").read_text())
    assert metrics == {name: pytest.approx(curves[name][2]) for name in ("supervised_contrastive", "cross_entropy")}
    assert not any((project / "store/checkpoints").glob("*/step_*"))


def test_a_killed_stage_resumes_unless_it_starts_from_other_weights(project, monkeypatch, caplog):  # noqa: F811
    caplog.set_level("INFO")
    stages.pretrain.run(load("pretrain", project))
    stages.finetune.run(load("finetune", project))
    whole = (project / "data/finetuned/model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        stop_after_one_checkpoint(patch)
        with pytest.raises(KilledError):
            stages.finetune.run(load("finetune", project))
    change(project, "pretrain", epochs=1)
    stages.pretrain.run(load("pretrain", project))
    stages.finetune.run(load("finetune", project))
    assert "resuming" not in caplog.text
    change(project, "pretrain", epochs=2)
    stages.pretrain.run(load("pretrain", project))
    stages.finetune.run(load("finetune", project))
    assert "resuming after step 1" in caplog.text
    assert (project / "data/finetuned/model.safetensors").read_bytes() == whole
