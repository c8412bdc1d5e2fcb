"""The answer on top of the report: how well each machine is watched, in words and figures."""

from dataclasses import dataclass

import pandas as pd

from evaluation import metrics
from evaluation.systems import NAMES, REFERENCES


@dataclass(frozen=True)
class Machines:
    """A machine type, or the average of all, or a single machine, and how well it is watched (fractions).

    What needs anomalous test clips is None where there are none of both conditions on one machine.
    """

    name: str
    type: str  # "average" for the average
    auc: float | None
    pauc: float | None
    low: float | None  # of the 95 % interval of the AUC
    high: float | None
    references: dict[str, float]  # AUC by the reference's readable name
    promised: float  # share of healthy recordings that are expected to raise an alarm
    promised_high: float  # what that share stays below for 95 % of calibrations
    calibration: int  # recordings that it rests on; the fewest of a machine's
    caught: float | None  # of the anomalous test clips, at the threshold; mean over machines, as all shares are
    alarms: float | None  # of the normal test clips, at the threshold: false ones
    raised: int  # normal test clips above the threshold
    normal: int  # test clips
    anomalous: int

    @property
    def best_reference(self) -> str:
        return max(self.references, key=lambda name: self.references[name])

    @property
    def lead(self) -> float:
        """AUC above the best reference's, to the two digits that the page shows."""
        return round(self.auc or 0.0, 2) - round(self.references[self.best_reference], 2)

    @property
    def verdict(self) -> tuple[str, str]:
        """A class of the style sheet and what to say: measured against guessing, the references and 0.9."""
        if self.auc is None or self.low is None:
            return "doubt", "no anomalies to test on"
        if self.low <= 0.5:
            return "bad", "maybe guessing"
        if self.lead <= 0:
            return "doubt", "simple is better" if self.lead < 0 else "simple as good"
        return ("good", "well watched") if self.low >= 0.9 else ("doubt", "partly watched")


def by_type(test: pd.DataFrame, summary: dict) -> list[Machines]:
    """The average over the machine types, then each type.

    `test` are the scores of the test clips, `summary` is that of the scores (see `evaluation.scoring.write_scores`).
    """
    headline, systems = summary["backend"], summary["systems"]
    decisions = pd.DataFrame(systems[headline]["decisions"])
    return [
        _machines(
            name,
            name,
            test if name == "average" else test[test["machine_type"] == name],
            {key: systems[key]["figures"][name] for key in (headline, *REFERENCES) if _has(systems, key, name)},
            headline,
            systems[headline]["intervals"].get(name),
            decisions if name == "average" else decisions[decisions["machine_type"] == name],
        )
        for name in ("average", *sorted(set(decisions["machine_type"])))
    ]


def _has(systems: dict, key: str, name: str) -> bool:
    return name in systems.get(key, {}).get("figures", {})


def by_machine(test: pd.DataFrame, summary: dict, resamples: int, seed: int) -> list[Machines]:
    """Each machine by itself, named "fan id_00", as `by_type` does for types."""
    headline, systems = summary["backend"], summary["systems"]
    decisions = pd.DataFrame(systems[headline]["decisions"])
    found = []
    for (machine_type, machine_id), decision in decisions.groupby(["machine_type", "machine_id"]):
        part = test[(test["machine_type"] == machine_type) & (test["machine_id"] == machine_id)]
        figures = {
            key: systems[key]["figures"][machine_type][machine_id]
            for key in (headline, *REFERENCES)
            if machine_id in systems.get(key, {}).get("figures", {}).get(machine_type, {})
        }
        interval = metrics.bootstrap(part, headline, resamples, seed).get("average") if figures else None
        name = f"{machine_type} {machine_id}"
        found.append(_machines(name, machine_type, part, figures, headline, interval, decision))
    return found


def _machines(
    name: str,
    machine_type: str,
    part: pd.DataFrame,
    figures: dict,
    headline: str,
    interval: dict | None,
    decisions: pd.DataFrame,
) -> Machines:
    anomalous = part["condition"] == "anomaly"
    shares = decisions.reindex(columns=["measured", "caught"]).astype(float)
    figure = figures.get(headline, {})
    low, high = interval["auc"] if interval else (None, None)
    return Machines(
        name=name,
        type=machine_type,
        auc=figure.get("auc"),
        pauc=figure.get("pauc"),
        low=low,
        high=high,
        references={NAMES[key]: figures[key]["auc"] for key in REFERENCES if key in figures},
        promised=float(decisions["promised"].mean()),
        promised_high=float(decisions["promised_high"].mean()),
        calibration=int(decisions["n"].min()),
        caught=float(shares["caught"].mean()) if anomalous.any() else None,
        alarms=float(shares["measured"].mean()) if (~anomalous).any() else None,
        raised=round((shares["measured"] * decisions["normal"]).sum()),
        normal=int((~anomalous).sum()),
        anomalous=int(anomalous.sum()),
    )


def sentence(average: Machines) -> str:
    """The answer for someone who has to decide whether to rely on it."""
    if average.auc is None or average.low is None:
        return _of_healthy_recordings(average)
    told = f"Of 100 pairs of a faulty and a healthy recording, {average.auc * 100:.0f} are told apart rightly"
    reference = average.references[average.best_reference]
    if average.low <= 0.5:
        return f"{told}: not shown to be better than guessing."
    if average.lead > 0:
        return f"{told}. The best simple method, {average.best_reference}, manages {reference * 100:.0f}."
    does = "does better" if average.lead < 0 else "does as well"
    return f"{told}. A simple method, {average.best_reference}, {does}: {reference * 100:.0f}."


def _of_healthy_recordings(average: Machines) -> str:
    """The answer where there are no anomalies to test on."""
    if average.alarms is None:
        return "No recording was kept to test on: give more, or a folder with some in `test`."
    return (
        f"Of {average.normal} healthy recordings that nothing was fitted to, {average.raised} raise an alarm. "
        "Whether it would hear a fault cannot be told without a recording of one."
    )


def details(average: Machines, types: list[Machines], machines: list[Machines]) -> str:
    """What stands under the answer: how sure it is, and where it holds."""
    told = ""
    if average.auc is not None and average.low is not None and average.high is not None:
        told = (
            f"Guessing would be right in 50; the 95 % interval is {average.low * 100:.0f} to {average.high * 100:.0f}. "
        )
        tested = sum(each.auc is not None for each in machines)
        if tested < len(machines):
            told += f"This rests on {tested} of {len(machines)} machines: of the others no fault was recorded. "
        measured = [each for each in types if each.auc is not None]
        if len(measured) > 1:
            best, worst = max(measured, key=lambda each: each.auc or 0), min(measured, key=lambda each: each.auc or 0)
            told += f"Best watched is {best.name} ({(best.auc or 0) * 100:.0f}), "
            told += f"worst {worst.name} ({(worst.auc or 0) * 100:.0f}). "
            ahead = [each.name for each in measured if each.lead > 0]
            told += f"The model is ahead of every simple method on {len(ahead)} of {len(measured)} machine types"
            told += f" ({', '.join(ahead)}). " if ahead else ". "
    if average.caught is not None:
        told += f"At the thresholds, {average.caught * 100:.0f} % of the faulty recordings raise an alarm. "
    told += f"Of healthy recordings {average.promised * 100:.0f} % were promised to raise an alarm"
    told += f", {average.alarms * 100:.0f} % did." if average.alarms is not None else "."
    return told
