"""Does the promise about false alarms hold? Fresh healthy clips of the simulated machines, judged by trained detectors.

    python -m benchmarks.promise data/detector [MORE DETECTORS …] [--clips 200] [--description corpora/synthetic.yaml]

The clips are simulated as those of the corpus are, under names that no corpus has, so that no stage has seen them. For
each machine and each share of false alarms: what was promised, what 95 % of calibrations stay below, what 95 % of
measurements on so many clips stay below, and what was measured. The shares are those here, not the detector's own.
"""

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import betabinom
from tqdm import tqdm

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from audio.synthetic.clips import synthesise
from audio.synthetic.description import ClipSpec, Machines, read_description
from benchmarks.measuring import show
from detection.calibration import CONFIDENCE, alarms, expected
from detection.learned import clip_means
from detection.torch_detector import TorchDetector

SHARES = (0.1, 0.05)
FIRST = 90_000_000  # number of the first fresh clip: no corpus has as many


def fresh(machines: Machines, clips: int) -> dict[str, list[ClipSpec]]:
    """Healthy clips that are in no corpus, by machine ("fan/id_00")."""
    found: dict[str, list[ClipSpec]] = {}
    for spec in machines.clips():
        name = f"{spec.machine_type}/{spec.machine_id}"
        if spec.condition == "normal" and name not in found:
            stem = spec.clip[: -len("00000000")]
            found[name] = [replace(spec, clip=f"{stem}{FIRST + number}", split="test") for number in range(clips)]
    return found


def spectrogram(spec: ClipSpec, machines: Machines, settings: LogMelSettings) -> np.ndarray:
    """The log-mel (frames, mels) of a clip, at 16 bit as the corpus has it."""
    import torch

    torch.set_num_threads(1)
    waveform = np.round(synthesise(spec, machines) * 2**15).clip(-(2**15), 2**15 - 1) / 2**15
    return log_mel(torch.from_numpy(waveform.astype(np.float32)), settings).numpy().astype(np.float16)


def measure(detectors: list[TorchDetector], machines: Machines, clips: int) -> list[dict]:
    """A row per detector, share and machine, and one for all machines of a detector and share."""
    scores: list[dict[str, np.ndarray]] = [defaultdict(lambda: np.zeros(0)) for _ in detectors]
    front_end = detectors[0].front_end
    for name, specs in tqdm(fresh(machines, clips).items(), disable=None, unit="machine"):
        heard = Parallel(n_jobs=-1)(delayed(spectrogram)(spec, machines, front_end) for spec in specs)
        for place, detector in enumerate(detectors):
            backend, number = detector.deciding(name), detector.identities.index(name)
            windows = [detector.windows(sound) for sound in heard]
            of_windows = [detector.window_scores(each, number)[backend] for each in windows]
            counts = np.repeat(np.arange(len(windows)), [len(each) for each in windows])
            scores[place][name] = clip_means(np.concatenate(of_windows), counts)
    return [row for place, detector in enumerate(detectors) for row in _rows(place, detector, scores[place])]


def most_measured(n: int, alpha: float, clips: int) -> float:
    """What the share of alarms among `clips` healthy clips stays below for 95 % of calibrations: beta-binomial."""
    k = alarms(n, alpha)
    return float(betabinom.ppf(CONFIDENCE, clips, k, n + 1 - k) / clips)


def _rows(place: int, detector: TorchDetector, scores: dict[str, np.ndarray]) -> list[dict]:
    rows = []
    for share in SHARES:
        of_share = []
        for name, values in scores.items():
            calibration = detector.calibration(name, detector.deciding(name))
            promise = expected(calibration.n, calibration.alpha(share))
            measured = float(np.mean(values > calibration.threshold(share)))
            row = {"detector": place, "share": share, "machine": name, "n": calibration.n, "promised": promise.mean}
            most = most_measured(calibration.n, calibration.alpha(share), len(values))
            row |= {"at most": promise.high, "measured at most": most, "measured": measured}
            of_share.append(row | {"within": measured <= most})
        everyone = {key: float(np.mean([row[key] for row in of_share])) for key in ("promised", "measured", "within")}
        rows += [*of_share, {"detector": place, "share": share, "machine": "all"} | everyone]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="+", type=Path, help="folders of detectors of the simulated machines")
    parser.add_argument("--clips", type=int, default=200, help="fresh clips of each machine")
    parser.add_argument("--description", type=Path, default=Path("corpora/synthetic.yaml"))
    asked = parser.parse_args()
    detectors = [TorchDetector.read(folder) for folder in asked.detectors]
    show("promise", measure(detectors, read_description(asked.description), asked.clips), {"clips": asked.clips})


if __name__ == "__main__":
    main()
