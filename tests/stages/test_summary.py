"""What `make run` says at its end."""

import json

import pytest

from stages.summary import summary

SYSTEM = {"auc": 0.6, "auc_low": 0.5, "auc_high": 0.7, "pauc": 0.55, "pauc_low": 0.5, "pauc_high": 0.6}


@pytest.fixture
def metrics(tmp_path):
    figures = {"auc": 0.91, "pauc": 0.8}
    alarms = {"promised": 0.1, "measured": 0.08, "caught": 0.7}
    score = {"average": figures, "fan": figures, "loom": figures, "false_alarms": alarms, "beside": {}}
    (tmp_path / "score.json").write_text(json.dumps(score))
    tied = SYSTEM | {"auc": 0.91, "auc_low": 0.1, "auc_high": 0.2}
    systems = {"rms": SYSTEM, "autoencoder": SYSTEM, "label_free": tied}
    systems["combined"] = SYSTEM | {"auc": 0.91, "auc_low": 0.88, "auc_high": 0.94}
    rows = [{"system": name} | figures for name, figures in systems.items()]
    comparison = {"headline": "combined", "systems": rows}
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    return tmp_path


def test_it_names_the_report_and_the_figures_beside_the_references(metrics):
    text = summary(metrics, metrics / "report")
    # a tie with another system changes nothing: the file says which is the headline
    assert "combined: AUC 0.910 (95 % interval 0.880 to 0.940), pAUC 0.800, averaged over 2 machine types" in text
    assert "fan 0.91, loom 0.91" in text
    assert "level alone 0.600" in text
    assert "autoencoder 0.600" in text
    assert "Healthy recordings that raise an alarm: 8%, promised 10%; faulty ones: 70%" in text
    assert str(metrics.resolve() / "report" / "index.html") in text
    assert len(text.splitlines()) <= 5


def test_without_anomalies_it_speaks_of_false_alarms_alone(metrics):
    (metrics / "score.json").write_text(json.dumps({"false_alarms": {"promised": 0.1, "measured": 0.0}, "beside": {}}))
    text = summary(metrics, metrics / "report")
    assert text.startswith("Healthy recordings that raise an alarm: 0%, promised 10%\n") and "AUC" not in text


def test_without_metrics_it_says_so(tmp_path):
    with pytest.raises(OSError, match=r"score\.json"):
        summary(tmp_path)
