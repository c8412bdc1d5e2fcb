"""What every stage does around its `run`: logging, its declared params, and one clear line when the input is bad."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from stages.params import load


def main(run: Callable, stage: str) -> None:
    """Run a stage of dvc.yaml from the repository's root; exit with code 1 and one line on a user's mistake.

    ValueError and OSError are what this project raises for bad input; anything else is a bug and keeps its traceback.
    """
    logging.basicConfig(
        level=os.environ.get("RCMAE_LOG", "INFO"), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        run(load(stage, Path(".")))
    except (ValueError, OSError) as error:
        logging.debug("traceback", exc_info=True)
        sys.exit(f"{stage}: {error}")
