"""Units on a Ray cluster of three nodes on this machine: none is lost and none is done twice, whatever happens."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cluster import units
from cluster.units import Unit, address, in_order, spread

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------------------------------------------- what workers do


def noting(folder: Path, seconds: float):
    """A worker that notes which units it began, and squares their number."""
    process = f"{os.getpid()}"

    def work(number: int) -> int:
        with (folder / "begun").open("a") as file:
            file.write(f"{number} {process}\n")
        time.sleep(seconds)
        return number**2

    return work


def failing(number: int) -> int:
    if number == 1:
        raise ValueError("it is a one")
    if number == 2:
        os._exit(1)
    return number


def failing_worker():
    return failing


def no_worker():
    raise ValueError("the model is damaged")


def numbered(count: int) -> list[Unit]:
    return [Unit([f"clip {number}"], number) for number in range(count)]


# -------------------------------------------------------------------------------------------------------------- tests


def test_killed_nodes_lose_nothing_and_double_nothing(nodes, tmp_path):
    asked, done, lines = [], [], []

    def enough() -> Iterator[Unit]:  # until the nodes that came later have done something, too
        while len(asked) < 40 or len({line.split()[1] for line in lines}) < 4:
            asked.append(Unit([f"clip {len(asked)}"], len(asked)))
            yield asked[-1]

    for unit, result in spread(enough(), partial(noting, tmp_path, 0.2), 40, 1):
        done.append((unit.clips, result))
        lines = (tmp_path / "begun").read_text().splitlines()
        if len(done) in (10, 20):
            nodes.kill()
    assert sorted(done, key=lambda pair: pair[1]) == [([f"clip {n}"], n**2) for n in range(len(asked))]
    begun = Counter(line.split()[0] for line in (tmp_path / "begun").read_text().splitlines())
    assert len(begun) == len(asked)
    assert len(asked) <= begun.total() <= len(asked) + 2, "what a lost node had in hand is repeated, and nothing else"


def test_a_unit_that_fails_three_times_is_named_and_the_rest_goes_on(nodes):
    done = []
    with pytest.raises(ValueError, match=r"2 units failed 3 times \(2 clips: .*\), the others are kept") as error:
        done.extend(result for _, result in spread(numbered(6), failing_worker, 6, 1))
    assert "clip 1" in str(error.value) and "clip 2" in str(error.value)
    assert "it is a one" in str(error.value) or "its process ended" in str(error.value)
    assert sorted(done) == [0, 3, 4, 5]


def test_workers_that_cannot_be_made_are_one_clear_error(nodes):
    with pytest.raises(ValueError, match=r"^no node of the cluster can work: ValueError: the model is damaged$"):
        list(spread(numbered(2), no_worker, 2, 1))


def test_few_units_are_asked_for_ahead(nodes, tmp_path):
    asked = []

    def endless():
        for unit in numbered(1000):
            asked.append(unit)
            yield unit

    finished = spread(endless(), partial(noting, tmp_path, 0.0), 1000, 1)
    for taken in range(1, 20):
        next(finished)
        assert len(asked) - taken <= 6, "two workers have a unit each, and as many are read ahead"
    finished.close()


def test_results_in_the_order_of_the_units(nodes, tmp_path):
    work = numbered(12)
    results = in_order(work, spread(iter(work), partial(noting, tmp_path, 0.01), 12, 1))
    assert [result for _, result in results] == [number**2 for number in range(12)]


def test_nothing_to_do_needs_no_cluster(monkeypatch):
    monkeypatch.setenv("RCMAE_RAY", "ray://nowhere:1")
    assert list(spread([], no_worker, 0, 1)) == []


@pytest.mark.parametrize(("given", "expected"), [("", None), ("local", "local"), ("ray://host:10001",) * 2])
def test_the_address_comes_from_the_environment(monkeypatch, given, expected):
    monkeypatch.setenv("RCMAE_RAY", given)
    assert address() == expected


def test_an_address_that_is_none(monkeypatch):
    monkeypatch.setenv("RCMAE_RAY", "http://host")
    with pytest.raises(ValueError, match="RCMAE_RAY is 'http://host': allowed are local, auto and ray://HOST:PORT"):
        address()


@pytest.mark.parametrize(
    ("resources", "cores", "gpus", "expected"),
    [
        ({"CPU": 16.0}, 4, False, (4, {"num_gpus": 0, "num_cpus": 4})),
        ({"CPU": 2.0}, 4, False, (1, {"num_gpus": 0, "num_cpus": 2})),
        ({"CPU": 16.0, "GPU": 2.0}, 4, True, (2, {"num_gpus": 1, "num_cpus": 8})),
        ({"CPU": 16.0}, 4, True, (0, {"num_gpus": 1, "num_cpus": 16})),
        ({"memory": 1e9}, 4, False, (0, {"num_gpus": 0, "num_cpus": 0})),
    ],
)
def test_a_worker_for_each_gpu_or_group_of_cores(resources, cores, gpus, expected):
    assert units._room(resources, cores, gpus) == expected
