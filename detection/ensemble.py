"""All back-ends of a detector, fitted together, and their combinations, see `detection.learned`.

Mean and standard deviation of the z-scores come from scores of clips that the fit did not see (FOLDS-fold
cross-fitting); the standard deviation is pooled over the identities of a type, so that a few clips of each suffice.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from detection import learned
from detection.backends import (
    Arrays,
    Backend,
    GaussianMixture,
    LocalDensity,
    Mahalanobis,
    NearestNeighbour,
    NegativeLogProbability,
)
from detection.learned import FOLDS, Standard, clip_means, weights
from detection.names import BACKENDS, COMBINATIONS

AT_ONCE = 64  # windows that are scored at once: each takes memory for every machine

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
        return learned.names(self.backends)

    def parts(self, combination: str) -> list[str]:
        """The back-ends that a combination is made of here; without a fine-tuned network some are left out."""
        return learned.parts(combination, self.backends)

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

    @torch.inference_mode()
    def of(self, representations: Mapping[str, np.ndarray], identities: np.ndarray) -> dict[str, np.ndarray]:
        """Scores (W,) by name of windows (W, d), each under its own identity (W,)."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        for first in range(0, len(identities), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            scores = self({name: torch.from_numpy(x[some]) for name, x in representations.items()})
            for name, of_all in scores.items():
                found[name].append(of_all[torch.arange(len(of_all)), identities[some]].numpy())
        return {name: np.concatenate(parts) for name, parts in found.items()}

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
        fold = _folds(identities, types)
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
        fitted = learned.backend_arrays(arrays)
        ensemble = cls(
            {name: class_of(name)(own) for name, own in fitted.items()},
            {name: learned.standard_of(arrays, name) for name in learned.names(fitted)},
        )
        return ensemble.eval()


def _folds(identities: np.ndarray, types: Sequence[str]) -> np.ndarray:
    """Number of the fold (N,) of each clip: the runs of an identity (`learned.runs`) go to different ones.

    An identity with fewer clips than FOLDS loses much of them to each fold. Where a type has one, its identities do not
    lose theirs to the same fold: the covariance, which they share, would be that of much fewer clips than judge a new
    recording, and new recordings would seem to score low. The only clip of an identity is in no fold: -1.
    """
    fold, names = np.full(len(identities), -1), np.array(types)
    for name in np.unique(names[identities]):
        rows_of = [np.flatnonzero(identities == number) for number in np.flatnonzero(names == name)]
        rows_of = [rows for rows in rows_of if len(rows) > 1]
        first, count = 0, FOLDS if all(len(rows) >= FOLDS for rows in rows_of) else 2 * FOLDS
        for rows in rows_of:
            fold[rows] = (first + learned.runs(len(rows))) % count
            first += min(FOLDS, len(rows))
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
    for number in range(fold.max() + 1):
        out = fold[clips] == number
        if out.any():
            found = scored(fit(x[~out], of_window[~out]), x[out], of_window[out])
            scores[fold == number] = clip_means(found, clips[out])
    return fit(x, of_window), scores


@torch.inference_mode()
def scored(backend: Backend, x: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """Scores (W,) of windows `x` (W, d), each under its own identity (W,)."""
    parts = []
    for first in range(0, len(x), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        scores = backend(torch.from_numpy(x[some]))
        parts.append(scores[torch.arange(len(scores)), identities[some]].numpy())
    return np.concatenate(parts)


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
