"""What the back-ends of a detector learned: arrays by name, and all that is told by them without computing a score.

The arrays of a back-end are called `backends.<its name>.<array>`, see `detection.fitting`; `mean_<name>` and
`std_<name>` (I,) are those that the z-scores of a back-end or combination refer to. A combination is the weighted mean
of its parts' z-scores: how far a score lies above the mean of its identity's training normals, in standard deviations.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from detection import fitting
from detection.fitting import Arrays
from detection.names import BACKENDS, COMBINATIONS, NAMES

FOLDS = 10  # of an identity's clips in cross-fitting, or one clip a fold where it has fewer


class Standard(NamedTuple):
    """What z-scores of a back-end refer to, per identity, each (I,); NaN where nothing is known of an identity."""

    mean: np.ndarray
    std: np.ndarray


def backend_arrays(arrays: Arrays) -> dict[str, Arrays]:
    """The arrays of each back-end by its name, in the order of BACKENDS, by the names that they have in it.

    Raises ValueError naming an array that is of no back-end, and a back-end or combination without its standard.
    """
    found: dict[str, Arrays] = {}
    standards: dict[str, set[str]] = {}
    for key, array in arrays.items():
        first, _, rest = key.partition(".")
        if first == "backends":
            name, _, own = rest.partition(".")
            found.setdefault(name, {})[own] = array
        else:
            which, _, name = key.partition("_")
            standards.setdefault(name, set()).add(which)
    if unknown := sorted((found.keys() - BACKENDS.keys()) | (standards.keys() - set(NAMES))):
        raise ValueError(f"{unknown[0]} is no back-end: {', '.join(NAMES)}")
    for name in names(found):
        if standards.get(name) != {"mean", "std"}:
            raise ValueError(f"mean and standard deviation of {name} are missing")
    return {name: found[name] for name in BACKENDS if name in found}


def names(backends: Iterable[str]) -> tuple[str, ...]:
    """The back-ends, and the combinations that can be made of them, in the order of NAMES."""
    there = set(backends)
    return tuple(name for name in NAMES if name in there or parts(name, there))


def parts(combination: str, backends: Iterable[str]) -> list[str]:
    """The back-ends that a combination is made of here; without a fine-tuned network some are left out."""
    there = set(backends)
    return [part for part in COMBINATIONS.get(combination, ()) if part in there]


def weights(combination: str, chosen: Sequence[str]) -> list[float]:
    """The weights of the parts of a combination that there are, which add up to 1."""
    of_parts = [COMBINATIONS[combination][part] for part in chosen]
    return [weight / sum(of_parts) for weight in of_parts]


def standard_of(arrays: Arrays, name: str) -> Standard:
    """What the z-scores of a back-end or combination refer to."""
    return Standard(arrays[f"mean_{name}"], arrays[f"std_{name}"])


def check(arrays: Arrays, machines: int) -> None:
    """Raises ValueError naming an array that no score of so many machines can come from."""
    for backend, own in backend_arrays(arrays).items():
        try:
            fitting.check(own, machines)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{backend} does not fit: {error}") from None
    for name, array in arrays.items():
        if name.startswith("backends.") and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
        if name.startswith("std_") and not (np.isnan(array) | ((array > 0) & np.isfinite(array))).all():
            raise ValueError(f"{name} has a standard deviation that is not positive")
        if not name.startswith("backends.") and array.shape != (machines,):
            raise ValueError(f"{name} is not of the {machines} machines")


def scoring(arrays: Arrays) -> Arrays:
    """All arrays that scores are computed with: those learned, and where in them a machine's stand."""
    backends = backend_arrays(arrays)
    found = {
        f"backends.{backend}.{name}": array
        for backend, own in backends.items()
        for name, array in (own | fitting.places(own)).items()
        if name not in fitting.ASIDE
    }
    for part in dict.fromkeys(part for name in COMBINATIONS for part in parts(name, backends)):
        found |= {f"{which}_{part}": arrays[f"{which}_{part}"] for which in ("mean", "std")}
    return {
        name: array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
        for name, array in found.items()
    }


def aside(arrays: Arrays) -> Arrays:
    """The arrays that are needed beside those of `scoring`, or in other places than where scores are computed."""
    return {
        name: array
        for name, array in arrays.items()
        if not name.startswith("backends.") or name.rpartition(".")[2] in fitting.ASIDE
    }


def combine(arrays: Arrays, scores: Mapping[str, np.ndarray], machine: int) -> dict[str, np.ndarray]:
    """Scores (N,) under the combinations from those of the back-ends, as ones of `machine`."""
    found = {}
    for name in COMBINATIONS:
        if chosen := parts(name, scores):
            standards = [standard_of(arrays, part) for part in chosen]
            z = [
                (scores[part] - standard.mean[machine]) / standard.std[machine]
                for part, standard in zip(chosen, standards, strict=True)
            ]
            found[name] = np.average(z, axis=0, weights=weights(name, chosen))
    return found


def runs(clips: int) -> np.ndarray:
    """Number of the run (N,) of each of an identity's clips, which are cut into FOLDS runs of neighbours.

    Recordings of one hour are alike; scattered over the folds, each would be scored by a fit that knows its hour.
    """
    return np.arange(clips) * min(FOLDS, clips) // clips


def clip_means(scores: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """Mean score of each clip's windows, in the order of the clips' numbers (W,)."""
    _, number, count = np.unique(clips, return_inverse=True, return_counts=True)
    return np.bincount(number, scores.astype(float)) / count
