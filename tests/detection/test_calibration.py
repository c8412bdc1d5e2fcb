"""The promise about false alarms: p-values, thresholds and ranges by simulation, and which recordings are taken."""

import doctest

import numpy as np
import pytest

import detection.calibration
from detection.calibration import Calibration, choose, expected, false_discoveries, needed

TYPES = ["fan", "fan", "pump"]
NONE = np.zeros(0)


def test_the_documented_examples():
    results = doctest.testmod(detection.calibration)
    assert results.attempted >= 5 and results.failed == 0


@pytest.mark.parametrize("n", [9, 19, 20, 39, 99])
@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_no_more_false_alarms_than_promised(n, alpha):
    """Over many machines with n calibration recordings: the mean share of false alarms, and its range."""
    rng = np.random.default_rng(n)
    shares = []
    for _ in range(400):
        calibration = Calibration(tuple(np.sort(rng.gamma(2, size=n))), "held-out")
        shares.append(np.mean(rng.gamma(2, size=2000) > calibration.threshold(alpha)))
    promise = expected(n, calibration.alpha(alpha))
    assert promise.mean <= calibration.alpha(alpha) + 1e-12
    assert np.mean(shares) == pytest.approx(promise.mean, abs=0.012)
    assert np.mean(np.array(shares) <= promise.high + 0.01) > 0.92


def test_a_recording_is_anomalous_exactly_where_its_p_value_is_at_most_alpha():
    rng = np.random.default_rng(0)
    for n in (3, 9, 19, 50):
        calibration = Calibration(tuple(np.sort(rng.normal(size=n).round(1))), "held-out")  # rounded: with ties
        for score in rng.normal(size=300).round(1):
            anomalous = score > calibration.threshold(0.1)
            assert anomalous == (calibration.p_value(score) <= calibration.alpha(0.1) + 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_never_a_verdict(bad):
    with pytest.raises(ValueError, match="cannot be judged"):
        Calibration((1.0, 2.0), "held-out").p_value(bad)
    with pytest.raises(ValueError, match="not a number"):
        Calibration((1.0, bad), "held-out")


def test_scores_that_are_all_the_same_tell_nothing():
    with pytest.raises(ValueError, match="all 3 calibration scores are 2: nothing can be told"):
        Calibration((2.0, 2.0, 2.0), "held-out")


def chosen(held_out, cross_fitted, machine=0, alpha=0.1):
    scores = {"held-out": held_out, "cross-fitted": cross_fitted}
    return choose(machine, TYPES, scores, np.array([0.0, 100.0, 7.0]), np.array([1.0, 10.0, 1.0]), alpha)


def test_a_machine_with_enough_recordings_is_compared_with_its_own():
    few, many = np.arange(3.0), np.arange(9.0)
    assert chosen([many, few, few], [many] * 3) == Calibration(tuple(many), "held-out")


def test_too_few_recordings_are_joined_by_those_of_the_type_as_z_scores():
    found = chosen([np.array([1.0, 2.0]), 100 + 10 * np.arange(7.0), np.full(9, 5.0)], [NONE] * 3)
    assert found.source == "held-out, pooled" and found.n == 9
    assert found.scores == (0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0)  # on the scale of machine 0, no pump


def test_without_recordings_held_out_cross_fitted_scores_stand_in():
    assert chosen([NONE] * 3, [np.arange(12.0), NONE, NONE]).source == "cross-fitted"
    assert chosen([NONE] * 3, [np.arange(5.0), 100 + np.arange(5.0), NONE]).source == "cross-fitted, pooled"


def test_where_nothing_suffices_the_most_there_is_is_taken_and_none_is_an_error():
    found = chosen([NONE] * 3, [NONE, NONE, np.arange(4.0)], machine=2)
    assert found.n == 4 and found.alpha(0.1) == pytest.approx(0.2) and needed(0.1) - found.n == 5
    with pytest.raises(ValueError, match="no calibration recording"):
        chosen([NONE] * 3, [NONE] * 3)


def test_false_discoveries_keep_to_their_share_over_many_batches():
    rng = np.random.default_rng(1)
    wrong = []
    for _ in range(500):
        p_values = np.r_[rng.uniform(size=40), rng.uniform(0, 0.002, size=10)]
        called = np.array(false_discoveries(p_values, 0.1))
        wrong.append(called[:40].sum() / max(called.sum(), 1))
    assert np.mean(wrong) <= 0.1 and false_discoveries([], 0.1) == []
