"""What the back-ends learn from arrays of training normals, and how a new machine or new recordings are taken in.

Nothing here needs torch: what is learned is arrays, which `detection.backends` scores windows with. `x` (N, d) holds a
representation of N windows, `identities` (N,) the number of each one's machine, `types` (I,) the type of every machine.

scikit-learn is imported where it is used: only training needs it.
"""

from collections.abc import Iterable, Sequence

import numpy as np

Arrays = dict[str, np.ndarray]

ASIDE = ("type_of", "counts", "machines", "neighbours", "added")  # arrays that no score is computed with
FLOOR = 1e-3  # of the mean variance, below which no variance is taken to be: clips of a machine that stands still
BORROWED = 20  # windows of a type that those of all other types count for, when its covariance is estimated
LENDING = 200  # windows of other types that are read for it, at most
SPACED = 4  # training normals that say how far apart an identity's lie


def mahalanobis(x: np.ndarray, identities: np.ndarray, types: Sequence[str]) -> Arrays:
    """Means (I, d), and for each type, and last for all machines together, the shrunk covariance within identities.

    A type's own windows are few, often fewer than dimensions; how healthy sounds vary is alike from type to type in
    part. So those of other types count as well, for BORROWED windows together.
    """
    x, names = x.astype(float), np.array(types)
    means = np.full((len(types), x.shape[1]), np.nan)
    for identity in np.unique(identities):
        means[identity] = x[identities == identity].mean(axis=0)
    left, known, overall = x - means[identities], np.unique(names), x.std(axis=0)
    arrays = {"means": means, "type_of": np.searchsorted(known, names)}
    for number, name in enumerate(known):
        if (own := names[identities] == name).any():
            arrays |= _numbered(_shrunk_covariance(*_borrowing(left, own), overall), number)
    return arrays | _numbered(_shrunk_covariance(left, np.ones(len(left)), overall), len(known))


def _numbered(fitted: Arrays, number: int) -> Arrays:
    return {f"{key}_{number}": array for key, array in fitted.items()}


def _borrowing(residuals: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n, d) that the covariance of a type comes from, and how much each counts (n,), its `own` 1."""
    others = np.flatnonzero(~own)
    others = others[np.linspace(0, len(others) - 1, min(len(others), LENDING)).astype(int)]
    counts = np.ones(own.sum() + len(others))
    counts[own.sum() :] = min(1.0, BORROWED / max(len(others), 1))
    return np.concatenate([residuals[own], residuals[others]]), counts


def _shrunk_covariance(residuals: np.ndarray, counts: np.ndarray, overall: np.ndarray) -> Arrays:
    """Ledoit-Wolf covariance about 0 of `residuals` (N, d), each of which counts as often as `counts` (N,) says.

    `overall` (d,) are deviations for lack of any other.
    """
    residuals = residuals * np.sqrt(counts / counts.mean())[:, None]
    variance = np.square(residuals).mean(axis=0)
    if not variance.any():  # no identity has two clips that differ
        variance = np.square(overall) if overall.any() else np.ones_like(overall)
    std = np.sqrt(np.maximum(variance, FLOOR * variance.mean()))
    residuals = residuals / std
    variances, directions = _principal(residuals)
    shrinkage = _shrinkage(residuals, variances) if residuals.any() else 1.0
    mean_variance = np.square(residuals).mean() or 1.0
    kept = variances > 1e-9 * max(variances.max(), 1e-9)
    return {
        "std": std,
        "directions": directions[:, kept],  # (d, r)
        "variances": (1 - shrinkage) * variances[kept] + shrinkage * mean_variance,
        "rest": np.array(max(shrinkage * mean_variance, FLOOR * mean_variance)),
    }


def _principal(residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances (r,) about 0 of `residuals` (N, d) and their directions (d, r), r the smaller of both.

    From the smaller of both matrices of products, which takes a third of the time of a singular value decomposition.
    """
    if len(residuals) >= residuals.shape[1]:
        return np.linalg.eigh(residuals.T @ residuals / len(residuals))
    variances, mixtures = np.linalg.eigh(residuals @ residuals.T / len(residuals))
    lengths = np.sqrt(np.maximum(variances, np.finfo(float).tiny) * len(residuals))
    return variances, residuals.T @ mixtures / lengths


def _shrinkage(residuals: np.ndarray, variances: np.ndarray) -> float:
    """How much Ledoit and Wolf (2004) shrink the covariance of `residuals` (N, d), from its eigenvalues (r,).

    beta^2 / delta^2 of their theorem 2.1, estimated as in their section 3: the share that the covariance's error has in
    its distance from m 1.
    """
    n, d = residuals.shape
    norm = np.square(variances).sum()  # of the covariance, squared
    distance = norm / d - (variances.sum() / d) ** 2
    error = (np.square(np.square(residuals).sum(axis=1)).sum() / n - norm) / (n * d)
    return float(min(error, distance) / distance) if distance > 0 else 1.0


