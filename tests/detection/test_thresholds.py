"""Thresholds: the quantile of a known distribution, awkward scores, and the decisions they lead to."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import gamma
from sklearn.metrics import precision_recall_fscore_support

from detection.thresholds import decide, threshold


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_the_quantile_of_a_gamma_distribution_is_found(scale, quantile):
    scores = gamma.rvs(2.0, scale=scale, size=5000, random_state=0)
    assert threshold(scores, quantile) == pytest.approx(gamma.ppf(quantile, 2.0, scale=scale), rel=0.05)


def test_scores_below_zero_are_shifted_and_back():
    scores = gamma.rvs(4.0, size=2000, random_state=0)
    for offset in (-100.0, -scores.min()):
        assert threshold(scores + offset, 0.9) == pytest.approx(gamma.ppf(0.9, 4.0) + offset, abs=0.4)


@pytest.mark.parametrize("scores", [[0.0], [0.0, 0.0], [3.0] * 6, [-2.0, -2.0], [1e-300, 1e-300]])
def test_equal_scores_are_their_own_threshold(scores):
    assert threshold(np.array(scores), 0.9) == scores[0]


@pytest.mark.parametrize("scores", [[1e-12, 1e-3], [0.0, 1.0], [1e-7, 2e-7, 30.0], [5.0, 5.0 + 1e-4]])
def test_two_scores_are_enough_for_a_finite_threshold(scores):
    assert np.isfinite(threshold(np.array(scores), 0.9))
    assert threshold(np.array(scores), 0.999) > threshold(np.array(scores), 0.5)


def test_decisions_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "machine_type": "fan",
            "machine_id": rng.choice(["id_00", "id_02"], 60),
            "condition": rng.choice(["normal", "anomaly"], 60),
            "score": rng.normal(size=60),
        }
    )
    limits = {"fan/id_00": 0.2, "fan/id_02": 99.0}
    first, second = decide(table, "score", limits).to_dict("records")
    own = table[table["machine_id"] == "id_00"]
    expected = precision_recall_fscore_support(own["condition"] == "anomaly", own["score"] > 0.2, average="binary")
    assert (first["precision"], first["recall"], first["f1"]) == pytest.approx(expected[:3])
    normal = own[own["condition"] == "normal"]
    assert first["false_alarm_rate"] == pytest.approx((normal["score"] > 0.2).mean())
    assert second["threshold"] == 99 and second["precision"] == second["recall"] == second["f1"] == 0
