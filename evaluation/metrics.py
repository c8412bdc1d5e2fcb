"""AUC and partial AUC of anomaly scores (equations 11 and 12), their averages, and bootstrap intervals over clips.

Scores are higher for more anomalous clips; normal clips are the negatives. Figures are fractions, not per cent.

Conventions where the paper and the field differ:

- ``auc`` is the area under the ROC curve, `sklearn.metrics.roc_auc_score`: a tie between a normal and an anomalous clip
  counts one half. Equation (11) as printed counts it nothing, so it is lower by half the share of tied pairs.
- ``pauc`` is the McClish-standardised partial area up to the false positive rate p, `roc_auc_score(max_fpr=p)`, which
  is what the published tables contain: 0.5 is chance.
- ``pauc_eq12`` is equation (12) as printed: the floor(p N-) highest-scoring normal clips against all anomalous clips, a
  tie counts nothing (else a constant score would get 0.5), p/2 is chance. With fewer than 1/p normal clips floor(p N-)
  is 0 and the equation undefined; the highest-scoring normal clip is used then.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

P = 0.1  # the highest false positive rate that pAUC looks at
FIGURES = ("auc", "pauc", "pauc_eq12")
RESERVED = ("average", "pooled")  # keys of the result beside the machine types
INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap


def auc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Area under the ROC curve, equation (11) with ties counted one half; 0.5 is chance.

    `normal` and `anomalous` are the scores, shapes (N-,) and (N+,). Raises ValueError when either is empty or not
    finite.

    >>> auc(np.array([0.1, 0.4]), np.array([0.4, 0.9]))
    0.875
    """
    return float(_areas(normal, anomalous)["auc"][0])


def pauc(normal: np.ndarray, anomalous: np.ndarray, p: float = P) -> float:
    """McClish-standardised partial area under the ROC curve up to the false positive rate `p`; 0.5 is chance."""
    return float(_areas(normal, anomalous, p=p)["pauc"][0])


def pauc_eq12(normal: np.ndarray, anomalous: np.ndarray, p: float = P) -> float:
    """Equation (12) as printed: share of pairs that are ordered rightly among the top floor(p N-) normal clips."""
    return float(_areas(normal, anomalous, p=p)["pauc_eq12"][0])


def _areas(
    normal: np.ndarray,
    anomalous: np.ndarray,
    normal_counts: np.ndarray | None = None,
    anomalous_counts: np.ndarray | None = None,
    p: float = P,
) -> dict[str, np.ndarray]:
    """The three figures of R resamples at once, each of shape (R,).

    `normal_counts` (R, N-) and `anomalous_counts` (R, N+) say how often a resample holds each clip; None is one sample
    with every clip once.
    """
    normal, anomalous = np.asarray(normal, float), np.asarray(anomalous, float)
    for name, scores in (("normal", normal), ("anomalous", anomalous)):
        if scores.ndim != 1 or not scores.size:
            raise ValueError(f"no {name} scores, or not one-dimensional: shape {scores.shape}")
        if not np.isfinite(scores).all():
            raise ValueError(f"{name} score number {np.flatnonzero(~np.isfinite(scores))[0]} is not finite")
    if not 0 < p <= 1:
        raise ValueError(f"p is {p}: must lie in (0, 1]")
    if normal_counts is None or anomalous_counts is None:
        normal_counts, anomalous_counts = np.ones((1, normal.size)), np.ones((1, anomalous.size))

    # One step of the ROC per distinct score, from the highest down.            K distinct scores
    values, step = np.unique(-np.concatenate([normal, anomalous]), return_inverse=True)
    false_steps = _sum_per_step(normal_counts, step[: normal.size], values.size)  # (R, K) normal clips
    true_steps = _sum_per_step(anomalous_counts, step[normal.size :], values.size)  # (R, K) anomalous clips
    normals, anomalies = false_steps.sum(1, keepdims=True), true_steps.sum(1, keepdims=True)  # N-, N+
    false_before = np.cumsum(false_steps, 1) - false_steps
    true_before = np.cumsum(true_steps, 1) - true_steps

    def area(limit: float) -> np.ndarray:
        """Area under the ROC up to the false positive rate `limit`; between its points the curve is straight."""
        width = np.clip(limit * normals - false_before, 0, false_steps)
        gain = np.divide(width, false_steps, out=np.zeros_like(width), where=false_steps > 0) * true_steps
        return ((true_before + gain / 2) * width / (normals * anomalies)).sum(1)

    # the tolerance keeps 0.29 * 100 = 28.999999999999996 at 29
    top = np.maximum(np.floor(p * normals + 1e-9), 1)
    in_top = np.clip(top - false_before, 0, false_steps)
    smallest = p * p / 2  # the area of chance
    return {
        "auc": area(1.0),  # eq. (11)
        "pauc": (1 + (area(p) - smallest) / (p - smallest)) / 2 if p < 1 else area(1.0),  # McClish
        "pauc_eq12": ((in_top * true_before).sum(1, keepdims=True) / (top * anomalies))[:, 0],  # eq. (12)
    }


