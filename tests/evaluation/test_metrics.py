"""AUC figures against scikit-learn and against the printed sums, averages, intervals, bad input."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation import metrics


def draw(rng, normals, anomalies, ties):
    normal, anomalous = rng.normal(size=normals), rng.normal(0.8, 1.3, size=anomalies)
    return (normal.round(0), anomalous.round(0)) if ties else (normal, anomalous)


CASES = list(itertools.product([1, 5, 8, 10, 25, 37, 70, 100], [1, 8, 33], [False, True]))


@pytest.mark.parametrize(("normals", "anomalies", "ties"), CASES)
def test_agrees_with_scikit_learn(normals, anomalies, ties):
    rng = np.random.default_rng(normals * 100 + anomalies)
    normal, anomalous = draw(rng, normals, anomalies, ties)
    labels, scores = np.r_[np.zeros(normals), np.ones(anomalies)], np.r_[normal, anomalous]
    assert abs(metrics.auc(normal, anomalous) - roc_auc_score(labels, scores)) < 1e-12
    for p in (0.1, 0.25, 0.3, 1.0):
        expected = roc_auc_score(labels, scores, max_fpr=p)
        assert abs(metrics.pauc(normal, anomalous, p) - expected) < 1e-12


@pytest.mark.parametrize(("normals", "anomalies", "ties"), CASES)
def test_agrees_with_the_printed_sums(normals, anomalies, ties):
    rng = np.random.default_rng(normals * 100 + anomalies + 7)
    normal, anomalous = draw(rng, normals, anomalies, ties)
    printed = tied = 0.0
    for i in range(normals):
        for j in range(anomalies):
            printed += anomalous[j] > normal[i]  # eq. (11), H(0) = 0
            tied += anomalous[j] == normal[i]
    assert abs(metrics.auc(normal, anomalous) - (printed + tied / 2) / (normals * anomalies)) < 1e-12
    for p in (0.1, 0.29, 1.0):
        top = max(normals * round(100 * p) // 100, 1)
        printed = 0
        for x in sorted(normal, reverse=True)[:top]:
            for y in anomalous:
                printed += y > x  # eq. (12)
        assert abs(metrics.pauc_eq12(normal, anomalous, p) - printed / (top * anomalies)) < 1e-12


def test_standardised_and_raw_partial_area_are_related_when_the_limit_falls_on_a_clip():
    normal, anomalous = draw(np.random.default_rng(1), 40, 30, ties=False)
    raw = metrics.pauc_eq12(normal, anomalous)
    assert metrics.pauc(normal, anomalous) == pytest.approx(0.5 * (1 - 1 / 19) + 0.5 * 20 / 19 * raw, abs=1e-12)


def test_a_constant_score_is_chance_and_never_better():
    same = np.zeros(20)
    assert metrics.auc(same, same) == metrics.pauc(same, same) == 0.5
    assert metrics.pauc_eq12(same, same) == 0.0


@pytest.mark.parametrize("normal", [[], [0.0, np.nan], [np.inf]])
def test_scores_that_are_no_numbers_are_errors(normal):
    with pytest.raises(ValueError, match="normal score"):
        metrics.auc(np.array(normal), np.array([1.0]))


def table_of(scores):
    """{(type, id): (normal scores, anomalous scores)} as a table."""
    rows = [
        (f"{kind}/test/{condition}_{machine}_{number:08d}", kind, machine, condition, value)
        for (kind, machine), pair in scores.items()
        for condition, values in zip(("normal", "anomaly"), pair, strict=True)
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["clip", "machine_type", "machine_id", "condition", "score"])


@pytest.fixture
def corpus():
    rng = np.random.default_rng(0)
    shape = {("fan", "id_00"): (12, 9), ("fan", "id_02"): (30, 8), ("pump", "id_00"): (8, 8)}
    return {key: draw(rng, *sizes, ties=False) for key, sizes in shape.items()}


def test_averages_are_over_ids_then_types_and_pooled_stands_apart(corpus):
    result = metrics.evaluate(table_of(corpus), "score")
    each = {key: metrics.auc(*pair) for key, pair in corpus.items()}
    fan = (each["fan", "id_00"] + each["fan", "id_02"]) / 2
    assert result["fan"]["auc"] == pytest.approx(fan)
    assert result["fan"]["id_02"]["auc"] == each["fan", "id_02"]
    assert result["average"]["auc"] == pytest.approx((fan + each["pump", "id_00"]) / 2)
    worst = min(each["fan", "id_00"], each["fan", "id_02"])
    assert result["average"]["mauc"] == pytest.approx((worst + each["pump", "id_00"]) / 2)
    pooled = [np.r_[corpus["fan", "id_00"][side], corpus["fan", "id_02"][side]] for side in (0, 1)]
    assert result["pooled"]["pauc"] == pytest.approx(
        (metrics.pauc(*pooled) + metrics.pauc(*corpus["pump", "id_00"])) / 2
    )
    assert metrics.evaluate_pooled(table_of(corpus), "score")["fan"]["auc"] == metrics.auc(*pooled)
    assert set(result) == {"average", "pooled", "fan", "pump"}
    assert set(result["fan"]) == {"auc", "pauc", "pauc_eq12", "id_00", "id_02"}


def test_intervals_are_seeded_and_match_drawing_clips_one_by_one(corpus):
    table = table_of(corpus)
    intervals = metrics.bootstrap(table, "score", resamples=2000, seed=3)
    assert intervals == metrics.bootstrap(table, "score", resamples=2000, seed=3)
    assert intervals != metrics.bootstrap(table, "score", resamples=2000, seed=4)
    rng = np.random.default_rng(5)
    draws = []
    for _ in range(2000):
        again = {key: tuple(rng.choice(part, len(part)) for part in pair) for key, pair in corpus.items()}
        each = {key: metrics.pauc(*pair) for key, pair in again.items()}
        draws.append(((each["fan", "id_00"] + each["fan", "id_02"]) / 2 + each["pump", "id_00"]) / 2)
    assert intervals["average"]["pauc"] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.02)
    figures = metrics.evaluate(table, "score")
    for part in ("average", "pooled", "fan", "pump"):
        for figure, (low, high) in intervals[part].items():
            assert 0 <= low <= figures[part][figure] <= high <= 1


def test_a_thousand_resamples_of_dcase_2020_take_seconds():
    rng = np.random.default_rng(0)
    table = table_of({(f"type{k}", f"id_{i:02d}"): draw(rng, 100, 200, False) for k in range(6) for i in range(4)})
    began = time.process_time()
    metrics.bootstrap(table, "score", resamples=1000, seed=0)
    assert time.process_time() - began < 10


def test_roc_has_the_area_of_the_pooled_auc(corpus):
    table = table_of(corpus)
    for name, curve in metrics.roc(table, "score").groupby("type"):
        area = np.trapezoid(curve["tpr"], curve["fpr"])
        assert area == pytest.approx(metrics.evaluate_pooled(table, "score")[name]["auc"], abs=1e-4)


def test_a_machine_of_one_class_is_left_out(corpus):
    whole = metrics.evaluate(table_of(corpus), "score")
    corpus["pump", "id_00"] = (corpus["pump", "id_00"][0], [])
    found = metrics.evaluate(table_of(corpus), "score")
    assert "id_00" not in found.get("pump", {}) and found["fan"] == whole["fan"]
    assert metrics.bootstrap(table_of(corpus), "score", 100, 0).keys() == found.keys()


def test_without_both_classes_anywhere_there_are_no_figures(corpus):
    healthy = table_of({machine: (normal, []) for machine, (normal, _) in corpus.items()})
    for table in (healthy, healthy.iloc[:0]):
        assert metrics.evaluate(table, "score") == metrics.evaluate_pooled(table, "score") == {}
        assert metrics.bootstrap(table, "score", 100, 0) == {} and metrics.roc(table, "score").empty


def test_a_score_that_is_not_a_number_is_an_error_that_names_the_clip(corpus):
    table = table_of(corpus)
    table.loc[3, "score"] = np.nan
    with pytest.raises(ValueError, match=r"score of fan/test/normal_id_00_00000003 is nan"):
        metrics.evaluate(table, "score")


def test_an_identity_that_was_never_trained_is_an_error_that_names_it(corpus):
    with pytest.raises(ValueError, match="pump/id_00 has test clips but was never trained"):
        metrics.check_trained(["fan/id_00", "fan/id_02"], table_of(corpus))


def test_reserved_names_are_errors():
    with pytest.raises(ValueError, match="cannot be called 'pooled'"):
        metrics.evaluate(table_of({("pooled", "id_00"): ([0.0], [1.0])}), "score")
