"""What each section of the page shows."""

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE

from audio.clips import read_clip
from audio.manifest import CONDITIONS
from audio.scale import fill
from augmentation.noises import family_of
from detection.reconstruction import masked_reconstruction_error, reconstruct
from evaluation import metrics
from evaluation.report import plots
from evaluation.report.answer import Machines, by_machine, by_type, details, sentence
from evaluation.report.decisions import decisions
from evaluation.report.published import TYPES, is_dcase2020, table4
from evaluation.report.run import Run
from evaluation.report.sound import Picture, audible_gain, in_words, picture, player, salient
from evaluation.systems import BACKENDS, NAMES, NETWORKS, PEERS
from model.batches import mask_time_and_frequency

REPEATS = 12  # random masks of a clip whose surprising places are shown
NORMALS = 3  # training clips of the same machine that say what error is usual
MOST_POINTS = 1500  # of a t-SNE
MOST_EXACT = 250  # of an exact one
FEWEST_POINTS = 5  # below that a t-SNE shows nothing
VIEWS = 3  # of a clip in the gallery
MOST_FLAGGED = 20  # files named
FLAGS = {
    "copy": "hardly differ from their source",
    "lost": "have lost their machine",
    "silent": "are silent",
    "clipped": "are clipped",
}
OUTPUTS = {"vocoder": "vocoder (the paper's)", "source_phase": "phase of the source"}
RECONSTRUCTIONS = 3


def sections(run: Run) -> dict:
    """Everything that the template shows. Raises ValueError where the run's parts do not belong together."""
    check(run)
    test = run.scores[run.scores["split"] == "test"].reset_index(drop=True)
    said = run.summary["systems"][run.backend]
    decided = {f"{row['machine_type']}/{row['machine_id']}": row for row in said["decisions"]}
    test, limits = decisive(test, decided)
    average, *types = by_type(test, run.summary)
    machines = by_machine(test, run.summary, run.resamples, run.seed)
    return {
        "title": "Would it hear a faulty machine?",
        "headline": NAMES[run.backend],
        "sentence": sentence(average),
        "alone": run.detector.description.alone,
        "own": said["figures"],
        "details": details(average, types, machines),
        "otherwise": otherwise(run.backend, decided),
        "average": average,
        "types": types,
        "machines": machines,
        "watched": watched([each for each in (average, *types) if each.auc is not None]),
        "false_alarms": run.detector.settings.false_alarms,
        "corpus": corpus(run),
        "norm_pix": run.detector.config["norm_pix_loss"],
        "systems": systems(run.summary, types),
        "histograms": histograms(test, limits),
        "rocs": rocs(test, run.backend, said["pooled"]),
        "dcase2020": is_dcase2020(test),
        "own_types": sorted(set(test["machine_type"]) - set(TYPES)),
        "table4": table4(
            run.published,
            said["figures"],
            said["pooled"],
            {name: run.summary["systems"][name]["figures"] for name in PEERS if name in run.summary["systems"]},
        ),
        "anomalous": anomalous(run, test, limits),
        "gallery": gallery(run),
        "audited": audited(run),
        "masked_views": run.augmentations.empty,
        "maps": maps(run),
        "confusion": confusion(run),
        "curves": curves(run),
        "reconstructions": reconstructions(run),
        "settings": run.settings,
        "decisions": decisions(run.settings),
        "facts": run.facts,
        "durations": run.durations,
        "skipped": run.skipped.to_dict("records"),
        "warned": warned(run.manifest),
    }


def decisive(test: pd.DataFrame, decided: dict[str, dict]) -> tuple[pd.DataFrame, pd.Series]:
    """The test clips with a column `decisive`, their scores under what decides of their machine; and its thresholds.

    `decided` has a row per machine, see `evaluation.scoring.decide`.
    """
    names = test["machine_type"] + "/" + test["machine_id"]
    backends = names.map({name: row["backend"] for name, row in decided.items()})
    scores = pd.Series(0.0, test.index)
    for backend in backends.unique():
        scores = scores.where(backends != backend, test[backend])
    return test.assign(decisive=scores), names.map({name: row["threshold"] for name, row in decided.items()})


def otherwise(headline: str, decided: dict[str, dict]) -> list[tuple[str, list[str]]]:
    """Back-ends that decide of machines in place of the headline, each with these machines."""
    found: dict[str, list[str]] = {}
    for name, row in decided.items():
        if row["backend"] != headline:
            found.setdefault(NAMES[row["backend"]], []).append(name.replace("/", " "))
    return list(found.items())


