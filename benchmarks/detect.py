"""Speed and size of judging recordings: `python -m benchmarks.detect` prints a table and keeps it as JSON.

At the embedded and at the paper's size, by torch from the folder of a detector, and by onnxruntime from its graph:
seconds from the start of a process to the verdict on one 10 s clip, with the files in the disk's cache, and the most
memory that a process took for such a clip and for a long recording; then, in a process that has loaded, milliseconds
per clip from the WAV file to the verdict, and from the waveform to all scores. All cores, detectors with untrained
weights, which take as long as trained ones. `difference` is the largest relative one between any two scores of the
graph and of torch for that clip.

The graph's processes run in a virtual environment of requirements-detect.txt, which is made for it and whose size is
told; `--python` names the interpreter of one that is there.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import torch
import yaml

from audio.clips import read_clip
from audio.front_end import LogMelSettings
from benchmarks.measuring import alternating, show
from detection.description import Description, Machine, Recording, Recordings, Settings
from detection.detector import Detector
from detection.export import export_onnx
from detection.torch_detector import TorchDetector
from model.network import RCMAE, IdentityClassifier, NetworkConfig

ROOT = Path(__file__).parents[1]
SIZES = {
    "embedded": NetworkConfig(**yaml.safe_load((ROOT / "params.yaml").read_text())["model"]),
    "paper": NetworkConfig(),
}
IDENTITIES, TRAINING_CLIPS = 23, 20  # of DCASE 2020's development set; clips of each that the back-ends know
SECONDS = 10  # of the clip
MACHINE = ("fan", "id_00")
LONG = 600  # s of the long recording; an hour takes many minutes at the paper's size
TORCH, GRAPH = "torch", "graph"


def untrained(config: NetworkConfig) -> TorchDetector:
    """A detector of that size."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    front_end = LogMelSettings(n_mels=config.mels)
    scale = {"level": "remove", "mean": 0.0, "std": 12.0}
    travelling = {"logmel": asdict(front_end), "scale": scale, "norm_pix_loss": True}
    pretrained = RCMAE(config)
    classifier = IdentityClassifier.from_pretrained(pretrained, IDENTITIES)
    machines = [Machine(type="fan", id=f"id_{number:02d}") for number in range(IDENTITIES)]
    detector = TorchDetector(pretrained, classifier, travelling, Description(settings=Settings(), machines=machines))

    known = [identity for identity in detector.identities for _ in range(TRAINING_CLIPS)]
    silence = detector.represent(np.zeros((config.frames, config.mels), np.float16))
    random_ones = {name: random.normal(size=(len(known), x.shape[1])).astype(np.float32) for name, x in silence.items()}
    scores = detector.fit(random_ones, np.ones(len(known), int), known)
    rows = [
        Recording(machine=number // TRAINING_CLIPS, role="training", file=str(number), sha256=str(number))
        for number in range(len(known))
    ]
    spectra = np.full((len(known), config.mels), -30.0, np.float32)
    detector.recordings = Recordings(rows, scores, spectra, np.full(len(known), config.frames))
    return detector


def environment(folder: Path) -> Path:
    """A virtual environment in `folder` with what requirements-detect.txt names: its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    wanted = ["-c", str(ROOT / "constraints.txt"), "-r", str(ROOT / "requirements-detect.txt")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


# Run by a process of its own: Linux counts for a new process what the one that starts it takes at that time.
PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def megabytes(folder: Path) -> float:
    """Size of what lies in a folder (MB, 10^6 bytes), by the blocks that it takes on the disk."""
    return sum(512 * path.lstat().st_blocks for path in folder.rglob("*")) / 1e6


def peak(command: list[object]) -> float:
    """The most memory that a process took (MB, 10^6 bytes). Raises CalledProcessError where it fails."""
    wrapped = [sys.executable, "-c", PEAK, *map(str, command)]
    done = subprocess.run(wrapped, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return int(done.stdout) * 1024 / 1e6


def difference(one: Detector, other: Detector, waveform: np.ndarray) -> float:
    """The largest relative difference between two scores of a waveform, as one of MACHINE."""
    identity = "/".join(MACHINE)
    expected, found = (each.measure([waveform], identity).scores for each in (one, other))
    return max(float(np.max(np.abs(found[name] - scores) / np.abs(scores))) for name, scores in expected.items())


def measure(folder: Path, python: Path, clips: int, rounds: int, long: float = LONG) -> list[dict]:
    """A row per size and way; `folder` is an empty one for what is measured, `python` runs the graphs."""
    clip, hour = folder / "clip.wav", folder / "hour.wav"
    for path, seconds in ((clip, SECONDS), (hour, long)):
        with soundfile.SoundFile(path, "w", 16000, 1) as file:
            for _ in range(round(seconds / SECONDS)):
                file.write(np.random.default_rng(1).normal(0, 0.1, SECONDS * 16000).clip(-1, 1))
    waveform = read_clip(clip)
    cold, warm, rows = {}, {}, {}

    def times(run: partial) -> None:
        for _ in range(clips):
            run()

    for size, config in SIZES.items():
        files = {TORCH: folder / size, GRAPH: folder / f"{size}.onnx"}
        untrained(config).save(files[TORCH])
        detectors: dict[str, Detector] = {TORCH: Detector.load(files[TORCH])}
        export_onnx(detectors[TORCH], files[GRAPH])
        detectors[GRAPH] = Detector.load(files[GRAPH])
        apart = difference(detectors[TORCH], detectors[GRAPH], waveform)
        for by, interpreter in ((TORCH, sys.executable), (GRAPH, python)):
            judge = [interpreter, "detect.py", "--model", files[by], "--machine", MACHINE[0], "--id", MACHINE[1]]
            way = f"{by}, file to verdict"
            cold[size, way] = partial(peak, [*judge, clip])
            warm[size, way] = partial(times, partial(detectors[by].score_file, clip, *MACHINE))
            scores = partial(detectors[by].measure, [waveform], "/".join(MACHINE))
            warm[size, f"{by}, waveform to scores"] = partial(times, scores)
            rows[size, way] = {"memory, MB": peak([*judge, clip]), "of a long recording, MB": peak([*judge, hour])}
            if by == GRAPH:
                rows[size, way]["difference"] = apart
    for run in warm.values():
        run()
    first, steady = alternating(cold, rounds), alternating(warm, rounds)
    return [
        {
            "size": size,
            "way": way,
            "first verdict, s": first.get((size, way)),
            "then per clip, ms": 1000 * taken / clips,
            "x real time": SECONDS * clips / taken,
            **rows.get((size, way), {}),
        }
        for (size, way), taken in steady.items()
    ]


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20, help="judged one after the other in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", type=Path, help="of an environment of requirements-detect.txt; default: a new one")
    parser.add_argument("--long", type=float, default=LONG, help="seconds of the long recording")
    chosen = parser.parse_args(arguments)
    about = {"clips": chosen.clips, "rounds": chosen.rounds, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        python = chosen.python
        if python is None:
            python = environment(Path(folder) / "environment")
            about["environment, MB"] = round(megabytes(Path(folder) / "environment"))
        (Path(folder) / "detectors").mkdir()
        rows = measure(Path(folder) / "detectors", python, chosen.clips, chosen.rounds, chosen.long)
    show("detect", rows, about | {"long recording, s": chosen.long, "onnxruntime": onnxruntime.__version__}, out)
    return rows


if __name__ == "__main__":
    main()
