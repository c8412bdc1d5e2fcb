"""What `make run` says at its end."""

import json

import pytest

from evaluation.systems import NAMES
from stages.summary import summary

SYSTEM = {"auc": 0.6, "auc_low": 0.5, "auc_high": 0.7, "pauc": 0.55, "pauc_low": 0.5, "pauc_high": 0.6}


@pytest.fixture
def metrics(tmp_path):
    figures = {"auc": 0.91, "pauc": 0.8, "pauc_eq12": 0.4}
    score = {
        "average": figures | {"mauc": 0.7},
        "pooled": figures,
        "fan": figures | {"id_00": figures},
        "loom": figures,
    }
    (tmp_path / "score.json").write_text(json.dumps(score))
    # level alone is as good, to the last digit: the headline is what the file says it is
    tied = {"rms": SYSTEM | {"auc": 0.91}}
    headline = {"mahalanobis": SYSTEM | {"auc": 0.91, "auc_low": 0.88, "auc_high": 0.94}}
    comparison = {"headline": "mahalanobis"} | dict.fromkeys(NAMES, SYSTEM) | tied | headline
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    return tmp_path


def test_it_names_the_report_and_the_figures_beside_the_references(metrics):
    text = summary(metrics, metrics / "report")
    assert "Mahalanobis: AUC 0.910 (95 % interval 0.880 to 0.940), pAUC 0.800, averaged over 2 machine types" in text
    assert "fan 0.91, loom 0.91" in text
    assert "level alone 0.910" in text
    assert "DCASE 2020 autoencoder 0.600" in text
    assert str(metrics.resolve() / "report" / "index.html") in text
    assert len(text.splitlines()) <= 5


def test_without_metrics_it_says_so(tmp_path):
    with pytest.raises(OSError, match=r"score\.json"):
        summary(tmp_path)