def _sum_per_step(counts: np.ndarray, step: np.ndarray, steps: int) -> np.ndarray:
    """Adds up the columns of `counts` (R, N) that belong to the same step: (R, steps)."""
    order = np.argsort(step, kind="stable")
    present, first = np.unique(step[order], return_index=True)
    total = np.zeros((counts.shape[0], steps))
    total[:, present] = np.add.reduceat(counts[:, order], first, axis=1, dtype=float)
    return total


def evaluate(table: pd.DataFrame, system: str) -> dict:
    """All figures of one column of scores, as metrics/score.json holds them.

    `table` has a row per test clip and the columns clip, machine_type, machine_id, condition (normal or anomaly) and
    `system`. The result is ``{"average": {auc, pauc, pauc_eq12, mauc}, "pooled": {auc, pauc, pauc_eq12}, type: {auc,
    pauc, pauc_eq12, id: {...}}}``: a type is the mean of its ids, the average the mean of the types, ``mauc`` the mean
    over types of the worst id's AUC. The pooled protocol, which draws one ROC curve per type over all its ids, stands
    apart; its figures must not be compared with the others.

    A machine whose test clips are all of one condition has no such figures and is left out; the result is empty where
    no machine has both. Raises ValueError naming the clip whose score is not a number.
    """
    groups = _groups(table, system)
    if not groups:
        return {}
    figures = {key: _areas(*scores) for key, scores in groups.items()}
    pooled = [_areas(*scores) for scores in _pool(groups).values()]
    return _as_numbers(_aggregate(figures, pooled))


def evaluate_pooled(table: pd.DataFrame, system: str) -> dict:
    """The pooled protocol's figures per machine type: ``{type: {auc, pauc, pauc_eq12}}``."""
    return _as_numbers({name: _areas(*scores) for name, scores in _pool(_groups(table, system)).items()})


def bootstrap(table: pd.DataFrame, system: str, resamples: int, seed: int) -> dict:
    """95 % percentile intervals of every average that `evaluate` returns: ``{"average": {"auc": [low, high], ...}}``.

    Clips are drawn with replacement within each id and condition, so that no resample lacks a class.
    """
    if not _groups(table, system):
        return {}
    # the draws depend on the clips alone: two systems on one test set get the same resamples
    generator = np.random.default_rng(seed)
    groups = _groups(table, system)
    counts = {
        key: (_draw(len(normal), resamples, generator), _draw(len(anomalous), resamples, generator))
        for key, (normal, anomalous) in groups.items()
    }
    figures = {key: _areas(*groups[key], *counts[key]) for key in groups}
    pooled_counts = _pool(counts, axis=1)
    pooled = [_areas(*scores, *pooled_counts[name]) for name, scores in _pool(groups).items()]
    samples = _aggregate(figures, pooled)

    def interval(values: np.ndarray) -> list[float]:
        return [float(bound) for bound in np.percentile(values, INTERVAL)]

    return {
        name: {figure: interval(values) for figure, values in part.items() if not isinstance(values, dict)}
        for name, part in samples.items()
    }


