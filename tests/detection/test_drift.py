"""The test for drift: how often a healthy machine raises it, how soon a changed one does."""

from dataclasses import replace

import numpy as np
import pytest

from detection.drift import BOUND, Drift, Drifts
from detection.judging import Judge
from detection.sinks.interface import note
from detection.sinks.table import Table


def runs(shift: float, count: int, length: int = 1000, begin: int = 0, calibration: int = 39, seed: int = 0):
    """Tests of `count` machines after `length` verdicts, whose scores are shifted from number `begin` on."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        test = Drift(random.normal(size=calibration))
        for number in range(length):
            test.add(random.normal() + shift * (number >= begin))
        yield test


def test_a_healthy_machine_raises_it_no_more_often_than_the_bound_says():
    """1,000 verdicts after 39 calibration recordings: 1 in 100 is promised. Of 100 machines, 4 are within chance."""
    assert sum(test.changed for test in runs(0.0, 100)) <= 4


def test_the_verdicts_own_p_values_would_break_the_bound():
    """Why new scores are ranked among all that came before: fixed calibrations are quiet or loud by chance."""
    random, raised = np.random.default_rng(0), 0
    for _ in range(40):
        known, stakes = np.sort(random.normal(size=39)), np.full(3, 1 / 3)
        for score in random.normal(size=1000):
            p_value = (39 - np.searchsorted(known, score) + random.uniform()) / 40
            stakes = 0.99 * stakes + 0.01 / 3 * stakes.sum()
            stakes = stakes * (1 + np.array([-1, 0, 1]) * (p_value - 0.5))
            if stakes.sum() >= BOUND:
                raised += 1
                break
    assert raised >= 4


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_a_change_is_found_at_once_and_after_a_long_time(shift):
    assert sum(test.changed for test in runs(shift, 20, length=40)) >= 18
    assert sum(test.changed for test in runs(shift, 20, length=340, begin=300)) >= 18


def test_equal_scores_are_no_change():
    test = Drift([1.0] * 39)
    for _ in range(1000):
        test.add(1.0)
    assert not test.changed


def test_it_stays_raised_and_finite():
    test = Drift(range(39))
    for number in range(1000, 5000):
        test.add(number)
    assert test.changed and np.isfinite(test.statistic)


def test_judgements_carry_it_per_machine_and_sensor(detector, root):
    drifts, judge = Drifts(detector), Judge(detector)
    folder = root / "data/raw/fan/test"
    clips = sorted(folder.glob("normal_id_00_*")) * 5 + sorted(folder.glob("anomaly_id_00_*")) * 10
    noted = [drifts.noted(judge(clip)) for clip in clips]
    changed = "the machine or the microphone has changed since"
    assert noted[0].drift is not None and noted[0].drift < BOUND and changed not in noted[0].line()
    assert noted[-1].as_json()["drift"] >= BOUND and changed in noted[-1].line()
    assert changed in noted[-1].row()["warnings"] and noted[-1].row()["drift"] >= BOUND
    assert drifts.noted(judge(clips[0]), "channel_1").drift < 2
    assert drifts.noted(judge(root / "data/raw/fan/test/normal_id_02_00000000.flac")).drift < 2
    assert drifts.noted(judge(root / "nothing.wav")).drift is None


def test_a_record_takes_the_test_up_where_it_was(detector, root, tmp_path):
    """As a restarted watcher does; verdicts under another calibration, and errors, are left out."""
    drifts, judge = Drifts(detector), Judge(detector)
    clips = sorted((root / "data/raw/fan/test").glob("*_id_00_*"))
    noted = [drifts.noted(judge(path)) for path in (*clips, root / "nothing.wav")]
    table, again = Table(tmp_path / "verdicts.csv").open(), Drifts(detector)
    for judgement in noted:
        table.put(note(judgement))
    table.put(note(replace(noted[0], verdict=replace(noted[0].verdict, threshold=1.5, score=1e9))))
    again.replay(table.rows())
    table.close()
    verdict = noted[0].verdict
    test = again.of("fan/id_00", verdict.backend)
    assert test.statistic == noted[-2].drift != 1.0
