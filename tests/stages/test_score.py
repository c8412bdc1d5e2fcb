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
from stages import score
from stages.params import Declared, load
from tests.conftest import ROOT
from tests.tiny_corpus import MACHINES, make

SYSTEMS = [
    "negative_log_probability",
    "nearest_neighbour",
    "mahalanobis",
    "gaussian_mixture",
    "rms",
    "logmel_nearest_neighbour",
    "logmel_mahalanobis",
    "autoencoder",
]


def params(**changes) -> Declared:
    small = {"bootstrap": 100, "autoencoder_epochs": 2, "autoencoder_vectors": 256, "window_hop": 20}
    return load("score", ROOT, {f"score.{key}": value for key, value in (small | changes).items()})


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    return make(tmp_path)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    root = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCMAE_STORE", str(root / "store"))
        score.run(params(), make(root))
    return root


def read_scores(root):
    return pd.read_csv(root / "data" / "scores" / "scores.csv")


def test_the_table_holds_all_clips_and_systems(scored):
    table = read_scores(scored)
    assert list(table.columns) == ["clip", "machine_type", "machine_id", "split", "condition", *SYSTEMS]
    assert len(table) == 3 * (6 + 8) and np.isfinite(table[SYSTEMS]).all(axis=None)
    assert (table[table["split"] == "train"]["condition"] == "normal").all()


def test_metrics_are_those_of_the_table_and_have_the_agreed_shape(scored):
    figures = json.loads((scored / "metrics" / "score.json").read_text())
    assert list(figures) == ["average", "pooled", "fan", "pump"]
    assert list(figures["average"]) == ["auc", "pauc", "pauc_eq12", "mauc"]
    assert list(figures["fan"]) == ["auc", "pauc", "pauc_eq12", "id_00", "id_02"]
    table = read_scores(scored)
    own = table[(table["machine_type"] == "pump") & (table["split"] == "test")]
    expected = roc_auc_score(own["condition"] == "anomaly", own["negative_log_probability"])
    assert figures["pump"]["id_00"]["auc"] == pytest.approx(expected, abs=1e-5)
    comparison = json.loads((scored / "metrics" / "comparison.json").read_text())
    assert comparison.pop("headline") == "negative_log_probability"
    assert list(comparison) == SYSTEMS
    for row in comparison.values():
        assert row["auc_low"] <= row["auc"] <= row["auc_high"]
    assert comparison["negative_log_probability"]["auc"] == figures["average"]["auc"]
    curves = pd.DataFrame(json.loads((scored / "metrics" / "plots" / "roc.json").read_text())["roc"])
    assert set(curves["type"]) == {"fan", "pump"} and list(curves.columns) == ["type", "step", "fpr", "tpr"]


def test_submission_files_are_in_the_format_of_dcase(scored):
    lines = (scored / "data" / "scores" / "anomaly_score_fan_id_02.csv").read_text().splitlines()
    assert len(lines) == 8 and len(list((scored / "data" / "scores").glob("anomaly_score_*"))) == len(MACHINES)
    file, value = lines[0].split(",")
    row = read_scores(scored).set_index("clip").loc["fan/test/anomaly_id_02_00000000"]
    assert file == "anomaly_id_02_00000000.wav"
    assert float(value) == pytest.approx(row["negative_log_probability"], rel=1e-12)


def test_the_packed_detector_gives_the_same_scores_from_the_sound_files(scored):
    detector = Detector.load(scored / "data" / "detector")
    table = read_scores(scored)
    for row in table[table["split"] == "test"].itertuples():
        waveform = read_clip(scored / "data" / "raw" / f"{row.clip}.flac")
        for backend in SYSTEMS[:4]:
            verdict = detector.score(waveform, 16000, row.machine_type, row.machine_id, backend)
            assert verdict.score == pytest.approx(getattr(row, backend), abs=1e-6)


def test_summary_has_thresholds_that_only_training_clips_decide(scored):
    summary = json.loads((scored / "data" / "scores" / "summary.json").read_text())
    assert summary["backend"] == "negative_log_probability" and list(summary["systems"]) == SYSTEMS
    detector = Detector.load(scored / "data" / "detector")
    for backend in SYSTEMS[:4]:
        for row in summary["systems"][backend]["decisions"]:
            identity = f"{row['machine_type']}/{row['machine_id']}"
            assert row["threshold"] == pytest.approx(detector.thresholds[backend][identity], rel=1e-9)


