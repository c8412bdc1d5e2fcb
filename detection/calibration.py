"""A promise about false alarms: how often a healthy recording would score as high as this one.

Conformal prediction (Vovk, Gammerman and Shafer 2005). Where a healthy recording and the calibration recordings are
exchangeable, the p-value (1 + how many of the n calibration scores are as high) / (n + 1) is at most alpha for no more
than a share alpha of healthy recordings, whatever the distribution of the scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95  # of the range in which the share of false alarms lies


@dataclass(frozen=True)
class Calibration:
    """The healthy recordings that a machine's scores are compared with.

    `scores`: of each, ascending, on the scale of the back-end. `source`: where they come from:

    - held-out: recordings of the machine that no training, fit or standardisation has read
    - held-out, pooled: those of all machines of its type, as z-scores, where the machine has too few
    - cross-fitted: its training recordings, each scored by fits that did not see it, where none could be held out
    - cross-fitted, pooled: the training recordings of all machines of its type
    """

    scores: tuple[float, ...]
    source: str

    def __post_init__(self):
        if not np.isfinite(self.scores).all():
            raise ValueError("a calibration score is not a number")
        if len(self.scores) > 1 and self.scores[0] == self.scores[-1]:
            raise ValueError(
                f"all {len(self.scores)} calibration scores are {self.scores[0]:g}: nothing can be told by it"
            )

    @property
    def n(self) -> int:
        return len(self.scores)

    def p_value(self, score: float) -> float:
        """Share of healthy recordings that score at least `score`, in (0, 1].

        >>> Calibration((1.0, 2.0, 3.0, 4.0), "held-out").p_value(2.5)
        0.6
        """
        if not math.isfinite(score):
            raise ValueError(f"the score is {score}: it cannot be judged")
        return (1 + self.n - int(np.searchsorted(self.scores, score))) / (self.n + 1)

    def alpha(self, wanted: float) -> float:
        """The share of false alarms that can be promised: `wanted`, or what n recordings allow, 1 / (n + 1)."""
        return max(wanted, 1 / (self.n + 1))

    def threshold(self, wanted: float) -> float:
        """The score above which a recording is anomalous, which is where its p-value is at most `alpha(wanted)`.

        >>> Calibration(tuple(range(1, 20)), "held-out").threshold(0.1)
        18
        """
        if not self.n:
            raise ValueError("there is no calibration recording: a threshold cannot be told")
        return self.scores[self.n - alarms(self.n, self.alpha(wanted))]


def choose(
    machine: int,
    types: Sequence[str],
    scores: Mapping[str, Sequence[np.ndarray]],
    mean: np.ndarray,
    std: np.ndarray,
    alpha: float,
) -> Calibration:
    """The calibration of one machine, by its number.

    `types` (I,) are the machines' types. `scores` are of the recordings of each machine, by source in the order of
    preference (held-out, cross-fitted). `mean` and `std` (I,) make them z-scores. Of the first source that allows
    `alpha` it takes the machine's own if there are enough, else all of its type, brought to its scale. Where no source
    allows `alpha`, it takes the most of the first that has any. Raises ValueError where there are none.
    """
    members = [other for other, name in enumerate(types) if name == types[machine]]
    found: list[Calibration] = []
    for source, of_machine in scores.items():
        z = np.concatenate([(of_machine[other] - mean[other]) / std[other] for other in members])
        pooled = z[np.isfinite(z)] * std[machine] + mean[machine]
        for values, name in ((of_machine[machine], source), (pooled, f"{source}, pooled")):
            candidate = Calibration(tuple(np.sort(values[np.isfinite(values)]).tolist()), name)
            if candidate.n >= needed(alpha):
                return candidate
            found.append(candidate)
    sources = [max(found[place : place + 2], key=lambda candidate: candidate.n) for place in range(0, len(found), 2)]
    if not (most := next((candidate for candidate in sources if candidate.n), None)):
        raise ValueError("there is no calibration recording of this machine or its type: it cannot be judged")
    return most


def alarms(n: int, alpha: float) -> int:
    """The lowest rank from above, among n calibration scores and a new one, that is an alarm: floor(alpha (n + 1))."""
    return math.floor(alpha * (n + 1) * (1 + 1e-12))


def needed(alpha: float) -> int:
    """The fewest calibration recordings with which `alpha` can be promised.

    >>> needed(0.1), needed(0.05), needed(0.01)
    (9, 19, 99)
    """
    return math.ceil(1 / alpha * (1 - 1e-12)) - 1


@dataclass(frozen=True)
class Expected:
    """The share of healthy recordings that raise an alarm: its mean, and what 95 % of calibrations stay below."""

    mean: float
    high: float


def expected(n: int, alpha: float) -> Expected:
    """The share of false alarms with n calibration recordings: Beta(k, n + 1 - k), k = floor(alpha (n + 1)).

    >>> round(expected(20, 0.1).high, 2), round(expected(100, 0.1).high, 2)
    (0.22, 0.15)
    """
    from scipy.stats import beta  # a slow import, which judging does without

    k = alarms(n, alpha)
    return Expected(k / (n + 1), float(beta.ppf(CONFIDENCE, k, n + 1 - k)) if k else 0.0)


def false_discoveries(p_values: Sequence[float], share: float) -> list[bool]:
    """Which of a batch of recordings to call anomalous so that at most `share` of the calls is expected to be wrong.

    Benjamini and Hochberg (1995).

    >>> false_discoveries([0.01, 0.2, 0.03], 0.1)
    [True, False, True]
    """
    ascending = np.sort(p_values)
    few_enough = np.flatnonzero(ascending * len(ascending) <= share * np.arange(1, len(ascending) + 1))
    highest = ascending[few_enough[-1]] if len(few_enough) else -1.0
    return [bool(p_value <= highest) for p_value in p_values]
