"""Print the table of an experiment: AUC or pAUC in per cent, mean and spread of the seeds.

python -m experiments.table workspace
python -m experiments.table --figure pauc --paired --seeds 0 1 2 --experiments table3-masking table3-audioldm
python -m experiments.table --systems --figure auc --seeds 0 1 2 --experiments table4
python -m experiments.table --averages --seeds 0 1 2 --experiments ablation-as-it-is ablation-masking
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.report.published import PUBLISHED_AS, read_published
from evaluation.systems import NAMES, NETWORKS, NO_TYPES, PEERS, REFERENCES

SCORE = "metrics/score.json"
COMPARISON = "metrics/comparison.json"
PUBLISHED = Path("corpora/published_dev.csv")
PAPER, COMBINED = "negative_log_probability", "combined"  # scores of this project's model

Table = dict[str, dict[str, list[float]]]  # row: column: value in per cent by seed


def finished() -> dict[str, dict]:
    """The metrics and params of this commit's DVC experiments: {name: {file: content}}."""
    shown = subprocess.run(["dvc", "exp", "show", "--json"], check=True, capture_output=True, text=True).stdout
    found = {}
    for commit in json.loads(shown):
        for experiment in commit["experiments"] or []:
            newest = experiment["revs"][0].get("data") or {}
            figures = {file: shown.get("data") for file, shown in (newest.get("metrics") or {}).items()}
            if experiment["name"] and figures.get(SCORE):
                figures[COMPARISON] = _comparison(experiment["revs"][0]["rev"])
                found[experiment["name"]] = figures | {"params": newest["params"]["params.yaml"]["data"]}
    return found


def _comparison(revision: str) -> dict:
    """A commit's headline, and by system its figures: too many for DVC's metrics, which must fit a screen."""
    command = ["git", "show", f"{revision}:{COMPARISON}"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"headline": found["headline"]} | {row["system"]: row for row in found["systems"]}


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
        types = [key for key in scores[0] if key not in NO_TYPES]
        table[name] = {key: [100 * score[key][figure] for score in scores] for key in (*types, "average")}
    return table


def averages(found: dict[str, dict], names: Sequence[str], seeds: Sequence[str], tag: str) -> Table:
    """AUC and pAUC of the headline's back-end, of the best of the other back-ends, and of the best reference.

    Best is what has the highest mean AUC over the rows: a look at the test clips, and said so in the name.
    """
    runs = {name: runs_of(found, name, seeds, tag) for name in names}
    comparisons = [run[COMPARISON] for rows in runs.values() for run in rows]
    headline = comparisons[0]["headline"]

    def best(systems: Sequence[str]) -> str:
        present = [system for system in systems if all(system in figures for figures in comparisons)]
        return max(present, key=lambda system: statistics.mean(figures[system]["auc"] for figures in comparisons))

    other, reference = best([name for name in NETWORKS if name != headline]), best(REFERENCES)
    columns = {
        NAMES[headline]: headline,
        f"best other: {NAMES[other]}": other,
        f"best reference: {NAMES[reference]}": reference,
    }
    return {
        name: {
            f"{figure}, {label}": [100 * run[COMPARISON][system][figure.lower()] for run in rows]
            for label, system in columns.items()
            for figure in ("AUC", "pAUC")
        }
        for name, rows in runs.items()
    }


def systems(found: dict[str, dict], name: str, seeds: Sequence[str], tag: str, figure: str) -> str:
    """A Markdown table: this project's model and every peer, with what each cost, and what was published of it.

    The mean over the machine types, and its difference to this project's scores seed by seed. What was published stands
    there on DCASE 2020 alone.
    """
    runs = runs_of(found, name, seeds, tag)
    scores = [system for system in (PAPER, COMBINED) if all(system in run[COMPARISON] for run in runs)]
    peers = [system for system in PEERS if all(system in run[COMPARISON] for run in runs)]
    costs = {system: [run[COMPARISON][system] for run in runs] for system in peers}
    own_costs = [_own_cost(run["params"]) for run in runs]
    costs |= dict.fromkeys(scores, own_costs)
    corpus = runs[0]["params"]["corpus"]
    published = {}
    if Path(corpus["path"]).name == "dcase2020.csv" and not corpus["types"]:
        rows = read_published(PUBLISHED).query("machine_type == 'average'").set_index("system")
        published = {system: f"{rows[figure][row]:.2f}" for system, row in PUBLISHED_AS.items()}

    values = {system: [100 * run[COMPARISON][system][figure] for run in runs] for system in (*scores, *peers)}
    against = [f"minus RC-MAE, {NAMES.get(score, score)}" for score in scores]
    title = f"{figure}, %, {_seeds(seeds)}"
    header = [title, "average", *against, "training, s", "parameters", *(["published"] if published else [])]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for system, own in values.items():
        label = f"RC-MAE, {NAMES.get(system, system)}" if system in scores else NAMES[system]
        differences = [
            _cell([b - a for a, b in zip(values[score], own, strict=True)]) if system != score else "–"
            for score in scores
        ]
        seconds = [cost["seconds"] for cost in costs[system] if cost["seconds"] is not None]
        cost = [f"{statistics.mean(seconds):.0f}" if seconds else "–", f"{costs[system][0]['parameters']:,}"]
        shown = [published.get(system, "–")] if published else []
        lines.append(f"| {' | '.join([label, _cell(own), *differences, *cost, *shown])} |")
    return "\n".join(lines)


def _own_cost(values: dict) -> dict:
    """Seconds of both trainings of this project's model, None where they are not known, and its parameters."""
    from model.network import RCMAE, IdentityClassifier, NetworkConfig
    from stages.command import duration_key, durations
    from stages.params import Params

    params = Params.model_validate(values)
    config = NetworkConfig(mels=params.logmel.n_mels, **params.model.model_dump())
    networks = (RCMAE(config), IdentityClassifier(config, 1))
    found = [durations().find(duration_key(stage, params, Path())) for stage in ("pretrain", "finetune")]
    kept = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in found if path]
    return {
        "seconds": sum(kept) if len(kept) == len(found) else None,
        "parameters": max(sum(each.numel() for each in network.parameters()) for network in networks),
    }


def _seeds(seeds: Sequence[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


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
    parser.add_argument(
        "--averages",
        action="store_true",
        help="of the best systems, both figures",
    )
    parser.add_argument("--systems", action="store_true", help="of one experiment: the peers beside the model")
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
        if asked.systems:
            print(systems(finished(), asked.experiments[0], asked.seeds, asked.tag, asked.figure))
            return
        chosen = (finished(), asked.experiments, asked.seeds, asked.tag)
        table = averages(*chosen) if asked.averages else by_type(*chosen, asked.figure)
    except (ValueError, OSError) as error:
        sys.exit(f"table: {error}")
    if asked.paired:
        table["difference"] = difference(table)
    seeds = _seeds(asked.seeds)
    print(markdown(table, f"%, {seeds}" if asked.averages else f"{asked.figure}, %, {seeds}"))


if __name__ == "__main__":
    main()