def test_embeddings_are_aligned_with_the_table(scored):
    arrays = np.load(scored / "data" / "scores" / "embeddings.npz")
    assert arrays["clip"].tolist() == read_scores(scored)["clip"].tolist()
    assert arrays["pretrained"].shape == arrays["finetuned"].shape == (42, 24) and arrays["logits"].shape == (42, 3)


def test_test_clips_decide_nothing_that_is_fitted(scored, corpus):
    """Change all test clips: fitted back-ends, thresholds and training scores must stay as they are."""
    spectrograms = np.load(corpus / "data" / "features" / "original.npy")
    for row in Features.open(corpus / "data" / "features").index.query("split == 'test'").itertuples():
        spectrograms[row.start : row.start + row.frames] *= 0.5
    np.save(corpus / "data" / "features" / "original.npy", spectrograms)
    score.run(params(), corpus)
    for name in ("detector.json", "backends.safetensors"):
        before, after = (root / "data" / "detector" / name for root in (scored, corpus))
        assert before.read_bytes() == after.read_bytes()
    columns = read_scores(scored)[SYSTEMS].compare(read_scores(corpus)[SYSTEMS])
    assert set(read_scores(corpus).loc[columns.index, "split"]) == {"test"}


def test_the_headline_is_the_chosen_back_end_and_autoencoders_are_trained_once(corpus, caplog):
    caplog.set_level("INFO")
    score.run(params(), corpus)
    assert "training the autoencoder of pump" in caplog.text
    first = read_scores(corpus)
    caplog.clear()
    score.run(params(backend="mahalanobis"), corpus)
    assert "training the autoencoder" not in caplog.text
    pd.testing.assert_frame_equal(read_scores(corpus), first)
    figures = json.loads((corpus / "metrics" / "score.json").read_text())
    comparison = json.loads((corpus / "metrics" / "comparison.json").read_text())
    assert figures["average"]["auc"] == comparison["mahalanobis"]["auc"]
    score.run(params(autoencoder_epochs=3), corpus)
    assert "training the autoencoder of pump" in caplog.text


def edit_index(corpus, change):
    path = corpus / "data" / "features" / "index.csv"
    index = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(index).to_csv(path, index=False)


def test_an_identity_that_was_never_trained_is_named(corpus):
    edit_index(corpus, lambda index: index.replace({"machine_id": {"id_02": "id_06"}}))
    with pytest.raises(ValueError, match="fan/id_06 has test clips but was never trained on; trained: fan/id_00"):
        score.run(params(), corpus)


def test_a_single_class_is_named_before_anything_is_written(corpus):
    edit_index(corpus, lambda index: index[~((index["machine_type"] == "pump") & (index["condition"] == "anomaly"))])
    with pytest.raises(ValueError, match="pump id_00 has 4 normal and 0 anomalous test clips"):
        score.run(params(), corpus)
    assert not (corpus / "data" / "scores").exists() and not (corpus / "data" / "detector").exists()


def test_features_of_another_front_end_are_refused(corpus):
    path = corpus / "data" / "features" / "stats.json"
    path.write_text(path.read_text().replace('"f_min": 50.0', '"f_min": 20.0'))
    with pytest.raises(ValueError, match=r"features were made with .*f_min=20.0.* trained on .*f_min=50.0"):
        score.run(params(), corpus)


def test_a_score_that_is_not_a_number_names_a_clip(corpus):
    path = corpus / "data" / "finetuned" / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"][:] = np.nan
    save_file(weights, path)
    with pytest.raises(ValueError, match="of fan/test/anomaly_id_00_00000000 is not a number"):
        score.run(params(), corpus)


def test_a_missing_model_is_one_error(corpus):
    (corpus / "data" / "finetuned" / "config.json").unlink()
    with pytest.raises(OSError, match=r"finetuned/config\.json"):
        score.run(params(), corpus)
