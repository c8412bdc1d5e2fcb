"""Back-ends against their definitions, with few clips, and through a safetensors round trip."""

import numpy as np
import pytest
import safetensors.numpy
import torch
from scipy.spatial.distance import cosine, mahalanobis
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from detection import fitting
from detection.backends import GaussianMixture, LocalDensity, Mahalanobis, NearestNeighbour, NegativeLogProbability

WIDTH = 12
TYPES = ["fan", "fan", "pump"]
DISTANCES = [NearestNeighbour, LocalDensity, Mahalanobis, GaussianMixture]


@pytest.fixture
def clips():
    """30 training clips of identity 0, 6 of identity 1 of the same type, 8 of identity 2 of another type."""
    rng = np.random.default_rng(0)
    identities = np.repeat([0, 1, 2], [30, 6, 8])
    x = rng.normal(size=(44, WIDTH)) * np.linspace(0.3, 2, WIDTH) + 5 * identities[:, None]
    return x.astype(np.float32), identities


def scores(backend, x):
    with torch.inference_mode():
        return backend(torch.from_numpy(np.asarray(x, np.float32))).numpy()


def test_negative_log_probability_is_the_cross_entropy_and_stays_exact_near_certainty():
    logits = np.array([[2.0, 1.0, -1.0], [60.0, 0.0, 0.0], [0.0, 800.0, 0.0]])
    found = scores(NegativeLogProbability.fit(logits, np.zeros(3, int), TYPES), logits)
    assert found[0, 1] == pytest.approx(-np.log(np.exp(1) / np.exp([2, 1, -1]).sum()), rel=1e-6)
    assert found[1, 0] == pytest.approx(2 * np.exp(-60), rel=1e-5)  # 1 - p rounds to 0 here
    assert found[2, 0] == pytest.approx(800, rel=1e-6)


def test_a_machine_that_is_no_class_of_the_network_has_no_probability():
    found = scores(NegativeLogProbability.fit(np.zeros((1, 2)), np.zeros(1, int), TYPES), np.zeros((4, 2)))
    assert found.shape == (4, 3) and np.isnan(found[:, 2]).all() and np.isfinite(found[:, :2]).all()


def test_nearest_neighbour_is_the_cosine_distance_to_the_clips_of_each_identity(clips):
    backend = NearestNeighbour.fit(*clips, TYPES, neighbours=2)
    query = np.random.default_rng(1).normal(size=(1, WIDTH)) + 5
    for identity in range(3):
        distances = sorted(cosine(query[0], known) for known in clips[0][clips[1] == identity])
        assert scores(backend, query)[0, identity] == pytest.approx(np.mean(distances[:2]), abs=1e-6)


def test_local_density_divides_by_the_neighbours_own_spacing(clips):
    x, identities = clips
    query = np.random.default_rng(1).normal(size=(1, WIDTH)) + 5
    known = x[identities == 1].astype(float)
    nearest = known[np.argmin([cosine(query[0], each) for each in known])]
    spacing = np.mean(sorted(cosine(nearest, each) for each in known)[1 : 1 + fitting.SPACED])
    found = scores(LocalDensity.fit(x, identities, TYPES), query)[0, 1]
    assert found == pytest.approx(cosine(query[0], nearest) / spacing, rel=1e-3)


def test_mahalanobis_uses_the_shrunk_covariance_within_the_type_with_some_of_the_other_types(clips, monkeypatch):
    monkeypatch.setattr(fitting, "BORROWED", 4)
    x, identities = clips
    left = np.concatenate([x[identities == number] - x[identities == number].mean(0) for number in range(3)])
    counts = np.repeat([1, 4 / 8], [36, 8])  # fans and pumps
    left = left * np.sqrt(counts / counts.mean())[:, None]  # as many rows, each worth what it counts
    left /= (std := np.sqrt(np.square(left).mean(axis=0)))
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(left).covariance_)
    query = np.random.default_rng(1).normal(size=WIDTH)
    found = scores(Mahalanobis.fit(x, identities, TYPES), query[None])[0]
    for number in (0, 1):
        mean = x[identities == number].mean(0)
        assert found[number] == pytest.approx(mahalanobis(query / std, mean / std, inverse), rel=1e-4)


