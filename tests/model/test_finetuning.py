import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audio.features import Features
from model.batches import TrainingClips
from model.finetuning import Finetuning, finetune
from model.losses import supervised_contrastive_loss
from model.network import RCMAE, IdentityClassifier
from model.training import make_fabric
from tests.model.test_pretraining import Poisoned, Recording, same_weights
from tests.model.tiny_training import CONFIG, FINETUNING, IDENTITIES, write_features


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("data") / "features")


@pytest.fixture(scope="module")
def fabric():
    return make_fabric("32-true")


def pretrained() -> RCMAE:
    torch.manual_seed(9)
    return RCMAE(CONFIG)


def run(folder, checkpoints, fabric, kind=Features, **changes):
    features, rows = kind.open(folder), []
    network, identities = finetune(
        features, pretrained(), replace(FINETUNING, **changes), fabric, checkpoints, rows.append
    )
    return network, identities, rows, features


def test_only_training_normals_are_read(folder, tmp_path, fabric):
    _, _, _, features = run(folder, tmp_path, fabric, Recording)
    read = features.index.iloc[sorted(features.rows)]
    assert set(read["split"]) == {"train"}
    assert set(read["condition"]) == {"normal"}
    assert set(read["kind"]) == {"original"}


def test_identities_are_learned(folder, tmp_path, fabric):
    network, identities, rows, features = run(folder, tmp_path, fabric, epochs=30, learning_rate=3e-3)
    assert identities == IDENTITIES
    assert list(rows[0]) == [
        "epoch",
        "loss",
        "supervised_contrastive",
        "cross_entropy",
        "accuracy",
        "effective_rank",
        "learning_rate",
    ]
    assert rows[-1]["accuracy"] == 1.0
    clips = TrainingClips(features, CONFIG)
    crops = [clips.crop(clip, clips.random(clip, 0, 99))[1] for clip in range(len(clips))]
    predicted = network.eval()(clips.network_input(crops)).logits.argmax(dim=1)
    assert [identities[label] for label in predicted] == clips.identities


def test_the_loss_is_equation_10_of_what_the_network_says(folder, fabric):
    settings = replace(FINETUNING, lambda_scl=0.2, lambda_ce=1.3)
    objective = Finetuning(TrainingClips(Features.open(folder), CONFIG), settings, fabric)
    network = IdentityClassifier(CONFIG, 3)
    batch = objective.load(0, 0, objective.batches(0)[0])
    terms, _ = objective.losses(network, batch)
    said = network(batch.spectrograms)
    l_scl = supervised_contrastive_loss(said.projection, batch.labels, 0.05)
    expected = 0.2 * l_scl + 1.3 * F.cross_entropy(said.logits, batch.labels)
    torch.testing.assert_close(terms["loss"], expected)


def test_batches_are_balanced_pairs(tmp_path, fabric):
    features = Features.open(write_features(tmp_path / "features", training=9, views=0))
    objective = Finetuning(TrainingClips(features, CONFIG), FINETUNING, fabric)
    for epoch in range(3):
        batches = objective.batches(epoch)
        assert sum(map(len, batches)) == 28
        for clips in batches:
            counts = np.bincount(objective.labels[clips], minlength=3)
            assert (counts % 2 == 0).all()
            assert counts.max() - counts.min() <= 2


def test_every_parameter_is_trained_from_the_pretrained_weights(folder, tmp_path, fabric):
    network, _, _, _ = run(folder, tmp_path, fabric, epochs=1, learning_rate=1e-6)
    start = pretrained()
    torch.manual_seed(FINETUNING.seed)
    initial = IdentityClassifier.from_pretrained(start, 3)
    for name, parameter in network.named_parameters():
        moved = (parameter - initial.get_parameter(name)).abs().max()
        assert 0 < moved < 2e-5, name


def test_a_seed_gives_the_same_weights_to_the_bit(folder, tmp_path, fabric):
    one, _, rows, _ = run(folder, tmp_path / "1", fabric)
    two, _, again, _ = run(folder, tmp_path / "2", fabric)
    assert same_weights(one, two) and rows == again
    other, _, _, _ = run(folder, tmp_path / "3", fabric, seed=4)
    assert not same_weights(one, other)


def test_a_loss_that_is_not_finite_names_epoch_step_and_clips(folder, tmp_path, fabric):
    with pytest.raises(ValueError, match=r"epoch 1, step [123]: a loss is not finite") as caught:
        run(folder, tmp_path, fabric, Poisoned)
    assert Poisoned.bad in str(caught.value)


def test_an_identity_with_one_clip_is_named(tmp_path, fabric):
    features = write_features(tmp_path / "features")
    index = (features / "index.csv").read_text().splitlines()
    kept = [line for line in index if "pump/train" not in line or "normal_id_00_00000000" in line]
    (features / "index.csv").write_text("\n".join(kept) + "\n")
    with pytest.raises(ValueError, match="a single training clip, at least 2 are needed: pump/id_00"):
        run(features, tmp_path, fabric)


def test_a_lone_machine_is_not_fine_tuned(tmp_path, fabric, caplog):
    features = write_features(tmp_path / "features")
    index = (features / "index.csv").read_text().splitlines()
    (features / "index.csv").write_text("\n".join([index[0], *(line for line in index if "pump/" in line)]) + "\n")
    with caplog.at_level(logging.WARNING):
        network, identities, rows, _ = run(features, tmp_path, fabric, epochs=1)
    assert network is None and identities == ["pump/id_00"] and rows == []
    assert "pump/id_00 is the only machine" in caplog.text
