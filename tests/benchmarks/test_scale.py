"""The benchmark of scale runs, and finds what grows."""

import sys

from benchmarks import scale


def test_parts_are_measured_in_processes_of_their_own(tmp_path):
    rows = scale.measure(tmp_path, 50, 1.0, 5, ["features", "dvc"])
    commands = ["dvc repro", "dvc repro again", "dvc status"]
    expected = [f"{command}, {name}" for name in ("files", "shards") for command in commands]
    assert [row["part"] for row in rows] == ["features", "features again", *expected]
    assert all(row["clips"] == 50 and row["s"] > 0 and row["MB"] > 10 for row in rows)
    assert len((tmp_path / "files/used").read_text().split()) == 6, "five machine types and the manifest"
    assert (tmp_path / "shards/used").read_text().split() == ["clips-000000.tar", "manifest.csv", "shards.npy"]


def test_sizes_are_compared_part_by_part():
    rows = [{"part": part, "clips": clips, "s": s, "MB": mb} for clips, s, mb in ((10, 2.0, 100.0), (40, 4.0, 110.0))
            for part in "ab"]  # fmt: skip
    compared = scale.compared(rows)
    assert [(row["part"], row["clips"]) for row in compared] == [("a", 10), ("a", 40), ("b", 10), ("b", 40)]
    assert [row["ms/clip"] for row in compared[:2]] == [200.0, 100.0]
    assert [(row["x ms/clip"], row["x MB"]) for row in compared[:2]] == [(1.0, 1.0), (0.5, 1.1)]


def test_the_parts_that_train_and_score_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    scale.write_corpus(tmp_path / "data/raw", 50, 1.0, 5)
    for part in ("features", "pretrain", "score"):
        assert scale.main(["--part", part]) == []
        float(capsys.readouterr().out.splitlines()[-1])  # its seconds, and nothing else
    assert (tmp_path / "data/scores/scores.csv").is_file()


def test_memory_is_that_of_all_processes(tmp_path):
    holds = "import numpy, time; a = numpy.ones(10_000_000); time.sleep(1); print('held')"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holds!r}])"
    printed, seconds, memory = scale.watched([sys.executable, "-c", starts], tmp_path)
    assert printed.strip() == "held" and seconds > 1
    assert 80 < memory < 200