def warned(manifest: pd.DataFrame) -> dict:
    """Recordings that were read with a warning (clipped, truncated …): how many there are, and the first of them."""
    rows = manifest[manifest["warnings"] != ""]
    rows = rows.assign(file=rows["source"].where(rows["source"] != "", rows["clip"])).drop_duplicates("file")
    return {"count": len(rows), "first": rows[["file", "warnings"]].head(MOST_FLAGGED).to_dict("records")}


def check(run: Run) -> None:
    """Raises ValueError naming the first clip or identity by which the parts of the run do not belong together."""
    corpus_clips = run.manifest["clip"]
    scored = corpus_clips[(run.manifest["split"] == "test") | (run.manifest["condition"] == "normal")]
    originals = run.features.index[run.features.index["kind"] == "original"]
    for name, clips, expected in (
        ("features", originals["clip"], corpus_clips),
        ("scores", run.scores["clip"], scored),
        ("embeddings", run.embeddings["clip"], scored),
    ):
        if stray := sorted(set(clips) - set(expected)):
            raise ValueError(f"the {name} have the clip {stray[0]}, which the corpus has not: they are of another run")
        if missing := sorted(set(expected) - set(clips)):
            raise ValueError(f"the {name} lack the clip {missing[0]} of the corpus: they are of another run")
    named = {name for name in NAMES if name in run.detector.backends or name not in (*BACKENDS, *PEERS)}
    expected_systems = named | set(run.summary["systems"])
    for name in sorted(expected_systems):
        if name not in run.scores or name not in run.summary["systems"]:
            raise ValueError(f"the scores have no column {name}, or its summary is missing: run the score stage again")
    test = run.scores[run.scores["split"] == "test"]
    metrics.check_trained(run.detector.identities, test)
    for name in sorted(expected_systems):
        figures = metrics.evaluate(test, name)  # names a NaN
        summarised = run.summary["systems"][name]["figures"]
        differ = figures.keys() != summarised.keys()
        if differ or (figures and abs(figures["average"]["auc"] - summarised["average"]["auc"]) > 1e-9):
            raise ValueError(f"the summary of {name} is not of these scores: it is of another run")
    if "logits" in run.embeddings and run.embeddings["logits"].shape[1] != len(run.detector.identities):
        raise ValueError(
            f"the embeddings have {run.embeddings['logits'].shape[1]} identities, "
            f"the detector {len(run.detector.identities)}: they are of another run"
        )


def corpus(run: Run) -> dict:
    """Counts of clips per machine type: training, normal and anomalous test clips, machines, minutes."""
    rows = []
    for name, clips in run.manifest.groupby("machine_type"):
        test = clips[clips["split"] == "test"]
        rows.append(
            {
                "name": name,
                "machines": clips["machine_id"].nunique(),
                "train": int((clips["split"] == "train").sum()),
                **{kind: int((test["condition"] == kind).sum()) for kind in CONDITIONS},
                "minutes": clips["seconds"].sum() / 60,
            }
        )
    total = {key: sum(row[key] for row in rows) for key in ("machines", "train", *CONDITIONS, "minutes")}
    return {"rows": rows, "total": total}


def watched(machines: list[Machines]) -> str:
    """How well each type is watched, as a picture; empty where there are no anomalies to tell by."""
    if not machines:
        return ""
    figure = plots.watched([_row(each) for each in machines], list(machines[0].references))
    return plots.svg(figure, "AUC with 95 % interval: " + "; ".join(f"{each.name} {each.auc:.2f}" for each in machines))


def systems(summary: dict, types: list[Machines]) -> list[dict]:
    """Every back-end and reference side by side: AUC and pAUC per machine type and on average."""
    rows = []
    for name, said in summary["systems"].items():
        figures = said["figures"]
        cells = [figures.get(name) for name in (*(each.name for each in types), "average")]
        rows.append({"key": name, "name": NAMES[name], "cells": cells, "reference": name not in NETWORKS})
    return rows


def histograms(test: pd.DataFrame, limits: pd.Series) -> list[dict]:
    """Per machine type the decisive scores relative to the thresholds of their machines."""
    ratio = bool((test["decisive"] > 0).all() and (limits > 0).all())
    relative = test["decisive"] / limits if ratio else test["decisive"] - limits
    found = []
    for name, part in test.groupby("machine_type"):
        normal = part["condition"] == "normal"
        figure = plots.score_histogram(relative[part.index][normal], relative[part.index][~normal], ratio)
        label = f"Histogram of the scores of {normal.sum()} normal and {(~normal).sum()} anomalous clips of {name}"
        found.append({"name": name, "svg": plots.svg(figure, label)})
    return found


