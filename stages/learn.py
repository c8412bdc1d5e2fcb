"""Learn one's own machines: `make learn FOLDER=/path`, or `python -m stages.learn /path`.

The recordings are checked; then everything is trained in a temporary experiment, so that whatever goes wrong leaves
the workspace as it was; then the result is put into place.
"""

import argparse
import os
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from detection.description import Description
from stages.paths import DETECTOR
from stages.store import sweep_experiments
from stages.summary import summary
from storage.files import read_json


def learn(path: str, overrides: list[str]) -> list[str]:
    """Train on the recordings in the folder `path` with params `overrides` ("key=value"); put the result into place.

    Returns what params.yaml has now that it did not have before, as "key=value".
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
    return chosen


def _run(failed: str, *command: str) -> None:
    # the stages are run by `python`, which must be this one
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if subprocess.run(command, env=os.environ | {"PATH": path}).returncode:
        raise ValueError(failed)


def hint() -> str:
    """How recordings are judged now, by the first machine."""
    description = Description.model_validate(read_json(DETECTOR / "detector.json"))
    machine = description.machines[0]
    return (
        f"To judge: {shlex.join(['python', 'detect.py', 'RECORDING', '--machine', machine.type, '--id', machine.id])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of recordings; docs/recordings.md shows how they may lie in it")
    parser.add_argument("-S", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="a parameter")
    chosen = parser.parse_args()
    try:
        changed = learn(chosen.folder, chosen.overrides)
        print(f"{summary()}\n{hint()}")
        print(
            f"params.yaml now has {', '.join(changed)}, also for later runs: git checkout params.yaml takes that back"
        )
    except (ValueError, OSError) as error:
        sys.exit(f"learn: {error}")


if __name__ == "__main__":
    main()
