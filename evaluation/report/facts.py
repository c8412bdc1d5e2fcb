"""Where and with what a run was made: computer, system, versions, commit."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import psutil
import torch

PACKAGES = ("torch", "torchaudio", "diffusers", "transformers", "scikit-learn", "numpy", "dvc")


def facts(seed: int) -> dict[str, str]:
    """What the report says of the computer and the versions, in its words: {"Seed": "0", "Computer": …}."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory().total / 2**30
    return {
        "Seed": str(seed),
        "Computer": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {', '.join(gpus) or 'no GPU'}",
        "System": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "Packages": ", ".join(versions),
        "Commit": _commit(),
        "Report drawn": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }


def _commit() -> str:
    """The commit that the code was at; DVC has changed files since, so whether it was modified cannot be told."""
    asked = ["git", "rev-parse", "--short=12", "HEAD"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout if shutil.which("git") else ""
    return told.strip() or "none, the code is not in a Git repository"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(cpuinfo) if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
