"""The answer on top of the report: how well each machine is watched, in words and figures."""

from dataclasses import dataclass

import pandas as pd

from evaluation import metrics
from evaluation.systems import NAMES, REFERENCES


@dataclass(frozen=True)
class Machines:
    """A machine type, or the average of all, or a single machine, and how well it is watched (fractions)."""

    name: str
    type: str  # "average" for the average
    auc: float
    pauc: float
    low: float  # of the 95 % interval of the AUC
    high: float
    references: dict[str, float]  # AUC by the reference's readable name
    caught: float  # of the anomalous test clips, at the threshold
    alarms: float  # of the normal test clips, at the threshold: false ones
    precision: float  # of the alarms, 0 without any
    f1: float
    normal: int  # test clips
    anomalous: int

    @property
    def best_reference(self) -> str:
        return max(self.references, key=lambda name: self.references[name])

    @property
    def lead(self) -> float:
        """AUC above the best reference's, to the two digits that the page shows."""
        return round(self.auc, 2) - round(self.references[self.best_reference], 2)

    @property
    def verdict(self) -> tuple[str, str]:
        """A class of the style sheet and what to say: measured against guessing, the references and 0.9."""
        if self.low <= 0.5:
            return "bad", "maybe guessing"
        if self.lead <= 0:
            return "doubt", "simple is better" if self.lead < 0 else "simple as good"
        return ("good", "well watched") if self.low >= 0.9 else ("doubt", "partly watched")


def by_type(test: pd.DataFrame, summary: dict, alarms: pd.Series) -> list[Machines]:
    """The average over the machine types, then each type.

    `summary` is that of the scores (see `evaluation.scoring.write_scores`), `alarms` says of each row of `test`, the
    scores of the test clips, whether it lies above the threshold of its machine.
    """
    backend, said = summary["backend"], summary["systems"]
    parts = {"average": test, **dict(iter(test.groupby("machine_type")))}
    return [
        _machines(
            name,
            name,
            part,
            alarms,
            {key: said[key]["figures"][name] for key in (backend, *REFERENCES) if key in said},
            backend,
            said[backend]["intervals"][name],
        )
        for name, part in parts.items()
    ]


def by_machine(test: pd.DataFrame, summary: dict, alarms: pd.Series, resamples: int, seed: int) -> list[Machines]:
    """Each machine by itself, named "fan id_00", as `by_type` does for types."""
    backend, said = summary["backend"], summary["systems"]
    return [
        _machines(
            " ".join(name),
            name[0],
            part,
            alarms,
            {key: said[key]["figures"][name[0]][name[1]] for key in (backend, *REFERENCES) if key in said},
            backend,
            metrics.bootstrap(part, backend, resamples, seed)["average"],
        )
        for name, part in test.groupby(["machine_type", "machine_id"])
    ]


def _machines(
    name: str, kind: str, part: pd.DataFrame, alarms: pd.Series, figures: dict, backend: str, interval: dict
) -> Machines:
    anomalous, alarm = part["condition"] == "anomaly", alarms[part.index]
    hits = int((alarm & anomalous).sum())
    return Machines(
        name=name,
        type=kind,
        auc=figures[backend]["auc"],
        pauc=figures[backend]["pauc"],
        low=interval["auc"][0],
        high=interval["auc"][1],
        references={NAMES[key]: figures[key]["auc"] for key in REFERENCES if key in figures},
        caught=hits / int(anomalous.sum()),
        alarms=float(alarm[~anomalous].mean()),
        precision=hits / max(int(alarm.sum()), 1),
        f1=2 * hits / max(int(alarm.sum() + anomalous.sum()), 1),
        normal=int((~anomalous).sum()),
        anomalous=int(anomalous.sum()),
    )


def sentence(average: Machines) -> str:
    """The answer for someone who has to decide whether to rely on it."""
    told = f"Of 100 pairs of a faulty and a healthy recording, {average.auc * 100:.0f} are told apart rightly"
    reference = average.references[average.best_reference]
    if average.low <= 0.5:
        return f"{told}: not shown to be better than guessing."
    if average.lead > 0:
        return f"{told}. The best simple method, {average.best_reference}, manages {reference * 100:.0f}."
    does = "does better" if average.lead < 0 else "does as well"
    return f"{told}. A simple method, {average.best_reference}, {does}: {reference * 100:.0f}."


def details(average: Machines, types: list[Machines]) -> str:
    """What stands under the answer: how sure it is, and where it holds."""
    told = f"Guessing would be right in 50; the 95 % interval is {average.low * 100:.0f} to {average.high * 100:.0f}."
    if len(types) > 1:
        best, worst = max(types, key=lambda one: one.auc), min(types, key=lambda one: one.auc)
        told += f" Best watched is {best.name} ({best.auc * 100:.0f}), worst {worst.name} ({worst.auc * 100:.0f})."
        ahead = [one.name for one in types if one.lead > 0]
        told += f" The model is ahead of every simple method on {len(ahead)} of {len(types)} machine types"
        told += f" ({', '.join(ahead)})." if ahead else "."
    alarm = f"{average.caught * 100:.0f} % of the anomalous recordings raise an alarm"
    return f"{told} At the thresholds, {alarm}, and so do {average.alarms * 100:.0f} % of the normal ones."
