"""What every stage does around its `run`: logging, its declared params, one clear line when the input is bad."""

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

from stages.params import Declared, Params, declared_keys, load, read
from stages.paths import METRICS
from storage.files import sweep
from storage.store import Store, key_of, store_folder


def main(run: Callable[[Declared], None], stage: str) -> None:
    """Run a stage of dvc.yaml from the repository's root; exit with code 1 and one line on a user's mistake.

    ValueError and OSError are what this project raises for bad input; anything else is a bug and keeps its traceback.
    The wall time of a finished stage is kept in the store, for the report, where it can be.
    """
    logging.basicConfig(level=os.environ.get("RCMAE_LOG", "INFO"), format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    started = time.monotonic()
    for folder in (METRICS, METRICS / "plots"):
        sweep(folder)
    try:
        run(load(stage, Path()))
    except (ValueError, OSError) as error:
        logging.debug("traceback", exc_info=True)
        sys.exit(f"{stage}: {error}")
    _keep_duration(stage, time.monotonic() - started)


def durations() -> Store:
    """The store of wall times, each by `duration_key`: stage, seconds, finished (ISO 8601), machine, cores."""
    return Store(store_folder("durations"), ".json")


def duration_key(stage: str, params: Params, root: Path) -> str:
    """The wall time of `stage` has a key of its own for all `params` of it and of the stages before it.

    `root` is that of the repository. An experiment with other params must not tell how long this one took.
    """
    values = params.model_dump()
    stages = list(yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    keys = {key for each in stages[: stages.index(stage) + 1] for key in declared_keys(each, root)}
    return key_of(stage=stage, params={key: reduce(getitem, key.split("."), values) for key in keys})


def _keep_duration(stage: str, seconds: float) -> None:
    finished = datetime.now().astimezone().isoformat(timespec="seconds")
    content = {"stage": stage, "seconds": round(seconds, 1), "finished": finished}
    content |= {"machine": platform.machine(), "cores": os.cpu_count()}
    try:
        store, key = durations(), duration_key(stage, read(Path("params.yaml")), Path())
        store.remove(key)  # that of an earlier run
        with store.put(key) as path:
            if path:
                path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:  # a read-only store, or a full one: the stage is done all the same
        logging.warning("the wall time of %s could not be kept: %s", stage, error)
