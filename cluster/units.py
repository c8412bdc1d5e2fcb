"""Units of work on the nodes of a Ray cluster, which may come and go while it runs.

`RCMAE_RAY` says where the cluster is: `local` (this machine alone), `auto` (the cluster that this machine is a node
of) or `ray://HOST:PORT` (through a Ray client server). It is no parameter: results do not depend on it.

A worker is a Ray actor: it is made once, keeps its model loaded, and does one unit after another, on a GPU or on some
cores of a node. Units are asked for when workers will soon be free, so that memory does not grow with their number.
"""

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

ADDRESS = "RCMAE_RAY"
ATTEMPTS = 3  # of a unit that raises an exception or ends its process
LOST_NODES = 10  # while they did one unit: then it may be the unit that takes them down
LOOK_SECONDS = 1.0  # between looks at which nodes there are
PATIENCE_SECONDS = 600.0  # without any worker at work
ROOT = Path(__file__).resolve().parents[1]

Work = Callable[[Any], Any]

log = logging.getLogger(__name__)


def address() -> str | None:
    """The cluster's address as the environment has it, None without one. Raises ValueError for what is none."""
    given = os.environ.get(ADDRESS)
    if given and given not in ("local", "auto") and not given.startswith("ray://"):
        raise ValueError(f"{ADDRESS} is {given!r}: allowed are local, auto and ray://HOST:PORT")
    return given or None


@dataclass
class Unit:
    """Some clips, and what the function that does them is given."""

    clips: list[str]  # their names, for messages
    argument: Any
    errors: list[str] = field(default_factory=list)  # of the attempts that failed
    lost: int = 0  # nodes that went while they did it


def spread(
    units: Iterable[Unit], make: Callable[[], Work], total: int, cores: int, gpus: bool = False
) -> Iterator[tuple[Unit, Any]]:
    """Do `units` on the cluster at `address`; yield each with its result, in the order in which they are finished.

    `make` is called once by each worker, in its own process, and returns the function that does a unit. A worker gets
    `cores` cores of a node or, if `gpus` is true and the cluster has any, a GPU. `total` is the number of clips, for
    the progress bar, which shows the time left with all nodes at work.

    A unit whose node is lost is done by another. A unit that fails ATTEMPTS times is left out; when the others are
    done, ValueError names the clips of all such units. ValueError too if there is no cluster or no node that can work.
    """
    units = iter(units)
    first = next(units, None)
    if first is None:
        return
    _connect()
    with tqdm(total=total, unit="clip", disable=None) as progress:
        crew = _Crew(make, cores, gpus, progress)
        try:
            for unit, result in crew.do(chain([first], units)):
                progress.update(len(unit.clips))
                yield unit, result
        finally:
            crew.dismiss()
    if crew.failed:
        clips = [clip for unit in crew.failed for clip in unit.clips]
        listed = ", ".join(clips[:5]) + (", …" if len(clips) > 5 else "")
        raise ValueError(
            f"{len(crew.failed)} units failed {ATTEMPTS} times ({len(clips)} clips: {listed}), the others are kept in "
            f"the store. The last error: {crew.failed[-1].errors[-1]}"
        )


def in_order(units: Iterable[Unit], finished: Iterator[tuple[Unit, Any]]) -> Iterator[tuple[Unit, Any]]:
    """What `finished` yields, in the order of `units`: a result waits until those before it are there."""
    early: dict[int, tuple[Unit, Any]] = {}
    for unit in units:
        while id(unit) not in early:
            done = next(finished)
            early[id(done[0])] = done
        yield early.pop(id(unit))


def _connect() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report to its makers
    try:
        import ray
    except ImportError:
        raise ValueError(f"{ADDRESS} is set, but Ray is missing: pip install -r requirements-cluster.txt") from None
    if ray.is_initialized():
        return
    where = address()
    environment: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    if where != "local":  # other machines get the code of this checkout, so that all run the same
        environment = {"py_modules": [str(path.parent) for path in ROOT.glob("*/__init__.py")]}
    try:
        ray.init(where, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"{ADDRESS} is {where}: no cluster there ({' '.join(str(error).split())[:200]})") from None


@dataclass(eq=False)
class _Worker:
    node: str
    actor: Any
    unit: Unit | None = None  # None while it is being made


