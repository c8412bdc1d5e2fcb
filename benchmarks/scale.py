"""What a larger corpus costs: `python -m benchmarks.scale` prints a table and keeps it as JSON.

Corpora of the given sizes are made of different clips of `--seconds` of sound, of `--machines` machines. On each:

- features: the stage, with 2 processes and an empty store, and again when all is in the store
- pretrain: one epoch of the data path, batches as the stage gets them, without the network
- score: the stage, with tiny untrained networks and short training of the reference autoencoder, since what counts
  here is what grows with the corpus
- dvc: `dvc repro` that takes data/raw in, a second one with nothing to do, and `dvc status`; once with a file for
  each clip and once with shards

Each in a process of its own (and those it starts). Memory is theirs alone: pages of memory-mapped files, which the
system takes back when it needs them, do not count; it is sampled, 50 times a second at most.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from audio.clips import digest, read_clip, write_clip
from audio.manifest import manifest_rows, write_manifest
from benchmarks.measuring import show
from storage.shards import pack

ROOT = Path(__file__).parents[1]
TYPES = ("ToyCar", "ToyConveyor", "fan", "pump", "slider")
CLIPS = "data/raw/manifest.csv"
PIPELINE = """stages:
  download:
    cmd: mv made data/raw
    outs: [data/raw]
  use:
    cmd: ls data/raw > used
    deps: [data/raw]
    outs: [used]
"""


def write_corpus(raw: Path, clips: int, seconds: float, machines: int) -> None:
    """A folder as the download stage writes it: noise at a level of its own, a fifth of it to test, half anomalous."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.1, 2**20).astype(np.float32)
    rows = []
    for number in range(clips):
        round_, machine = divmod(number, machines)
        machine_type, machine_id = TYPES[machine % len(TYPES)], f"id_{machine // len(TYPES):02d}"
        split, condition = [("test", "anomaly"), ("test", "normal"), *[("train", "normal")] * 8][round_ % 10]
        clip = f"{machine_type}/{split}/{condition}_{machine_id}_{number:08d}"
        path = raw / f"{clip}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        start = random.integers(len(noise) - int(16000 * seconds))
        write_clip(path, noise[start : start + int(16000 * seconds)] * random.uniform(0.3, 1))
        row: dict[str, object] = {
            "clip": clip,
            "machine_type": machine_type,
            "machine_id": machine_id,
            "split": split,
            "subset": "dev",
        }
        row |= {"condition": condition, "seconds": seconds, "source": "", "offset": 0.0}
        rows.append(row | {"sha256": digest(read_clip(path))})
    write_manifest(raw / "manifest.csv", rows)


# ------------------------------------------------------------------- what runs in a process of its own, in the folder


def features(folder: Path) -> Callable:
    from stages import logmel_feature
    from stages.params import load

    params = load("logmel-feature", ROOT)
    augmented = folder / "no-augmented"
    augmented.mkdir(exist_ok=True)
    pd.DataFrame(columns=["clip", "view"]).to_csv(augmented / "manifest.csv", index=False)
    return lambda: logmel_feature.run(params, folder / "data/raw", augmented, folder / "data/features", 2)


def pretrain(folder: Path) -> Callable:
    from audio.features import Features
    from model.batches import TrainingClips
    from model.network import NetworkConfig
    from model.pretraining import Pretraining, PretrainingSettings
    from model.training import make_fabric
    from stages.params import read

    params = read(ROOT / "params.yaml")
    weights = {name: getattr(params, name) for name in ("lambda_con", "lambda_vcr", "lambda_mae", "seed")}
    settings = PretrainingSettings(**weights, **params.pretrain.model_dump(exclude={"precision"}), augmented=False)
    fabric = make_fabric("32-true")

    def run() -> None:
        clips = TrainingClips(Features.open(folder / "data/features"), NetworkConfig(**params.model.model_dump()))
        objective = Pretraining(clips, settings, fabric)
        for step, batch in enumerate(objective.batches(0)):
            objective.load(0, step, batch)

    return run


