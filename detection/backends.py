"""Anomaly scores from the fine-tuned network's outputs: the paper's -log p and three distances, per machine identity.

A back-end is fitted on training normals only. `fit`, `score`, `arrays` and `restore` are the same for all of them:
`embeddings` has shape (N, width), `logits` (N, identities), `identities` (N,) holds each row's identity as a column
number of the logits. Scores have shape (N,), float64, higher is more anomalous. `arrays` holds everything that was
fitted, so that a back-end can travel in a safetensors file.

scikit-learn is imported where it is used: judging a recording with a fitted detector mostly needs none of it, and would
wait a second for it.
"""

from typing import ClassVar, Protocol, Self

import numpy as np
import pandas as pd
from scipy.special import logsumexp

FOLDS = 5  # of the training clips' held-out scores

Arrays = dict[str, np.ndarray]


class Backend(Protocol):
    name: ClassVar[str]

    def fit(self, embeddings: np.ndarray, identities: np.ndarray) -> Self: ...

    def score(self, embeddings: np.ndarray, logits: np.ndarray, identities: np.ndarray) -> np.ndarray: ...

    def arrays(self) -> Arrays: ...

    def restore(self, arrays: Arrays) -> Self: ...


class NegativeLogProbability:
    """The paper's anomaly score, -log p(own identity | clip) (section 2.5.2), in nats. It has nothing to fit."""

    name = "negative_log_probability"

    def fit(self, embeddings: np.ndarray, identities: np.ndarray) -> Self:
        return self

    def score(self, embeddings: np.ndarray, logits: np.ndarray, identities: np.ndarray) -> np.ndarray:
        margins = logits.astype(float)  # (N, C)
        margins -= np.take_along_axis(margins, identities[:, None], 1)
        np.put_along_axis(margins, identities[:, None], -np.inf, 1)
        # log(1 + sum of the others' odds): stays exact where p is so near 1 that 1 - p would round to 0
        with np.errstate(divide="ignore"):  # a single identity has no others: log 0
            return np.logaddexp(0.0, logsumexp(margins, axis=1))

    def arrays(self) -> Arrays:
        return {}

    def restore(self, arrays: Arrays) -> Self:
        return self


