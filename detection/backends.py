"""Anomaly scores: the paper's -log p, distances to the training normals, and their combination.

A back-end is a torch module whose buffers hold what was fitted, so that it is saved as they are and traced into an ONNX
graph as it is. `fit` takes arrays of training normals alone; the result scores windows under every identity at once:

    x  (B, d)  a representation of B windows, see `Representations`      scores  (B, I)  higher is more anomalous

An identity that a back-end cannot judge has NaN. `identities` number the machines; `types` names each one's type. A
covariance is shared by the identities of a type and borrows a little from the other types: a few clips of one machine
say little about 700 dimensions.

What is fitted, and how, stands in `detection.fitting`; here is how a window is scored by it.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection import fitting
from detection.fitting import Arrays


class Backend(nn.Module):
    """A back-end; what was fitted are its buffers. `arrays` and `from_arrays` carry them."""

    # the buffers that a back-end may have, for the type checker
    means: Tensor
    known: Tensor
    spacing: Tensor
    weights: Tensor
    variances: Tensor
    columns: Tensor
    members: Tensor

    def __init__(self, arrays: Arrays):
        super().__init__()
        self.fitted = tuple(arrays)
        self.asked = int(arrays.get("neighbours", 1))
        for name, array in (arrays | fitting.places(arrays)).items():
            whole = np.issubdtype(array.dtype, np.integer)
            array = array.astype(np.int64 if whole else np.float32, order="C")
            self.register_buffer(name, torch.from_numpy(array.copy()), persistent=name in arrays)

    @classmethod
    def fit(cls, x: np.ndarray, identities: np.ndarray, types: Sequence[str]) -> Self:
        """Fit to the training normals `x` (N, d) of `identities` (N,); `types` (I,) are all identities' types."""
        raise NotImplementedError

    def arrays(self) -> Arrays:
        """What was fitted, by name."""
        return {name: getattr(self, name).cpu().numpy() for name in self.fitted}

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class NegativeLogProbability(Backend):
    """The paper's anomaly score, -log p(identity | clip) (section 2.5.2), in nats, from the logits. Nothing is fitted.

    Of an identity that is no class of the network there is none.
    """

    @classmethod
    def fit(cls, x: np.ndarray, identities: np.ndarray, types: Sequence[str]) -> Self:
        return cls({"machines": np.array(len(types))})

    def forward(self, x: Tensor) -> Tensor:
        classes = x.shape[1]
        margins = x.unsqueeze(1) - x.unsqueeze(2)  # (B, C, C): how much more another class is said than this one
        others = margins.masked_fill(torch.eye(classes, dtype=torch.bool, device=x.device), -torch.inf)
        # log(1 + sum of the others' odds) stays exact where p is so near 1 that 1 - p would round to 0
        scores = F.softplus(others.logsumexp(dim=2), threshold=80)
        return _with_unknown(scores)[:, self.columns.clamp(max=classes)]


class Mahalanobis(Backend):
    """Mahalanobis distance to the mean of an identity's training normals, under the covariance within its type.

    Each dimension is divided by its standard deviation within the identities of the type. The covariance of what is
    left once each identity's mean is taken away, a little of the other types too (`detection.fitting.BORROWED`), is
    shrunk after Ledoit and Wolf (2004): (1 - a) S + a m 1, where m is the mean variance. S has at most as many
    directions of variance as there are windows. So the distance is measured along these `directions`, and in one piece
    across all others, where the variance is `rest` = a m.
    """

    @classmethod
    def fit(cls, x: np.ndarray, identities: np.ndarray, types: Sequence[str]) -> Self:
        return cls(fitting.mahalanobis(x, identities, types))

    def forward(self, x: Tensor) -> Tensor:
        groups = fitting.groups(self.fitted)
        found = torch.cat([self._of_group(x, number) for number in groups], dim=1)  # (B, members of all groups)
        return _with_unknown(found)[:, self.columns]

    def _of_group(self, x: Tensor, number: int) -> Tensor:
        """Distances (B, m) to the members of a group of identities, which share a covariance."""
        std, directions, variances, rest, members = (
            getattr(self, f"{key}_{number}") for key in ("std", "directions", "variances", "rest", "members")
        )
        centred = (x.unsqueeze(1) - self.means[members]) / std  # (B, m, d)
        along = centred @ directions  # (B, m, r)
        across = (centred - along @ directions.T).square().sum(dim=2)
        return ((along.square() / variances).sum(dim=2) + across / rest).sqrt()


