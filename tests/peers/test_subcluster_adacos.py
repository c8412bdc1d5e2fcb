"""Sub-cluster AdaCos: shapes, the loss by hand, the scale it follows, and the local density behind it."""

import math

import numpy as np
import pytest
import torch

from peers.subcluster_adacos import NEIGHBOURS, SUBCLUSTERS, Classifier, SubclusterAdaCos, relative_distance


@pytest.fixture
def loss():
    torch.manual_seed(0)
    return SubclusterAdaCos(3)


def test_four_branches_and_a_gradient_step():
    torch.manual_seed(0)
    network = Classifier(samples=8_000, identities=3)
    embeddings = network(torch.randn(4, 8_000))
    assert embeddings.shape == (4, 512)
    network.loss(embeddings, torch.eye(3)[[0, 1, 2, 0]]).backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in network.parameters())
    assert not list(network.loss.parameters())  # the centres stay


def test_the_probability_of_an_identity_is_the_sum_over_its_centres(loss):
    embeddings = torch.randn(2, 512)
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.3, 0.7]])
    loss.eval()
    cosines = torch.cosine_similarity(embeddings[:, None], loss.centres[None], dim=2)
    p = torch.softmax(loss.scale * cosines, dim=1).view(2, 3, SUBCLUSTERS).sum(2)
    expected = -(p[0, 0].log() + 0.3 * p[1, 1].log() + 0.7 * p[1, 2].log()) / 2
    torch.testing.assert_close(loss(embeddings, shares), expected)


def test_the_scale_begins_as_published_and_follows_the_angles(loss):
    assert loss.scale.item() == pytest.approx(math.sqrt(2) * math.log(3 * SUBCLUSTERS - 1), rel=1e-6)
    embeddings, shares, before = torch.randn(5, 512), torch.eye(3)[[0, 1, 2, 0, 1]], loss.scale.clone()
    loss(embeddings, shares)
    cosines = torch.nn.functional.normalize(embeddings) @ loss.centres.T
    # far from all centres: the angle is taken for a quarter of pi
    expected = torch.log(torch.exp(before * cosines).sum(1).mean()) / math.cos(math.pi / 4)
    assert loss.scale.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(loss.eval().scale, loss.scale)
    after = loss.scale.clone()
    loss(embeddings, shares)
    assert torch.equal(loss.scale, after), "scoring must not change it"


def test_a_distance_counts_in_proportion_to_the_neighbourhoods_own():
    def at(degrees):
        return np.array([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees])

    dense, sparse = np.linspace(0, 10, 20), np.linspace(150, 210, 20)
    known = at([*dense, *sparse])
    beside_dense, beside_sparse = relative_distance(known, at([15, 215]))
    assert beside_dense > 5 * beside_sparse  # both are 5 degrees from the next
    nearest = 1 - np.cos(np.radians(dense[-1] - dense[-1 - NEIGHBOURS : -1]))
    assert beside_dense == pytest.approx((1 - math.cos(math.radians(5))) / nearest.mean(), rel=1e-3)


def test_a_single_training_clip_has_distances_too():
    assert relative_distance(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx([1.0])
