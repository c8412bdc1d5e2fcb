"""The curves of a training: one TSV per loss term and the last epoch's values, as DVC plots and metrics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd


@contextmanager
def curves(folder: Path, writes: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield the function that takes a row of the curves (`epoch` and the terms) and writes it at once.

    `folder` gets plots/metrics/<term>.tsv with columns step (the epoch) and <term>, and metrics.json. Where `writes` is
    false (all processes but the first) nothing is written.
    """
    if not writes:
        yield lambda row: None
        return
    from dvclive import Live  # here: it takes a second, and the reader of curves needs none of it

    with Live(str(folder), dvcyaml=False, save_dvc_exp=False) as live:
        (folder / "plots" / "metrics").mkdir(parents=True, exist_ok=True)
        live.make_summary()

        def write(row: dict[str, float]) -> None:
            live.step = int(row["epoch"])
            for name, value in row.items():
                if name != "epoch":
                    live.log_metric(name, value)
            live.make_summary()

        yield write


def read_curves(folder: Path) -> pd.DataFrame:
    """What `curves` wrote into `folder`: a row per epoch, indexed by it, a column per term."""
    tables = [pd.read_csv(path, sep="\t", index_col="step") for path in sorted(folder.glob("plots/metrics/*.tsv"))]
    return pd.concat(tables, axis=1).rename_axis("epoch") if tables else pd.DataFrame(index=pd.Index([], name="epoch"))
