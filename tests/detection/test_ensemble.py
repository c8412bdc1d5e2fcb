"""Back-ends fitted together: cross-fitting, z-scores and combinations, with one machine, few clips and no labels."""

import numpy as np
import pytest

from detection.calibration import choose, expected
from detection.ensemble import Ensemble, standard
from detection.learned import clip_means
from detection.names import BACKENDS, COMBINATIONS, NAMES

TYPES = ["fan", "fan", "pump"]
SIZES = {"logits": 3, "finetuned": 8, "pretrained": 8, "moments": 12, "modulation": 6}


def representations(counts, sizes=SIZES, seed=0):
    """Clips of as many identities as there are `counts`, the first of two windows, the others of one."""
    rng = np.random.default_rng(seed)
    identities = np.repeat(np.arange(len(counts)), counts)
    windows = np.ones(len(identities), int)
    windows[0] = 2
    clips = np.repeat(np.arange(len(identities)), windows)
    x = {
        name: (rng.normal(size=(len(clips), size)) + 3 * identities[clips][:, None]).astype(np.float32)
        for name, size in sizes.items()
    }
    return x, clips, identities


def fit(counts, types=TYPES, sizes=SIZES):
    x, clips, identities = representations(counts, sizes)
    return Ensemble.fit(x, clips, identities, types, neighbours=1, components=2, seed=0), x, clips, identities


def test_a_combination_is_the_weighted_mean_of_its_parts_z_scores():
    (ensemble, _), x, clips, identities = fit([10, 12, 9])
    scores = ensemble.of(x, identities[clips])
    z = [
        (scores[part] - ensemble.standard_of(part).mean[identities[clips]])
        / ensemble.standard_of(part).std[identities[clips]]
        for part in ensemble.parts("combined")
    ]
    weights = [COMBINATIONS["combined"][part] for part in ensemble.parts("combined")]
    np.testing.assert_allclose(scores["combined"], np.average(z, axis=0, weights=weights), rtol=1e-4, atol=1e-4)


def test_training_clips_are_scored_by_fits_that_did_not_see_them():
    (ensemble, cross_fitted), x, clips, identities = fit([10, 12, 9])
    seen = clip_means(ensemble.of(x, identities[clips])["finetuned_nearest_neighbour"], clips)
    held_out = cross_fitted["finetuned_nearest_neighbour"]
    assert seen[1:].max() < 1e-5 and held_out.min() > 1e-3  # seen, a clip is its own neighbour
    assert np.isfinite(list(cross_fitted.values())).all()


def test_z_scores_of_cross_fitted_clips_have_mean_0_and_deviation_1_within_a_type():
    (ensemble, cross_fitted), _, _, identities = fit([10, 12, 9])
    mean, std = ensemble.standard_of("logmel_mahalanobis")
    z = (cross_fitted["logmel_mahalanobis"] - mean[identities]) / std[identities]
    assert z[identities == 0].mean() == pytest.approx(0, abs=1e-5)
    assert z[identities < 2].std() == pytest.approx(1, rel=1e-5)


def test_a_single_machine_does_without_what_needs_labels():
    sizes = {name: size for name, size in SIZES.items() if name not in ("logits", "finetuned")}
    (ensemble, _), x, clips, identities = fit([12], ["fan"], sizes)
    assert set(ensemble.names) == {
        name for name in NAMES if BACKENDS.get(name, "pretrained") not in ("logits", "finetuned")
    }
    scores = ensemble.of(x, identities[clips])
    assert scores["combined"].std() > 0
    np.testing.assert_array_equal(scores["combined"], scores["label_free"])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_machine_with_few_clips_gets_finite_scores(count):
    (ensemble, cross_fitted), x, clips, identities = fit([count, 12, 9])
    for name, scores in ensemble.of(x, identities[clips]).items():
        assert np.isfinite(scores).all(), name
    lone = np.isnan(cross_fitted["logmel_mahalanobis"][identities == 0])
    assert lone.all() if count == 1 else not lone.any()


def test_what_was_fitted_travels():
    (ensemble, _), x, clips, identities = fit([10, 12, 9])
    again = Ensemble.from_arrays(ensemble.arrays())
    for name, scores in ensemble.of(x, identities[clips]).items():
        np.testing.assert_array_equal(again.of(x, identities[clips])[name], scores)


def test_a_foreign_or_missing_array_is_named():
    (ensemble, _), *_ = fit([10, 12, 9])
    arrays = ensemble.arrays()
    with pytest.raises(ValueError, match="knn is no back-end"):
        Ensemble.from_arrays(arrays | {"backends.knn.means": np.zeros(1)})
    del arrays["mean_combined"]
    with pytest.raises(ValueError, match="combined"):
        Ensemble.from_arrays(arrays)


def test_a_type_without_any_score_has_no_standard():
    mean, std = standard(np.array([1.0, 2.0, np.nan]), np.array([0, 1, 2]), TYPES)
    assert np.isfinite(mean[:2]).all() and (std[:2] > 0).all() and np.isnan([mean[2], std[2]]).all()


def test_with_a_few_clips_of_each_machine_as_many_new_recordings_raise_an_alarm_as_promised():
    """The machines of a type share a covariance: a fold that takes clips of all of them leaves a much worse one."""
    types, alarms = ["fan"] * 4, []
    identities, asked = np.repeat(np.arange(4), 6), np.repeat(np.arange(4), 100)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mixing, means = rng.normal(size=(10, 60)), 3 * rng.normal(size=(4, 60))  # 10 ways to vary in 60 dimensions

        def clips(of, rng=rng, mixing=mixing, means=means):
            x = means[of] + rng.normal(size=(len(of), 10)) @ mixing + 0.3 * rng.normal(size=(len(of), 60))
            return {"moments": x.astype(np.float32)}

        ensemble, cross_fitted = Ensemble.fit(
            clips(identities), np.arange(24), identities, types, neighbours=1, components=2, seed=0
        )
        found = ensemble.of(clips(asked), asked)["logmel_mahalanobis"]
        mean, std = ensemble.standard_of("logmel_mahalanobis")
        known = {"cross-fitted": [cross_fitted["logmel_mahalanobis"][identities == each] for each in range(4)]}
        for machine in range(4):
            threshold = choose(machine, types, known, mean, std, alpha=0.1).threshold(0.1)
            alarms.append((found[asked == machine] > threshold).mean())
    assert np.mean(alarms) == pytest.approx(expected(24, 0.1).mean, abs=0.02)
