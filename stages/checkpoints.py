"""The store of training checkpoints. `python -m stages.checkpoints` lists what killed runs left, `--clean` removes it.

A run's checkpoints lie in a folder named by a fingerprint of its settings, data and code, so that no other run resumes
from them; a run that ends well removes its own.
"""

import argparse
import shutil
from datetime import datetime
from pathlib import Path

import yaml

from storage.files import sha256
from storage.store import key_of, store_folder

ROOT = Path(__file__).resolve().parent.parent


def checkpoint_folder(stage: str, settings: dict, inputs: list[Path]) -> Path:
    """Where a run keeps its checkpoints, from its settings, the content of its input folders and its code.

    The code is what dvc.yaml names as the stage's modules.
    """
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    code = {dep: sha256(ROOT / dep) for dep in deps if dep.endswith(".py")}
    data = [{path.name: sha256(path) for path in sorted(folder.iterdir())} for folder in inputs]
    return store_folder("checkpoints") / f"{stage}-{key_of(settings=settings, data=data, code=code)[:16]}"


def main() -> None:
    parser = argparse.ArgumentParser(description="List the checkpoints that killed training runs left, or remove them.")
    parser.add_argument("--clean", action="store_true", help="remove them; a run that was killed then starts afresh")
    clean = parser.parse_args().clean
    folders = sorted(path for path in store_folder("checkpoints").glob("*") if path.is_dir())
    if not folders:
        print(f"no checkpoints in {store_folder('checkpoints')}")
    for folder in folders:
        states = sorted(folder.glob("step_*.safetensors"))
        steps = int(states[-1].stem.removeprefix("step_")) if states else 0
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        changed = datetime.fromtimestamp(folder.stat().st_mtime).isoformat(" ", "minutes")
        if clean:
            shutil.rmtree(folder)
        print(f"{'removed ' if clean else ''}{folder.name}  {steps} steps  {size:.1f} MB  {changed}")


if __name__ == "__main__":
    main()
