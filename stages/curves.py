"""The curves of a training: a TSV per term for DVC's plots, and the losses of the last epoch for its metrics."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from storage.files import write_json


@contextmanager
def curves(folder: Path, losses: Sequence[str], writes: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield the function that takes a row of the curves (`epoch` and the terms) and writes it at once.

    `folder` gets plots/metrics/<term>.tsv with columns step (the epoch) and <term>, and at the end metrics.json with
    the last values of `losses`, the terms that decide between two runs. Where `writes` is false (all processes but the
    first) nothing is written.
    """
    if not writes:
        yield lambda row: None
        return
    from dvclive import Live  # here: it takes a second, and the reader of curves needs none of it

    with Live(str(folder), dvcyaml=False, save_dvc_exp=False) as live:
        (folder / "plots" / "metrics").mkdir(parents=True, exist_ok=True)
        last: dict[str, float] = {}

        def write(row: dict[str, float]) -> None:
            live.step = int(row["epoch"])
            for name, value in row.items():
                if name != "epoch":
                    live.log_metric(name, value)
            last.update(row)

        yield write
    write_json(folder / "metrics.json", {name: last[name] for name in losses if name in last})


def read_curves(folder: Path) -> pd.DataFrame:
    """What `curves` wrote into `folder`: a row per epoch, indexed by it, a column per term."""
    tables = [pd.read_csv(path, sep="\t", index_col="step") for path in sorted(folder.glob("plots/metrics/*.tsv"))]
    return pd.concat(tables, axis=1).rename_axis("epoch") if tables else pd.DataFrame(index=pd.Index([], name="epoch"))
