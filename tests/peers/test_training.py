"""The loop: seeded whatever other threads do, exact after a killed run, and one error where a loss is not finite."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from peers import training
from peers.training import cover, fit, held_out, log_odds_against, random_windows, seeded, shuffled


def regression(folder, epochs, seed=0, cosine=True):
    """A linear network that learns the sum of its two inputs."""
    network = seeded(seed, lambda: nn.Linear(2, 1))
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [-2.0, 1.0]])

    def batches(rng):
        for chosen in shuffled(4, 2, rng):
            yield x[chosen], x[chosen].sum(1, keepdim=True)

    def loss(inputs, targets):
        return (network(inputs) - targets).square().mean()

    fit(network, loss, batches, epochs=epochs, learning_rate=0.05, seed=seed, checkpoints=folder, cosine=cosine)
    return network.weight.detach().clone()


def test_it_learns_and_the_seed_decides(tmp_path):
    learned = regression(tmp_path, 200)
    assert learned == pytest.approx(np.ones((1, 2)), abs=0.05)
    assert torch.equal(regression(tmp_path / "again", 200), learned)
    assert not torch.equal(regression(tmp_path / "other", 200, seed=1), learned)


def test_a_killed_training_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    whole = regression(tmp_path / "whole", 9)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    seen = []

    def killed(checkpoints, epoch, tensors, about):
        save_state(checkpoints, epoch, tensors, about)
        seen.append(epoch)
        if epoch == 4:
            raise KeyboardInterrupt

    save_state = training.save_state
    monkeypatch.setattr(training, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        regression(tmp_path / "killed", 9)
    assert torch.equal(regression(tmp_path / "killed", 9), whole)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_initial_weights_do_not_depend_on_other_threads():
    alone = seeded(3, lambda: nn.Linear(50, 50)).weight
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: seeded(seed, lambda: nn.Linear(50, 50)).weight, [3, 1, 2, 3, 4, 5, 3]))
    assert all(torch.equal(together[place], alone) for place in (0, 3, 6))


def test_a_loss_that_is_not_finite_ends_it(tmp_path):
    network = nn.Linear(1, 1)
    settings = {"epochs": 2, "learning_rate": 1e-3, "seed": 0, "checkpoints": tmp_path}
    with pytest.raises(ValueError, match="epoch 1: the loss is nan"):
        fit(network, lambda x: network(x).sum() * torch.nan, lambda rng: [(torch.ones(2, 1),)], **settings)


def test_batches_are_never_too_small():
    sizes = [len(batch) for batch in shuffled(70, 32, np.random.default_rng(0))]
    assert sizes == [35, 35]
    assert sorted(np.concatenate(shuffled(5, 32, np.random.default_rng(0)))) == [0, 1, 2, 3, 4]


def test_log_odds_are_those_of_the_softmax_and_stay_exact():
    logits = np.array([[1.0, 2.0, 0.5], [0.0, 100.0, 0.0]])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = log_odds_against(logits, np.array([1, 1]))
    assert found[0] == pytest.approx(np.log((1 - p[0, 1]) / p[0, 1]))
    assert found[1] == pytest.approx(np.log(2) - 100)
    assert log_odds_against(np.array([[4.0], [5.0]]), np.array([0, 0])).tolist() == [0, 0]


def test_windows_cover_a_clip_with_as_few_as_can():
    assert cover(313, 63).tolist() == [0, 62, 125, 188, 250]
    assert cover(63, 63).tolist() == cover(10, 63).tolist() == [0]
    assert all(0 <= start <= 37 for start in random_windows(np.full(200, 100), 63, np.random.default_rng(0)))


def test_training_clips_are_measured_by_others():
    def to_nearest(known, asked):
        return np.abs(asked - known.T).min(axis=1)

    embeddings = np.arange(7.0)[:, None]
    assert held_out(to_nearest, embeddings).tolist() == [1.0] * 7
    assert held_out(to_nearest, embeddings[:1]).tolist() == [0.0]
