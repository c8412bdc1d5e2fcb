"""Print, in a few lines, where the report is and what it says."""

import json
import sys
from pathlib import Path

from evaluation.systems import NAMES, NO_TYPES, REFERENCES
from stages.paths import METRICS, REPORT


def summary(metrics: Path = METRICS, report: Path = REPORT) -> str:
    """The headline figures and the references beside them. Raises OSError or ValueError where there are none yet."""
    figures = json.loads((metrics / "score.json").read_text(encoding="utf-8"))
    comparison = json.loads((metrics / "comparison.json").read_text(encoding="utf-8"))
    headline, systems = comparison["headline"], {row["system"]: row for row in comparison["systems"]}
    lines = []
    if average := figures.get("average"):
        low, high = systems[headline]["auc_low"], systems[headline]["auc_high"]
        types = {name: part["auc"] for name, part in figures.items() if name not in NO_TYPES}
        beside = [name for name in ("negative_log_probability", *REFERENCES) if name in systems and name != headline]
        lines += [
            f"{NAMES[headline]}: AUC {average['auc']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
            f"pAUC {average['pauc']:.3f}, averaged over {len(types)} machine types",
            "  " + ", ".join(f"{name} {auc:.2f}" for name, auc in types.items()),
            "  for comparison: " + ", ".join(f"{NAMES[name]} {systems[name]['auc']:.3f}" for name in beside),
        ]
    if of_domains := figures.get("domains"):
        lines.append(f"harmonic mean over sections and domains, as DCASE ranks: {of_domains['harmonic_mean']:.3f}")
    alarms = figures["false_alarms"]
    if "measured" in alarms:
        lines.append(
            f"Healthy recordings that raise an alarm: {alarms['measured']:.0%}, promised {alarms['promised']:.0%}"
            + (f"; faulty ones: {alarms['caught']:.0%}" if "caught" in alarms else "")
        )
    lines.append(f"Report: {(report / 'index.html').resolve()}")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(summary())
    except (ValueError, OSError) as error:
        sys.exit(f"summary: {error}")
