"""Has the machine or its microphone changed since the calibration? A test that looks at every new verdict.

Each new score is ranked among the calibration scores and all scores that came since: its p-value is the share of those
that are as high, with a random part of those that equal it. While all of them are exchangeable, these p-values are
independent and uniform (Vovk, Gammerman and Shafer 2005, theorem 8.1), however few calibration recordings there are.
The p-values of the verdicts are not: all are ranks among the same n recordings, so that n recordings which happen to
be quiet make those of a healthy machine too low for ever, which a test of many would take for a change.

The Simple Jumper (Vovk et al. 2021, "Retrain or not retrain", algorithm 1) bets against uniformity: it grows when the
p-values gather at either end. It is a martingale that begins at 1, so it ever reaches BOUND on no more than a share
1 / BOUND of machines that have not changed (Ville's inequality), however long they are watched. Recordings that follow
each other closely and hear the same minute are not exchangeable: the bound then is no promise.
"""

import threading
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from detection.detector import Detector
from detection.judging import Judgement

BOUND = 100.0  # at most 1 in 100 machines that have not changed ever reach it
JUMPS = 0.01  # share of the stake that is divided anew before each bet; the paper's
BETS = np.array([-1.0, 0.0, 1.0])  # that p-values are low, as they should be, high


class Drift:
    """The test of one machine, which has the calibration `scores` to begin with."""

    def __init__(self, scores: Iterable[float] = (), seed: int = 0):
        self._known = array("d", sorted(scores))
        self._random = np.random.default_rng(seed)
        self._stakes = np.full(3, 1 / 3)
        self.changed = False

    @property
    def statistic(self) -> float:
        """What a stake of 1 has become."""
        return float(self._stakes.sum())

    def add(self, score: float) -> None:
        """Take in the score of a new recording."""
        below, most = bisect_left(self._known, score), bisect_right(self._known, score)
        equal = most - below + 1  # the score itself is among them
        p_value = (len(self._known) - most + self._random.uniform() * equal) / (len(self._known) + 1)
        insort(self._known, score)
        stakes = (1 - JUMPS) * self._stakes + JUMPS / len(BETS) * self.statistic
        self._stakes = np.minimum(stakes * (1 + BETS * (p_value - 0.5)), 1e100)  # far beyond the bound, yet finite
        self.changed = self.changed or self.statistic >= BOUND


class Drifts:
    """The tests of all machines of a detector, one for each sensor. Any number of threads may use them at once."""

    def __init__(self, detector: Detector):
        self.detector = detector
        self._tests: dict[tuple[str, str, str], Drift] = {}
        self._lock = threading.Lock()

    def of(self, identity: str, backend: str, sensor: str = "") -> Drift:
        """The test of a machine. One without a calibration of its own is compared with its first recordings alone."""
        key = identity, backend, sensor
        if key not in self._tests:
            calibration = self.detector.calibration(identity, backend)
            self._tests[key] = Drift(calibration.scores if calibration.source == "held-out" else ())
        return self._tests[key]

    def replay(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Take in the verdicts of a watcher's record, but for those that another calibration decided."""
        for row in rows:
            identity = f"{row['machine_type']}/{row['machine_id']}"
            if row["verdict"] and identity in self.detector.identities and row["backend"] in self.detector.backends:
                calibration = self.detector.calibration(identity, row["backend"])
                if float(row["threshold"]) == calibration.threshold(self.detector.settings.false_alarms):
                    self.of(identity, row["backend"], row.get("channel", "")).add(float(row["score"]))

    def noted(self, judgement: Judgement, sensor: str = "") -> Judgement:
        """The judgement with the statistic after it, and with a warning once that has reached the bound."""
        if (verdict := judgement.verdict) is None:
            return judgement
        with self._lock:
            test = self.of(f"{verdict.machine_type}/{verdict.machine_id}", verdict.backend, sensor)
            test.add(verdict.score)
            warnings = (*verdict.warnings, sentence(verdict.calibration)) if test.changed else verdict.warnings
            return replace(judgement, drift=test.statistic, verdict=replace(verdict, warnings=warnings))


def sentence(calibration: str) -> str:
    """What is said of a machine that has changed, by where its calibration comes from."""
    since = "the calibration" if calibration == "held-out" else "it was first watched"
    return f"the machine or the microphone has changed since {since}"
