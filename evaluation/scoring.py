"""From features to the table of scores: every clip under every back-end and reference, and what follows from it.

The table has a row per clip (training normals, calibration normals and test clips) and the columns clip, machine_type,
machine_id, split, condition, then one per system. A training normal's score is that of a fit which did not see the
clip, where there is something to fit on clips; the networks and the autoencoder did see it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from audio.features import Features
from detection.calibration import Calibration, choose, expected
from detection.description import ROLES, Recording, Recordings
from detection.ensemble import standard
from detection.torch_detector import TorchDetector
from evaluation import metrics
from model.threads import in_threads
from peers.references import level_distance, nearest_neighbour, statistics
from storage.files import whole_folder

COLUMNS = ["clip", "machine_type", "machine_id", "split", "condition"]
BESIDE = ("negative_log_probability", "pretrained_mahalanobis", "finetuned_mahalanobis", "logmel_mahalanobis")


def scored_clips(features: Features) -> pd.DataFrame:
    """Training and calibration normals and test clips, originals only.

    Their COLUMNS, sha256, domain, and `row`, their number for `Features.read`.
    """
    index = features.index
    healthy = index["split"].isin(["train", "calibration"]) & (index["condition"] == "normal")
    chosen = (index["kind"] == "original") & (healthy | (index["split"] == "test"))
    clips = index.loc[chosen, [*COLUMNS, "sha256", "domain"]].assign(row=np.flatnonzero(chosen))
    return clips.sort_values("clip", ignore_index=True)


def check(detector: TorchDetector, features: Features, clips: pd.DataFrame) -> None:
    """Raises ValueError where the features are not those the networks were trained on, or not all were trained on."""
    if detector.front_end != features.settings:
        raise ValueError(
            f"the features were made with {features.settings}, the model was trained on {detector.front_end}"
        )
    test = clips[clips["split"] == "test"]
    metrics.check_trained(detector.identities, test)
    training = clips[clips["split"] == "train"]
    absent = set(detector.identities) - set(training["machine_type"] + "/" + training["machine_id"])
    if absent:
        raise ValueError(f"the model was trained on {min(absent)}, of which the features hold no training clip")


def score_with(
    detector: TorchDetector, features: Features, clips: pd.DataFrame
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fits and calibrates the detector and scores all clips: scores (N,) per back-end, and arrays of embeddings.

    The back-ends are fitted to the training clips; the detector keeps the scores of these and of the calibration clips.
    The arrays are `pretrained` and, if there is one, `finetuned` (N, E) and `logits` (N, C), each the mean over the
    windows. Raises ValueError naming the clip for which the network's output is not a number.
    """
    rows = clips["row"].to_numpy()
    counts = np.array([len(detector.window_starts(frames)) for frames in features.index["frames"].to_numpy()[rows]])
    firsts = counts.cumsum() - counts
    of_clip = np.repeat(np.arange(len(clips)), counts)
    representations = _represented(detector, features, rows, counts, firsts)
    for name, x in representations.items():
        finite = np.isfinite(x).all(1)
        if not finite.all():
            clip = clips["clip"].iloc[of_clip[finite.argmin()]]
            raise ValueError(f"the {name} representation of {clip} is not a number: it has no score")

    identities = (clips["machine_type"] + "/" + clips["machine_id"]).to_numpy()
    training = (clips["split"] == "train").to_numpy()

    def of(chosen: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
        windows = chosen[of_clip]
        return {name: x[windows] for name, x in representations.items()}, counts[chosen], identities[chosen].tolist()

    cross_fitted = detector.fit(*of(training))
    scores = {name: np.empty(len(clips)) for name in detector.backends}
    for chosen, found in ((training, cross_fitted), (~training, detector.clip_scores(*of(~training)))):
        for name, values in found.items():
            scores[name][chosen] = values
    detector.recordings = _recordings(detector, features, clips, scores)

    def mean(of_windows: np.ndarray) -> np.ndarray:
        return np.add.reduceat(of_windows, firsts) / counts[:, None].astype(np.float32)

    networks = ("pretrained", "finetuned", "logits")
    return scores, {name: mean(representations[name]) for name in networks if name in representations}


def _represented(
    detector: TorchDetector, features: Features, rows: np.ndarray, counts: np.ndarray, firsts: np.ndarray
) -> dict[str, np.ndarray]:
    """Representations (W, d), float32, of the windows of the spectrograms at `rows`, one clip after another."""
    # Allocated once: small arrays that are kept between the networks' large ones hold the memory of those, once freed.
    sizes = {name: x.shape[1] for name, x in detector.represent(features.read(rows[0])).items()}
    arrays = {name: np.empty((counts.sum(), size), np.float32) for name, size in sizes.items()}

    def represent(place: int) -> None:
        windows = slice(firsts[place], firsts[place] + counts[place])
        for name, x in detector.represent(features.read(rows[place])).items():
            arrays[name][windows] = x

    for _ in tqdm(in_threads(represent, range(len(rows))), total=len(rows), disable=None, unit="clip"):
        pass
    return arrays


def _recordings(
    detector: TorchDetector, features: Features, clips: pd.DataFrame, scores: dict[str, np.ndarray]
) -> Recordings:
    """The training and calibration clips as the detector knows them."""
    known = (clips["split"] != "test").to_numpy()
    number = {identity: place for place, identity in enumerate(detector.identities)}
    roles = dict(zip(("train", "calibration"), ROLES, strict=True))
    rows = [
        Recording(
            machine=number[f"{clip.machine_type}/{clip.machine_id}"],
            role=roles[clip.split],
            file=clip.clip,
            sha256=clip.sha256,
        )
        for clip in clips[known].itertuples()
    ]
    spectra = np.stack([features.read(row).mean(axis=0) for row in clips.loc[known, "row"]])
    frames = features.index["frames"].to_numpy()[clips.loc[known, "row"]]
    by_backend = {name: values[known] for name, values in scores.items()}
    return Recordings(rows, by_backend, spectra.astype(np.float32), frames.astype(np.int64))


def simple_references(features: Features, clips: pd.DataFrame, levels: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (N,) of the references that need no fit. `levels` (N,) are the clips' RMS levels in dB."""
    training = (clips["split"] == "train").to_numpy()
    identities = pd.factorize(clips["machine_type"] + "/" + clips["machine_id"])[0]
    neighbour = np.empty(len(clips))
    for places in clips.groupby("machine_type").indices.values():
        values = np.stack([statistics(features.read(row)) for row in clips["row"].iloc[places]])
        neighbour[places] = nearest_neighbour(values, identities[places], training[places])
    return {"rms": level_distance(levels, identities, training), "logmel_nearest_neighbour": neighbour}


def summarise(table: pd.DataFrame, detector: TorchDetector, resamples: int, seed: int) -> dict[str, dict]:
    """What is said of each system: figures, pooled figures per type, intervals, and decisions at the thresholds.

    ``{system: {"figures": see `metrics.evaluate`, "pooled": {type: {...}}, "intervals": see `metrics.bootstrap`,
    "decisions": see `decide`}}``. Figures of machines without both conditions among their test clips are left out.
    """
    test = table[table["split"] == "test"]
    return {
        system: {
            "figures": metrics.evaluate(test, system),
            "pooled": metrics.evaluate_pooled(test, system),
            "intervals": metrics.bootstrap(test, system, resamples, seed),
            "decisions": decide(table, system, detector),
        }
        for system in table.columns.drop(COLUMNS)
    }


def decide(table: pd.DataFrame, system: str, detector: TorchDetector) -> list[dict]:
    """How well a system decides of each machine, at the threshold where the detector's share of false alarms holds.

    A row per machine: machine_type, machine_id; backend, which decides; threshold, n and calibration (see
    `detection.calibration.choose`), promised and promised_high (`expected`); normal and anomaly, the numbers of its
    test clips; and where there are any, measured (the share of normal ones that raise an alarm) and caught (that of
    anomalous ones). Under the headline each machine is decided by the back-end that the detector takes for it.
    """
    alpha, rows = detector.settings.false_alarms, []
    names = table["machine_type"] + "/" + table["machine_id"]
    fitted = None if system in detector.backends else _calibrations(table, names, system, detector)
    for number, machine in enumerate(detector.identities):
        backend = detector.deciding(machine) if system == detector.settings.backend else system
        calibration = fitted[number] if fitted else detector.calibration(machine, backend)
        threshold, promise = calibration.threshold(alpha), expected(calibration.n, calibration.alpha(alpha))
        row: dict[str, Any] = dict(zip(("machine_type", "machine_id"), machine.split("/"), strict=True))
        row |= {"backend": backend, "threshold": threshold, "n": calibration.n, "calibration": calibration.source}
        row |= {"promised": promise.mean, "promised_high": promise.high}
        for condition, figure in (("normal", "measured"), ("anomaly", "caught")):
            chosen = (table["split"] == "test") & (names == machine) & (table["condition"] == condition)
            row[condition] = int(chosen.sum())
            if row[condition]:
                row[figure] = float((table.loc[chosen, backend] > threshold).mean())
        rows.append(row)
    return rows


def _calibrations(table: pd.DataFrame, names: pd.Series, system: str, detector: TorchDetector) -> list[Calibration]:
    """The calibration of each machine under a system that is no back-end of the detector."""
    machines = detector.identities
    types = [machine.split("/")[0] for machine in machines]
    train = table["split"] == "train"
    numbers = names[train].map(machines.index).to_numpy()
    mean, std = standard(table.loc[train, system].to_numpy(float), numbers, types)
    scores = {
        source: [table.loc[(table["split"] == split) & (names == name), system].to_numpy(float) for name in machines]
        for split, source in (("calibration", "held-out"), ("train", "cross-fitted"))
    }
    alpha = detector.settings.false_alarms
    return [choose(number, types, scores, mean, std, alpha) for number in range(len(machines))]


def compare(summary: dict[str, dict]) -> dict[str, dict[str, float]]:
    """The averages of each system beside each other.

    AUC and pAUC with 95 % intervals where a machine has both conditions; promised and measured false alarms, and the
    share of anomalies that are caught, over the machines that have such test clips.
    """
    rows: dict[str, dict[str, float]] = {}
    for system, parts in summary.items():
        rows[system] = {}
        if average := parts["figures"].get("average"):
            intervals = parts["intervals"]["average"]
            for figure in ("auc", "pauc"):
                rows[system] |= {figure: average[figure]}
                rows[system] |= dict(zip((f"{figure}_low", f"{figure}_high"), intervals[figure], strict=True))
        decisions = pd.DataFrame(parts["decisions"])
        for figure in ("promised", "measured", "caught"):
            if figure in decisions and decisions[figure].notna().any():
                rows[system][figure] = float(decisions[figure].mean())
    return rows


def headline_metrics(
    summary: dict[str, dict], averages: dict[str, dict[str, float]], headline: str, of_domains: dict
) -> dict[str, Any]:
    """What decides between two runs, as metrics/score.json holds it.

    AUC and pAUC of the headline, their average and a machine type's, where there are any; the false alarms that were
    promised and measured, and the share of anomalies caught; and the averages of the paper's score and of what each
    network is worth by itself; and `of_domains`, see `evaluation.domains`, where clips have domains. `averages` are
    what `compare` makes of `summary`.
    """
    figures = summary[headline]["figures"]
    shown = {
        name: {figure: part[figure] for figure in ("auc", "pauc")} for name, part in figures.items() if name != "pooled"
    }
    promise = {
        name: averages[headline][name] for name in ("promised", "measured", "caught") if name in averages[headline]
    }
    others = {name: {"auc": averages[name]["auc"]} for name in BESIDE if "auc" in averages.get(name, {})}
    if "negative_log_probability" in others:
        others["negative_log_probability"]["pauc"] = averages["negative_log_probability"]["pauc"]
    found: dict[str, dict] = {**shown, "false_alarms": promise, "beside": others}
    return found | ({"domains": of_domains} if of_domains else {})


def write_scores(folder: Path, table: pd.DataFrame, backend: str, embeddings: dict, summary: dict) -> None:
    """Write scores.csv, embeddings.npz, summary.json and the DCASE submission files; `folder` appears whole.

    A submission file per machine id holds its test clips' scores under `backend`, the headline.
    """
    with whole_folder(folder) as partial:
        table.to_csv(partial / "scores.csv", index=False, lineterminator="\n")
        np.savez_compressed(partial / "embeddings.npz", clip=table["clip"].to_numpy(str), **embeddings)
        test = table[table["split"] == "test"]
        for (machine_type, machine_id), own in test.groupby(["machine_type", "machine_id"]):
            files = own["clip"].str.rsplit("/", n=1).str[-1] + ".wav"
            submission = pd.DataFrame({"file": files, "score": own[backend]})
            name = f"anomaly_score_{machine_type}_{machine_id}.csv"
            submission.to_csv(partial / name, index=False, header=False, lineterminator="\n")
        text = json.dumps({"backend": backend, "systems": summary}, indent=1) + "\n"
        (partial / "summary.json").write_text(text, encoding="utf-8")