def roc(table: pd.DataFrame, system: str) -> pd.DataFrame:
    """ROC curve per machine type (pooled over its ids): columns type, step, fpr, tpr."""
    curves = []
    for name, (normal, anomalous) in _pool(_groups(table, system)).items():
        labels = np.r_[np.zeros(len(normal)), np.ones(len(anomalous))]
        fpr, tpr, _ = roc_curve(labels, np.concatenate([normal, anomalous]), drop_intermediate=True)
        steps = np.arange(len(fpr))  # to draw them in order where the curve is vertical
        curves.append(pd.DataFrame({"type": name, "step": steps, "fpr": fpr.round(5), "tpr": tpr.round(5)}))
    return pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=["type", "step", "fpr", "tpr"])


def _groups(table: pd.DataFrame, system: str) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Normal and anomalous scores per (type, id), both sorted by name, of those that have both."""
    broken = table[~np.isfinite(table[system].astype(float))]
    if len(broken):
        raise ValueError(f"the {system} score of {broken['clip'].iloc[0]} is {broken[system].iloc[0]}, not a number")
    strange = table[~table["condition"].isin(["normal", "anomaly"])]
    if len(strange):
        raise ValueError(
            f"the condition of {strange['clip'].iloc[0]} is {strange['condition'].iloc[0]!r}: normal or anomaly"
        )
    groups = {}
    for (machine_type, machine_id), rows in table.groupby(["machine_type", "machine_id"], sort=True):
        if machine_type in RESERVED:
            raise ValueError(f"a machine type cannot be called {machine_type!r}: score.json uses that name")
        normal = rows.loc[rows["condition"] == "normal", system].to_numpy(float)
        anomalous = rows.loc[rows["condition"] == "anomaly", system].to_numpy(float)
        if len(normal) and len(anomalous):
            groups[machine_type, machine_id] = normal, anomalous
    return groups


def _pool(groups: dict, axis: int = 0) -> dict:
    """Joins the pairs of arrays of a type's ids: {type: (normal, anomalous)}."""
    types = dict.fromkeys(machine_type for machine_type, _ in groups)
    return {
        name: tuple(
            np.concatenate([pair[side] for (kind, _), pair in groups.items() if kind == name], axis) for side in (0, 1)
        )
        for name in types
    }


def _draw(clips: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of `clips` clips is in each resample of the same size: (resamples, clips)."""
    return generator.multinomial(clips, np.full(clips, 1 / clips), size=resamples)


def _mean(parts: list[dict], figures: tuple[str, ...] = FIGURES) -> dict:
    return {figure: np.mean([part[figure] for part in parts], axis=0) for figure in figures}


def _aggregate(figures: dict, pooled: list[dict]) -> dict:
    """The nested result of `evaluate`, whose leaves are arrays over resamples."""
    result: dict = {"average": {}, "pooled": _mean(pooled)}
    types = dict.fromkeys(machine_type for machine_type, _ in figures)
    worst = []
    for name in types:
        ids = {machine_id: values for (kind, machine_id), values in figures.items() if kind == name}
        result[name] = _mean(list(ids.values())) | ids
        worst.append(np.min([values["auc"] for values in ids.values()], axis=0))
    result["average"] = _mean([result[name] for name in types]) | {"mauc": np.mean(worst, axis=0)}
    return result


def _as_numbers(values: dict) -> dict:
    return {key: _as_numbers(value) if isinstance(value, dict) else float(value[0]) for key, value in values.items()}


def check_trained(identities: list[str], table: pd.DataFrame) -> None:
    """Raises ValueError naming an identity ("fan/id_00") of `table` that is not among the trained `identities`."""
    unknown = sorted(set(table["machine_type"] + "/" + table["machine_id"]) - set(identities))
    if unknown:
        raise ValueError(f"{unknown[0]} has test clips but was never trained on; trained: {', '.join(identities)}")
