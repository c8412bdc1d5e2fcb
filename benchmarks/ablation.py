"""What an ablation costs: `python -m benchmarks.ablation` prints two tables and keeps them as JSON.

In a copy of the project, with few clips and short trainings unless `--whole`: a full run with nothing in the store, a
`dvc repro` with nothing to do, `dvc exp run -S lambda_con=…`, and the way back to the known setting. Beside the wall
time is what the stages themselves took, so that the rest is DVC, Python's start and the imports; these stand in the
second table.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml

from benchmarks.measuring import show, table

ROOT = Path(__file__).parents[1]
SMALL = {
    "pretrain": {"epochs": 2},
    "finetune": {"epochs": 2},
    "score": {"autoencoder_epochs": 1, "bootstrap": 100},
    "augment": {"method": "masking"},
    "report": {"gallery_clips": 1, "anomalous_clips": 1},
}
WATCHED = "import importlib, sys; importlib.import_module('{}'); print('torch' in sys.modules)"


class Copy:
    """The project with its files as they are now, a repository and a store of its own, and no results."""

    def __init__(self, folder: Path, whole: bool):
        self.root, self._stores, self._folder = folder / "project", 0, folder
        listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True)
        for file in listed.splitlines():
            if (ROOT / file).is_file() and not file.startswith("metrics/") and file != "dvc.lock":
                (self.root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, self.root / file)
        if not whole:
            self._shrink()
        self.forget()
        self.run("git", "init", "-q", "-b", "main")
        self.commit()

    def _shrink(self) -> None:
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for group, values in SMALL.items():
            params[group] |= values
        path.write_text(yaml.safe_dump(params, sort_keys=False))
        path = self.root / "corpora/synthetic.yaml"
        corpus = yaml.safe_load(path.read_text())
        corpus["clips"] = {"train_normal": 4, "test_normal": 2, "test_anomaly": 2}
        corpus["machines"] = dict(list(corpus["machines"].items())[:2])
        path.write_text(yaml.safe_dump(corpus, sort_keys=False))

    def forget(self) -> None:
        """Go on with an empty store."""
        self._stores += 1
        self.store = self._folder / f"store-{self._stores}"

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=benchmark", "-c", "user.email=", "commit", "-q", "--allow-empty", "-m", "run")

    def run(self, *command: str) -> str:
        """What `command` prints."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"RCMAE_STORE": str(self.store), "PATH": path}
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def timed(self, what: str, *command: str) -> dict:
        """A row: the command's wall time, the stages it ran, and the seconds that these took themselves."""
        started = time.perf_counter()
        printed = self.run(*command)
        taken = time.perf_counter() - started
        ran = [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage '")]
        return {"what": what, "s": taken, "stages run": len(ran), "s in stages": sum(map(self._inside, ran))}

    def _inside(self, stage: str) -> float:
        kept = sorted((self.store / "durations").rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [wall["seconds"] for wall in map(json.loads, map(Path.read_text, kept)) if wall["stage"] == stage][-1]


def measure(copy: Copy, rounds: int) -> list[dict]:
    """A row for each way of running, the median of its rounds."""
    rows: dict[str, list[dict]] = {}
    for number in range(rounds):
        copy.forget()
        ablation = f"lambda_con={0.4 + number / 1000}"  # one that no round before has run
        for what, command in (
            ("full run", ["dvc", "repro", "--force"]),
            ("dvc repro, nothing to do", ["dvc", "repro"]),
            ("dvc exp run -S lambda_con=0.4", ["dvc", "exp", "run", "-S", ablation]),
            ("back to the known setting", ["dvc", "repro"]),
        ):
            rows.setdefault(what, []).append(copy.timed(what, *command))
            if what == "full run":
                copy.commit()
            else:
                copy.run("git", "checkout", "-q", "-f", "HEAD")
    medians = [
        own[0] | {name: median(row[name] for row in own) for name in ("s", "s in stages")} for own in rows.values()
    ]
    return [
        row | {"DVC and imports": f"{1 - row['s in stages'] / row['s']:.0%}", "x full run": row["s"] / medians[0]["s"]}
        for row in medians
    ]


def imports(stages: list[str], rounds: int) -> list[dict]:
    """A row for each stage: what Python's start and its imports take, and whether torch is among them."""
    rows = []
    for stage in stages:
        command = [sys.executable, "-c", WATCHED.format(f"stages.{stage.replace('-', '_')}")]
        times = []
        for _ in range(rounds + 1):  # the first reads the files
            started = time.perf_counter()
            printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            times.append(time.perf_counter() - started)
        rows.append({"stage": stage, "start and imports, s": median(times[1:]), "torch": printed.strip() == "True"})
    return rows


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="the corpus and the trainings of params.yaml")
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Copy(Path(name), chosen.whole), chosen.rounds)
    stages = imports(list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]), chosen.rounds)
    about = {"whole": chosen.whole, "rounds": chosen.rounds}
    show("ablation", rows, about | {"imports": stages}, out)
    print(f"\n{table(stages)}")
    return rows


if __name__ == "__main__":
    main()
