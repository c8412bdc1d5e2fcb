"""Print, in a few lines, where the report is and what it says."""

import json
import sys
from pathlib import Path

from stages.paths import METRICS, REPORT

REFERENCES = {
    "rms": "level alone",
    "logmel_nearest_neighbour": "log-mel nearest neighbour",
    "logmel_mahalanobis": "log-mel Mahalanobis",
    "autoencoder": "DCASE 2020 autoencoder",
}


def summary(metrics: Path = METRICS, report: Path = REPORT) -> str:
    """The headline figures and the references beside them. Raises OSError or ValueError where there are none yet."""
    figures = json.loads((metrics / "score.json").read_text(encoding="utf-8"))
    systems = json.loads((metrics / "comparison.json").read_text(encoding="utf-8"))
    average = figures["average"]
    own = next(row for row in systems.values() if abs(row["auc"] - average["auc"]) < 1e-9)
    types = {name: part["auc"] for name, part in figures.items() if name not in ("average", "pooled")}
    references = {label: systems[name]["auc"] for name, label in REFERENCES.items() if name in systems}
    lines = [
        f"AUC {average['auc']:.3f} (95 % interval {own['auc_low']:.3f} to {own['auc_high']:.3f}), "
        f"pAUC {average['pauc']:.3f}, averaged over {len(types)} machine types",
        "  " + ", ".join(f"{name} {auc:.2f}" for name, auc in types.items()),
        "  for comparison: " + ", ".join(f"{name} {auc:.3f}" for name, auc in references.items()),
        f"Report: {(report / 'index.html').resolve()}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(summary())
    except (ValueError, OSError) as error:
        sys.exit(f"summary: {error}")
