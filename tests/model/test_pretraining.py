import logging
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import model.training
from audio.features import Features
from model.batches import TrainingClips
from model.checkpoints import load_state
from model.losses import info_nce, reconstruction_loss, standardise_patches, vcr_loss
from model.network import RCMAE, patchify
from model.pretraining import Pretraining, pretrain
from model.training import effective_rank, make_fabric, native_bf16
from tests.conftest import ROOT
from tests.model.tiny_training import CONFIG, PRETRAINING, write_features


class Recording(Features):
    """Features that note which rows are read."""

    def read(self, row, start=0, frames=None):
        self.__dict__.setdefault("rows", set()).add(int(row))
        return super().read(row, start, frames)


class Poisoned(Features):
    """Features with NaN in one training clip."""

    bad = "pump/train/normal_id_00_00000003"

    def read(self, row, start=0, frames=None):
        spectrogram = super().read(row, start, frames)
        return spectrogram * np.nan if self.index["clip"].iloc[row] == self.bad else spectrogram


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("data") / "features")


@pytest.fixture(scope="module")
def fabric():
    return make_fabric("32-true")


def run(folder, checkpoints, fabric, kind=Features, **changes):
    features, rows = kind.open(folder), []
    network = pretrain(features, CONFIG, replace(PRETRAINING, **changes), fabric, checkpoints, rows.append)
    return network, rows, features


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("augmented", [True, False])
def test_only_training_normals_are_read(folder, tmp_path, fabric, augmented):
    _, _, features = run(folder, tmp_path, fabric, Recording, augmented=augmented)
    read = features.index.iloc[sorted(features.rows)]
    assert set(read["split"]) == {"train"}
    assert set(read["condition"]) == {"normal"}
    training = features.index[(features.index["split"] == "train") & (features.index["kind"] == "original")]
    assert set(training["clip"]) == set(read["clip"])
    assert set(read["kind"]) == ({"original", "augmented"} if augmented else {"original"})


def test_training_lowers_the_loss_and_reports_every_term(folder, tmp_path, fabric):
    _, rows, _ = run(folder, tmp_path, fabric, epochs=30, learning_rate=3e-3)
    assert [row["epoch"] for row in rows] == list(range(1, 31))
    assert list(rows[0]) == [
        "epoch",
        "loss",
        "contrastive",
        "variance_covariance",
        "variance",
        "covariance_above_floor",
        "reconstruction",
        "effective_rank",
        "learning_rate",
    ]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["contrastive"] < rows[0]["contrastive"]
    for row in rows:
        total = 0.3 * row["contrastive"] + 0.3 * row["variance_covariance"] + 0.4 * row["reconstruction"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)
        assert row["learning_rate"] == 3e-3
        assert 1 <= row["effective_rank"] <= 7


@pytest.mark.parametrize("both", [False, True])
def test_the_loss_is_equation_8_of_what_the_network_says(folder, fabric, both):
    settings = replace(PRETRAINING, mae_views="both" if both else "original", lambda_vcr=0.7, lambda_mae=1.9)
    objective = Pretraining(TrainingClips(Features.open(folder), CONFIG), settings, fabric)
    network = RCMAE(CONFIG)
    batch = objective.load(0, 0, objective.batches(0)[0])
    terms, embedding = objective.losses(network, batch)
    patches, second = patchify(batch.original, CONFIG), patchify(batch.augmented, CONFIG)
    a, aug = network(patches, batch.visible, second, batch.augmented_visible, True)
    mask = torch.ones(len(patches), CONFIG.tokens).scatter(1, batch.visible, 0)
    l_mae = reconstruction_loss(a.predicted, standardise_patches(patches), mask)
    if both:
        mask = torch.ones(len(patches), CONFIG.tokens).scatter(1, batch.augmented_visible, 0)
        l_mae = (l_mae + reconstruction_loss(aug.predicted, standardise_patches(second), mask)) / 2
    l_vcr = (vcr_loss(a.projection) + vcr_loss(aug.projection)) / 2
    expected = 0.3 * info_nce(a.projection, aug.projection, 0.05) + 0.7 * l_vcr + 1.9 * l_mae
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(embedding, a.embedding)


def test_masks_of_both_views_differ_and_their_ratio_is_drawn_per_batch(folder, fabric):
    objective = Pretraining(TrainingClips(Features.open(folder), CONFIG), PRETRAINING, fabric)
    counts = set()
    for epoch in range(20):
        clips = objective.batches(epoch)[0]
        batch = objective.load(epoch, 0, clips)
        assert batch.visible.shape == batch.augmented_visible.shape
        assert not torch.equal(batch.visible, batch.augmented_visible)
        assert len({tuple(sorted(row)) for row in batch.visible.tolist()}) > 1
        assert all(len(set(row)) == len(row) for row in batch.visible.tolist())
        counts.add(batch.visible.shape[1])
    assert counts == {4, 5, 6, 7, 8}  # of 16 tokens 50 to 75 % are masked


