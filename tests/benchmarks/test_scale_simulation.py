"""The simulation of a cluster: where it can be told on paper what comes out, that comes out."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.scale_simulation import Figures, Work, augmentation, main, simulate

ETERNAL = Figures(node_lives=1e12)


def work(units: int, seconds: float = 10.0, handed: float = 0.0, moved: float = 0.0, kept: float = 0.0) -> Work:
    return Work(np.full(units, seconds), handed, moved, kept)


def run(work: Work, workers: int, given: Figures = ETERNAL):
    return simulate(work, workers, 2, given, np.random.default_rng(0))


def test_workers_share_the_work():
    assert run(work(100), 1).seconds == pytest.approx(1000)
    done = run(work(100), 4)
    assert done.seconds == pytest.approx(250) and done.computing == pytest.approx(1) and done.repeated == 0


def test_what_holds_the_workers_up():
    assert run(work(100, kept=10.0), 4).computing == pytest.approx(0.5)
    handing = run(work(100, handed=5.0), 4)
    assert handing.seconds == pytest.approx(510, rel=0.02) and handing.handing == pytest.approx(1, rel=0.05)
    assert run(work(100, moved=5.0), 4).network == pytest.approx(1, rel=0.05)


def test_what_a_failed_node_had_in_hand_is_repeated():
    given = replace(ETERNAL, node_lives=100.0, node_returns=50.0)
    done = run(work(200), 4, given)
    assert 5 < done.repeated < 200
    assert done.seconds > 500 and done.computing == pytest.approx(200 * 10 / 4 / done.seconds)


def test_a_clip_has_15_evaluations_on_average():
    given = Figures(evaluation=1.0, around=0.0)
    mean = augmentation(80_000, given, np.random.default_rng(0)).seconds.mean() / given.batch
    assert mean == pytest.approx(14.75, rel=0.02)


def test_the_table(tmp_path, capsys):
    rows = main(["--clips", "10000", "--sizes", "1", "8", "--gpu-hour", "2"], tmp_path / "out.json")
    assert [row["part"] for row in rows[:4]] == [
        "augmentation, 1 GPUs", "features, 8 cores", "audit and shards, 1 node", "all",
    ]  # fmt: skip
    assert rows[3]["h"] == pytest.approx(sum(row["h"] for row in rows[:3]))
    assert rows[4]["h"] == pytest.approx(rows[0]["h"] / 8, rel=0.05)
    assert "| 8 | all |" in capsys.readouterr().out
