"""What a cluster would take for ten million clips: `python -m benchmarks.scale_simulation` prints a table.

Nothing here is measured on a cluster: the two map stages are simulated unit by unit, with nodes that fail, as
`cluster.units` runs them, from the figures of `Machine`. Those marked `measured` come from one core of an AMD EPYC
(docs/scale.md says how), the others are assumed, and are there to be replaced by one's own.
"""

import argparse
import heapq
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from benchmarks.measuring import show

CLIP_BYTES = 198e3  # FLAC of 10 s, mean of the simulated corpus
FEATURE_BYTES = 80e3  # float16 log-mel of 10 s
WORKERS = {"augment": "GPU", "features": "core"}


@dataclass(frozen=True)
class Machine:
    """Rates and prices. Times in seconds of one process, rates in bytes per second, prices in dollars."""

    read: float = 0.37e-3  # per clip: out of a shard and into a unit; measured
    hashed: float = 0.23e-3  # per clip: SHA-256 of its file; measured
    submitted: float = 1e-3  # per unit: Ray's call and its answer
    written: float = 0.3e-3  # per clip: read from a segment and written to data/features; measured
    packed: float = 0.38e-3  # per clip: copied from the store and into a shard; measured, the half of it
    audit: float = 25e-3  # per clip: both spectrograms and their comparison; measured
    feature: float = 1 / 395  # per clip on a core: decoding and log-mel; measured
    evaluation: float = 207e9 / 60e12  # guided, per clip: 207 GFLOP (counted), 60 TFLOP/s
    around: float = 6 * 207e9 / 60e12  # VAE and vocoder per clip; six evaluations, measured on a CPU
    network: float = 1.25e9  # of the machine that hands out the units; 10 Gbit/s
    sent: float = 0.05  # per entry: until an object store has it
    node_fails: float = 30 * 24 * 3600.0  # mean time until a node is lost
    node_returns: float = 600.0
    gpus_per_node: int = 8
    cores_per_node: int = 64
    gpu_hour: float = 2.5
    batch: int = 8  # clips of a unit of augmentation; of features 32


@dataclass
class Outcome:
    """What a simulated run took."""

    seconds: float
    busy: float  # share of the workers' time in which they computed
    driver: float  # share of the time in which the machine that hands out units was at it
    network: float  # share of the time in which its network was full
    repeated: int  # units begun more than once
    done: int = field(default=0)


def simulate(stage: str, clips: int, workers: int, machine: Machine, seed: int = 0) -> Outcome:
    """Units of `stage` on so many workers, first come, first served."""
    random = np.random.default_rng(seed)
    size = machine.batch if stage == "augment" else 32
    units = -(-clips // size)
    per_node = machine.gpus_per_node if stage == "augment" else machine.cores_per_node
    handed = size * (machine.read + (machine.hashed + machine.written if stage == "features" else 0)) + machine.submitted
    moved = size * CLIP_BYTES / machine.network
    if stage == "augment":
        steps = random.integers(10, 51, units) // 2  # k = floor(S t0); the clips of a batch have about the same
        lengths = size * (steps * machine.evaluation + machine.around)
        kept = size * machine.sent
    else:
        lengths = np.full(units, size * machine.feature)
        kept = machine.sent  # one segment
    nodes = -(-workers // per_node)
    fails = [(time, node) for node in range(nodes) for time in [random.exponential(machine.node_fails)]]
    fails = dict((node, time) for time, node in fails)
    free = [(0.0, worker) for worker in range(workers)]
    driver = network = busy = end = 0.0
    waiting = list(range(units - 1, -1, -1))
    repeated = 0
    while waiting:
        since, worker = heapq.heappop(free)
        node = worker // per_node
        unit = waiting.pop()
        driver = max(driver, since - handed) + handed  # the next unit is prepared while all workers are at work
        network = max(network, driver) + moved
        begin = max(since, network)
        finish = begin + lengths[unit] + kept
        if begin >= fails[node]:  # it is gone; its workers come back later
            back = fails[node] + machine.node_returns
            if begin < back:
                waiting.append(unit)
                heapq.heappush(free, (back, worker))
                continue
            fails[node] = back + random.exponential(machine.node_fails)
        if finish > fails[node]:
            waiting.append(unit)
            repeated += 1
            heapq.heappush(free, (fails[node] + machine.node_returns, worker))
            continue
        busy += lengths[unit]
        end = max(end, finish)
        heapq.heappush(free, (finish, worker))
    return Outcome(end, busy / (end * workers), units * handed / end, units * moved / end, repeated, units)


def bottleneck(outcome: Outcome) -> str:
    """What would have to be faster for the whole to be faster."""
    shares = {"the workers": outcome.busy, "handing out": outcome.driver, "its network": outcome.network}
    return max(shares, key=lambda name: shares[name])


def measure(clips: int, gpus: list[int], machine: Machine) -> list[dict]:
    """A row for each number of GPUs, and each part of the two stages."""
    rows = []
    for count in gpus:
        nodes = -(-count // machine.gpus_per_node)
        cores = min(count * machine.cores_per_node // machine.gpus_per_node, nodes * machine.cores_per_node)
        total = 0.0
        for stage, workers in (("augment", count), ("features", cores)):
            outcome = simulate(stage, clips * (1 if stage == "augment" else 2), workers, machine)
            total += outcome.seconds
            written = CLIP_BYTES if stage == "augment" else 2 * FEATURE_BYTES
            read = CLIP_BYTES * (1 if stage == "augment" else 2)
            rows.append(
                {
                    "GPUs": count,
                    "part": f"{stage}, {workers} {WORKERS[stage]}s",
                    "h": outcome.seconds / 3600,
                    "TB moved": clips * (read + written) / 1e12,
                    "workers compute": f"{outcome.busy:.0%}",
                    "handing out": f"{outcome.driver:.0%}",
                    "its network": f"{outcome.network:.0%}",
                    "units repeated": outcome.repeated,
                    "limited by": bottleneck(outcome),
                }
            )
        alone = clips * (machine.audit + machine.packed)
        total += alone
        rows.append({"GPUs": count, "part": "audit and shards, 1 process", "h": alone / 3600})
        rows.append({"GPUs": count, "part": "both stages", "h": total / 3600, "$": total / 3600 * count * machine.gpu_hour})
    return rows


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10**7)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    for one in fields(Machine):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    chosen = vars(parser.parse_args(arguments))
    machine = Machine(**{one.name: chosen[one.name] for one in fields(Machine)})
    rows = measure(chosen["clips"], chosen["gpus"], machine)
    show("scale_simulation", rows, {"clips": chosen["clips"], "simulated from": vars(machine)}, out)
    return rows


if __name__ == "__main__":
    main()