class NearestNeighbour(Backend):
    """Mean cosine distance (0 to 2) to the `neighbours` nearest training normals of the identity, or to all it has."""

    @classmethod
    def fit(cls, x: np.ndarray, identities: np.ndarray, types: Sequence[str], neighbours: int = 1) -> Self:
        return cls(fitting.nearest_neighbour(x, identities, types, neighbours))

    def forward(self, x: Tensor) -> Tensor:
        distances = _distances(x, self.known, self.members)  # (B, I, most)
        nearest = distances.topk(self.asked, dim=2, largest=False).values
        there = nearest.isfinite()
        return torch.where(there, nearest, 0.0).sum(dim=2) / there.sum(dim=2)


class LocalDensity(Backend):
    """Cosine distance to the nearest training normal, divided by how far that normal lies from its own neighbours.

    So a distance counts for more where an identity's normals lie close together. `spacing` is the mean distance of a
    normal to the SPACED others nearest to it; an identity with a single normal takes the mean of its type.
    """

    @classmethod
    def fit(cls, x: np.ndarray, identities: np.ndarray, types: Sequence[str]) -> Self:
        return cls(fitting.local_density(x, identities, types))

    def forward(self, x: Tensor) -> Tensor:
        nearest = _distances(x, self.known, self.members).min(dim=2)  # (B, I)
        spacing = _with_unknown(self.spacing.unsqueeze(0)).squeeze(0)[self.members]  # (I, most)
        usual = spacing.gather(1, nearest.indices.T).T
        return torch.where(nearest.values.isfinite(), nearest.values / usual, torch.nan)


class GaussianMixture(Backend):
    """Negative log-likelihood (nats, any sign) under a mixture of diagonal Gaussians of the identity's normals.

    It has `components` of them, but one for every 4 clips at most; a tenth of the type's mean variance within its
    identities is added to every variance, since a few clips say little about it.
    """

    @classmethod
    def fit(
        cls, x: np.ndarray, identities: np.ndarray, types: Sequence[str], components: int = 2, seed: int = 0
    ) -> Self:
        return cls(fitting.gaussian_mixture(x, identities, types, components, seed))

    def forward(self, x: Tensor) -> Tensor:
        centred = x.unsqueeze(1).unsqueeze(1) - self.means  # (B, I, components, d)
        distances = (centred.square() / self.variances).sum(dim=3)  # (B, I, components)
        constants = (2 * torch.pi * self.variances).log().sum(dim=2)  # (I, components)
        likelihood = (self.weights.log() - (distances + constants) / 2).logsumexp(dim=2)  # (B, I)
        return torch.where(self.weights.sum(dim=1) > 0, -likelihood, torch.nan)


def _with_unknown(scores: Tensor) -> Tensor:
    """Scores (B, n) and, behind them, a column of NaN for all that are not known."""
    return torch.cat([scores, torch.full_like(scores[:, :1], torch.nan)], dim=1)


def _distances(x: Tensor, known: Tensor, members: Tensor) -> Tensor:
    """Cosine distances (B, I, most) of x (B, d) to each identity's rows of `known` (N, d); infinite beyond them.

    `members` (I, most) are the numbers of these rows, N where an identity has no more.
    """
    distances = 1 - F.normalize(x, dim=1) @ known.T  # (B, N)
    beyond = torch.full_like(x[:, :1], torch.inf)
    return torch.cat([distances, beyond], dim=1)[:, members]
