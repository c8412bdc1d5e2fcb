"""Speed of judging recordings: `python -m benchmarks.detect` prints a table and keeps it as JSON.

At the embedded and at the paper's size: seconds from the start of a process to the verdict on one 10 s clip, with the
files in the disk's cache; then, in a process that has loaded, milliseconds per clip from the WAV file to the verdict,
and of the networks and back-ends alone, with torch and with onnxruntime on the same log-mel. All cores, detectors with
untrained weights, which take as long as trained ones.
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

from audio.clips import open_sound
from audio.front_end import LogMelSettings
from benchmarks.measuring import alternating, show
from detection.description import Description, Machine, Recording, Recordings, Settings
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
ONNX = """
import sys, numpy, onnxruntime
onnxruntime.InferenceSession(sys.argv[1]).run(None, {"log_mel": numpy.load(sys.argv[2])})
"""


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


def measure(folder: Path, clips: int, rounds: int) -> list[dict]:
    """A row per size and way; `folder` is an empty one for what is measured."""
    clip, log_mel_file = folder / "clip.wav", folder / "log_mel.npy"
    soundfile.write(clip, np.random.default_rng(1).normal(0, 0.1, SECONDS * 16000).clip(-1, 1), 16000)
    cold, warm = {}, {}

    def times(run: partial) -> None:
        for _ in range(clips):
            run()

    for size, config in SIZES.items():
        model, graph = folder / size, folder / f"{size}.onnx"
        untrained(config).save(model)
        detector = TorchDetector.read(model)
        export_onnx(detector, graph)
        with open_sound(clip) as sound:
            log_mel = np.concatenate(list(detector.spectrogram(sound.blocks(detector.front_end.sample_rate))))
        windows = detector.windows(log_mel).float().numpy()
        np.save(log_mel_file, windows)
        session = onnxruntime.InferenceSession(graph)

        def process(*command: object) -> None:
            subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)

        machine = ["--machine", MACHINE[0], "--id", MACHINE[1]]
        cold[size, "detect.py, file to verdict"] = partial(process, "detect.py", clip, "--model", model, *machine)
        cold[size, "onnxruntime, log-mel to scores"] = partial(process, "-c", ONNX, graph, log_mel_file)
        ways: dict[str, partial] = {
            "detect.py, file to verdict": partial(detector.score_file, clip, *MACHINE),
            "torch, log-mel to score": partial(detector.window_scores, detector.windows(log_mel), 0),
            "onnxruntime, log-mel to scores": partial(session.run, None, {"log_mel": windows}),
        }
        for way, run in ways.items():
            run()
            warm[size, way] = partial(times, run)
    first, steady = alternating(cold, rounds), alternating(warm, rounds)
    return [
        {
            "size": size,
            "way": way,
            "first verdict, s": first.get((size, way)),
            "then per clip, ms": 1000 * taken / clips,
            "x real time": SECONDS * clips / taken,
            "x torch": steady[size, "torch, log-mel to score"] / taken,
        }
        for (size, way), taken in steady.items()
    ]


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20, help="judged one after the other in a round")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), chosen.clips, chosen.rounds)
    about = {"clips": chosen.clips, "rounds": chosen.rounds, "threads": torch.get_num_threads()}
    show("detect", rows, about | {"onnxruntime": onnxruntime.__version__}, out)
    return rows


if __name__ == "__main__":
    main()
