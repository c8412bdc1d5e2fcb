"""Print the table of an experiment: AUC or pAUC in per cent, mean and spread of the seeds.

python -m experiments.table workspace
python -m experiments.table --figure pauc --paired --seeds 0 1 2 --experiments table3-masking table3-audioldm
python -m experiments.table --averages --seeds 0 1 2 --experiments ablation-as-it-is ablation-masking
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.report.answer import BACKENDS, NAMES, REFERENCES

SCORE = "metrics/score.json"
COMPARISON = "metrics/comparison.json"

Table = dict[str, dict[str, list[float]]]  # row: column: value in per cent by seed


def finished() -> dict[str, dict]:
    """The metrics of this commit's DVC experiments: {name: {file: content, "backend": the headline's}}."""
    shown = subprocess.run(["dvc", "exp", "show", "--json"], check=True, capture_output=True, text=True).stdout
    found = {}
    for commit in json.loads(shown):
        for experiment in commit["experiments"] or []:
            newest = experiment["revs"][0].get("data") or {}
            figures = {file: one.get("data") for file, one in (newest.get("metrics") or {}).items()}
            if experiment["name"] and figures.get(SCORE) and figures.get(COMPARISON):
                backend = newest["params"]["params.yaml"]["data"]["score"]["backend"]
                found[experiment["name"]] = figures | {"backend": backend}
    return found


def runs_of(found: dict[str, dict], name: str, seeds: Sequence[str], tag: str) -> list[dict]:
    """The experiments "<name>-<seed>", or "<name>-<seed>-<tag>". Raises ValueError naming the first that is missing."""
    runs = [f"{name}-{seed}-{tag}".rstrip("-") for seed in seeds]
    if missing := [run for run in runs if run not in found]:
        raise ValueError(f"there is no experiment {missing[0]} with {SCORE}")
    return [found[run] for run in runs]


def by_type(found: dict[str, dict], names: Sequence[str], seeds: Sequence[str], tag: str, figure: str) -> Table:
    """A column per machine type and one for the average, under the headline's back-end."""
    table = {}
    for name in names:
        scores = [run[SCORE] for run in runs_of(found, name, seeds, tag)]
        types = [key for key in scores[0] if key not in ("average", "pooled")]
        table[name] = {key: [100 * score[key][figure] for score in scores] for key in (*types, "average")}
    return table


def averages(found: dict[str, dict], names: Sequence[str], seeds: Sequence[str], tag: str) -> Table:
    """AUC and pAUC of the headline's back-end and of the best of the others, and in the last row of the best reference.

    Best is what has the highest mean AUC over the rows: a look at the test clips, and said so in the name.
    """
    runs = {name: runs_of(found, name, seeds, tag) for name in names}
    every = [run for each in runs.values() for run in each]
    headline = every[0]["backend"]

    def best(systems: Sequence[str]) -> str:
        return max(systems, key=lambda system: statistics.mean(run[COMPARISON][system]["auc"] for run in every))

    def cells(those: list[dict], system: str, shown: str) -> dict[str, list[float]]:
        return {
            f"{figure}, {shown}": [100 * run[COMPARISON][system][figure.lower()] for run in those]
            for figure in ("AUC", "pAUC")
        }

    other = best([name for name in BACKENDS if name != headline])
    reference = best([name for name in REFERENCES if all(name in run[COMPARISON] for run in every)])
    table = {
        name: cells(those, headline, NAMES[headline]) | cells(those, other, f"best other: {NAMES[other]}")
        for name, those in runs.items()
    }
    return table | {f"best reference: {NAMES[reference]}": cells(runs[names[0]], reference, NAMES[headline])}


def difference(table: Table) -> dict[str, list[float]]:
    """The second row minus the first, seed by seed."""
    first, second = table.values()
    return {key: [b - a for a, b in zip(first[key], second[key], strict=True)] for key in first}


def markdown(table: Table, title: str) -> str:
    """A Markdown table: a row per experiment, mean ± standard deviation over the seeds where there are several."""
    columns = list(next(iter(table.values())))
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, values in table.items():
        lines.append(f"| {name} | {' | '.join(_cell(values.get(column, [])) for column in columns)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", nargs="?", choices=["workspace"], help=f"show the workspace's {SCORE}")
    parser.add_argument("--figure", choices=["auc", "pauc"], default="pauc", help="per machine type")
    parser.add_argument("--averages", action="store_true", help="of both figures instead, under two back-ends")
    parser.add_argument("--experiments", nargs="+", default=[], metavar="NAME", help="without the seed at the end")
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--tag", default="", help="what follows the seed in the names")
    parser.add_argument("--paired", action="store_true", help="of two experiments, also the difference seed by seed")
    asked = parser.parse_args(arguments)
    if bool(asked.workspace) == bool(asked.experiments):
        parser.error("give either workspace or --experiments")
    if asked.paired and len(asked.experiments) != 2:
        parser.error("--paired compares two experiments")
    try:
        if asked.workspace:
            figures = {"workspace-0": {SCORE: json.loads(Path(SCORE).read_text(encoding="utf-8"))}}
            for figure in ("auc", "pauc"):
                table = {"this run": by_type(figures, ["workspace"], ["0"], "", figure)["workspace"]}
                print(markdown(table, f"{figure}, %"), end="\n\n")
            return
        about = (finished(), asked.experiments, asked.seeds, asked.tag)
        table = averages(*about) if asked.averages else by_type(*about, asked.figure)
    except (ValueError, OSError) as error:
        sys.exit(f"table: {error}")
    if asked.paired:
        table["difference"] = difference(table)
    seeds = f"seed{'s' if len(asked.seeds) > 1 else ''} {', '.join(asked.seeds)}"
    print(markdown(table, f"%, {seeds}" if asked.averages else f"{asked.figure}, %, {seeds}"))


if __name__ == "__main__":
    main()
