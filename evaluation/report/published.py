"""Table 4 of the paper: this run beside published systems, with their errata."""

from pathlib import Path

import pandas as pd

TYPES = ["valve", "fan", "pump", "slider", "ToyCar", "ToyConveyor"]  # the order of the paper's table
IDENTITIES = {name: {"id_00", "id_02", "id_04", "id_06"} for name in TYPES[:4]} | {
    "ToyCar": {"id_01", "id_02", "id_03", "id_04"},
    "ToyConveyor": {"id_01", "id_02", "id_03"},
}  # with test clips in the development set

Cell = tuple[float | None, float | None, list[int]]  # AUC and pAUC (%), numbers of footnotes


def read_published(path: Path) -> pd.DataFrame:
    """Published figures (per cent): a row per system and machine type or average, with protocol, source and erratum."""
    return pd.read_csv(path, comment="#", keep_default_na=False, na_values={"auc": [""], "pauc": [""]})


def is_dcase2020(test: pd.DataFrame) -> bool:
    """Whether the test clips are those of the DCASE 2020 development set: its machines, all of them, and enough clips.

    Every machine there has at least 100 normal and 89 anomalous test clips.
    """
    machines = {name: set(ids) for name, ids in test.groupby("machine_type")["machine_id"]}
    counts = test.groupby(["machine_type", "machine_id", "condition"]).size().unstack(fill_value=0)
    return machines == IDENTITIES and bool((counts["normal"] >= 100).all() and (counts["anomaly"] >= 89).all())


def table4(published: pd.DataFrame, figures: dict, pooled: dict) -> dict:
    """Rows of Table 4 in two groups, per-id and pooled, and the footnotes that their cells refer to.

    `figures` and `pooled` are this run's, as `evaluation.metrics.evaluate` and `evaluate_pooled` return them. A row
    holds system, about (year and source), cells [(auc, pauc, numbers of footnotes)] for TYPES and the average, in per
    cent or None, and ours.
    """
    footnotes: list[str] = []
    groups: dict[str, list[dict]] = {"per-id": [], "pooled": []}
    for system, rows in published.groupby("system", sort=False):
        first = rows.iloc[0]
        cells: list[Cell] = []
        for name in (*TYPES, "average"):
            found = rows[rows["machine_type"] == name]
            if found.empty:
                cells.append((None, None, []))
                continue
            cell = found.iloc[0]
            numbers = []
            if cell["erratum"]:
                if cell["erratum"] not in footnotes:
                    footnotes.append(cell["erratum"])
                numbers = [footnotes.index(cell["erratum"]) + 1]
            cells.append((_figure(cell["auc"]), _figure(cell["pauc"]), numbers))
        group = "pooled" if first["protocol"] == "pooled" else "per-id"
        about = f"{first['year']}, {first['source']}"
        if first["protocol"] == "unstated":
            about += ", protocol unstated"
        groups[group].append({"system": system, "about": about, "cells": cells, "ours": False})
    mean = {"auc": figures["pooled"]["auc"], "pauc": figures["pooled"]["pauc"]}
    groups["per-id"].append(_ours("This run", [figures.get(name) for name in TYPES] + [figures["average"]]))
    groups["pooled"].append(_ours("This run, pooled", [pooled.get(name) for name in TYPES] + [mean]))
    return {"types": TYPES, "groups": groups, "footnotes": footnotes}


def _ours(system: str, figures: list[dict | None]) -> dict:
    cells: list[Cell] = [(row["auc"] * 100, row["pauc"] * 100, []) if row else (None, None, []) for row in figures]
    return {"system": system, "about": "", "cells": cells, "ours": True}


def _figure(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
