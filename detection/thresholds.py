"""The decision threshold of a machine identity, from the scores of its training normals alone, and how well it decides.

As in the DCASE baselines since 2021: a gamma distribution fitted to the training normals' scores, and a quantile of it,
so that a share of 1 - quantile of normal clips is expected to raise a false alarm. The network has seen those clips, so
their scores are lower than those of new normal clips, and more false alarms than that must be expected.
"""

import numpy as np
import pandas as pd


def threshold(scores: np.ndarray, quantile: float) -> float:
    """The `quantile` of a gamma distribution fitted to `scores` (N,); a clip above it is called anomalous.

    Scores that are not positive throughout are shifted for the fit, so that the lowest lies one standard deviation
    above 0. Where all are (nearly) equal there is nothing to fit, and the threshold is the highest of them.

    >>> round(threshold(np.array([1.0, 2.0, 3.0, 4.0]), 0.9), 1)
    4.1
    """
    from scipy.stats import gamma  # a slow import, which judging with a known threshold does without

    scores = np.asarray(scores, float)
    spread = scores.std()
    if spread <= 1e-6 * np.abs(scores).max():
        return float(scores.max())
    shift = 0.0 if scores.min() > 0 else spread - scores.min()
    # the scale of the scores is taken out for the sake of the solver: -log p may be 1e-7 throughout
    scale = (scores + shift).mean()
    shape, _, width = gamma.fit((scores + shift) / scale, floc=0)
    return float(gamma.ppf(quantile, shape, scale=width) * scale - shift)


def decide(table: pd.DataFrame, system: str, thresholds: dict[str, float]) -> pd.DataFrame:
    """Precision, recall, F1 and false alarm rate per machine identity: a row per type and id.

    `table` holds the test clips (see `metrics.evaluate`), `thresholds` the value per identity ("fan/id_00"). Without
    any alarm, precision and F1 are 0.
    """
    rows = []
    for (machine_type, machine_id), clips in table.groupby(["machine_type", "machine_id"], sort=True):
        limit = thresholds[f"{machine_type}/{machine_id}"]
        alarm, anomalous = clips[system] > limit, clips["condition"] == "anomaly"
        hits, alarms, anomalies = (alarm & anomalous).sum(), alarm.sum(), anomalous.sum()
        rows.append(
            {
                "machine_type": machine_type,
                "machine_id": machine_id,
                "threshold": limit,
                "precision": hits / max(alarms, 1),
                "recall": hits / max(anomalies, 1),
                "f1": 2 * hits / max(alarms + anomalies, 1),
                "false_alarm_rate": (alarm & ~anomalous).sum() / max((~anomalous).sum(), 1),
            }
        )
    return pd.DataFrame(rows)
