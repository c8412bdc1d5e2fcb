"""The score stage: what it writes, that it is right, what depends on what, and its bad input."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from audio.clips import read_clip
from audio.features import Features
from detection.detector import Detector
from detection.names import LABEL_FREE, NAMES
from stages import score
from tests.tiny_corpus import MACHINES, make, score_params

SYSTEMS = [*NAMES, "rms", "logmel_nearest_neighbour", "autoencoder"]
CLIPS = 6 + 5 + 8  # of a machine: training, calibration, test


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    return make(tmp_path)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    root = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCMAE_STORE", str(root / "store"))
        score.run(score_params(), make(root))
    return root


def read_scores(root):
    return pd.read_csv(root / "data" / "scores" / "scores.csv")


def test_the_table_holds_all_clips_and_systems(scored):
    table = read_scores(scored)
    assert list(table.columns) == ["clip", "machine_type", "machine_id", "split", "condition", *SYSTEMS]
    assert len(table) == 3 * CLIPS and np.isfinite(table[SYSTEMS]).all(axis=None)
    assert (table[table["split"] != "test"]["condition"] == "normal").all()


def test_metrics_are_those_of_the_table_and_fit_a_screen(scored):
    figures = json.loads((scored / "metrics" / "score.json").read_text())
    assert list(figures) == ["average", "fan", "pump", "false_alarms", "beside"]
    assert list(figures["average"]) == list(figures["fan"]) == ["auc", "pauc"]
    assert list(figures["false_alarms"]) == ["promised", "measured", "caught"]
    table = read_scores(scored)
    of_pump = table[(table["machine_type"] == "pump") & (table["split"] == "test")]
    expected = roc_auc_score(of_pump["condition"] == "anomaly", of_pump["combined"])
    assert figures["pump"]["auc"] == pytest.approx(expected, abs=1e-5)
    comparison = compared(scored)
    assert list(comparison) == SYSTEMS and comparison["autoencoder"]["parameters"] > 0
    for row in comparison.values():
        assert row["auc_low"] <= row["auc"] <= row["auc_high"]
    assert comparison["combined"]["auc"] == figures["average"]["auc"]
    curves = pd.DataFrame(json.loads((scored / "metrics" / "plots" / "roc.json").read_text())["roc"])
    assert set(curves["type"]) == {"fan", "pump"} and list(curves.columns) == ["type", "step", "fpr", "tpr"]


def test_submission_files_are_in_the_format_of_dcase(scored):
    lines = (scored / "data" / "scores" / "anomaly_score_fan_id_02.csv").read_text().splitlines()
    assert len(lines) == 8 and len(list((scored / "data" / "scores").glob("anomaly_score_*"))) == len(MACHINES)
    file, value = lines[0].split(",")
    row = read_scores(scored).set_index("clip").loc["fan/test/anomaly_id_02_00000000"]
    assert file == "anomaly_id_02_00000000.wav"
    assert float(value) == pytest.approx(row["combined"], rel=1e-12)


def test_the_packed_detector_gives_the_same_scores_from_the_sound_files(scored):
    detector = Detector.load(scored / "data" / "detector")
    table = read_scores(scored)
    for row in table[table["split"] == "test"].itertuples():
        waveform = read_clip(scored / "data" / "raw" / f"{row.clip}.flac")
        for backend in NAMES:
            verdict = detector.score(waveform, 16000, row.machine_type, row.machine_id, backend)
            assert verdict.score == pytest.approx(getattr(row, backend), rel=1e-4, abs=1e-4)


def test_summary_has_the_thresholds_and_counts_of_the_detector(scored):
    summary = json.loads((scored / "data" / "scores" / "summary.json").read_text())
    assert summary["backend"] == "combined" and list(summary["systems"]) == SYSTEMS
    detector, table = Detector.load(scored / "data" / "detector"), read_scores(scored)
    for row in summary["systems"]["combined"]["decisions"]:
        machine = f"{row['machine_type']}/{row['machine_id']}"
        assert row["backend"] == detector.deciding(machine)
        assert row["threshold"] == pytest.approx(detector.threshold(machine), rel=1e-9)
        of_machine = table[table["machine_type"].eq(row["machine_type"]) & table["machine_id"].eq(row["machine_id"])]
        test = of_machine[of_machine["split"] == "test"]
        alarm, anomalous = test[row["backend"]] > row["threshold"], test["condition"] == "anomaly"
        assert row["measured"] == alarm[~anomalous].mean() and row["caught"] == alarm[anomalous].mean()
        assert 0 < row["promised"] <= row["promised_high"]


def test_no_fit_reads_a_calibration_clip(scored, corpus):
    """Change all calibration clips: what was fitted must stay as it is, what is compared with them must not."""
    change(corpus, "calibration")
    score.run(score_params(), corpus)
    before, after = (root / "data" / "detector" / "ensemble.safetensors" for root in (scored, corpus))
    assert before.read_bytes() == after.read_bytes()
    table, changed = read_scores(scored), read_scores(corpus)
    differ = (table[SYSTEMS] != changed[SYSTEMS]).any(axis=1)
    assert set(table.loc[differ, "split"]) == {"calibration"}


def test_embeddings_are_aligned_with_the_table(scored):
    arrays = np.load(scored / "data" / "scores" / "embeddings.npz")
    assert arrays["clip"].tolist() == read_scores(scored)["clip"].tolist()
    assert arrays["pretrained"].shape == arrays["finetuned"].shape == (3 * CLIPS, 4 * 24)
    assert arrays["logits"].shape == (3 * CLIPS, 3)


def change(corpus, split):
    """Change the spectrograms of a split."""
    spectrograms = np.load(corpus / "data" / "features" / "original.npy")
    for row in Features.open(corpus / "data" / "features").index.query(f"split == '{split}'").itertuples():
        spectrograms[row.start : row.start + row.frames] *= np.linspace(0.3, 1, 32)
    np.save(corpus / "data" / "features" / "original.npy", spectrograms)


def test_test_clips_decide_nothing_that_is_fitted(scored, corpus):
    """Change all test clips: what was fitted and calibrated must stay as it is."""
    change(corpus, "test")
    score.run(score_params(), corpus)
    for name in ("ensemble.safetensors", "recordings.safetensors", "detector.json"):
        before, after = (root / "data" / "detector" / name for root in (scored, corpus))
        assert before.read_bytes() == after.read_bytes()
    table, changed = read_scores(scored), read_scores(corpus)
    differ = (table[SYSTEMS] != changed[SYSTEMS]).any(axis=1)
    assert set(table.loc[differ, "split"]) == {"test"}


def test_the_headline_is_the_chosen_back_end_and_autoencoders_are_trained_once(corpus, caplog):
    caplog.set_level("INFO")
    score.run(score_params(), corpus)
    assert "training the autoencoder of pump" in caplog.text
    first = read_scores(corpus)
    caplog.clear()
    score.run(score_params(backend="finetuned_mahalanobis"), corpus)
    assert "training the autoencoder" not in caplog.text
    pd.testing.assert_frame_equal(read_scores(corpus), first)
    figures = json.loads((corpus / "metrics" / "score.json").read_text())
    assert figures["average"]["auc"] == compared(corpus)["finetuned_mahalanobis"]["auc"]
    score.run(score_params(autoencoder_epochs=3), corpus)
    assert "training the autoencoder of pump" in caplog.text


def compared(folder):
    """The figures of all systems, by system."""
    systems = json.loads((folder / "metrics" / "comparison.json").read_text())["systems"]
    return {row.pop("system"): row for row in systems}


def edit_index(corpus, change):
    path = corpus / "data" / "features" / "index.csv"
    index = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(index).to_csv(path, index=False)


def test_an_identity_that_was_never_trained_is_named(corpus):
    edit_index(corpus, lambda index: index.replace({"machine_id": {"id_02": "id_06"}}))
    with pytest.raises(ValueError, match="fan/id_06 has test clips but was never trained on; trained: fan/id_00"):
        score.run(score_params(), corpus)


def test_a_machine_without_anomalies_has_no_figures_that_need_them(corpus):
    edit_index(corpus, lambda index: index[~((index["machine_type"] == "pump") & (index["condition"] == "anomaly"))])
    score.run(score_params(), corpus)
    figures = json.loads((corpus / "metrics" / "score.json").read_text())
    assert list(figures) == ["average", "fan", "false_alarms", "beside"] and figures["average"] == figures["fan"]
    decisions = json.loads((corpus / "data/scores/summary.json").read_text())["systems"]["combined"]["decisions"]
    pump = next(row for row in decisions if row["machine_type"] == "pump")
    assert pump["normal"] == 4 and pump["anomaly"] == 0 and "measured" in pump and "caught" not in pump


def test_without_any_anomaly_false_alarms_are_what_is_said(corpus):
    edit_index(corpus, lambda index: index[index["condition"] == "normal"])
    score.run(score_params(), corpus)
    figures = json.loads((corpus / "metrics" / "score.json").read_text())
    assert list(figures["false_alarms"]) == ["promised", "measured"] and "average" not in figures
    assert "NaN" not in (corpus / "data" / "scores" / "summary.json").read_text()


def test_clips_of_domains_get_the_figures_that_dcase_ranks_by(corpus):
    def divided(index):
        return index.assign(domain=["source" if number % 2 else "target" for number in range(len(index))])

    edit_index(corpus, divided)
    score.run(score_params(), corpus)
    found = json.loads((corpus / "metrics" / "score.json").read_text())["domains"]
    assert set(found) == {"harmonic_mean", "fan", "pump"}
    assert set(found["pump"]["id_00"]) == {"auc_source", "auc_target", "pauc"}


def test_a_single_machine_is_judged_without_labels(corpus):
    edit_index(corpus, lambda index: index[index["machine_type"] == "pump"])
    config = json.loads((corpus / "data" / "finetuned" / "config.json").read_text())
    (corpus / "data/finetuned/config.json").write_text(json.dumps(config | {"identities": ["pump/id_00"]}))
    score.run(score_params(), corpus)
    table, detector = read_scores(corpus), Detector.load(corpus / "data" / "detector")
    assert "negative_log_probability" not in table and not (corpus / "data" / "detector" / "finetuned").exists()
    assert detector.backends == tuple(name for name in NAMES if name in ("combined", *LABEL_FREE))
    assert table["combined"].nunique() == len(table)
    with pytest.raises(ValueError, match="back-end 'negative_log_probability' is unknown"):
        detector.deciding("pump/id_00", "negative_log_probability")
    score.run(score_params(backend="negative_log_probability"), corpus)
    assert json.loads((corpus / "metrics" / "comparison.json").read_text())["headline"] == "label_free"


def test_features_of_another_front_end_are_refused(corpus):
    path = corpus / "data" / "features" / "stats.json"
    path.write_text(path.read_text().replace('"f_min": 50.0', '"f_min": 20.0'))
    with pytest.raises(ValueError, match=r"features were made with .*f_min=20.0.* trained on .*f_min=50.0"):
        score.run(score_params(), corpus)


def test_a_score_that_is_not_a_number_names_a_clip(corpus):
    path = corpus / "data" / "finetuned" / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"][:] = np.nan
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"logits .* of fan/calibration/normal_id_00_00000000 is not a number"):
        score.run(score_params(), corpus)


def test_a_missing_model_is_one_error(corpus):
    (corpus / "data" / "finetuned" / "config.json").unlink()
    with pytest.raises(OSError, match=r"finetuned/config\.json"):
        score.run(score_params(), corpus)