def test_an_epoch_is_every_clip_once_in_another_order(folder, fabric):
    objective = Pretraining(TrainingClips(Features.open(folder), CONFIG), PRETRAINING, fabric)
    first, second = (np.concatenate(objective.batches(epoch)).tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second
    assert [len(batch) for batch in objective.batches(0)] == [7, 7, 7]


def test_without_augmentation_the_second_view_is_the_masked_clip(folder, fabric):
    settings = replace(PRETRAINING, augmented=False)
    objective = Pretraining(TrainingClips(Features.open(folder), CONFIG), settings, fabric)
    batch = objective.load(0, 0, objective.batches(0)[0])
    differs = batch.original != batch.augmented
    assert differs.any()
    assert batch.augmented[differs].abs().max() < 1e-6  # the mask's value is the mean


def test_every_parameter_is_trained(folder, fabric):
    torch.manual_seed(0)
    objective = Pretraining(TrainingClips(Features.open(folder), CONFIG), PRETRAINING, fabric)
    network = RCMAE(CONFIG)
    terms, _ = objective.losses(network, objective.load(0, 0, objective.batches(0)[0]))
    terms["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_optimiser_moves_every_parameter(folder, tmp_path, fabric):
    trained, _, _ = run(folder, tmp_path, fabric)
    initial, rows, _ = run(folder, tmp_path / "0", fabric, epochs=0)
    assert rows == []
    for name, parameter in trained.named_parameters():
        assert not torch.equal(parameter, initial.get_parameter(name)), name


def test_a_seed_gives_the_same_weights_to_the_bit(folder, tmp_path, fabric):
    one, rows, _ = run(folder, tmp_path / "1", fabric)
    two, again, _ = run(folder, tmp_path / "2", fabric)
    other, _, _ = run(folder, tmp_path / "3", fabric, seed=4)
    assert same_weights(one, two) and rows == again
    assert not same_weights(one, other)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_resumed_run_ends_the_same_to_the_bit(folder, tmp_path, fabric, monkeypatch, stop_after, caplog):
    whole, rows, _ = run(folder, tmp_path / "whole", fabric)
    monkeypatch.setattr(model.training, "CHECKPOINT_SECONDS", 0.0)
    saved, save = [], model.training.save_state

    class KilledError(Exception):
        pass

    def save_and_stop(*arguments):
        save(*arguments)
        saved.append(arguments[1])
        if len(saved) == stop_after:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(model.training, "save_state", save_and_stop)
        with pytest.raises(KilledError):
            run(folder, tmp_path / "killed", fabric)
    assert saved == list(range(1, stop_after + 1))
    with caplog.at_level(logging.INFO):
        resumed, resumed_rows, _ = run(folder, tmp_path / "killed", fabric)
    assert f"resuming after step {stop_after}" in caplog.text
    assert same_weights(whole, resumed)
    assert resumed_rows == rows  # the curves are the same too


def test_a_run_killed_by_sigkill_resumes_to_the_same_weights(tmp_path, fabric):
    write_features(tmp_path / "features")
    threads = torch.get_num_threads()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "tests.model.tiny_training", "slow", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        while process.poll() is None and len(list((tmp_path / "checkpoints").glob("step_*"))) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    about = load_state(tmp_path / "checkpoints")[1]
    assert 0 < about["step"] < 9
    resumed, rows, _ = run(tmp_path / "features", tmp_path / "checkpoints", fabric)
    whole, expected, _ = run(tmp_path / "features", tmp_path / "whole", fabric)
    assert same_weights(whole, resumed) and rows == expected


def test_a_loss_that_is_not_finite_names_epoch_step_and_clips(folder, tmp_path, fabric):
    with pytest.raises(ValueError, match=r"epoch 1, step [123]: a loss is not finite") as caught:
        run(folder, tmp_path, fabric, Poisoned)
    assert Poisoned.bad in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).count("/train/") == 7


def test_settings_that_cannot_be(folder, tmp_path, fabric):
    for ratio in [(0.0, 0.5), (0.5, 1.0), (0.7, 0.6)]:
        with pytest.raises(ValueError, match="mask_ratio"):
            replace(PRETRAINING, mask_ratio=ratio)
    bare = write_features(tmp_path / "bare", views=0)
    with pytest.raises(ValueError, match="21 training clips have no augmented view"):
        run(bare, tmp_path, fabric)


def test_effective_rank():
    assert effective_rank(torch.ones(8, 4)) == pytest.approx(1, abs=1e-4)
    line = torch.arange(8.0)[:, None] * torch.ones(4)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(corners) == pytest.approx(4, rel=1e-4)
    unequal = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(unequal) == pytest.approx(math.exp(entropy), rel=1e-4)


@pytest.mark.skipif(not native_bf16(), reason="no native bfloat16 here")
def test_bf16_trains_too_and_keeps_weights_in_float32(folder, tmp_path):
    network, rows, _ = run(folder, tmp_path / "bf16", make_fabric("auto"))
    _, exact_rows, _ = run(folder, tmp_path / "float32", make_fabric("32-true"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert rows[0]["loss"] != exact_rows[0]["loss"]
    assert rows[0]["loss"] == pytest.approx(exact_rows[0]["loss"], rel=0.05)


def test_progress_is_logged_where_there_is_no_terminal(folder, tmp_path, fabric, caplog):
    with caplog.at_level(logging.INFO):
        run(folder, tmp_path, fabric)
    last = caplog.messages[-1]
    assert last.startswith("epoch 3/3, loss ") and "clips/s" in last and last.endswith("00:00 left")