def nearest_neighbour(x: np.ndarray, identities: np.ndarray, types: Sequence[str], neighbours: int) -> Arrays:
    """The normals' directions (N, d), identity after identity, and how many there are of each."""
    order = np.argsort(identities, kind="stable")
    counts = np.bincount(identities, minlength=len(types))
    return {"known": _directions(x[order]), "counts": counts, "neighbours": np.array(neighbours)}


def _directions(x: np.ndarray) -> np.ndarray:
    x = x.astype(float)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def local_density(x: np.ndarray, identities: np.ndarray, types: Sequence[str]) -> Arrays:
    """As `nearest_neighbour`, with each normal's `spacing` (N,)."""
    order = np.argsort(identities, kind="stable")
    known, identities = _directions(x[order]), identities[order]
    spacing = np.full(len(known), np.nan)
    for identity in np.unique(identities):
        spacing[identities == identity] = _spacing(known[identities == identity])
    of_type = np.array(types)[identities]
    for name in np.unique(of_type):
        spacing[of_type == name] = _filled(spacing[of_type == name])
    return {"known": known, "spacing": spacing, "counts": np.bincount(identities, minlength=len(types))}


def _spacing(known: np.ndarray) -> np.ndarray:
    """Mean cosine distance of each of `known` (N, d) to the SPACED others nearest to it, NaN where there is none."""
    distances = np.sort(1 - known @ known.T, axis=1)[:, 1 : 1 + SPACED]
    return distances.mean(axis=1) if distances.shape[1] else np.full(len(known), np.nan)


def _filled(spacing: np.ndarray, usual: float = 1.0) -> np.ndarray:
    """`spacing` with the mean, or `usual` for lack of any, where it is not known, and nowhere near 0."""
    known = np.isfinite(spacing)
    usual = float(spacing[known].mean()) if known.any() else usual
    return np.maximum(np.where(known, spacing, usual), max(FLOOR * usual, 1e-9))


