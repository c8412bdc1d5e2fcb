"""From features to the table of scores: every clip under every back-end and reference, and what follows from it.

The table has a row per clip, training normals and test clips, and the columns clip, machine_type, machine_id, split,
condition, then one per system. A training normal's score is that of a fit which did not see the clip, where there is
something to fit on clips; the networks, the autoencoder and the mean level did see it.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from audio.features import Features
from audio.files import whole_folder
from evaluation import metrics
from evaluation.detector import Detector, Outputs
from evaluation.references import level_distance, statistics, statistics_distances
from evaluation.thresholds import decide, threshold
from model.autoencoder import STACKED, reconstruction_error, train

COLUMNS = ["clip", "machine_type", "machine_id", "split", "condition"]
REFERENCES = ("rms", "logmel_nearest_neighbour", "logmel_mahalanobis", "autoencoder")


def in_threads(function: Callable, items: Iterable) -> Iterator:
    """`map(function, items)`, by as many threads as there are cores, each of which computes on one.

    That is faster than computing on all cores at once, one item after the other, when an item is small.
    """
    with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(function, items)


def scored_clips(features: Features) -> pd.DataFrame:
    """The index rows of training normals and test clips, originals only; `row` is their number for `Features.read`."""
    index = features.index.assign(row=np.arange(len(features)))
    training = (index["split"] == "train") & (index["condition"] == "normal")
    chosen = index[(index["kind"] == "original") & (training | (index["split"] == "test"))]
    return chosen.sort_values("clip", ignore_index=True)


def check(detector: Detector, features: Features, clips: pd.DataFrame) -> None:
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
    detector: Detector, features: Features, clips: pd.DataFrame
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fits the detector to the training clips and scores all: scores (N,) per back-end, and arrays of embeddings.

    The arrays are `pretrained` and `finetuned` (N, width) and `logits` (N, identities), each the mean over the windows.
    Raises ValueError naming the clip for which the network's output is not a number.
    """

    def embed(row: int) -> tuple[Outputs, np.ndarray]:
        log_mel = features.read(row)
        return detector.outputs(log_mel), detector.pretrained_embedding(log_mel)

    embedded = tqdm(in_threads(embed, clips["row"]), total=len(clips), disable=None, unit="clip")
    outputs, pretrained = zip(*embedded, strict=True)
    for clip, one in zip(clips["clip"], outputs, strict=True):
        if not (np.isfinite(one.embeddings).all() and np.isfinite(one.logits).all()):
            raise ValueError(f"what the model says of {clip} is not a number: it has no score")
    identities = (clips["machine_type"] + "/" + clips["machine_id"]).tolist()
    training = (clips["split"] == "train").to_numpy()
    scores = {name: np.empty(len(clips)) for name in detector.backends}
    fitted = detector.fit(
        [one for one, known in zip(outputs, training, strict=True) if known],
        [one for one, known in zip(identities, training, strict=True) if known],
    )
    for name, values in scores.items():
        values[training] = fitted[name]
        for place in np.flatnonzero(~training):
            values[place] = detector.window_scores(outputs[place], identities[place], name).mean()
    return scores, {
        "pretrained": np.stack(pretrained),
        "finetuned": np.stack([one.embeddings.mean(axis=0) for one in outputs]),
        "logits": np.stack([one.logits.mean(axis=0) for one in outputs]),
    }


def simple_references(features: Features, clips: pd.DataFrame, levels: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (N,) of the references that only need statistics. `levels` (N,) are the clips' RMS levels in dB."""
    training = (clips["split"] == "train").to_numpy()
    identities = pd.factorize(clips["machine_type"] + "/" + clips["machine_id"])[0]
    values = np.stack([statistics(features.read(row)) for row in clips["row"]])
    distances = statistics_distances(values, clips["machine_type"].to_numpy(), identities, training)
    return {"rms": level_distance(levels, identities, training), **distances}


def autoencoder_scores(
    features: Features, clips: pd.DataFrame, epochs: int, vectors_per_epoch: int, seed: int
) -> np.ndarray:
    """Scores (N,) of the DCASE 2020 baseline autoencoder for the clips of one machine type."""

    def standardised(log_mel: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((log_mel - features.mean) / features.std)

    rows = clips.loc[clips["split"] == "train", "row"].to_numpy()
    lengths = features.index["frames"].to_numpy()[rows]
    network = train(
        lengths,
        lambda chosen, starts: standardised(features.read_originals(rows[chosen], starts, STACKED)),
        epochs,
        vectors_per_epoch,
        seed,
    )
    return np.array([reconstruction_error(network, standardised(features.read(row))) for row in clips["row"]])


def summarise(table: pd.DataFrame, quantile: float, resamples: int, seed: int) -> dict[str, dict]:
    """What is said of each system: figures, pooled figures per type, intervals, and decisions at the thresholds.

    ``{system: {"figures": see `metrics.evaluate`, "pooled": {type: {...}}, "intervals": see `metrics.bootstrap`,
    "decisions": [{machine_type, machine_id, threshold, precision, recall, f1, false_alarm_rate}, ...]}}``
    """
    training, test = table[table["split"] == "train"], table[table["split"] == "test"]
    result = {}
    for system in table.columns.drop(COLUMNS):
        limits = {
            "/".join(key): threshold(own[system].to_numpy(), quantile)
            for key, own in training.groupby(["machine_type", "machine_id"])
        }
        result[system] = {
            "figures": metrics.evaluate(test, system),
            "pooled": metrics.evaluate_pooled(test, system),
            "intervals": metrics.bootstrap(test, system, resamples, seed),
            "decisions": decide(test, system, limits).to_dict("records"),
        }
    return result


def compare(summary: dict[str, dict]) -> dict[str, dict[str, float]]:
    """The averages of each system beside each other: AUC and pAUC with 95 % intervals, F1, false alarms, recall."""
    rows = {}
    for system, parts in summary.items():
        average, intervals = parts["figures"]["average"], parts["intervals"]["average"]
        decisions = pd.DataFrame(parts["decisions"])
        rows[system] = {
            "auc": average["auc"],
            "auc_low": intervals["auc"][0],
            "auc_high": intervals["auc"][1],
            "pauc": average["pauc"],
            "pauc_low": intervals["pauc"][0],
            "pauc_high": intervals["pauc"][1],
            **{name: float(decisions[name].mean()) for name in ("precision", "recall", "f1", "false_alarm_rate")},
        }
    return rows


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