def score(folder: Path) -> Callable:
    from audio.features import Features
    from model.checkpoints import save_model
    from model.network import RCMAE, IdentityClassifier, NetworkConfig
    from stages import score as stage
    from stages.params import load

    index = Features.open(folder / "data/features")
    identities = sorted(set(index.index["machine_type"] + "/" + index.index["machine_id"]))
    scale = asdict(index.scale("remove"))
    config = {"logmel": asdict(index.settings), "scale": scale, "norm_pix_loss": True}
    pretrained = RCMAE(NetworkConfig(width=24, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2))
    save_model(folder / "data/pretrained", pretrained, config)
    classifier = IdentityClassifier.from_pretrained(pretrained, len(identities))
    save_model(folder / "data/finetuned", classifier, config | {"identities": identities})
    params = load("score", ROOT, {"score.autoencoder_epochs": 1, "score.bootstrap": 100})
    return lambda: stage.run(params, folder)


MEASURED = {"features": features, "features again": features, "pretrain": pretrain, "score": score}


# ------------------------------------------------------------------------------------------------------ measurement


def watched(command: list[str], folder: Path) -> tuple[str, float, float]:
    """What a command prints, its wall time (seconds), and the most memory of it and what it starts (MB)."""
    started, peak = time.perf_counter(), 0
    environment = os.environ | {"RCMAE_STORE": str(folder / "store"), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=printed)
        while process.poll() is None:
            asked = time.perf_counter()
            peak = max(peak, _private_memory(process.pid))
            time.sleep(max(0.02, 9 * (time.perf_counter() - asked)))  # a tenth of a core at most
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed")
        printed.seek(0)
        return printed.read(), time.perf_counter() - started, peak / 1e3


def _private_memory(pid: int) -> int:
    """Memory (kB) of a process and its descendants that is no file's, shared pages counted once."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return total


def measure(folder: Path, clips: int, seconds: float, machines: int, parts: list[str]) -> list[dict]:
    """A row for each part at this size."""
    write_corpus(folder / "data/raw", clips, seconds, machines)
    rows = []
    for part in MEASURED:
        if part.split()[0] in parts:
            printed, _, memory = watched([sys.executable, "-m", "benchmarks.scale", "--part", part], folder)
            rows.append({"part": part, "clips": clips, "s": float(printed), "MB": memory})
    if "dvc" in parts:
        for name in ("files", "shards"):
            (folder / name).mkdir()
            shutil.copytree(folder / "data/raw", folder / name / "made")
            if name == "shards":
                pack(folder / name / "made", (f"{row['clip']}.flac" for row in manifest_rows(folder / CLIPS)))
            rows += [row | {"clips": clips, "part": f"{row['part']}, {name}"} for row in dvc(folder / name)]
    return rows


def dvc(folder: Path) -> list[dict]:
    """A row for each of DVC's commands on the corpus in `folder`/made, which it takes in as data/raw."""
    (folder / "data").mkdir()
    (folder / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    rows = []
    for part, command in (("dvc repro", "repro"), ("dvc repro again", "repro"), ("dvc status", "status")):
        _, taken, memory = watched([sys.executable, "-m", "dvc", command, "-q"], folder)
        rows.append({"part": part, "s": taken, "MB": memory})
    return rows


def compared(rows: list[dict]) -> list[dict]:
    """The rows part by part, with time per clip, and both ratios to the smallest size."""
    result = []
    for part in dict.fromkeys(row["part"] for row in rows):
        of_part = [row | {"ms/clip": 1e3 * row["s"] / row["clips"]} for row in rows if row["part"] == part]
        first = of_part[0]
        result += [row | {f"x {of}": row[of] / first[of] for of in ("ms/clip", "MB")} for row in of_part]
    return result


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[400, 1200], help="clips, at least 10 per machine")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a clip")
    parser.add_argument("--machines", type=int, default=40)
    parser.add_argument("--parts", nargs="+", default=["features", "pretrain", "score", "dvc"])
    parser.add_argument("--part", choices=MEASURED, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.part:
        run = MEASURED[chosen.part](Path())
        started = time.perf_counter()
        run()
        print(time.perf_counter() - started)
        return []

    def at(size: int) -> list[dict]:
        with tempfile.TemporaryDirectory() as name:
            return measure(Path(name), size, chosen.seconds, chosen.machines, chosen.parts)

    at(min(chosen.sizes))  # warms up
    rows = compared([row for size in sorted(chosen.sizes) for row in at(size)])
    show("scale", rows, {"seconds of a clip": chosen.seconds, "machines": chosen.machines}, out)
    return rows


if __name__ == "__main__":
    main()
