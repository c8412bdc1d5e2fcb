"""Speed of the two map stages on a Ray cluster: `python -m benchmarks.cluster` prints a table and keeps it as JSON.

Both stages without Ray, and on 1, 2 and 3 nodes of a core each, which all are processes of this machine: what Ray costs
shows beside one process without it, what a node more gives shows up to the number of cores. The same clips, an empty
store each time, one thread per process. `--kills` measures robustness instead: so many times a node is ended
ungracefully while units are under way and another takes its place, and units lost and doubled are counted.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from audio.manifest import read_manifest
from benchmarks.measuring import seconds, show
from cluster.units import ADDRESS, Unit, spread
from stages import diffusion_augment, logmel_feature
from stages.params import load

ROOT = Path(__file__).parents[1]
MEMORY = 200 * 2**20  # bytes of a node's object store


class Nodes:
    """Nodes of a core each, beside a head that does no work."""

    def __init__(self, number: int):
        from ray.cluster_utils import Cluster

        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._add() for _ in range(number)]
        os.environ |= {"RAY_ADDRESS": self._cluster.address, ADDRESS: "auto"}

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

    def kill(self) -> None:
        """End a node as when its power fails; another takes its place."""
        self._nodes.pop(0).kill_raylet()
        self._nodes.append(self._add())

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()
        for name in ("RAY_ADDRESS", ADDRESS):
            del os.environ[name]


@contextmanager
def on(nodes: int) -> Iterator[None]:
    """With so many nodes; with none, without Ray."""
    if not nodes:
        yield
        return
    cluster = Nodes(nodes)
    try:
        yield
    finally:
        cluster.close()


def ways(raw: Path, prompts: Path, folder: Path, clips: int) -> dict[str, Callable[[], None]]:
    """Both stages, each with a fresh store at every call."""
    manifest = read_manifest(raw / "manifest.csv")
    train = manifest[manifest["split"] == "train"]
    (folder / "raw").mkdir()
    train.iloc[:: max(len(train) // clips, 1)].head(clips).to_csv(folder / "raw" / "manifest.csv", index=False)
    for machine in set(train["machine_type"]):
        (folder / "raw" / machine).symlink_to((raw / machine).resolve())
    (folder / "none").mkdir()
    pd.DataFrame(columns=["clip", "view"]).to_csv(folder / "none" / "manifest.csv", index=False)
    numbers = count()

    def fresh() -> None:
        os.environ["RCMAE_STORE"] = str(folder / f"store-{next(numbers)}")

    def augment() -> None:
        fresh()
        params = load("diffusion-augment", ROOT)
        diffusion_augment.run(params, folder / "raw", prompts, folder / "augmented", folder / "metrics")

    def features() -> None:
        fresh()
        params = load("logmel-feature", ROOT)
        logmel_feature.run(params, folder / "raw", folder / "none", folder / "features", 1)

    return {"augment": augment, "features": features}


def measure(raw: Path, prompts: Path, clips: int, nodes: list[int], stages: list[str]) -> list[dict]:
    """A row for each stage and number of nodes; the workers' start is part of the time."""
    rows: list[dict] = []
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        runs = ways(raw, prompts, Path(name), clips)
        total = len(read_manifest(Path(name) / "raw" / "manifest.csv"))
        for number in nodes:
            with on(number):
                for stage in stages:
                    rate = total / seconds(runs[stage])
                    first.setdefault(stage, rate)
                    row = {"stage": stage, "nodes": number or "without Ray", "clips/s": rate}
                    rows.append(row | {"x first": rate / first[stage]})
    return rows


def kill(kills: int) -> list[dict]:
    """Units lost and doubled over so many killed nodes, one after ten units each."""
    nodes, done = Nodes(3), Counter[int]()
    units = [Unit([f"clip {number}"], number) for number in range(10 * (kills + 1))]
    started, killed = time.perf_counter(), 0
    try:
        for finished, (_, result) in enumerate(spread(units, _squares, len(units), 1), 1):
            done[result] += 1
            if finished % 10 == 0 and killed < kills:
                nodes.kill()
                killed += 1
    finally:
        nodes.close()
    expected = {number**2 for number in range(len(units))}
    lost, doubled = len(expected - done.keys()), sum(times - 1 for times in done.values())
    taken = time.perf_counter() - started
    return [{"kills": killed, "units": len(units), "lost": lost, "doubled": doubled, "s": taken}]


def _squares() -> Callable[[int], int]:
    def square(number: int) -> int:
        time.sleep(0.2)
        return number**2

    return square


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder with manifest.csv")
    parser.add_argument("--prompts", type=Path, default=Path("data/prompts"), help="folder with prompts.csv")
    parser.add_argument("--clips", type=int, default=540, help="training clips")
    parser.add_argument("--nodes", type=int, nargs="+", default=[0, 1, 2, 3], help="0 is without Ray")
    parser.add_argument("--stages", nargs="+", choices=["augment", "features"], default=["augment", "features"])
    parser.add_argument("--kills", type=int, default=0)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.kills:
        rows = kill(chosen.kills)
    else:
        rows = measure(chosen.raw, chosen.prompts, chosen.clips, chosen.nodes, chosen.stages)
    show("cluster_kills" if chosen.kills else "cluster", rows, {"clips": chosen.clips}, out)
    return rows


if __name__ == "__main__":
    main()
