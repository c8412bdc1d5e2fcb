"""What deploy/ and docs/monitoring.md say is so: files are there, systemd takes the unit, settings are read."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from detection.sinks.settings import read_settings
from stages.dependencies import reached
from tests.conftest import ROOT, program

DEPLOY = ROOT / "deploy"


def test_the_image_has_all_that_detect_py_imports():
    copied = re.findall(r"(?m)^COPY (\S+) ", (DEPLOY / "Dockerfile").read_text())
    assert {path.parts[0] for path in reached(Path("detect.py"))} <= set(copied)
    assert all(list(ROOT.glob(name)) for name in copied)


def test_the_container_has_no_rights():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    last_user = [line for line in lines if line.startswith("USER ")][-1]
    assert last_user != "USER root" and lines.index(last_user) < len(lines) - 1
    assert "--read-only" in (DEPLOY / "README.md").read_text()


def test_systemd_takes_the_unit(tmp_path):
    analyze = program("systemd-analyze")
    unit = (DEPLOY / "rcmae-monitor.service").read_text()
    (tmp_path / "rcmae-monitor.service").write_text(unit.replace("/opt/rcmae/.venv/bin/python", sys.executable))
    found = subprocess.run(
        [analyze, "verify", "--man=no", tmp_path / "rcmae-monitor.service"], capture_output=True, text=True, timeout=60
    )
    assert "rcmae-monitor.service:" not in found.stderr, found.stderr


def test_the_script_is_a_script():
    subprocess.run([shutil.which("bash"), "-n", DEPLOY / "check.sh"], check=True, timeout=10)


def test_the_example_is_read():
    assert [sink.type for sink in read_settings(DEPLOY / "monitor.yaml").sinks] == ["json_lines", "prometheus"]


def test_the_example_is_read_with_all_that_is_commented_out(tmp_path):
    text = (DEPLOY / "monitor.yaml").read_text().replace("\n# ", "\n  ").replace("\n#   ", "\n    ")
    (tmp_path / "monitor.yaml").write_text(text)
    assert len(read_settings(tmp_path / "monitor.yaml").sinks) == 4


def test_the_page_shows_every_sink_with_every_key(tmp_path):
    text = re.findall(r"(?s)```yaml\n(.*?)```", (ROOT / "docs" / "monitoring.md").read_text())[0]
    (tmp_path / "monitor.yaml").write_text(text)
    found = read_settings(tmp_path / "monitor.yaml")
    assert {sink.type for sink in found.sinks} == {"csv", "json_lines", "mqtt", "prometheus", "webhook"}
    shown = {key for sink in yaml.safe_load(text)["sinks"] for key in sink}
    assert shown == {name for sink in found.sinks for name in type(sink).model_fields}
