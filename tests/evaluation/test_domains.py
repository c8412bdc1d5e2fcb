"""The figures of DCASE Task 2 by hand."""

import pandas as pd
import pytest

from evaluation import domains


def clips(*rows):
    columns = ["machine_type", "machine_id", "condition", "domain", "score"]
    return pd.DataFrame([dict(zip(columns, ("fan", "section_00", *row), strict=True)) for row in rows])


def test_a_domains_normals_stand_against_all_anomalies_of_the_section():
    table = clips(
        ("normal", "source", 0.1), ("normal", "source", 0.5), ("normal", "target", 0.4), ("normal", "target", 0.7),
        ("anomaly", "source", 0.6), ("anomaly", "target", 0.9),
    )  # fmt: skip
    found = domains.evaluate(table, "score")
    figures = found["fan"]["section_00"]
    assert figures["auc_source"] == 1.0  # 0.1 and 0.5 lie below 0.6 and 0.9
    assert figures["auc_target"] == pytest.approx(3 / 4)  # 0.7 lies above 0.6
    # up to a false positive rate of 0.1, before the first false alarm, 0.9 alone is caught: 0.05 of 0.1, standardised
    assert figures["pauc"] == pytest.approx(0.5 * (1 + (0.05 - 0.005) / (0.1 - 0.005)))
    mean = 3 / (1 / 1.0 + 4 / 3 + 1 / figures["pauc"])
    assert found["harmonic_mean"] == pytest.approx(mean)


def test_what_has_no_domains_or_one_condition_has_no_such_figures():
    assert domains.evaluate(clips(("normal", "", 0.1), ("anomaly", "", 0.2)), "score") == {}
    assert domains.evaluate(clips(("normal", "source", 0.1), ("normal", "target", 0.2)), "score") == {}
    alone = domains.evaluate(clips(("normal", "source", 0.1), ("anomaly", "source", 0.2)), "score")
    assert list(alone["fan"]["section_00"]) == ["auc_source", "pauc"]


def test_a_zero_does_not_break_the_harmonic_mean():
    found = domains.evaluate(clips(("normal", "source", 0.9), ("anomaly", "source", 0.2)), "score")
    assert 0 <= found["harmonic_mean"] < 1e-10
