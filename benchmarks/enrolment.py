"""What enrolment costs: machines left out of all training and enrolled, beside machines that were trained.

    python -m benchmarks.enrolment --trained data --without OTHER/data [--clips 10 30] [--times 30 1000]

`--trained` and `--without` are the `data` folders of two runs of the simulated machines, the second without one machine
of each type (`clips` and `ids` of corpora/synthetic.yaml). The machines that the second lacks are enrolled with the
first so many calibration clips of the first run, and judged on its test clips; AUC beside that of training with them.
Seconds of enrolling and calibrating are measured for as many recordings as `--times` says.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measuring import show
from detection.detector import Detector
from detection.enrolment import Heard, calibrate, enrol, hear
from evaluation import metrics


def auc_of(detector: Detector, raw: Path, clips: pd.DataFrame, backend: str) -> float:
    """AUC of a machine's test clips under a back-end."""
    scores = {
        condition: np.array(
            [
                detector.score_file(raw / f"{row.clip}.flac", row.machine_type, row.machine_id, backend).score
                for row in rows.itertuples()
            ]
        )
        for condition, rows in clips.groupby("condition")
    }
    return metrics.auc(scores["normal"], scores["anomaly"])


def measure(trained: Path, without: Path, counts: list[int]) -> list[dict]:
    """A row per machine that was left out, and their mean."""
    manifest = pd.read_csv(trained / "raw/manifest.csv")
    whole, partial = Detector.load(trained / "detector"), Detector.load(without / "detector")
    rows = []
    for name in sorted(set(whole.identities) - set(partial.identities)):
        machine_type, machine_id = name.split("/")
        of_machine = manifest[(manifest["machine_type"] == machine_type) & (manifest["machine_id"] == machine_id)]
        healthy = [trained / f"raw/{clip}.flac" for clip in of_machine.query("split == 'calibration'")["clip"]]
        test = of_machine[of_machine["split"] == "test"]
        row: dict = {"machine": name, "trained": auc_of(whole, trained / "raw", test, whole.settings.backend)}
        for count in counts:
            detector = enrol(partial, machine_type, machine_id, hear(partial, healthy[:count]))
            row[f"enrolled, {count} clips"] = auc_of(detector, trained / "raw", test, whole.settings.backend)
        rows.append(row)
    return [
        *rows,
        {"machine": "mean"} | {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "machine"},
    ]


def times(detector: Detector, heard: list[Heard], counts: list[int]) -> list[dict]:
    """Seconds of calibrating and enrolling with so many recordings; few are taken in again under other names."""
    rows = []
    for count in counts:
        many = [heard[number % len(heard)] for number in range(count)]
        identity = detector.identities[0]
        started = time.perf_counter()
        calibrate(detector, identity, many, replace=True)
        between = time.perf_counter()
        enrol(detector, identity.split("/")[0], "another", many)
        rows.append({"recordings": count, "calibrate": between - started, "enrol": time.perf_counter() - between})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, default=Path("data"))
    parser.add_argument("--without", type=Path, required=True)
    parser.add_argument("--clips", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--times", type=int, nargs="+", default=[30, 1000])
    asked = parser.parse_args()
    partial = Detector.load(asked.without / "detector")
    rows = measure(asked.trained, asked.without, asked.clips)
    files = sorted((asked.trained / "raw").glob("*/test/normal_*.flac"))[:30]
    started = time.perf_counter()
    heard = hear(partial, files)
    hearing = (time.perf_counter() - started) / len(files)
    show("enrolment", rows, {"seconds": times(partial, heard, asked.times), "seconds of hearing one": hearing})


if __name__ == "__main__":
    main()