def test_a_type_of_few_clips_borrows_how_the_others_vary():
    rng = np.random.default_rng(0)
    scales = np.geomspace(0.1, 10, WIDTH)  # every type varies in the same way

    def clips(identities):
        return rng.normal(size=(len(identities), WIDTH)) * scales + 10 * identities[:, None]

    few, many = np.repeat([0, 1, 2], [4, 40, 40]), np.repeat(0, 200)
    asked = clips(many)
    alone = Mahalanobis.fit((x := clips(few))[:4], few[:4], ["fan"])
    among = Mahalanobis.fit(x, few, ["fan", "pump", "valve"])
    ideal = np.sqrt(np.square((asked - x[:4].mean(0)) / scales).sum(1))

    def likeness(backend):
        return np.corrcoef(scores(backend, asked)[:, 0], ideal)[0, 1]

    assert likeness(among) > 0.9 > likeness(alone)


def test_a_large_corpus_lends_a_part_of_itself():
    rng = np.random.default_rng(0)
    identities = np.repeat([0, 1], [10, 5 * fitting.LENDING])
    fitted = fitting.mahalanobis(rng.normal(size=(len(identities), 2 * fitting.LENDING)), identities, ["fan", "pump"])
    assert fitted["directions_0"].shape[1] <= 10 + fitting.LENDING
    assert fitted["directions_1"].shape[1] > 10 + fitting.LENDING


def test_mahalanobis_in_more_dimensions_than_clips_is_that_of_the_whole_shrunk_covariance():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(10, 40)) * np.linspace(0.5, 3, 40)
    left = x - x.mean(0)
    left /= (std := left.std(axis=0))
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(left).covariance_)
    query = rng.normal(size=40)
    found = scores(Mahalanobis.fit(x, np.zeros(10, int), ["fan"]), query[None])[0, 0]
    assert found == pytest.approx(mahalanobis(query / std, x.mean(0) / std, inverse), rel=1e-4)


def test_gaussian_mixture_is_a_negative_log_likelihood(clips):
    x, identities = clips
    query = np.random.default_rng(1).normal(size=(1, WIDTH))
    clips_of = x[identities == 0].astype(float)
    added = 0.1 * np.mean([x[identities == number].astype(float).var(axis=0).mean() for number in (0, 1)])
    expected = -multivariate_normal(clips_of.mean(0), np.diag(clips_of.var(0) + added)).logpdf(query)
    found = scores(GaussianMixture.fit(x, identities, TYPES, components=1), query)[0, 0]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", DISTANCES)
def test_strange_clips_score_higher_and_what_was_fitted_travels(kind, clips, tmp_path):
    backend = kind.fit(*clips, TYPES)
    usual = np.random.default_rng(2).normal(size=(20, WIDTH)) * np.linspace(0.3, 2, WIDTH) + 5
    found = scores(backend, usual)
    assert found.shape == (20, 3)
    turned = usual + 6 * np.eye(WIDTH)[0]
    assert scores(backend, turned)[:, 1].min() > np.median(found[:, 1])
    safetensors.numpy.save_file(backend.arrays(), tmp_path / "backend.safetensors")
    again = kind(safetensors.numpy.load_file(tmp_path / "backend.safetensors"))
    assert np.array_equal(scores(again, usual), found)


@pytest.mark.parametrize("kind", DISTANCES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_identity_of_very_few_or_equal_clips_gets_finite_scores(kind, count, clips):
    x, identities = clips
    x = np.r_[x, np.repeat(x[:1] + 9, count, axis=0)]
    backend = kind.fit(x, np.r_[identities, [3] * count], [*TYPES, "valve"])
    near, far = scores(backend, x[-1:] + np.array([[0.1], [1.0]]) * x[1])[:, 3]
    assert near < far < np.inf


@pytest.mark.parametrize("kind", [NearestNeighbour, LocalDensity, Mahalanobis, GaussianMixture])
def test_an_identity_without_a_training_clip_has_no_score(kind, clips):
    found = scores(kind.fit(*clips, [*TYPES, "valve"]), clips[0][:3])
    assert np.isnan(found[:, 3]).all() and np.isfinite(found[:, :3]).all()
