"""What every stage does around its `run`: logging, its declared params, one clear line when the input is bad."""

import hashlib
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import reduce
from operator import getitem
from pathlib import Path

import yaml

from stages.params import Declared, declared_keys, load, read
from storage.files import write_json
from storage.store import store_folder


def main(run: Callable[[Declared], None], stage: str) -> None:
    """Run a stage of dvc.yaml from the repository's root; exit with code 1 and one line on a user's mistake.

    ValueError and OSError are what this project raises for bad input; anything else is a bug and keeps its traceback.
    The wall time of a finished stage is kept in the store, for the report.
    """
    logging.basicConfig(level=os.environ.get("RCMAE_LOG", "INFO"), format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    started = time.monotonic()
    try:
        run(load(stage, Path()))
    except (ValueError, OSError) as error:
        logging.debug("traceback", exc_info=True)
        sys.exit(f"{stage}: {error}")
    _keep_duration(stage, time.monotonic() - started)


def _keep_duration(stage: str, seconds: float) -> None:
    finished = datetime.now().astimezone().isoformat(timespec="seconds")
    machine = {"machine": platform.machine(), "cores": os.cpu_count()}
    write_json(duration_file(stage, Path()), {"seconds": round(seconds, 1), "finished": finished} | machine)


def duration_file(stage: str, root: Path) -> Path:
    """Where the wall time of `stage` is kept: under a name of its own for all params of it and of the stages before it.

    `root` is that of the repository. An experiment with other params must not tell how long this one took.
    """
    values = read(root / "params.yaml").model_dump()
    stages = list(yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    keys = {key for each in stages[: stages.index(stage) + 1] for key in declared_keys(each, root)}
    chosen = {key: reduce(getitem, key.split("."), values) for key in sorted(keys)}
    return store_folder("durations") / f"{stage}-{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]}.json"
