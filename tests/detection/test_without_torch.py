"""detect.py with a graph where nothing but requirements-detect.txt is installed, as far as imports can tell."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from audio.clips import write_clip
from tests.conftest import ROOT
from tests.tiny_corpus import sound

# A process in which every library that a file of requirements does not name, nor one that it names needs, is missing.
WITHOUT = """
import sys
from importlib.metadata import distribution, packages_distributions, PackageNotFoundError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

allowed, waiting = set(), [line.split("#")[0].strip() for line in open(sys.argv.pop(1))]
while waiting:
    requirement = Requirement(waiting.pop()) if waiting[-1] else waiting.pop()
    if requirement and (name := canonicalize_name(requirement.name)) not in allowed:
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            allowed.add(name)
            try:
                waiting += distribution(name).requires or []
            except PackageNotFoundError:
                pass  # another system's

installed = packages_distributions()

class Missing:
    def find_spec(self, name, path=None, target=None):
        providers = installed.get(name.partition(".")[0], [])
        if providers and not allowed & {canonicalize_name(provider) for provider in providers}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("packaging.requirements", "packaging.utils", "packaging"):
    sys.modules.pop(name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[1:]
import detect
"""
RUN = WITHOUT + "sys.exit(detect.main())"
SEVERAL = (
    WITHOUT
    + """
import contextlib, io, json
for values in json.loads(sys.stdin.read()):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = detect.main(values)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
assert not {"torch", "sklearn", "scipy", "librosa", "dvc", "pandas", "matplotlib", "av"} & set(sys.modules)
"""
)


def command(code, *values):
    return [sys.executable, "-c", code, ROOT / "requirements-detect.txt", ROOT, *values]


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings" / "fan"
    folder.mkdir(parents=True)
    for number in range(3):
        write_clip(folder / f"{number}.flac", sound(600.0, 2.0, False, np.random.default_rng(number)))
    return folder


def test_judge_calibrate_and_enrol(graph, recordings, root, tmp_path):
    new = ["--machine", "fan", "--id", "new", "--output"]
    commands = [
        ["judge", str(recordings), "--id", "2", "--model", str(graph), "--json"],
        ["enrol", str(recordings), "--model", str(graph), *new, str(tmp_path / "two.onnx")],
        ["calibrate", str(root / "data/raw/fan/test"), "--model", str(tmp_path / "two.onnx"), *new, "three.folder"],
        ["calibrate", str(root / "data/raw/fan/test"), "--model", str(tmp_path / "two.onnx"), *new,
         str(tmp_path / "three.onnx")],
        ["judge", str(recordings / "0.flac"), "--id", "new", "--model", str(tmp_path / "three.onnx")],
        ["explain", str(recordings / "0.flac"), "--model", str(graph), "--output", str(tmp_path / "why.png")],
        ["export", str(tmp_path / "four.onnx"), "--model", str(graph)],
        ["judge", str(recordings), "--model", str(root / "data/detector")],
    ]  # fmt: skip
    run = subprocess.run(
        command(SEVERAL), input=json.dumps(commands), capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert run.returncode == 0, run.stderr
    judged, enrolled, misnamed, calibrated, again, *refused, folder = map(json.loads, run.stdout.splitlines())
    assert judged[0] == 0 and [json.loads(line)["machine_id"] for line in judged[1].splitlines()] == ["id_02"] * 3
    assert enrolled[0] == 0, enrolled[2]
    assert misnamed[0] == 2 and "ends with .onnx" in misnamed[2]
    assert calibrated[0] == 0, calibrated[2]
    assert again[0] == 0 and ": fan new is " in again[1]
    for code, out, err in refused:
        assert code == 2 and not out and "needs torch and the folder that training wrote" in err.splitlines()[-1]
    assert folder[0] == 2 and len(folder[2].splitlines()) == 1 and "which is not installed: export it" in folder[2]


def test_watch(graph, recordings, tmp_path):
    process = subprocess.Popen(
        command(RUN, "watch", recordings, "--id", "2", "--model", graph, "--json"), stdout=subprocess.PIPE, text=True
    )
    try:
        line = json.loads(process.stdout.readline())
        assert line["machine_id"] == "id_02" and line["drift"] > 0
    finally:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0 and (recordings / "verdicts.csv").is_file()


def test_serve(graph, recordings):
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command(RUN, "serve", "--port", "0", "--model", graph), stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        lines = iter(process.stderr.readline, "")
        address = next(line.split()[1] for line in lines if line.startswith("open http"))
        request = urllib.request.Request(
            f"{address}/judge?name=a.flac&machine=fan/id_02",
            (recordings / "0.flac").read_bytes(),
            {"X-Requested-By": "detect", "Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.loads(answer.read())
        assert said["machine_id"] == "id_02" and said["sound"] and not said["picture"]
    finally:
        process.terminate()
    process.communicate(timeout=30)
