"""Where augmented clips are made: on the devices of this machine, under torchrun or SLURM, or on a Ray cluster."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from augmentation.audioldm import AudioLDM, checkpoint_identity
from augmentation.generation import Job, generate, shares
from cluster.units import ROOT, Unit, spread
from model.devices import launch
from storage.memory import keep_freed_memory
from storage.shards import Folder, Loaded
from storage.store import Store

CORES = 4  # of a worker of the cluster that has no GPU


def generate_on_devices(jobs: Sequence[Job], raw: Folder, store: Store, checkpoint: Path, batch_size: int) -> bool:
    """Make what `store` lacks of `jobs`, together with the other processes of this run, where it has some.

    All of them must be given the same `jobs`, or none. Returns, when all is made, whether this process goes on.
    """
    fabric = launch()
    keep_freed_memory()
    if jobs:
        audioldm = AudioLDM.from_checkpoint(str(checkpoint), device=fabric.device)
        lists = shares(jobs, fabric.world_size, batch_size)
        rank, shown = fabric.global_rank, fabric.is_global_zero
        generate(lists[rank], raw, store, audioldm, batch_size, shown)
        for other in range(1, fabric.world_size):  # what others have not come to, from its end: all finish together
            rest = lists[(rank + other) % fabric.world_size][::-1]
            generate(rest, raw, store, audioldm, batch_size, shown)
    fabric.barrier()
    return fabric.is_global_zero


def generate_on_cluster(
    jobs: Sequence[Job], raw: Folder, store: Store, checkpoint: Path, identity: str, batch_size: int
) -> None:
    """Make what `store` lacks of `jobs` on the nodes of the cluster, in the batches that one process would make.

    A batch travels with its clips, and the results go to `store`, which all nodes must see. `checkpoint` must be there
    on all of them, at the same path or in the project's folder, and have the `identity`. Raises ValueError, see
    `cluster.units.spread`.
    """

    keys = store.lacking(key for job in jobs for key in job.keys.values())
    lacking = [job for job in shares(jobs, 1, batch_size)[0] if not keys.isdisjoint(job.keys.values())]

    def units() -> Iterator[Unit]:
        for first in range(0, len(lacking), batch_size):
            batch = lacking[first : first + batch_size]
            names = list(dict.fromkeys(job.clip for job in batch))
            yield Unit(names, (batch, Loaded(raw, [f"{name}.flac" for name in names])))

    make = partial(Worker, checkpoint, identity, store, batch_size)
    for _ in spread(units(), make, len(lacking), CORES, gpus=True):
        pass


class Worker:
    """Makes batches of clips on a node of the cluster, with AudioLDM loaded once."""

    def __init__(self, checkpoint: Path, identity: str, store: Store, batch_size: int):
        import torch

        keep_freed_memory()
        folder = checkpoint if checkpoint.is_dir() else ROOT / checkpoint
        if checkpoint_identity(folder) != identity:
            raise ValueError(f"{checkpoint} is another checkpoint here, or is not there")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._audioldm = AudioLDM.from_checkpoint(str(folder), device=device)
        self._store, self._batch_size = store, batch_size

    def __call__(self, batch: tuple[list[Job], Loaded]) -> None:
        jobs, raw = batch
        generate(jobs, raw, self._store, self._audioldm, self._batch_size, shown=False)