def gaussian_mixture(x: np.ndarray, identities: np.ndarray, types: Sequence[str], components: int, seed: int) -> Arrays:
    """Weights (I, components), means and variances (I, components, d), and the variance (I,) added to all of them."""
    from sklearn.mixture import GaussianMixture

    x, names = x.astype(float), np.array(types)
    shape = (len(types), components, x.shape[1])
    weights, means, variances = np.zeros(shape[:2]), np.zeros(shape), np.ones(shape)
    added = np.full(len(types), 1e-13)
    for identity in np.unique(identities):
        members = [other for other in np.unique(identities) if names[other] == names[identity]]
        within = np.mean([x[identities == other].var(axis=0).mean() for other in members])
        added[names == names[identity]] = 0.1 * max(within, 1e-12)
        clips = x[identities == identity]
        clips = np.repeat(clips, 2, axis=0) if len(clips) == 1 else clips  # scikit-learn wants two
        count = max(1, min(components, len(clips) // 4))
        mixture = GaussianMixture(count, covariance_type="diag", reg_covar=added[identity], random_state=seed)
        mixture.fit(clips)
        weights[identity, :count], means[identity, :count] = mixture.weights_, mixture.means_
        variances[identity, :count] = mixture.covariances_
    return {"weights": weights, "means": means, "variances": variances, "added": added}


# ------------------------------------------------------------------------------------------- where things stand


def check(arrays: Arrays, machines: int) -> None:
    """Raises ValueError naming an array of a back-end that is not of so many machines, or does not fit the others."""
    for name in ("means", "type_of", "counts", "weights", "variances", "added"):
        if name in arrays and len(arrays[name]) != machines:
            raise ValueError(f"{name} is of {len(arrays[name])} machines, not of {machines}")
    if int(arrays.get("machines", machines)) != machines:
        raise ValueError(f"machines is {arrays['machines']}, not {machines}")
    if "counts" in arrays:
        counts, there = arrays["counts"], [len(arrays[name]) for name in ("known", "spacing") if name in arrays]
        if counts.min() < 0 or any(number != counts.sum() for number in there):
            raise ValueError("counts are not those of what is known")


def places(arrays: Arrays) -> Arrays:
    """Where a back-end finds what belongs to which machine, from what was fitted.

    Tables of numbers, so that the same computation serves any number of machines: `members_<group>` of a covariance,
    or `members` (I, most), rows of `known` that are a machine's, filled up with N; and `columns` (I,), the column of
    each machine among the scores as they are computed, or one behind them all where it has none.
    """
    if "machines" in arrays:  # the first of which are the network's classes
        return {"columns": np.arange(int(arrays["machines"]))}
    if "type_of" in arrays:
        return _members_of_groups(arrays["type_of"], groups(arrays))
    if "counts" in arrays:
        counts = arrays["counts"]
        most = max(1, int(arrays.get("neighbours", 1)), int(counts.max()))
        place = np.arange(most)
        first = (np.cumsum(counts) - counts)[:, None]
        return {"members": np.where(place < counts[:, None], first + place, counts.sum())}
    return {}


def groups(arrays: Iterable[str]) -> list[int]:
    """The numbers of the groups of machines that have a covariance, from the names of a back-end's arrays."""
    return sorted(int(name.removeprefix("std_")) for name in arrays if name.startswith("std_"))


def _members_of_groups(type_of: np.ndarray, numbers: Sequence[int]) -> Arrays:
    found: Arrays = {}
    columns, width = np.full(len(type_of), -1), 0
    for number in numbers:
        members = np.flatnonzero(type_of == number)
        columns[members] = width + np.arange(len(members))
        found[f"members_{number}"] = members if len(members) else np.array([0])  # no array is empty
        width += len(found[f"members_{number}"])
    return found | {"columns": np.where(columns < 0, width, columns)}


# ---------------------------------------------------------------------------------------- taking in what is new


def with_machine(arrays: Arrays, neighbour: int | None) -> Arrays:
    """The arrays of a back-end with one more machine, of which nothing is known yet.

    It shares the covariance of the machine number `neighbour`, one of its type; without any, that of all machines.
    """
    arrays = dict(arrays)
    if "machines" in arrays:
        arrays["machines"] = np.array(arrays["machines"] + 1)
    if "type_of" in arrays:
        everyone = max(int(name.rpartition("_")[2]) for name in arrays if name.startswith("std_"))
        group = arrays["type_of"][neighbour] if neighbour is not None else everyone
        arrays["type_of"] = np.append(arrays["type_of"], group)
        arrays["means"] = np.concatenate([arrays["means"], np.full_like(arrays["means"][:1], np.nan)])
    if "counts" in arrays:
        arrays["counts"] = np.append(arrays["counts"], 0)
    if "weights" in arrays:
        for name, empty in (("weights", 0.0), ("means", 0.0), ("variances", 1.0)):
            arrays[name] = np.concatenate([arrays[name], np.full_like(arrays[name][:1], empty)])
        added = arrays["added"][neighbour] if neighbour is not None else arrays["added"].mean()
        arrays["added"] = np.append(arrays["added"], added)
    return arrays


def with_recordings(arrays: Arrays, machine: int, x: np.ndarray, kept: float) -> Arrays:
    """The arrays of a back-end after the recordings `x` (N, d) of one machine were taken in.

    `kept` is how many recordings what was known of the machine counts for; 0 replaces it.
    """
    for has, take_in in (("type_of", _new_mean), ("counts", _new_neighbours), ("weights", _new_gaussian)):
        if has in arrays:
            return take_in(dict(arrays), machine, x.astype(float), kept)
    return arrays


def _new_mean(arrays: Arrays, machine: int, x: np.ndarray, kept: float) -> Arrays:
    arrays["means"] = arrays["means"].copy()
    before = arrays["means"][machine].astype(float)
    mean = x.mean(axis=0)
    arrays["means"][machine] = mean if not kept else (kept * before + len(x) * mean) / (kept + len(x))
    return arrays


def _new_neighbours(arrays: Arrays, machine: int, x: np.ndarray, kept: float) -> Arrays:
    counts = arrays["counts"]
    first = int(counts[:machine].sum())
    last = first + int(counts[machine])
    before = arrays["known"][first:last] if kept else arrays["known"][:0]
    known = np.concatenate([before, _directions(x).astype(arrays["known"].dtype)])
    if "spacing" in arrays:
        spacing = _filled(_spacing(known.astype(float)), float(arrays["spacing"].mean()))
        arrays["spacing"] = np.concatenate([arrays["spacing"][:first], spacing, arrays["spacing"][last:]])
    arrays["known"] = np.concatenate([arrays["known"][:first], known, arrays["known"][last:]])
    arrays["counts"] = counts.copy()
    arrays["counts"][machine] = len(known)
    return arrays


def _new_gaussian(arrays: Arrays, machine: int, x: np.ndarray, kept: float) -> Arrays:
    """A single Gaussian of the new recordings; the mixture that was known stays as it is where it is kept."""
    if kept:
        return arrays
    for name, value in (("weights", 0.0), ("means", x.mean(axis=0)), ("variances", x.var(axis=0))):
        arrays[name] = arrays[name].copy()
        arrays[name][machine, 0] = value if name != "variances" else value + arrays["added"][machine]
    arrays["weights"][machine] = 0.0
    arrays["weights"][machine, 0] = 1.0
    return arrays
