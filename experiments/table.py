"""Print the table of an experiment: AUC or pAUC in per cent, per machine type and on average, mean and spread of seeds.

python -m experiments.table workspace
python -m experiments.table --figure pauc --paired --seeds 0 1 2 --experiments table3-masking table3-audioldm
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SCORE = "metrics/score.json"


def finished() -> dict[str, dict]:
    """metrics/score.json of every DVC experiment of this repository, by the experiment's name."""
    shown = subprocess.run(["dvc", "exp", "show", "--json", "-A"], check=True, capture_output=True, text=True).stdout
    found = {}
    for commit in json.loads(shown):
        for experiment in commit["experiments"] or []:
            newest = experiment["revs"][0]
            figures = ((newest.get("data") or {}).get("metrics") or {}).get(SCORE, {}).get("data")
            if experiment["name"] and figures:
                found[experiment["name"]] = figures
    return found


def rows(figures: dict[str, dict], names: Sequence[str], seeds: Sequence[str], figure: str) -> dict[str, dict]:
    """{name: {type or "average": [value in per cent by seed]}} of the experiments "<name>-<seed>".

    Raises ValueError naming the first experiment that is not among `figures`.
    """
    table = {}
    for name in names:
        runs = [f"{name}-{seed}" for seed in seeds]
        if missing := [run for run in runs if run not in figures]:
            raise ValueError(f"there is no experiment {missing[0]} with {SCORE}")
        types = [key for key in figures[runs[0]] if key not in ("average", "pooled")]
        table[name] = {key: [100 * figures[run][key][figure] for run in runs] for key in (*types, "average")}
    return table


def difference(table: dict[str, dict]) -> dict[str, list[float]]:
    """The second row minus the first, seed by seed."""
    first, second = table.values()
    return {key: [b - a for a, b in zip(first[key], second[key], strict=True)] for key in first}


def markdown(table: dict[str, dict], title: str) -> str:
    """A Markdown table: a row per experiment, mean ± standard deviation over the seeds where there are several."""
    columns = list(next(iter(table.values())))
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, values in table.items():
        lines.append(f"| {name} | {' | '.join(_cell(values[column]) for column in columns)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", nargs="?", choices=["workspace"], help=f"show the workspace's {SCORE}")
    parser.add_argument("--figure", choices=["auc", "pauc"], default="pauc")
    parser.add_argument("--experiments", nargs="+", default=[], metavar="NAME", help="without the seed at the end")
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--paired", action="store_true", help="of two experiments, also the difference seed by seed")
    asked = parser.parse_args(arguments)
    if bool(asked.workspace) == bool(asked.experiments):
        parser.error("give either workspace or --experiments")
    if asked.paired and len(asked.experiments) != 2:
        parser.error("--paired compares two experiments")
    try:
        if asked.workspace:
            figures = {"workspace-0": json.loads(Path(SCORE).read_text(encoding="utf-8"))}
            for figure in ("auc", "pauc"):
                table = {"this run": rows(figures, ["workspace"], ["0"], figure)["workspace"]}
                print(markdown(table, f"{figure}, %"), end="\n\n")
            return
        table = rows(finished(), asked.experiments, asked.seeds, asked.figure)
    except (ValueError, OSError) as error:
        sys.exit(f"table: {error}")
    if asked.paired:
        table["difference"] = difference(table)
    seeds = f"seed{'s' if len(asked.seeds) > 1 else ''} {', '.join(asked.seeds)}"
    print(markdown(table, f"{asked.figure}, %, {seeds}"))


if __name__ == "__main__":
    main()
