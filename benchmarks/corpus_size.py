"""What a large corpus costs: `python -m benchmarks.corpus_size` prints a table and keeps it as JSON.

Corpora of 400 and of 40,000 clips are made of hard links to the clips of `--clips`, in a temporary folder:

1. Peak memory and time of the feature stage. Links have the same content, so beyond the first of each the stage reads
   and hashes the clip and takes its spectrogram from the store.
2. Time of `dvc repro` (that is: of DVC taking the clips in), of a second one with nothing to do, and of `dvc status`
   for a data/raw of so many clips.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from audio.manifest import read_manifest, write_manifest
from stages.params import read

RESULT = Path(__file__).parent / "results" / "corpus_size.json"
PIPELINE = """stages:
  download:
    cmd: mv made data/raw
    outs: [data/raw]
  use:
    cmd: ls data/raw > used
    deps: [data/raw]
    outs: [used]
"""


def link_corpus(source: Path, out: Path, clips: int) -> None:
    """A folder as the download stage writes it, of `clips` hard links to the clips of `source` in turn."""
    rows = read_manifest(source / "manifest.csv").to_dict("records")
    copies = []
    for number in range(clips):
        row = rows[number % len(rows)]
        clip = f"{row['clip'][:-8]}{number:08d}"
        (out / clip).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / f"{row['clip']}.flac", out / f"{clip}.flac")
        copies.append(row | {"clip": clip})
    write_manifest(out / "manifest.csv", copies)


def feature_memory(folder: Path) -> None:
    """In a process of its own: run the stage on `folder`/raw, print seconds, peak memory of it and of a worker (MB)."""
    from stages import logmel_feature

    os.environ["RCMAE_STORE"] = str(folder / "store")
    pd.DataFrame(columns=["clip", "view"]).to_csv(folder / "manifest.csv", index=False)
    start = time.perf_counter()
    params = SimpleNamespace(logmel=read(Path("params.yaml")).logmel)
    logmel_feature.run(params, folder / "raw", folder, folder / "features", 2)
    own, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"feature_seconds": time.perf_counter() - start, "peak_mb": own, "worker_peak_mb": worker}))


def dvc_times(folder: Path) -> dict[str, float]:
    """Seconds of DVC's commands in a new repository whose pipeline takes `folder`/raw in."""
    repository = folder / "repository"
    (repository / "data").mkdir(parents=True)
    (folder / "raw").rename(repository / "made")
    (repository / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    shutil.copytree(".dvc", repository / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
    seconds = {}
    for name, command in (("repro", "repro"), ("repro_again", "repro"), ("status", "status")):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dvc", command, "-q"], cwd=repository, check=True)
        seconds[f"dvc_{name}_seconds"] = time.perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("data/raw"), help="folder with manifest.csv")
    parser.add_argument("--sizes", type=int, nargs="+", default=[400, 40_000])
    parser.add_argument("--features-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.features_of:
        feature_memory(arguments.features_of)
        return
    result = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    with tempfile.TemporaryDirectory() as name:
        # Own copies: DVC makes what it takes in read-only, and a link would carry that to the source.
        source = shutil.copytree(arguments.clips, Path(name) / "source", copy_function=shutil.copyfile)
        for size in arguments.sizes:
            folder = Path(name) / str(size)
            link_corpus(source, folder / "raw", size)
            command = [sys.executable, "-m", "benchmarks.corpus_size", "--features-of", str(folder)]
            memory = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            result[str(size)] = memory | dvc_times(folder)
            shutil.rmtree(folder)
            print(f"{size} clips: " + ", ".join(f"{key} {value:.1f}" for key, value in result[str(size)].items()))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
