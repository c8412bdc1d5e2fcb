"""Print, in a few lines, where the report is and what it says."""

import json
import sys
from pathlib import Path

from evaluation.systems import NAMES, REFERENCES
from stages.paths import METRICS, REPORT


def summary(metrics: Path = METRICS, report: Path = REPORT) -> str:
    """The headline figures and the references beside them. Raises OSError or ValueError where there are none yet."""
    figures = json.loads((metrics / "score.json").read_text(encoding="utf-8"))
    systems = json.loads((metrics / "comparison.json").read_text(encoding="utf-8"))
    average, headline = figures["average"], systems[systems["headline"]]
    types = {name: part["auc"] for name, part in figures.items() if name not in ("average", "pooled")}
    references = {NAMES[name]: systems[name]["auc"] for name in REFERENCES if name in systems}
    interval = f"{headline['auc_low']:.3f} to {headline['auc_high']:.3f}"
    lines = [
        f"{NAMES[systems['headline']]}: AUC {average['auc']:.3f} (95 % interval {interval}), "
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