class _PerIdentity:
    """What the distances share: their fitted arrays per identity, and scoring each row against its own identity's."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self._fitted: dict[int, Arrays] = {}

    def fit(self, embeddings: np.ndarray, identities: np.ndarray) -> Self:
        embeddings = embeddings.astype(float)
        self._fitted = {}
        # of one embedding value within its identity; a floor for identities whose few clips hardly differ
        spread = np.mean([embeddings[identities == one].var(axis=0).mean() for one in np.unique(identities)])
        for one in np.unique(identities):
            own = embeddings[identities == one]
            own = np.repeat(own, 2, axis=0) if len(own) == 1 else own  # scikit-learn wants two
            self._fitted[int(one)] = self._fit_one(own, max(spread, 1e-12))
        return self

    def score(self, embeddings: np.ndarray, logits: np.ndarray, identities: np.ndarray) -> np.ndarray:
        scores = np.empty(len(embeddings))
        for one in np.unique(identities):
            if one not in self._fitted:
                raise ValueError(f"{self.name} was not fitted for identity number {one}")
            rows = identities == one
            scores[rows] = self._score_one(embeddings[rows].astype(float), self._fitted[int(one)])
        return scores

    def arrays(self) -> Arrays:
        return {f"{one}.{key}": array for one, arrays in self._fitted.items() for key, array in arrays.items()}

    def restore(self, arrays: Arrays) -> Self:
        self._fitted = {}
        for name, array in arrays.items():
            one, key = name.split(".")
            self._fitted.setdefault(int(one), {})[key] = array
        return self

    def _fit_one(self, embeddings: np.ndarray, spread: float) -> Arrays:
        raise NotImplementedError

    def _score_one(self, embeddings: np.ndarray, arrays: Arrays) -> np.ndarray:
        raise NotImplementedError


class NearestNeighbour(_PerIdentity):
    """Mean distance to the `neighbours` nearest training normals of the identity, or to all where it has fewer.

    `metric` is cosine (0 to 2) or euclidean.
    """

    name = "nearest_neighbour"

    def __init__(self, neighbours: int = 1, metric: str = "cosine") -> None:
        super().__init__()
        self.neighbours, self.metric = neighbours, metric

    def _fit_one(self, embeddings: np.ndarray, spread: float) -> Arrays:
        return {"embeddings": embeddings.astype(np.float32)}

    def _score_one(self, embeddings: np.ndarray, arrays: Arrays) -> np.ndarray:
        from sklearn.neighbors import NearestNeighbors

        known = arrays["embeddings"].astype(float)
        search = NearestNeighbors(n_neighbors=min(self.neighbours, len(known)), metric=self.metric, algorithm="brute")
        return search.fit(known).kneighbors(embeddings)[0].mean(axis=1)


class Mahalanobis(_PerIdentity):
    """Mahalanobis distance to the mean of the identity's training normals, under their Ledoit-Wolf shrunk covariance.

    Shrinkage makes the covariance invertible with fewer clips than dimensions; 1e-3 of the identities' mean variance is
    added to its diagonal, which matters only where an identity's clips are (nearly) equal.
    """

    name = "mahalanobis"

    def _fit_one(self, embeddings: np.ndarray, spread: float) -> Arrays:
        from sklearn.covariance import LedoitWolf

        covariance = LedoitWolf(store_precision=False).fit(embeddings).covariance_ + 1e-3 * spread * np.eye(
            embeddings.shape[1]
        )
        whitening = np.linalg.inv(np.linalg.cholesky(covariance))  # covariance^-1 = W'W
        return {"mean": embeddings.mean(axis=0).astype(np.float32), "whitening": whitening.astype(np.float32)}

    def _score_one(self, embeddings: np.ndarray, arrays: Arrays) -> np.ndarray:
        centred = embeddings - arrays["mean"].astype(float)
        return np.linalg.norm(centred @ arrays["whitening"].astype(float).T, axis=1)


class GaussianMixture(_PerIdentity):
    """Negative log-likelihood (nats, any sign) under a mixture of diagonal Gaussians of the identity's normals.

    It has `components` of them, but one for every 4 clips at most; a tenth of the identities' mean variance is added to
    every variance, since a few clips say little about it.
    """

    name = "gaussian_mixture"

    def __init__(self, components: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.components, self.seed = components, seed

    def _fit_one(self, embeddings: np.ndarray, spread: float) -> Arrays:
        from sklearn.mixture import GaussianMixture as Mixture

        components = max(1, min(self.components, len(embeddings) // 4))
        mixture = Mixture(components, covariance_type="diag", reg_covar=0.1 * spread, random_state=self.seed)
        mixture.fit(embeddings)
        return {
            "weights": mixture.weights_.astype(np.float32),
            "means": mixture.means_.astype(np.float32),
            "covariances": mixture.covariances_.astype(np.float32),
        }

    def _score_one(self, embeddings: np.ndarray, arrays: Arrays) -> np.ndarray:
        weights, means, covariances = (arrays[key].astype(float) for key in ("weights", "means", "covariances"))
        distances = ((embeddings[:, None] - means) ** 2 / covariances).sum(2)  # (N, components)
        constants = np.log(2 * np.pi * covariances).sum(1)  # (components,)
        return -logsumexp(np.log(weights) - (distances + constants) / 2, axis=1)


def all_backends(neighbours: int, components: int, seed: int) -> dict[str, Backend]:
    """Every back-end, unfitted, by its name; the paper's first."""
    backends = (
        NegativeLogProbability(),
        NearestNeighbour(neighbours),
        Mahalanobis(),
        GaussianMixture(components, seed),
    )
    return {backend.name: backend for backend in backends}


def fit_and_score_held_out(
    backend: Backend, embeddings: np.ndarray, logits: np.ndarray, identities: np.ndarray, clips: np.ndarray
) -> np.ndarray:
    """Fits `backend` on training normals and returns their own scores (N,), each under a fit without its clip.

    A nearest neighbour would find the clip itself, at distance 0, and any fit takes its own samples for more normal
    than new ones: a threshold from such scores would call every new recording anomalous. (The network did see all of
    them.) `clips` (N,) numbers the clip that a row, a window, comes from. There are `FOLDS` folds over the clips of an
    identity; an identity of one clip is scored against itself.
    """
    clips_of = pd.Series(clips).groupby(identities)
    position = clips_of.transform(lambda clips: pd.factorize(clips)[0]).to_numpy()
    alone = clips_of.transform("nunique").to_numpy() == 1
    scores = np.empty(len(embeddings))
    for fold in range(FOLDS):
        out = position % FOLDS == fold
        if out.any():
            backend.fit(embeddings[~out | alone], identities[~out | alone])
            scores[out] = backend.score(embeddings[out], logits[out], identities[out])
    backend.fit(embeddings, identities)
    return scores
