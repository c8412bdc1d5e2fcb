"""Where the networks run: all devices of this machine, or of all machines, through lightning-fabric."""

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["bf16-mixed", "32-true"]


def launch(precision: Precision = "32-true") -> "Fabric":
    """Launch on every GPU of this machine, else the CPU; under torchrun or SLURM's srun on all their processes."""
    from lightning_fabric import Fabric  # a slow import, which reading settings and judging do without

    devices: int | str = "auto"
    nodes = 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif "SLURM_PROCID" in os.environ and "SLURM_NNODES" in os.environ:
        nodes = int(os.environ["SLURM_NNODES"])
        devices = int(os.environ["SLURM_NTASKS"]) // nodes
    fabric = Fabric(devices=devices, num_nodes=nodes, precision=precision)
    fabric.launch()
    return fabric