def rocs(test: pd.DataFrame, backend: str, pooled: dict) -> list[dict]:
    """Per machine type the ROC curve over all its machines, with its `pooled` figures."""
    found = []
    for name, curve in metrics.roc(test, backend).groupby("type"):
        figure = plots.roc(curve["fpr"].to_numpy(), curve["tpr"].to_numpy(), metrics.P)
        label = f"ROC curve of {name}, area {pooled[name]['auc']:.2f}"
        found.append({"name": name, "svg": plots.svg(figure, label), **pooled[name]})
    return found


def anomalous(run: Run, test: pd.DataFrame, limits: pd.Series) -> list[dict]:
    """The clips to listen to first: the highest scores, type by type in turn, each beside a usual clip."""
    rank = test.groupby("machine_type")["decisive"].rank(ascending=False, method="first")
    turn = test.assign(rank=rank, over=test["decisive"] - limits).sort_values(["rank", "over"], ascending=[True, False])
    found = []
    for row in turn.head(run.anomalous_clips).itertuples():
        own = test[(test["machine_type"] == row.machine_type) & (test["machine_id"] == row.machine_id)]
        training = run.scores[
            (run.scores["split"] == "train")
            & (run.scores["machine_type"] == row.machine_type)
            & (run.scores["machine_id"] == row.machine_id)
        ].sort_values(run.backend)
        usual = training.iloc[len(training) // 2]["clip"]
        spectrogram, reference = _spectrogram(run, row.clip), _spectrogram(run, usual)
        sounds = [read_clip(run.raw / f"{clip}.flac") for clip in (row.clip, usual)]
        gain = audible_gain(*sounds)
        low, high = _range(spectrogram, reference)
        excess = _excess(run, row.clip, training["clip"].head(NORMALS).tolist())
        most = float(np.quantile(excess, 0.995))
        config = run.detector.representations.pretrained.config
        boxes = salient(excess, (config.patch_frames, config.patch_mels))
        found.append(
            {
                "clip": row.clip,
                "machine": f"{row.machine_type} {row.machine_id}",
                "condition": row.condition,
                "score": row.decisive,
                "threshold": limits[row.Index],
                "above": row.decisive > limits[row.Index],
                "rank": int((own["decisive"] > row.decisive).sum()) + 1,
                "of": len(own),
                "gain": gain,
                "player": player(sounds[0], gain),
                "picture": picture(spectrogram, run.features.settings, low, high, boxes=boxes),
                "places": [in_words(box, run.features.settings) for box in boxes],
                "surprise": picture(excess, run.features.settings, 0.0, most, "viridis"),
                "most": most,
                "usual": usual,
                "usual_player": player(sounds[1], gain),
                "usual_picture": _picture(run, reference, low, high),
            }
        )
    return found


def gallery(run: Run) -> list[dict]:
    """Figure 2: training clips, as many types as possible, each with its augmentations or a masked view."""
    index = run.features.index
    candidates = index[(index["kind"] == "original") & (index["split"] == "train")]
    if not run.augmentations.empty:
        candidates = candidates[candidates["clip"].isin(run.augmentations["clip"])]
    turn = candidates.groupby("machine_type").cumcount()
    prompts = run.prompts.set_index("id")["text"].to_dict()
    audits = run.audit.set_index("file")
    found = []
    for clip in candidates.assign(turn=turn).sort_values(["turn", "clip"])["clip"].head(run.gallery_clips):
        sound = read_clip(run.raw / f"{clip}.flac")
        views = run.augmentations[run.augmentations["clip"] == clip].sort_values("view").head(VIEWS)
        sounds = [read_clip(run.augmented / f"{clip}_{view}.flac") for view in views["view"]]
        gain = audible_gain(sound, *sounds)
        spectrogram = _spectrogram(run, clip)
        low, high = _range(spectrogram)
        takes = []
        for row, heard in zip(views.itertuples(), sounds, strict=True):
            takes.append(
                {
                    "prompt": prompts.get(row.prompt_id, f"prompt {row.prompt_id} is no longer in the list"),
                    "ddim_steps": row.ddim_steps,
                    "t0": row.t0,
                    "audit": audits.loc[f"{clip}_{row.view}.flac"].to_dict(),
                    "player": player(heard, gain),
                    "picture": picture(_spectrogram(run, clip, row.view), run.features.settings, low, high),
                }
            )
        if run.augmentations.empty:
            takes.append({"picture": picture(_masked_view(run, spectrogram, clip), run.features.settings, low, high)})
        found.append(
            {
                "clip": clip,
                "gain": gain,
                "player": player(sound, gain),
                "picture": _picture(run, spectrogram, low, high),
                "takes": takes,
            }
        )
    return found


def audited(run: Run) -> dict | None:
    """What became of all augmented clips: how like their sources they are, and which to look at. None without any."""
    if run.audit.empty:
        return None
    used = run.audit[
        run.audit["file"].isin(run.augmentations["clip"] + "_" + run.augmentations["view"].astype(str) + ".flac")
    ]
    flagged = used[used[list(FLAGS)].any(axis=1)]
    prompts = run.prompts.set_index("id")["text"].to_dict()
    return {
        "clips": len(used),
        "correlation": used["correlation"].mean(),
        "distance": used["distance_db"].mean(),
        "shift": used["centroid_shift_hz"].mean(),
        "flags": {meaning: int(used[flag].sum()) for flag, meaning in FLAGS.items()},
        "outputs": [
            {"name": OUTPUTS[name], "clips": len(own), "lost": int(own["lost"].sum())}
            | own[["correlation", "distance_db", "centroid_shift_hz"]].mean().to_dict()
            for name, own in run.audit[run.audit.duplicated(["clip", "view"], keep=False)].groupby("output")
        ],
        "families": [
            {"name": name, "clips": len(rows), "lost": int(rows["lost"].sum())}
            | rows[["correlation", "distance_db", "centroid_shift_hz"]].mean().to_dict()
            for name, rows in used.groupby(used["prompt_id"].map(prompts).map(_family))
        ],
        "flagged": flagged["file"].head(MOST_FLAGGED).tolist(),
    }


def _family(prompt: object) -> str:
    """The family of noise that a prompt asks for; "other" too where the prompt is no longer in the list."""
    return (family_of(prompt) if isinstance(prompt, str) else None) or "other"


def maps(run: Run) -> dict:
    """Figures 3 and 4: t-SNE of the pretrained embedding, all types together, and of the fine-tuned one, by type."""
    about = run.scores.set_index("clip").loc[list(run.embeddings["clip"])].reset_index()
    anomaly = (about["condition"] == "anomaly").to_numpy()
    shown = (about["split"] != "calibration").to_numpy()  # more of the same
    rows = np.flatnonzero(shown)
    if len(rows) > MOST_POINTS:
        rows = np.sort(np.random.default_rng(run.seed).choice(rows, MOST_POINTS, replace=False))
    placed = _tsne(run.embeddings["pretrained"][rows], run.seed)
    types, crosses = about["machine_type"].to_numpy()[rows], anomaly[rows]
    pretrained = [
        {"name": name, "svg": plots.svg(plots.scatter(placed[keep], types[keep], crosses[keep]), f"t-SNE, {name}")}
        for name, keep in (("Normal clips", ~crosses), ("Normal and anomalous clips", np.full(len(rows), True)))
    ]
    finetuned = []
    for name, part in about[shown].groupby("machine_type"):
        if "finetuned" not in run.embeddings:
            break
        own = part.index.to_numpy()
        if len(own) < FEWEST_POINTS:
            continue
        own = own[np.sort(np.random.default_rng(run.seed).permutation(len(own))[:MOST_POINTS])]
        placed = _tsne(run.embeddings["finetuned"][own], run.seed)
        figure = plots.scatter(placed, about["machine_id"].to_numpy()[own], anomaly[own])
        finetuned.append({"name": name, "svg": plots.svg(figure, f"t-SNE of the fine-tuned embedding of {name}")})
    return {"pretrained": pretrained, "finetuned": finetuned, "points": len(rows), "of": int(shown.sum())}


def confusion(run: Run) -> dict | None:
    """For which identity the normal test clips of each identity are taken; None where there is one machine alone."""
    if "logits" not in run.embeddings:
        return None
    about = run.scores.set_index("clip").loc[list(run.embeddings["clip"])].reset_index()
    rows = about[(about["split"] == "test") & (about["condition"] == "normal")].index
    own = (about["machine_type"] + "/" + about["machine_id"]).loc[rows]
    taken = np.asarray(run.detector.identities)[run.embeddings["logits"][rows].argmax(1)]
    names = [name for name in run.detector.identities if name in set(own) | set(taken)]
    counts = pd.crosstab(own, taken).reindex(index=names, columns=names, fill_value=0).to_numpy(float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = float((own.to_numpy() == taken).mean())
    label = f"Confusion of identities: {right:.0%} of the normal test clips are taken for their own machine"
    return {"svg": plots.svg(plots.confusion(shares, names), label), "right": right, "clips": len(rows)}


def curves(run: Run) -> list[dict]:
    """Training curves of each stage, the loss itself first; what stayed the same throughout is told in words."""
    found = []
    for stage, table in run.curves.items():
        steps, *names = sorted(table.columns, key=lambda name: (name != "epoch", name != "loss", name))
        same = {name: table[name].iloc[0] for name in names if len(table) > 1 and table[name].nunique() == 1}
        lines = {name.replace("_", " "): table[name].to_numpy(float) for name in names if name not in same}
        if len(table) and lines:
            figure = plots.curves(table[steps].to_numpy(float), lines, steps)
            told = [f"{name.replace('_', ' ')} {value:g} throughout" for name, value in same.items()]
            found.append({"name": stage, "svg": plots.svg(figure, f"{stage}: {', '.join(lines)}"), "same": told})
    return found


def reconstructions(run: Run) -> list[dict]:
    """Masked reconstructions of test normals of different types: what the network saw, what it made of it."""
    test = run.scores[(run.scores["split"] == "test") & (run.scores["condition"] == "normal")]
    found = []
    for clip in test.groupby("machine_type")["clip"].first().head(RECONSTRUCTIONS):
        spectrogram = _spectrogram(run, clip)
        window = _window(run, spectrogram)
        seen = reconstruct(
            run.detector.representations.pretrained, window, 1, run.seed, run.detector.config["norm_pix_loss"]
        )
        low, high = _range(window)
        pictures = (window, np.where(seen.masked[0], np.nan, window), np.where(seen.masked[0], seen.output[0], window))
        found.append(
            {"clip": clip, "pictures": [_picture(run, values[: len(spectrogram)], low, high) for values in pictures]}
        )
    return found


def _row(one: Machines) -> dict:
    return {"name": one.name, "auc": one.auc, "low": one.low, "high": one.high, "references": one.references}


def _spectrogram(run: Run, clip: str, view: int | None = None) -> np.ndarray:
    index = run.features.index
    kind = index["kind"] == ("original" if view is None else "augmented")
    rows = np.flatnonzero((index["clip"] == clip) & kind & ((index["view"] == view) if view is not None else True))
    return run.features.read(int(rows[0]))


def _masked_view(run: Run, spectrogram: np.ndarray, clip: str) -> np.ndarray:
    """A second view as pretraining makes it without diffusion, with the places that it hides left out."""
    random = np.random.default_rng([run.seed, *clip.encode()])
    return mask_time_and_frequency(spectrogram, *run.masks, np.nan, random)


def _standardised(run: Run, spectrogram: np.ndarray) -> np.ndarray:
    return run.detector.representations.scale(torch.from_numpy(spectrogram)).numpy()


def _window(run: Run, spectrogram: np.ndarray) -> np.ndarray:
    """What the network sees of the clip's beginning: standardised, and repeated where it is too short."""
    frames = run.detector.frames
    piece = fill(torch.from_numpy(spectrogram[:frames]), frames).numpy()
    return _standardised(run, piece)


def _picture(run: Run, values: np.ndarray, low: float, high: float) -> Picture:
    return picture(values, run.features.settings, low, high)


def _excess(run: Run, clip: str, normals: list[str]) -> np.ndarray:
    """By how much (dB) the clip surprises the pretrained network more than usual ones of its machine, per mel bin."""
    usual = np.mean([_surprise(run, other).mean(0) for other in normals], axis=0)  # (mels,)
    return np.maximum(_surprise(run, clip) - usual, 0.0)


def _surprise(run: Run, clip: str) -> np.ndarray:
    spectrogram = _standardised(run, _spectrogram(run, clip))
    network, norm_pix = run.detector.representations.pretrained, run.detector.config["norm_pix_loss"]
    error = masked_reconstruction_error(network, spectrogram, REPEATS, run.seed, norm_pix)
    return error * run.detector.representations.scale.std


def _range(*spectrograms: np.ndarray) -> tuple[float, float]:
    """Values of the darkest and brightest colour: all but the rarest of the spectrograms."""
    together = np.concatenate([values.ravel() for values in spectrograms])
    return float(np.quantile(together, 0.01)), float(np.quantile(together, 0.998))


def _tsne(values: np.ndarray, seed: int) -> np.ndarray:
    # below 3 times the perplexity there are too few neighbours
    perplexity = min(30.0, max((len(values) - 1) / 3, 1.0))
    # threads cost more than they bring on few points, and the exact gradient needs none
    method = "exact" if len(values) <= MOST_EXACT else "barnes_hut"
    mapped = TSNE(perplexity=perplexity, init="pca", method=method, random_state=seed)
    return mapped.fit_transform(values.astype(np.float32))
