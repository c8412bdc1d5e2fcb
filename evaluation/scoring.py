"""From features to the table of scores: every clip under every back-end and reference, and what follows from it.

The table has a row per clip, training normals and test clips, and the columns clip, machine_type, machine_id, split,
condition, then one per system. A training normal's score is that of a fit which did not see the clip, where there is
something to fit on clips; the networks, the autoencoder and the mean level did see it.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from audio.features import Features
from detection.detector import Detector
from detection.thresholds import decide, threshold
from evaluation import metrics
from peers.references import level_distance, statistics, statistics_distances
from storage.files import whole_folder
from storage.memory import return_freed_memory

COLUMNS = ["clip", "machine_type", "machine_id", "split", "condition"]
WAITING = 1000  # items handed to threads at once


def in_threads(function: Callable, items: Iterable) -> Iterator:
    """`map(function, items)`, by as many threads as there are cores, each of which computes on one.

    That is faster than computing on all cores at once, one item after the other, when an item is small. At most
    `WAITING` items wait at once, as each takes memory.
    """
    return_freed_memory()  # a thread has a heap of its own, which makes no use of what others freed
    with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rest = iter(items)
        while some := list(islice(rest, WAITING)):
            yield from pool.map(function, some)
    return_freed_memory()


def scored_clips(features: Features) -> pd.DataFrame:
    """Training normals and test clips, originals only: COLUMNS, sha256, and `row`, their number for `Features.read`."""
    index = features.index
    training = (index["split"] == "train") & (index["condition"] == "normal")
    chosen = (index["kind"] == "original") & (training | (index["split"] == "test"))
    clips = index.loc[chosen, [*COLUMNS, "sha256"]].assign(row=np.flatnonzero(chosen))
    return clips.sort_values("clip", ignore_index=True)


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

    rows = clips["row"].to_numpy()
    counts = np.array([len(detector.window_starts(frames)) for frames in features.index["frames"].to_numpy()[rows]])
    firsts = counts.cumsum() - counts
    # Allocated once: small arrays that are kept between the networks' large ones hold the memory of those, once freed.
    embeddings = np.empty((counts.sum(), detector.classifier.config.width), np.float32)
    logits = np.empty((counts.sum(), len(detector.identities)), np.float32)
    pretrained = np.empty((len(clips), detector.pretrained.config.width), np.float32)

    def embed(place: int) -> None:
        log_mel, windows = features.read(rows[place]), slice(firsts[place], firsts[place] + counts[place])
        outputs = detector.outputs(log_mel)
        embeddings[windows], logits[windows] = outputs.embeddings, outputs.logits
        pretrained[place] = detector.pretrained_embedding(log_mel)

    for _ in tqdm(in_threads(embed, range(len(clips))), total=len(clips), disable=None, unit="clip"):
        pass
    finite = np.isfinite(embeddings).all(1) & np.isfinite(logits).all(1)
    of_clip = np.repeat(np.arange(len(clips)), counts)
    if not finite.all():
        clip = clips["clip"].iloc[of_clip[finite.argmin()]]
        raise ValueError(f"what the model says of {clip} is not a number: it has no score")

    identities = (clips["machine_type"] + "/" + clips["machine_id"]).to_numpy()
    training = (clips["split"] == "train").to_numpy()
    scores = {name: np.empty(len(clips)) for name in detector.backends}
    for chosen, score in ((training, detector.fit), (~training, detector.clip_scores)):
        windows = chosen[of_clip]
        found = score(embeddings[windows], logits[windows], counts[chosen], identities[chosen].tolist())
        for name, values in found.items():
            scores[name][chosen] = values

    def mean(of_windows: np.ndarray) -> np.ndarray:
        return np.add.reduceat(of_windows, firsts) / counts[:, None].astype(np.float32)

    return scores, {"pretrained": pretrained, "finetuned": mean(embeddings), "logits": mean(logits)}


def simple_references(features: Features, clips: pd.DataFrame, levels: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (N,) of the references that only need statistics. `levels` (N,) are the clips' RMS levels in dB."""
    training = (clips["split"] == "train").to_numpy()
    identities = pd.factorize(clips["machine_type"] + "/" + clips["machine_id"])[0]
    scores = {"rms": level_distance(levels, identities, training)}
    for places in clips.groupby("machine_type").indices.values():
        values = np.stack([statistics(features.read(row)) for row in clips["row"].iloc[places]])
        for name, distances in statistics_distances(values, identities[places], training[places]).items():
            scores.setdefault(name, np.empty(len(clips)))[places] = distances
    return scores


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
