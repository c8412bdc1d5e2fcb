"""Learn one's own machines: `make learn FOLDER=/path`, or `python -m stages.learn /path`.

The recordings are checked; then everything is trained in a temporary experiment, so that whatever goes wrong leaves
the workspace as it was; then the result is put into place.
"""

import argparse
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from detection.description import Description
from stages.paths import DETECTOR
from stages.store import sweep_experiments
from stages.summary import summary
from storage.files import read_json


def learn(path: str, overrides: list[str]) -> None:
    """Train on the recordings in the folder `path` with params `overrides` ("key=value"); put the result into place.

    Raises ValueError where that fails; the commands that it runs have said why.
    """
    folder = Path(path)
    if not path or not folder.is_dir():
        raise ValueError(f"{path or 'FOLDER'}: no such folder; make learn FOLDER=/path/to/recordings")
    _run("the recordings cannot be learned from", sys.executable, "-m", "stages.download", "--check", str(folder))
    list(sweep_experiments(Path()))
    name = f"learned-{datetime.now():%Y%m%d-%H%M%S}"
    chosen = [f"corpus.path={folder.resolve()}", *overrides]
    options = [word for override in chosen for word in ("-S", override)]
    refused = "nothing was changed in params.yaml, data/ and metrics/"
    _run(refused, sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *options)
    _run(refused, sys.executable, "-m", "dvc", "exp", "apply", name)


def _run(failed: str, *command: str) -> None:
    if subprocess.run(command).returncode:
        raise ValueError(failed)


def hint() -> str:
    """How recordings are judged now, by the first machine."""
    description = Description.model_validate(read_json(DETECTOR / "detector.json"))
    machine = description.machines[0]
    return f'To judge: python detect.py RECORDING --machine "{machine.type}" --id "{machine.id}"'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of recordings; docs/recordings.md shows how they may lie in it")
    parser.add_argument("-S", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="a parameter")
    chosen = parser.parse_args()
    try:
        learn(chosen.folder, chosen.overrides)
        print(f"{summary()}\n{hint()}")
    except (ValueError, OSError) as error:
        sys.exit(f"learn: {error}")


if __name__ == "__main__":
    main()
