"""Scoring back-ends against their definitions, with few clips, and through a safetensors round trip."""

import numpy as np
import pytest
import safetensors.numpy
from scipy.spatial.distance import cosine, mahalanobis
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from detection.backends import (
    GaussianMixture,
    Mahalanobis,
    NearestNeighbour,
    NegativeLogProbability,
    all_backends,
    fit_and_score_held_out,
)

WIDTH = 12


@pytest.fixture
def clips():
    """30 training clips of identity 0 and 6 of identity 1, whose embeddings lie apart."""
    rng = np.random.default_rng(0)
    identities = np.repeat([0, 1], [30, 6])
    embeddings = rng.normal(size=(36, WIDTH)) * np.linspace(0.3, 2, WIDTH) + 5 * identities[:, None]
    return embeddings.astype(np.float32), identities


NO_LOGITS = np.zeros((100, 2), np.float32)


def test_negative_log_probability_is_the_cross_entropy_and_stays_exact_near_certainty():
    logits = np.array([[2.0, 1.0, -1.0], [60.0, 0.0, 0.0], [0.0, 800.0, 0.0]], np.float32)
    scores = NegativeLogProbability().score(np.zeros((3, 2)), logits, np.array([1, 0, 0]))
    assert scores[0] == pytest.approx(-np.log(np.exp(1) / np.exp([2, 1, -1]).sum()), rel=1e-12)
    assert scores[1] == pytest.approx(2 * np.exp(-60), rel=1e-9)  # 1 - p rounds to 0 here
    assert scores[2] == pytest.approx(800, rel=1e-12)
    assert NegativeLogProbability().score(np.zeros((1, 2)), np.ones((1, 1)), np.array([0])) == 0


def test_nearest_neighbour_is_the_cosine_distance_to_the_own_identitys_clips(clips):
    embeddings, identities = clips
    backend = NearestNeighbour(neighbours=2).fit(embeddings, identities)
    query = np.random.default_rng(1).normal(size=(1, WIDTH)) + 5
    for one in (0, 1):
        distances = sorted(cosine(query[0], known) for known in embeddings[identities == one])
        assert backend.score(query, NO_LOGITS, np.array([one]))[0] == pytest.approx(np.mean(distances[:2]), abs=1e-6)


def test_mahalanobis_uses_the_shrunk_covariance_of_the_identity(clips):
    embeddings, identities = clips
    query = np.random.default_rng(1).normal(size=(1, WIDTH))
    own = embeddings[identities == 0].astype(float)
    expected = mahalanobis(query[0], own.mean(0), np.linalg.inv(LedoitWolf().fit(own).covariance_))
    score = Mahalanobis().fit(embeddings, identities).score(query, NO_LOGITS, np.array([0]))[0]
    assert score == pytest.approx(expected, rel=0.01)


def test_gaussian_mixture_is_a_negative_log_likelihood(clips):
    embeddings, identities = clips
    query = np.random.default_rng(1).normal(size=(1, WIDTH))
    backend = GaussianMixture(components=1).fit(embeddings, identities)
    own = embeddings[identities == 0].astype(float)
    added = 0.1 * np.mean([embeddings[identities == one].var(axis=0).mean() for one in (0, 1)])
    expected = -multivariate_normal(own.mean(0), np.diag(own.var(0) + added)).logpdf(query)
    assert backend.score(query, NO_LOGITS, np.array([0]))[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["nearest_neighbour", "mahalanobis", "gaussian_mixture"])
def test_strange_clips_score_higher_and_what_was_fitted_travels(name, clips, tmp_path):
    embeddings, identities = clips
    backend = all_backends(neighbours=1, components=2, seed=0)[name].fit(embeddings, identities)
    rng = np.random.default_rng(2)
    usual = rng.normal(size=(20, WIDTH)) * np.linspace(0.3, 2, WIDTH) + 5
    ones = np.ones(20, int)
    scores = backend.score(usual, NO_LOGITS[:20], ones)
    turned = usual + 6 * np.eye(WIDTH)[0]
    assert backend.score(turned, NO_LOGITS[:20], ones).min() > np.median(scores)
    safetensors.numpy.save_file(backend.arrays(), tmp_path / "backend.safetensors")
    again = all_backends(neighbours=1, components=2, seed=0)[name]
    again.restore(safetensors.numpy.load_file(tmp_path / "backend.safetensors"))
    assert np.array_equal(again.score(usual, NO_LOGITS[:20], ones), scores)


@pytest.mark.parametrize("name", ["nearest_neighbour", "mahalanobis", "gaussian_mixture"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_identity_of_very_few_or_equal_clips_gets_finite_scores(name, count, clips):
    embeddings, identities = clips
    few = np.r_[embeddings, np.repeat(embeddings[:1] + 9, count, axis=0)]
    identities = np.r_[identities, [2] * count]
    backend = all_backends(neighbours=3, components=4, seed=0)[name]
    held_out = fit_and_score_held_out(backend, few, np.zeros((len(few), 3)), identities, np.arange(len(few)))
    assert np.isfinite(held_out).all()
    near, far = backend.score(few[-1:] + np.array([[0.1], [1.0]]) * few[0], NO_LOGITS, np.array([2, 2]))
    assert near < far < np.inf


def test_training_clips_are_scored_without_themselves(clips):
    embeddings, identities = clips
    windows, of_identity = np.repeat(embeddings, 2, axis=0), np.repeat(identities, 2)  # two equal windows per clip
    number = np.repeat(np.arange(len(embeddings)), 2)
    backend = NearestNeighbour()
    held_out = fit_and_score_held_out(backend, windows, np.zeros((len(windows), 2)), of_identity, number)
    assert held_out.min() > 1e-4  # neither the window itself nor its clip's other window was known
    assert backend.score(windows, NO_LOGITS[: len(windows)], of_identity).max() < 1e-6  # afterwards all are


def test_an_identity_without_a_fit_is_an_error(clips):
    with pytest.raises(ValueError, match="mahalanobis was not fitted for identity number 7"):
        Mahalanobis().fit(*clips).score(clips[0][:1], NO_LOGITS, np.array([7]))
