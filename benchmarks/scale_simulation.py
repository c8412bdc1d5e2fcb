"""What a cluster would take for ten million clips: `python -m benchmarks.scale_simulation` prints a table.

Nothing here is measured on a cluster: the two map stages are simulated unit by unit, with nodes that fail, as
`cluster.units` runs them, from the figures of `Figures`. docs/scale.md says where those come from; each is an option,
to be replaced by one's own.
"""

import argparse
import heapq
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from benchmarks.measuring import show

CLIP = 198e3  # bytes of FLAC of 10 s, mean of the simulated corpus
FEATURES = 80e3  # bytes of the log-mel of 10 s, float16
EVALUATION = 207e9 / 60e12  # seconds: 207 GFLOP (counted) at 60 TFLOP/s (assumed)


@dataclass(frozen=True)
class Figures:
    """Seconds of one process, bytes per second, dollars."""

    read: float = 0.37e-3  # a clip out of a shard and into a unit; measured
    hashed: float = 0.23e-3  # a clip's SHA-256; measured
    called: float = 1e-3  # a unit handed to Ray, and its result taken back; assumed
    written: float = 0.3e-3  # a spectrogram out of its segment and into data/features; measured
    packed: float = 0.38e-3  # a clip into a shard; measured
    audit: float = 25e-3  # of a clip; measured
    feature: float = 1 / 395  # decoding and log-mel of a clip; measured
    evaluation: float = EVALUATION  # of the U-Net for a clip, guided
    around: float = 6 * EVALUATION  # VAE and vocoder for a clip: as six evaluations, measured on a CPU
    sent: float = 0.05  # until an object store has an entry; assumed
    network: float = 1.25e9  # of the machine that hands out units: 10 Gbit/s; assumed
    node_lives: float = 72 * 3600.0  # mean, as with machines that may be taken away; assumed
    node_returns: float = 600.0  # until another stands in for it; assumed
    gpus: int = 8  # of a node
    cores: int = 64  # of a node
    batch: int = 8  # clips of a unit of augmentation
    segment: int = 32  # clips of a unit of features
    gpu_hour: float = 2.5  # price of a GPU with its share of the node; assumed


@dataclass(frozen=True)
class Work:
    """Units of a stage."""

    seconds: np.ndarray  # of computing, a value per unit
    handed: float  # seconds until the next one is ready to be handed out
    moved: float  # seconds that its clips fill the network
    kept: float  # seconds until the store has the results; the worker waits


@dataclass(frozen=True)
class Outcome:
    """What a simulated run took; shares are of its time."""

    seconds: float
    computing: float  # share in which workers computed
    handing: float  # share in which units were made ready
    network: float  # share in which the network was full
    repeated: int  # units that were lost with a node


def augmentation(clips: int, given: Figures, random: np.random.Generator) -> Work:
    """S is drawn from 10 to 50 and half of the steps are done; the clips of a batch have about the same S."""
    steps = random.integers(10, 51, -(-clips // given.batch)) // 2
    seconds = given.batch * (steps * given.evaluation + given.around)
    moved = given.batch * CLIP / given.network
    return Work(seconds, given.batch * given.read + given.called, moved, given.batch * given.sent)


def extraction(clips: int, given: Figures) -> Work:
    """Log-mel spectrograms, which the machine that hands out units also writes."""
    seconds = np.full(-(-clips // given.segment), given.segment * given.feature)
    handed = given.segment * (given.read + given.hashed + given.written) + given.called
    return Work(seconds, handed, given.segment * (CLIP + FEATURES) / given.network, given.sent)


def simulate(work: Work, workers: int, per_node: int, given: Figures, random: np.random.Generator) -> Outcome:
    """Do the units, each on the worker that is free first; a node that fails loses those that it is at."""
    fails = random.exponential(given.node_lives, -(-workers // per_node))  # when each node does
    free = [(0.0, worker) for worker in range(workers)]  # since when
    left = list(range(len(work.seconds)))[::-1]
    ready = network = computed = end = 0.0
    repeated = 0
    while left:
        since, worker = heapq.heappop(free)
        node, unit = worker // per_node, left.pop()
        ready = max(ready, since - work.handed) + work.handed  # while the workers are at those before it
        network = max(network, ready) + work.moved
        begun = max(since, network)
        ended = begun + work.seconds[unit] + work.kept
        if ended < fails[node]:
            computed += work.seconds[unit]
            end = max(end, ended)
            heapq.heappush(free, (ended, worker))
            continue
        left.append(unit)
        repeated += int(begun < fails[node])
        back = fails[node] + given.node_returns
        heapq.heappush(free, (back, worker))
        if begun >= back:  # all workers of the node have found out
            fails[node] = back + random.exponential(given.node_lives)
    units = len(work.seconds)
    return Outcome(end, computed / workers / end, units * work.handed / end, units * work.moved / end, repeated)


def measure(clips: int, sizes: list[int], given: Figures) -> list[dict]:
    """Rows for each number of GPUs: the two stages, what one node does after them, and all of it."""
    rows = []
    for gpus in sizes:
        random = np.random.default_rng(0)
        cores = gpus * given.cores // given.gpus
        runs = {
            f"augmentation, {gpus} GPUs": (augmentation(clips, given, random), gpus, given.gpus, 2 * CLIP),
            f"features, {cores} cores": (extraction(2 * clips, given), cores, given.cores, 2 * (CLIP + 2 * FEATURES)),
        }
        hours = clips * (given.audit / given.cores + given.packed) / 3600
        after = {"GPUs": gpus, "part": "audit and shards, 1 node", "h": hours, "TB": 2 * clips * CLIP / 1e12}
        for part, (work, workers, per_node, moved) in runs.items():
            done = simulate(work, workers, per_node, given, random)
            hours += done.seconds / 3600
            rows.append(
                {"GPUs": gpus, "part": part, "h": done.seconds / 3600, "TB": clips * moved / 1e12} | shares(done)
            )
        rows.append(after)
        rows.append({"GPUs": gpus, "part": "all", "h": hours, "$": round(hours * gpus * given.gpu_hour)})
    return rows


def shares(done: Outcome) -> dict[str, str | int]:
    """What is busy how much: the fullest is what holds the others up."""
    named = {"computing": done.computing, "handing out": done.handing, "network": done.network}
    return {name: f"{share:.0%}" for name, share in named.items()} | {"units repeated": done.repeated}


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10**7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 64], help="numbers of GPUs")
    for one in fields(Figures):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    chosen = vars(parser.parse_args(arguments))
    given = Figures(**{one.name: chosen[one.name] for one in fields(Figures)})
    rows = measure(chosen["clips"], chosen["sizes"], given)
    show("scale_simulation", rows, {"clips": chosen["clips"], "from": vars(given)}, out)
    return rows


if __name__ == "__main__":
    main()
