"""All back-ends of a detector, fitted together, and their combinations.

A combination is the weighted mean of its parts' z-scores: how far a score lies above the mean of its identity's
training normals, in standard deviations. Both come from scores of clips that the fit did not see (FOLDS-fold
cross-fitting); the standard deviation is pooled over the identities of a type, so that a few clips of each suffice.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from detection.backends import (
    Arrays,
    Backend,
    GaussianMixture,
    LocalDensity,
    Mahalanobis,
    NearestNeighbour,
    NegativeLogProbability,
)
from detection.names import BACKENDS, COMBINATIONS, NAMES

FOLDS = 10  # of cross-fitting, or one clip a fold where an identity has fewer

CLASSES: dict[str, type[Backend]] = {  # by what a back-end's name ends with
    "log_probability": NegativeLogProbability,
    "mahalanobis": Mahalanobis,
    "nearest_neighbour": NearestNeighbour,
    "local_density": LocalDensity,
    "gaussian_mixture": GaussianMixture,
}


def class_of(backend: str) -> type[Backend]:
    """The class of a back-end, by its name."""
    return next(kind for suffix, kind in CLASSES.items() if backend.endswith(suffix))


class Standard(NamedTuple):
    """What z-scores of a back-end refer to, per identity, each (I,); NaN where nothing is known of an identity."""

    mean: np.ndarray
    std: np.ndarray


class Fitted(NamedTuple):
    ensemble: "Ensemble"
    cross_fitted: dict[str, np.ndarray]  # scores (N,) of the training clips by back-end, NaN where there is none


class Ensemble(nn.Module):
    """Scores of windows under all back-ends and combinations; see `fit`."""

    def __init__(self, backends: Mapping[str, Backend], standards: Mapping[str, Standard]):
        super().__init__()
        self.backends = nn.ModuleDict(backends)
        for name, standard in standards.items():
            self.register_buffer(f"mean_{name}", torch.from_numpy(standard.mean.astype(np.float32)))
            self.register_buffer(f"std_{name}", torch.from_numpy(standard.std.astype(np.float32)))

    @property
    def names(self) -> tuple[str, ...]:
        """The back-ends and combinations that there are, in the order of NAMES."""
        return tuple(name for name in NAMES if name in self.backends or self.parts(name))

    def parts(self, combination: str) -> list[str]:
        """The back-ends that a combination is made of here; without a fine-tuned network some are left out."""
        return [part for part in COMBINATIONS.get(combination, ()) if part in self.backends]

    def standard_of(self, name: str) -> Standard:
        """What the z-scores of a back-end or combination refer to."""
        return Standard(*(getattr(self, f"{which}_{name}").cpu().numpy() for which in ("mean", "std")))

    def forward(self, representations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Representations (B, d) by name -> scores (B, I) by back-end and combination, higher is more anomalous."""
        scores = {name: backend(representations[BACKENDS[name]]) for name, backend in self.backends.items()}
        for name in COMBINATIONS:
            if parts := self.parts(name):
                z = [(scores[part] - getattr(self, f"mean_{part}")) / getattr(self, f"std_{part}") for part in parts]
                scores[name] = sum(weight * each for weight, each in zip(weights(name, parts), z, strict=True))
        return {name: scores[name] for name in self.names}

    def combine(self, scores: Mapping[str, np.ndarray], machine: int) -> dict[str, np.ndarray]:
        """Scores (N,) under the combinations from those of the back-ends, as ones of `machine`."""
        found = {}
        for name in COMBINATIONS:
            if parts := self.parts(name):
                z = [
                    (scores[part] - self.standard_of(part).mean[machine]) / self.standard_of(part).std[machine]
                    for part in parts
                ]
                found[name] = np.average(z, axis=0, weights=weights(name, parts))
        return found

    @torch.inference_mode()
    def of(self, representations: Mapping[str, np.ndarray], identities: np.ndarray) -> dict[str, np.ndarray]:
        """Scores (W,) by name of windows (W, d), each under its own identity (W,)."""
        scores = self({name: torch.from_numpy(x) for name, x in representations.items()})
        return {name: of_all[torch.arange(len(of_all)), identities].numpy() for name, of_all in scores.items()}

    @classmethod
    def fit(
        cls,
        representations: Mapping[str, np.ndarray],
        clips: np.ndarray,
        identities: np.ndarray,
        types: Sequence[str],
        neighbours: int,
        components: int,
        seed: int,
    ) -> Fitted:
        """Fit all back-ends to the training normals.

        `representations` (W, d) are of all windows, `clips` (W,) number the clip that each comes from, from 0, and
        `identities` (N,) are the clips'; `types` (I,) are the types of all identities.
        """
        options: dict[type, dict[str, Any]] = {
            NearestNeighbour: {"neighbours": neighbours},
            GaussianMixture: {"components": components, "seed": seed},
        }
        fold = _folds(identities)
        backends, standards, scores = {}, {}, {}
        for name, representation in BACKENDS.items():
            if representation in representations:
                kind = class_of(name)
                fit = partial(kind.fit, types=types, **options.get(kind, {}))
                x = representations[representation]
                backends[name], scores[name] = _cross_fit(fit, x, clips, identities, fold)
                standards[name] = standard(scores[name], identities, types)
        for name in COMBINATIONS:
            parts = [part for part in COMBINATIONS[name] if part in backends]
            z = [(scores[part] - standards[part].mean[identities]) / standards[part].std[identities] for part in parts]
            scores[name] = np.average(z, axis=0, weights=weights(name, parts))
            standards[name] = standard(scores[name], identities, types)
        ensemble = cls(backends, standards)
        return Fitted(ensemble.eval(), {name: scores[name] for name in ensemble.names})

    def arrays(self) -> Arrays:
        """All that was fitted, by name; `from_arrays` makes the same ensemble of it."""
        return {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The ensemble that `arrays` gave. Raises ValueError naming an array that is missing or of no back-end."""
        fitted: dict[str, Arrays] = {}
        standards: dict[str, Arrays] = {}
        for key, array in arrays.items():
            first, _, rest = key.partition(".")
            if first == "backends":
                name, _, buffer = rest.partition(".")
                fitted.setdefault(name, {})[buffer] = array
            else:
                which, _, name = key.partition("_")
                standards.setdefault(name, {})[which] = array
        if unknown := sorted((fitted.keys() - BACKENDS.keys()) | (standards.keys() - set(NAMES))):
            raise ValueError(f"{unknown[0]} is no back-end: {', '.join(NAMES)}")
        backends = {name: class_of(name)(fitted[name]) for name in BACKENDS if name in fitted}
        ensemble = cls(backends, {})
        for name in ensemble.names:
            if standards.get(name, {}).keys() != {"mean", "std"}:
                raise ValueError(f"mean and standard deviation of {name} are missing")
        return cls(backends, {name: Standard(**arrays) for name, arrays in standards.items()}).eval()


def weights(combination: str, parts: Sequence[str]) -> list[float]:
    """The weights of the parts of a combination that there are, which add up to 1."""
    chosen = [COMBINATIONS[combination][part] for part in parts]
    return [weight / sum(chosen) for weight in chosen]


def _folds(identities: np.ndarray) -> np.ndarray:
    """Number of the fold (N,) of each clip: those of an identity are cut into FOLDS runs of neighbours.

    Recordings of one hour are alike; scattered over the folds, each would be scored by a fit that knows its hour.
    """
    fold = np.empty(len(identities), int)
    for identity in np.unique(identities):
        rows = np.flatnonzero(identities == identity)
        fold[rows] = np.arange(len(rows)) * min(FOLDS, len(rows)) // len(rows) if len(rows) > 1 else -1
    return fold


def _cross_fit(
    fit: Callable[[np.ndarray, np.ndarray], Backend],
    x: np.ndarray,
    clips: np.ndarray,
    identities: np.ndarray,
    fold: np.ndarray,
) -> tuple[Backend, np.ndarray]:
    """The back-end fitted to all, and each clip's score (N,) under a fit that did not see it.

    The only clip of an identity has none: NaN. The score of a clip is the mean over its windows.
    """
    scores = np.full(len(identities), np.nan)
    of_window = identities[clips]
    for number in range(FOLDS):
        out = fold[clips] == number
        if out.any():
            found = scored(fit(x[~out], of_window[~out]), x[out], of_window[out])
            scores[fold == number] = clip_means(found, clips[out])
    return fit(x, of_window), scores


@torch.inference_mode()
def scored(backend: Backend, x: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """Scores (W,) of windows `x` (W, d), each under its own identity (W,)."""
    return backend(torch.from_numpy(x))[torch.arange(len(x)), identities].numpy()


def clip_means(scores: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """Mean score of each clip's windows, in the order of the clips' numbers (W,)."""
    _, number, count = np.unique(clips, return_inverse=True, return_counts=True)
    return np.bincount(number, scores.astype(float)) / count


def standard(scores: np.ndarray, identities: np.ndarray, types: Sequence[str]) -> Standard:
    """Mean of each identity's scores, and standard deviation of what is left of its type's, each (I,)."""
    names, known = np.array(types), np.isfinite(scores)
    mean, std = np.full(len(types), np.nan), np.full(len(types), np.nan)
    for name in np.unique(names):
        members = np.flatnonzero(names == name)
        of_type = known & np.isin(identities, members)
        if not of_type.any():
            continue
        for identity in members:
            rows = of_type & (identities == identity)
            mean[identity] = scores[rows if rows.any() else of_type].mean()
        left = scores[of_type] - mean[identities[of_type]]
        std[members] = max(left.std(), 1e-6 * np.abs(scores[of_type]).max(), 1e-12)
    return Standard(mean, std)
