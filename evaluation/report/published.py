"""Table 4 of the paper: this run beside published systems, with their errata."""

from pathlib import Path

import pandas as pd

from evaluation.systems import NAMES

TYPES = ["valve", "fan", "pump", "slider", "ToyCar", "ToyConveyor"]  # the order of the paper's table
IDENTITIES = {name: {"id_00", "id_02", "id_04", "id_06"} for name in TYPES[:4]} | {
    "ToyCar": {"id_01", "id_02", "id_03", "id_04"},
    "ToyConveyor": {"id_01", "id_02", "id_03"},
}  # with test clips in the development set

Cell = tuple[float | None, float | None, list[int]]  # AUC and pAUC (%), numbers of footnotes

PUBLISHED_AS = {
    "negative_log_probability": "RC-MAE",
    "autoencoder": "AE Baseline",
    "mobilenetv2": "MobileNetV2",
    "stgram_mfn": "STgram-MFN",
    "aadcl": "AADCL",
    "gmade": "GMADE",
    "glow_aff": "Glow_Aff",
}  # what the table calls the systems that a run has scores of


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


def table4(published: pd.DataFrame, figures: dict, pooled: dict, again: dict[str, dict]) -> dict:
    """Rows of Table 4 in two groups, per-id and pooled, and the footnotes that their cells refer to.

    `figures` and `pooled` are this run's, as `evaluation.metrics.evaluate` and `evaluate_pooled` return them; `again`
    are the figures of systems that it trained itself, by name. What has no figures has no row. A row holds system,
    about (year and source), cells
    [(auc, pauc, numbers of footnotes)] for TYPES and the average, in per cent or None, ours, and again: the cells of
    the system as it was trained here, or None.
    """
    trained_here = {
        PUBLISHED_AS.get(name, NAMES[name]): _cells(own, own["average"]) for name, own in again.items() if own
    }
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
        row = {"system": system, "about": about, "cells": cells, "ours": False}
        groups[group].append(row | {"again": trained_here.pop(system, None)})
    for system, cells in trained_here.items():  # without a row of its own
        row = {"system": system, "about": "", "cells": _cells({}, None), "ours": False}
        groups["per-id"].append(row | {"again": cells})
    for group, system, own, average in (
        ("per-id", "This run", figures, figures.get("average")),
        ("pooled", "This run, pooled", pooled, figures.get("pooled")),
    ):
        if own:  # without anomalies there are no figures
            row = {"system": system, "about": "", "cells": _cells(own, average), "ours": True, "again": None}
            groups[group].append(row)
    return {"types": TYPES, "groups": groups, "footnotes": footnotes}


def _cells(figures: dict, average: dict | None) -> list[Cell]:
    rows = [figures.get(name) for name in TYPES] + [average]
    return [(row["auc"] * 100, row["pauc"] * 100, []) if row else (None, None, []) for row in rows]


def _figure(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
