"""The figures that DCASE Task 2 ranks by since 2022: per section and domain, and their harmonic mean.

As the tasks define them: AUC of a domain is that of its normal test clips against the anomalous ones of both domains of
the section; pAUC is over the whole section, standardised, up to a false positive rate of 0.1. The score is the harmonic
mean of all of them, over all machine types.
"""

import numpy as np
import pandas as pd
from scipy.stats import hmean

from evaluation.metrics import P, auc, pauc

DOMAINS = ("source", "target")
SMALLEST = np.finfo(float).eps  # in place of 0 in a harmonic mean, as the organisers' evaluator has it


def evaluate(table: pd.DataFrame, system: str) -> dict:
    """Figures of one column of scores.

    `table` has a row per test clip and the columns machine_type, machine_id (the section), condition, domain (source or
    target) and `system`. The result is ``{"harmonic_mean": score, type: {section: {auc_source, auc_target, pauc}}}``;
    what lacks normal or anomalous clips is left out. Empty where no clip has a domain.
    """
    if "domain" not in table or not table["domain"].isin(DOMAINS).any():
        return {}
    found: dict = {}
    for (machine_type, section), clips in table.groupby(["machine_type", "machine_id"], sort=True):
        scores, normal = clips[system].to_numpy(float), (clips["condition"] == "normal").to_numpy()
        if normal.all() or not normal.any():
            continue
        figures = {}
        for domain in DOMAINS:
            of_domain = normal & (clips["domain"] == domain).to_numpy()
            if of_domain.any():
                figures[f"auc_{domain}"] = auc(scores[of_domain], scores[~normal])
        figures["pauc"] = pauc(scores[normal], scores[~normal], P)
        found.setdefault(machine_type, {})[section] = figures
    every = [value for sections in found.values() for figures in sections.values() for value in figures.values()]
    return {"harmonic_mean": float(hmean(np.maximum(every, SMALLEST)))} | found if every else {}