class _Crew:
    """The workers on all nodes, as many as there is room for, and what they are at."""

    def __init__(self, make: Callable[[], Work], cores: int, gpus: bool, progress: tqdm):
        self._make, self._cores, self._gpus, self._progress = make, cores, gpus, progress
        self._busy: dict[Any, _Worker] = {}  # by the reference to the result
        self._idle: list[_Worker] = []
        self._roomy: set[str] = set()  # nodes that have room for workers
        self._unfit: dict[str, str] = {}  # nodes where no worker can be made, and why
        self._waiting: deque[Unit] = deque()
        self._looked = self._worked = time.monotonic()
        self.failed: list[Unit] = []

    def do(self, units: Iterator[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Yield each unit with its result; what fails too often is put into `failed` instead."""
        import ray

        self._look()
        while True:
            # read ahead: as many units as workers could become free at once
            ahead = max(1, len(self._busy) + len(self._idle))
            self._waiting.extend(islice(units, max(0, ahead - len(self._waiting))))
            while self._idle and self._waiting:
                self._give(self._idle.pop(), self._waiting.popleft())
            if not self._waiting and not any(worker.unit for worker in self._busy.values()):
                return
            self._complain()
            done: list = []
            if self._busy:
                done, _ = ray.wait(list(self._busy), timeout=LOOK_SECONDS)
            else:
                time.sleep(LOOK_SECONDS)
            for reference in done:
                worker = self._busy.pop(reference)
                unit, worker.unit = worker.unit, None
                yield from self._finish(reference, worker, unit)
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()

    def dismiss(self) -> None:
        """End all workers."""
        import ray

        for worker in (*self._idle, *self._busy.values()):
            ray.kill(worker.actor)

    def _give(self, worker: _Worker, unit: Unit) -> None:
        worker.unit = unit
        self._busy[worker.actor.do.remote(unit.argument)] = worker

    def _finish(self, reference: Any, worker: _Worker, unit: Unit | None) -> Iterator[tuple[Unit, Any]]:
        import ray
        from ray.exceptions import ActorDiedError, RayError, RayTaskError

        try:
            result = ray.get(reference)
        except RayTaskError as error:  # raised by the unit; the worker is as good as before
            self._idle.append(worker)
            if unit:
                self._again(unit, str(error.cause).strip() or type(error.cause).__name__)
        except RayError as error:  # the worker is lost
            ray.kill(worker.actor)
            alive = isinstance(error, ActorDiedError) and worker.node in self._nodes()
            if unit:
                self._again(unit, "its process ended" if alive else None)
            elif alive:
                self._unfit[worker.node] = _reason(error)
                log.warning("node %s cannot work: %s", worker.node[:8], self._unfit[worker.node])
        else:
            self._idle.append(worker)
            if unit:
                unit.argument = None  # it may be large, and a unit that is done may have to wait for others
                yield unit, result

    def _again(self, unit: Unit, error: str | None) -> None:
        """Put back a unit that failed with `error`, or whose node was lost if that is None."""
        if error:
            unit.errors.append(error)
        else:
            unit.lost += 1
            if unit.lost == LOST_NODES:
                unit.errors += [f"{LOST_NODES} nodes were lost while they did it"] * ATTEMPTS
        (self.failed if len(unit.errors) >= ATTEMPTS else self._waiting).append(unit)

    def _nodes(self) -> dict[str, dict[str, float]]:
        """The resources of the nodes that are alive."""
        import ray

        return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}

    def _look(self) -> None:
        """Make workers on nodes that have room for more, and forget those of nodes that are gone."""
        nodes = self._nodes()
        self._looked = time.monotonic()
        self._idle = [worker for worker in self._idle if worker.node in nodes]
        there = Counter(worker.node for worker in (*self._idle, *self._busy.values()))
        with_gpus = self._gpus and any(resources.get("GPU") for resources in nodes.values())
        rooms = {node: _room(resources, self._cores, with_gpus) for node, resources in nodes.items()}
        self._roomy = {node for node, (count, _) in rooms.items() if count}
        for node in self._roomy - self._unfit.keys():
            count, share = rooms[node]
            for _ in range(count - there[node]):
                self._start(node, share)
        self._progress.set_postfix_str(f"{sum(there.values())} workers on {len(there)} nodes", refresh=False)

    def _start(self, node: str, share: dict[str, int]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node, soft=False)
        actor: Any = ray.remote(_Actor).options(scheduling_strategy=place, **share).remote(self._make)
        self._busy[actor.ready.remote()] = _Worker(node, actor)

    def _complain(self) -> None:
        """Raise ValueError if nobody can do what is left."""
        if self._idle or any(worker.unit for worker in self._busy.values()):
            self._worked = time.monotonic()
        elif self._unfit and not self._busy and self._roomy <= self._unfit.keys():
            raise ValueError(f"no node of the cluster can work: {next(iter(self._unfit.values()))}")
        elif time.monotonic() - self._worked > PATIENCE_SECONDS:
            raise ValueError(f"for {PATIENCE_SECONDS:g} s the cluster had no room for a worker")


class _Actor:
    """What a worker is in its own process."""

    def __init__(self, make: Callable[[], Work]):
        self._work = make()

    def ready(self) -> None:
        """Return when the worker is made."""

    def do(self, argument: Any) -> Any:
        return self._work(argument)


def _room(resources: dict[str, float], cores: int, gpus: bool) -> tuple[int, dict[str, int]]:
    """How many workers a node has room for, and what each gets of it. With `gpus`, nodes without one have no room."""
    cpus = int(resources.get("CPU", 0))
    count = int(resources.get("GPU", 0)) if gpus else -(-cpus // max(cores, 1))
    return count, {"num_gpus": int(gpus), "num_cpus": cpus // max(count, 1)}


def _reason(error: Exception) -> str:
    """The last line of a failed start: the exception that `make` raised."""
    return str(error).strip().splitlines()[-1]
