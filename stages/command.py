"""What every stage does around its `run`: logging, its declared params, one clear line when the input is bad."""

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from stages.params import Declared, load
from stages.paths import store


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
    path = store("durations") / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    finished = datetime.now().astimezone().isoformat(timespec="seconds")
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(
        json.dumps(
            {"seconds": round(seconds, 1), "finished": finished, "machine": platform.machine(), "cores": os.cpu_count()}
        )
    )
    unfinished.replace(path)
